"""What one connection may do: deadlines, sizes, rates, and patience with its mistakes."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class ConnectionLimits:
    """The settings that a connection lives by; times in seconds, sizes in bytes."""

    heartbeat_interval: float = 30.0
    pong_timeout: float = 10.0
    connection_timeout: float = 300.0
    write_timeout: float = 10.0
    close_timeout: float = 5.0
    token_grace: float = 25.0
    jwt_leeway: float = 0.0  # how far the issuer's clock may be behind
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

    Costs one subtraction while the peer keeps within what the bucket holds; the flow is only
    computed when it runs out.
    """

    __slots__ = ("_burst", "_filled_at", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Start full. `rate` is in units per second; `burst` 0 means what flows in in a second."""
        self._rate = rate
        self._burst = max(burst or rate, 1.0)  # with room for less it would never give any
        self._level = self._burst
        self._filled_at = now

    def take(self, units: int, now: float) -> int:
        """Take units out; return how many of them were there (whole ones)."""
        if units > self._level:
            self._level = min(self._burst, self._level + (now - self._filled_at) * self._rate)
            self._filled_at = now
        # What floats lose must not cost a whole unit: 3 a second for 1/3 s is a little less than 1.
        taken = min(units, math.floor(self._level + 1e-9))
        self._level -= taken
        return taken


STRIKES: Final = 20
"""Mistakes within `STRIKES_WINDOW` seconds after which a peer is closed (PROTOCOL.md)."""

STRIKES_WINDOW: Final = 10.0


class Strikes:
    """Remembers when a peer made its latest mistakes; one for each kind of mistake."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=STRIKES)

    def strike(self, now: float) -> bool:
        """Count one; return True when that was one too many."""
        self._times.append(now)
        return len(self._times) == STRIKES and now - self._times[0] <= STRIKES_WINDOW


class RateLimit:
    """Messages and bytes of one connection: what goes beyond is refused, and counted."""

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

        `size` is the chunk's. Bytes count even when they complete no message.
        """
        allowed = messages
        if self._messages is not None:
            allowed = self._messages.take(messages, now)
        if self._bytes is not None and self._bytes.take(size, now) < size:
            return 0, True
        return allowed, allowed < messages

    def strike(self, now: float) -> bool:
        """Count a refused message; True when the peer has gone on for too long."""
        if self._strikes is None:
            self._strikes = Strikes()
        return self._strikes.strike(now)
