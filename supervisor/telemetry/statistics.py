"""The statistics of a server: plain integers, counted where things happen."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

import attrs

from ...actors.connection.traffic import Traffic
from ...protocol.closing import CloseCause

HANDSHAKE_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a handshake on the same machine to the order of `handshake_timeout`."""

PUBLISH_BOUNDS: Final = (0.000_1, 0.000_25, 0.000_5, *HANDSHAKE_BOUNDS[:9])
"""Seconds: one write to a socket takes some microseconds, ten thousand take a tenth of a second."""


@attrs.define
class Histogram:
    """A histogram of durations; read by the metrics."""

    bounds: tuple[float, ...]  # upper bounds of the buckets, in seconds; the last has none
    counts: list[int] = attrs.field(init=False)
    total: float = 0.0  # the sum of all durations, in seconds

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


def _handshakes() -> Histogram:
    return Histogram(HANDSHAKE_BOUNDS)


@attrs.define
class Statistics:
    """The counters of a server since its start; read by operators and the metrics."""

    started_at: float  # wall clock, seconds since the Unix epoch
    traffic: Traffic = attrs.field(factory=Traffic)
    accepted: int = 0  # sockets and other transports of clients, refused ones included
    connected: int = 0  # handshakes that led to a connection
    refused: Counter[int] = attrs.field(factory=Counter[int])  # answered, by HTTP status
    closed: Counter[CloseCause] = attrs.field(factory=Counter[CloseCause])
    # The durations from an accepted socket to an accepted upgrade, TLS included; without refusals.
    handshakes: Histogram = attrs.field(factory=_handshakes)
    left_early: int = 0  # peers that went away before their handshake was complete
    unanswered: int = 0  # peers whose sockets were closed before they had sent a request
    exhausted: int = 0  # times that there was no descriptor or memory left for a connection
    cleanups: int = 0  # `cleanup` commands of operators
    cleanup_probed: int = 0  # connections that they sent a heartbeat
    cleanup_closed: int = 0  # those of them that did not answer, and were closed

    def copy(self) -> Statistics:
        """Return the counters as they are now, in a copy that nothing changes."""
        handshakes = attrs.evolve(self.handshakes)
        handshakes.counts = list(self.handshakes.counts)
        return attrs.evolve(
            self,
            traffic=attrs.evolve(self.traffic),
            refused=self.refused.copy(),
            closed=self.closed.copy(),
            handshakes=handshakes,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all counters by name, ready for JSON."""
        return {
            **attrs.asdict(self.traffic),
            "started_at": self.started_at,
            "accepted": self.accepted,
            "connected": self.connected,
            "refused": {str(status): count for status, count in self.refused.items()},
            "closed": {cause.value: count for cause, count in self.closed.items()},
            "left_early": self.left_early,
            "unanswered": self.unanswered,
            "exhausted": self.exhausted,
            "cleanups": self.cleanups,
            "cleanup_probed": self.cleanup_probed,
            "cleanup_closed": self.cleanup_closed,
        }
