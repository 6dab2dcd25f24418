"""The sizes of the scenarios: full, quick for a look, toy for the tests."""

from attrs import frozen


@frozen
class Sizes:
    """All numbers that make up the size of a scenario."""

    seconds: float = 1.0
    """The length of each measurement, before it drains."""
    warmup: float = 0.2
    fanout_subscribers: tuple[int, ...] = (10, 100, 1_000, 5_000)
    fanout_in_flight: tuple[int, ...] = (1, 16, 128)
    fanout_payload: tuple[int, ...] = (64, 1_024, 16_384)
    fanout_reference: int | None = 1_000
    """Payloads after the first are measured with only so many subscribers; None: with all."""
    topics: int = 1_000
    topics_subscribers: int = 10
    topics_in_flight: int = 16
    rooms: int = 100
    rooms_members: int = 50
    echo_connections: tuple[int, ...] = (1, 100, 1_000)
    echo_in_flight: tuple[int, ...] = (1, 16)
    connect_accepts: int = 3_000
    connect_return: int = 5_000
    idle_connections: tuple[int, ...] = (1_000, 10_000, 20_000)
    idle_seconds: float = 35.0
    """More than one interval of Moorage's heartbeat (30 s) and of its peers' (20 s or so)."""
    idle_settle: float = 1.0
    idle_rounds: int = 2
    """Few: each takes long, and memory hardly varies."""
    slow_subscribers: int = 1_000
    slow_share: float = 0.05
    slow_in_flight: int = 16
    slow_payload: int = 4_096
    slow_seconds: float = 4.0
    """Long enough that a stalled subscriber's messages exceed the kernel's buffers many times."""


FULL = Sizes()

QUICK = Sizes(
    seconds=0.5,
    warmup=0.1,
    fanout_subscribers=(1_000,),
    fanout_payload=(64,),
    echo_connections=(100,),
    connect_accepts=1_000,
    connect_return=1_000,
    idle_connections=(1_000,),
    idle_seconds=3.0,
    idle_settle=0.5,
    slow_seconds=2.0,
)
"""The sizes for which the goals are stated, and little else."""

TOY = Sizes(
    seconds=0.05,
    warmup=0.02,
    fanout_subscribers=(10,),
    fanout_in_flight=(1, 4),
    fanout_payload=(64, 1_024),
    fanout_reference=10,
    topics=20,
    topics_subscribers=3,
    topics_in_flight=4,
    rooms=4,
    rooms_members=5,
    echo_connections=(1, 5),
    echo_in_flight=(1, 4),
    connect_accepts=20,
    connect_return=20,
    idle_connections=(20,),
    idle_seconds=0.1,
    idle_settle=0.05,
    slow_subscribers=20,
    slow_in_flight=4,
    slow_payload=1_024,
    slow_seconds=0.1,
)
"""Every scenario, small, in a few seconds: for tests that it works, not for measuring."""
