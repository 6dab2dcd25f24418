"""The tick: one turn of the event loop, and what is computed once in it.

Every message that leaves the server carries a timestamp, and the time of every chunk that comes in
is kept as a sign of life. To read and format the time costs as much as all the rest of a small
message, so each clock is read once per turn of the loop. Trio itself tells when a turn begins and
ends, through the two instrument hooks implemented here. `trio.current_time()` cannot tell whether
the same turn still goes on, since it moves with every call.

The duration of the turns is the event loop's lag: a task that becomes ready during a turn waits for
the end of that turn. Two readings of a clock measure it, which takes half a microsecond per turn.
The same two tell the watchdog, which looks on from a thread of its own, since when a turn holds the
loop (`supervisor/telemetry/watchdog.py`).
"""

from __future__ import annotations

import math
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
    for long within a turn, the readings are stale by as long. Other threads may read what has no
    underscore, and nothing else.
    """

    __slots__ = (
        "_longest",
        "_made",
        "_maxima",
        "_notable",
        "_now",
        "_second_began",
        "_slow_turn",
        "_smoothed",
        "_stamp",
        "_wall_clock",
        "clock",
        "every_second",
        "latest_slow_turn",
        "on_failure",
        "on_turn",
        "slow_turns",
        "turn_began",
        "turns",
    )

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.perf_counter,
        slow_turn: float = 0.0,
    ) -> None:
        """Take a clock for timestamps, in seconds since 1970, and a clock that measures turns.

        A turn of more than `slow_turn` seconds is counted as slow; 0: none is.
        """
        self._wall_clock = wall_clock
        self.clock = clock
        self._made = self._second_began = clock()
        # When the present turn began, by `clock`; None: the loop waits, or no turn has begun yet.
        self.turn_began: float | None = None
        self._slow_turn = slow_turn or math.inf
        self.slow_turns = 0  # so far; read by statistics and the metrics
        # When the latest slow turn began, and the seconds that it took; read by the watchdog.
        self.latest_slow_turn = (-math.inf, 0.0)
        # Called once, as the next turn begins: it wakes the watchdog, which sets it.
        self.on_turn: Callable[[], None] | None = None
        self._longest = 0.0  # seconds; the longest turn of the present second
        # The lesser of the two durations above: most turns are shorter than both, and so one
        # comparison is enough for them.
        self._notable = 0.0
        self._maxima: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # by end of second
        self._smoothed = 0.0
        # Called as a turn begins, when a second or more has gone by; the operations sample their
        # counters with it.
        self.every_second: Callable[[], None] | None = None
        # Is called with whatever `every_second` raises; must not raise itself.
        self.on_failure: Callable[[BaseException], None] = lambda _error: None
        self._stamp: bytes | None = None
        self._now: float | None = None
        self.turns = 0  # of the loop, so far; read by the metrics

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Measure the turn that ends here."""
        began = self.turn_began
        if began is None:  # it was under way when this instrument was added
            return
        self.turn_began = None
        took = self.clock() - began
        if took > self._notable:
            self._note(began, took)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Forget the readings: a new turn of the loop begins."""
        self._stamp = self._now = None
        self.turns += 1
        self.turn_began = began = self.clock()
        if self.on_turn is not None:
            wake, self.on_turn = self.on_turn, None
            wake()
        if began - self._second_began >= 1.0:
            self._end_second(began)
            if self.every_second is not None:
                try:
                    self.every_second()
                except BaseException as error:  # noqa: BLE001 - Trio removes an instrument that raises, and no clock would go on
                    self.on_failure(error)

    def _note(self, began: float, took: float) -> None:
        """Take note of a turn that is the longest of its second, or slow, or both."""
        self._longest = max(self._longest, took)
        if took > self._slow_turn:
            self.latest_slow_turn = (began, took)
            self.slow_turns += 1  # last: a thread that sees it finds the latest turn there already
        self._notable = min(self._longest, self._slow_turn)

    def _end_second(self, now: float) -> None:
        """Take the longest turn of the second that has gone by into account."""
        seconds = now - self._second_began
        self._smoothed += (self._longest - self._smoothed) * _SMOOTHING
        # In seconds without a turn there was no lag.
        self._smoothed *= (1.0 - _SMOOTHING) ** (int(seconds) - 1)
        self._maxima.append((now, self._longest))
        self._longest = self._notable = 0.0
        self._second_began = now

    def lag(self) -> tuple[float, float]:
        """Return the loop's lag in seconds: smoothed, and the maximum of the last ten seconds.

        The smoothed lag is an average over the longest turn of each second, in which older seconds
        count less.
        """
        now = self.clock()
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

    def age(self) -> float:
        """Return the seconds since this tick was made, whatever the wall clock has done since."""
        return self.clock() - self._made

    def wall_time(self) -> float:
        """Return the wall clock's reading, in seconds since the Unix epoch; never cached."""
        return self._wall_clock()
