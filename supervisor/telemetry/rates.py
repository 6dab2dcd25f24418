"""Rates: how fast the counters have grown lately.

The tick (`actors/tick.py`) has a sample of the counters taken when a turn of the event loop begins
and a second has gone by. A rate compares the counters with one of the samples. A loop in which
nothing happens takes no samples, and needs none: its counters do not change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from ...protocol.admin.answers import Rates
from .statistics import Statistics

_WINDOW: Final = 5.0
"""Seconds that an average is over, about; on a quiet server it is over more."""

_SAMPLES: Final = 8
"""Samples that are kept, a second or more apart: enough for the window."""

_SHORTEST: Final = 0.1
"""The least seconds that an average is over: in a shorter time one message is a huge rate."""


@attrs.frozen
class _Sample:
    """The counters at one point in time."""

    time: float
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    published: int
    connected: int
    disconnected: int


@attrs.define(eq=False)
class RateMeter:
    """The meter of the rates at which the counters of `statistics` grow."""

    statistics: Statistics
    now: Callable[[], float]  # trio's time, in seconds
    _samples: deque[_Sample] = attrs.field(factory=lambda: deque[_Sample](maxlen=_SAMPLES))

    def __attrs_post_init__(self) -> None:
        self._samples.append(_Sample(self.now(), 0, 0, 0, 0, 0, 0, 0))

    def sample(self) -> None:
        """Take a sample of the counters."""
        self._samples.append(self._read())

    def read(self) -> Rates:
        """Return the averages of the last seconds; `seconds` of the result says of how many."""
        now = self._read()
        old_enough = [sample for sample in self._samples if now.time - sample.time >= _WINDOW]
        then = old_enough[-1] if old_enough else self._samples[0]
        seconds = max(now.time - then.time, _SHORTEST)
        if now.time - self._samples[-1].time >= 1.0:
            self._samples.append(now)

        def rate(name: str) -> float:
            return round((getattr(now, name) - getattr(then, name)) / seconds, 3)

        names = attrs.fields_dict(Rates).keys() - {"seconds"}
        return Rates(seconds=round(seconds, 3), **{name: rate(name) for name in names})

    def _read(self) -> _Sample:
        traffic = self.statistics.traffic
        return _Sample(
            time=self.now(),
            messages_in=traffic.messages_in,
            messages_out=traffic.messages_out,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
            published=traffic.published,
            connected=self.statistics.connected,
            disconnected=self.statistics.closed.total(),
        )
