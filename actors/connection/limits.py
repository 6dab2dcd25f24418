"""The limits of one connection: deadlines, sizes, rates, and the mistakes that it may make."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class ConnectionLimits:
    """The settings that hold for each connection; times in seconds, sizes in bytes."""

    heartbeat_interval: float = 30.0
    pong_timeout: float = 10.0
    connection_timeout: float = 300.0
    write_timeout: float = 10.0
    close_timeout: float = 5.0
    token_grace: float = 25.0
    jwt_leeway: float = 0.0  # how far our clock and the issuer's may differ
    handler_timeout: float = 30.0
    authorize_timeout: float = 5.0
    authentication_timeout: float = 10.0
    max_message_size: int = 65_536
    max_inbox_size: int = 262_144
    message_rate: float = 0.0  # per second; 0: no limit
    message_burst: float = 0.0
    byte_rate: float = 0.0
    byte_burst: float = 0.0


class TokenBucket:
    """A rate limit that allows bursts: `rate` units a second flow in, at most `burst` are kept.

    It costs one subtraction while the bucket holds enough; what has flowed in is computed only when
    it does not.
    """

    __slots__ = ("_burst", "_filled_at", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Start full. `rate` is in units per second; `burst` 0 means one second of `rate`."""
        self._rate = rate
        self._burst = max(burst or rate, 1.0)  # with room for less, no unit would ever be whole
        self._level = self._burst
        self._filled_at = now

    def take(self, units: int, now: float) -> int:
        """Take units out; return how many there were, `units` at most; only whole ones count."""
        if units > self._level:
            self._level = min(self._burst, self._level + (now - self._filled_at) * self._rate)
            self._filled_at = now
        # A rounding error must not cost a whole unit: 3 per second for 1/3 s is a bit less than 1.
        taken = min(units, math.floor(self._level + 1e-9))
        self._level -= taken
        return taken


STRIKES: Final = 20
"""Mistakes within `STRIKES_WINDOW` seconds that close a connection (docs/protocol.md)."""

STRIKES_WINDOW: Final = 10.0

REFUSALS_PER_STRIKE: Final = 10
"""Refusals that weigh as much as one mistake. A client can know how a message is written; what it
may do, it may have to find out. One that subscribes to 100 topics anew, after its rights were taken
away, must not be sent away for that."""


class Strikes:
    """The times of a peer's latest mistakes of one kind."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        # A mistake stands in it `REFUSALS_PER_STRIKE` times, a refusal once.
        self._times: deque[float] = deque(maxlen=STRIKES * REFUSALS_PER_STRIKE)

    def strike(self, now: float) -> bool:
        """Count a mistake; return True if it was one too many."""
        return self._count(now, REFUSALS_PER_STRIKE)

    def refusal(self, now: float) -> bool:
        """Count a request that was refused; return True if it was one too many."""
        return self._count(now, 1)

    def _count(self, now: float, times: int) -> bool:
        self._times.extend([now] * times)
        return len(self._times) == self._times.maxlen and now - self._times[0] <= STRIKES_WINDOW


class RateLimit:
    """The rate limits of one connection, in messages and in bytes."""

    __slots__ = ("_bytes", "_messages", "_strikes")

    def __init__(self, limits: ConnectionLimits, now: float) -> None:
        self._messages: TokenBucket | None = None
        self._bytes: TokenBucket | None = None
        self._strikes: Strikes | None = None  # made with the first refusal
        if limits.message_rate:
            self._messages = TokenBucket(limits.message_rate, limits.message_burst, now)
        if limits.byte_rate:
            self._bytes = TokenBucket(limits.byte_rate, limits.byte_burst, now)

    def allow(self, messages: int, size: int, now: float) -> tuple[int, bool]:
        """Return how many of a chunk's messages may be acted on, and whether a limit was exceeded.

        `size` is the number of the chunk's bytes. They count even if they complete no message.
        """
        allowed = messages
        if self._messages is not None:
            allowed = self._messages.take(messages, now)
        if self._bytes is not None and self._bytes.take(size, now) < size:
            return 0, True
        return allowed, allowed < messages

    def pay(self, messages: int, now: float) -> int:
        """Charge messages that came inside of one; return how many of them may be acted on."""
        return messages if self._messages is None else self._messages.take(messages, now)

    def strike(self, now: float) -> bool:
        """Count a refused message; return True if the peer has had too many refused."""
        if self._strikes is None:
            self._strikes = Strikes()
        return self._strikes.strike(now)
