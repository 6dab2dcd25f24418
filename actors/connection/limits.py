"""The limits of one connection: deadlines, sizes, rates, and the mistakes that it may make."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import attrs

from ...protocol.websocket.frames import MAX_HEADER, Opcode
from ..transports.transport import CHUNK

_CONTROLS: Final = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})


@attrs.frozen(kw_only=True)
class ConnectionLimits:
    """The settings that hold for each connection; times in seconds, sizes in bytes."""

    heartbeat_interval: float = 30.0
    pong_timeout: float = 10.0
    connection_timeout: float = 300.0
    message_timeout: float = 60.0
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


_LONGEST_DEBT: Final = 10.0
"""Seconds of a rate that can be owed: even a peer with a very low rate is heard now and then."""


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

    def owe(self, units: int) -> float:
        """Take units that are not there; return the seconds until a whole one has flowed in again.

        To be called after a `take` that gave less than it was asked for.
        """
        self._level = max(self._level - units, -_LONGEST_DEBT * self._rate)
        return (1.0 - self._level) / self._rate


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


@attrs.frozen
class SortedTurn:
    """The messages of a turn that exceeds a rate, by what is done with them."""

    kept: list[tuple[int, bytes]]  # to be acted on
    refused: list[tuple[int, bytes]]  # data messages beyond the rate
    close: list[tuple[int, bytes]]  # the Close frame, if there is one: it is heard after all others
    controls: int  # how many control frames there were
    left: int  # how many frames the rate still allows


def sort_turn(messages: list[tuple[int, bytes]], allowed: int) -> SortedTurn:
    """Sort the messages of a turn of which only so many frames are within the rate.

    Data messages come first, and those beyond the rate are refused. A Ping cannot be refused
    (RFC 6455, section 5.5.2), but an endpoint may answer "only the most recently processed Ping
    frame" (5.5.3).
    """
    kept: list[tuple[int, bytes]] = []
    refused: list[tuple[int, bytes]] = []
    ping: list[tuple[int, bytes]] = []
    close: list[tuple[int, bytes]] = []
    controls = 0
    for message in messages:
        opcode = message[0]
        if opcode in _CONTROLS:
            controls += 1
            if opcode == Opcode.PING:
                ping = [message]
            elif opcode == Opcode.CLOSE:
                close = [message]
            else:
                kept.append(message)
        elif allowed:
            allowed -= 1
            kept.append(message)
        else:
            refused.append(message)
    return SortedTurn(kept + ping, refused, close, controls, allowed)


class RateLimit:
    """The rate limits of one connection, in frames and in bytes.

    A message counts as one frame, or as many as it has fragments. A burst of bytes is never smaller
    than the largest message with its header and one read: otherwise a limit, which is there to hold
    a peer to a rate, would refuse a legal message each time that it comes.
    """

    __slots__ = ("_bytes", "_messages", "_strikes")

    def __init__(self, limits: ConnectionLimits, max_message_size: int, now: float) -> None:
        """Start full. `max_message_size` is that of the connection's endpoint, in bytes."""
        self._messages: TokenBucket | None = None
        self._bytes: TokenBucket | None = None
        self._strikes: Strikes | None = None  # made with the first refusal
        if limits.message_rate:
            self._messages = TokenBucket(limits.message_rate, limits.message_burst, now)
        if limits.byte_rate:
            least = max_message_size + MAX_HEADER + CHUNK
            burst = max(limits.byte_burst or limits.byte_rate, least)
            self._bytes = TokenBucket(limits.byte_rate, burst, now)

    def allow(self, frames: int, size: int, now: float) -> tuple[int, int]:
        """Return how many frames of a turn may be acted on, and how many bytes are too many.

        `size` is the number of the turn's bytes. They count even if they complete no message; if
        they are too many, no frame may be acted on.
        """
        allowed = frames
        if self._messages is not None:
            allowed = self._messages.take(frames, now)
        if self._bytes is not None:
            taken = self._bytes.take(size, now)
            if taken < size:
                return 0, size - taken
        return allowed, 0

    def owe(self, turn: SortedTurn, fragments: int, missing: int) -> float:
        """Count what of a turn was beyond the rate and could not be refused.

        `fragments` are its frames that completed no message, `missing` its bytes beyond the rate.
        Returns for how many seconds nothing should be read.
        """
        pause = 0.0
        if missing:
            if self._bytes is not None and not turn.refused:
                pause = self._bytes.owe(missing)
        elif self._messages is not None:
            frames = turn.controls + fragments - turn.left
            if frames > 0:
                pause = self._messages.owe(frames)
        return pause

    def pay(self, messages: int, now: float) -> int:
        """Charge messages that came inside of one; return how many of them may be acted on."""
        return messages if self._messages is None else self._messages.take(messages, now)

    def strike(self, now: float) -> bool:
        """Count a refused message; return True if the peer has had too many refused."""
        if self._strikes is None:
            self._strikes = Strikes()
        return self._strikes.strike(now)
