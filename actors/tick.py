"""The tick: one turn of the event loop, and what is computed once in it.

Every message that leaves the server carries a timestamp, and every chunk that comes in is a sign
of life whose time is kept. A fresh reading of each costs as much as all the rest of a small
message, so both are read once per turn of the loop. Trio itself says when a turn begins and ends,
through the two instrument hooks implemented here; `trio.current_time()` cannot serve as the key,
since it moves with every call.

How long the turns take is the event loop's lag: whatever becomes ready during a turn waits for its
end. Two readings of a clock measure it: half a microsecond per turn, whatever happens in it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from ..protocol.messages.codec import timestamp

_SMOOTHING: Final = 0.3
"""How much the latest second counts in the smoothed lag: what was four seconds ago, a quarter."""

_REMEMBERED: Final = 10
"""Seconds that the maximum of the lag is over."""


class Tick(trio.abc.Instrument):
    """Reads the clocks at most once per turn of the event loop.

    It has to be registered with `trio.lowlevel.add_instrument`; the supervisor does. A turn in
    which user code runs for long makes the readings stale by just that long.
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
        """Take the clock that stamps envelopes, in seconds since 1970, and one to measure turns."""
        self._wall_clock = wall_clock
        self._clock = clock
        self._began = self._second_began = clock()
        self._longest = 0.0  # turn of the present second
        self._maxima: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # by end of second
        self._smoothed = 0.0
        # Called as a turn begins, when a second or more has gone by; what samples counters.
        self.every_second: Callable[[], None] | None = None
        self._stamp: bytes | None = None
        self._now: float | None = None
        self.turns = 0  # of the loop so far; the statistics derive the loop's pace from it

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
        """Return how long turns take, in seconds: smoothed, and the longest of the last ten.

        Smoothed is the longest turn of each second, averaged with weights that fade.
        """
        now = self._clock()
        if now - self._second_began >= 1.0:
            self._end_second(now)
        recent = [took for ended, took in self._maxima if now - ended < _REMEMBERED]
        return self._smoothed, max(self._longest, *recent, 0.0)

    def stamp(self) -> bytes:
        """Return the wall clock's time as envelopes carry it (RFC 3339, UTC, milliseconds)."""
        stamp = self._stamp
        if stamp is None:
            stamp = self._stamp = timestamp(self._wall_clock())
        return stamp

    def now(self) -> float:
        """Return `trio.current_time()` as of the first call in this turn, in seconds."""
        now = self._now
        if now is None:
            now = self._now = trio.current_time()
        return now

    def wall_time(self) -> float:
        """Return the wall clock's reading, in seconds since the Unix epoch; never cached."""
        return self._wall_clock()
