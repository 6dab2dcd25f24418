"""Cases, the parts of a scenario: their load, and the figures that are read off a run."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import Factory, field, frozen

from .load import Load, Result
from .roster import Demands
from .server import KernelMemory


@frozen
class Figure:
    """One number of a report: its name, its scale, and how it is compared."""

    name: str
    scale: float = 1.0
    """The factor by which a measured value is multiplied to be shown."""
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
    """Everything that was measured of one server under one load."""

    result: Result
    seconds: float
    """The time that the load took."""
    server_cpu: float
    """The server's share of its core during that time."""
    resident_before: int
    """The server's memory in bytes, before the first connection came."""
    resident: int
    """The same when all are connected and none has sent a message."""
    peak: int
    """The most memory that the server ever had, in bytes."""
    kernel_before: KernelMemory
    kernel: KernelMemory


Reading = Callable[["Case", list[Observation]], dict[str, float]]


def latencies(result: Result) -> dict[str, float]:
    """Return the latency figures that most scenarios share, in seconds."""
    return {P50.name: result.p50, P99.name: result.p99, MAX.name: result.max}


@frozen
class Case:
    """One variant of a scenario: its loads, its sizes, and the figures that are read off it."""

    scenario: str
    label: str
    parameters: Mapping[str, Any]
    """The sizes by which `--json` and the plots identify it."""
    loads: tuple[Load, ...]
    """Run one after the other, each against a new server; the last is the one that counts."""
    figures: tuple[Figure, ...]
    """Contestants are compared by the first."""
    read: Reading
    demands: Demands = field(factory=Demands)
    settle: float = 0.0
    """Seconds to wait when all are connected, before memory is measured."""
    rounds_at_most: int = Factory(lambda: 1_000)

    @property
    def descriptors(self) -> int:
        """The number of descriptors that the server, or a single load process, may need."""
        return max(load.connections for load in self.loads) + 64
