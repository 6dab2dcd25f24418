"""What a scenario is made of: cases, their load, and the figures that are read off a run."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import Factory, field, frozen

from .load import Load, Result
from .roster import Demands
from .server import KernelMemory


@frozen
class Figure:
    """One number of a report: how it is called, scaled and compared."""

    name: str
    scale: float = 1.0
    """What a measured value is multiplied with to be shown."""
    digits: int = 0
    less_is_better: bool = False


DELIVERIES = Figure("deliveries/s")
ECHOES = Figure("echoes/s")
ACCEPTS = Figure("accepts/s")
BACK = Figure("seconds", digits=2, less_is_better=True)
P50 = Figure("p50 ms", 1e3, 2, less_is_better=True)
P99 = Figure("p99 ms", 1e3, 2, less_is_better=True)
MAX = Figure("max ms", 1e3, 2, less_is_better=True)
USER_MEMORY = Figure("KB/conn", 1 / 1024, 1, less_is_better=True)
KERNEL_MEMORY = Figure("kernel KB", 1 / 1024, 1, less_is_better=True)
HEARTBEATS = Figure("idle CPU %", 100, 2, less_is_better=True)
PEAK = Figure("peak MB", 1 / 1024**2, 0, less_is_better=True)
CONTROL_PEAK = Figure("none: MB", 1 / 1024**2, 0, less_is_better=True)
KEPT = Figure("kept %", 100)


@frozen
class Observation:
    """All that was seen of one server under one load."""

    result: Result
    seconds: float
    """How long the load did its work."""
    server_cpu: float
    """The server's share of its core meanwhile."""
    resident_before: int
    """Bytes, before the first connection came."""
    resident: int
    """Bytes, with all of them connected and nothing said yet."""
    peak: int
    """Bytes, the most there ever were."""
    kernel_before: KernelMemory
    kernel: KernelMemory


Reading = Callable[["Case", list[Observation]], dict[str, float]]


def latencies(result: Result) -> dict[str, float]:
    """Return the latency figures that most scenarios share, in seconds."""
    return {P50.name: result.p50, P99.name: result.p99, MAX.name: result.max}


@frozen
class Case:
    """One line-up: what is done, with how many, and what is read off it."""

    scenario: str
    label: str
    parameters: Mapping[str, Any]
    """What `--json` and the plots know it by."""
    loads: tuple[Load, ...]
    """Run one after the other, each against a fresh server; the last is the one that counts."""
    figures: tuple[Figure, ...]
    """The first is what contestants are compared by."""
    read: Reading
    demands: Demands = field(factory=Demands)
    settle: float = 0.0
    """Seconds to wait when all are connected, before memory is looked at."""
    rounds_at_most: int = Factory(lambda: 1_000)

    @property
    def descriptors(self) -> int:
        """How many descriptors the server, or a single load process, may need."""
        return max(load.connections for load in self.loads) + 64
