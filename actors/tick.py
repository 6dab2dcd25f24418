"""The tick: one turn of the event loop, and what is computed once in it.

Every message that leaves the server carries a timestamp, and the time of every chunk that comes in
is kept as a sign of life. To read and format the time costs as much as all the rest of a small
message, so each clock is read once per turn of the loop. Trio itself tells when a turn begins and
ends, through the two instrument hooks implemented here. `trio.current_time()` cannot tell whether
the same turn still goes on, since it moves with every call.

The duration of the turns is the event loop's lag: a task that becomes ready during a turn waits for
the end of that turn. Two readings of a clock measure it, which takes half a microsecond per turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from ..protocol.messages.codec import timestamp

_SMOOTHING: Final = 0.3
"""The weight of the latest second in the smoothed lag; after four seconds a quarter is left."""

_REMEMBERED: Final = 10
"""Seconds over which the maximum of the lag is taken."""


class Tick(trio.abc.Instrument):
    """The clocks of a server, each read at most once per turn of the event loop.

    The supervisor registers it with `trio.lowlevel.add_instrument`. When the program's code runs
    for long within a turn, the readings are stale by as long.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_longest",
        "_maxima",
        "_now",
        "_second_began",
        "_smoothed",
        "_stamp",
        "_wall_clock",
        "every_second",
        "turns",
    )

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take a clock for timestamps, in seconds since 1970, and a clock that measures turns."""
        self._wall_clock = wall_clock
        self._clock = clock
        self._began = self._second_began = clock()
        self._longest = 0.0  # seconds; the longest turn of the present second
        self._maxima: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # by end of second
        self._smoothed = 0.0
        # Called as a turn begins, when a second or more has gone by; the operations sample their
        # counters with it.
        self.every_second: Callable[[], None] | None = None
        self._stamp: bytes | None = None
        self._now: float | None = None
        self.turns = 0  # of the loop, so far; read by the metrics

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Measure the turn that ends here."""
        took = self._clock() - self._began
        if took > self._longest:  # noqa: PLR1730 - calling max() costs as much as all the rest
            self._longest = took

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Forget the readings: a new turn of the loop begins."""
        self._stamp = self._now = None
        self.turns += 1
        self._began = began = self._clock()
        if began - self._second_began >= 1.0:
            self._end_second(began)
            if self.every_second is not None:
                self.every_second()

    def _end_second(self, now: float) -> None:
        """Take the longest turn of the second that has gone by into account."""
        seconds = now - self._second_began
        self._smoothed += (self._longest - self._smoothed) * _SMOOTHING
        # In seconds without a turn there was no lag.
        self._smoothed *= (1.0 - _SMOOTHING) ** (int(seconds) - 1)
        self._maxima.append((now, self._longest))
        self._longest = 0.0
        self._second_began = now

    def lag(self) -> tuple[float, float]:
        """Return the loop's lag in seconds: smoothed, and the maximum of the last ten seconds.

        The smoothed lag is an average over the longest turn of each second, in which older seconds
        count less.
        """
        now = self._clock()
        if now - self._second_began >= 1.0:
            self._end_second(now)
        recent = [took for ended, took in self._maxima if now - ended < _REMEMBERED]
        return self._smoothed, max(self._longest, *recent, 0.0)

    def stamp(self) -> bytes:
        """Return the wall clock's time as envelopes carry it: RFC 3339, UTC, milliseconds."""
        stamp = self._stamp
        if stamp is None:
            stamp = self._stamp = timestamp(self._wall_clock())
        return stamp

    def now(self) -> float:
        """Return `trio.current_time()` in seconds, as the first call in this turn read it."""
        now = self._now
        if now is None:
            now = self._now = trio.current_time()
        return now

    def wall_time(self) -> float:
        """Return the wall clock's reading, in seconds since the Unix epoch; never cached."""
        return self._wall_clock()
