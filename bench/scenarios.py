"""The seven scenarios, each a function from sizes to cases."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from .cases import (
    ACCEPTS,
    BACK,
    CONTROL_PEAK,
    DELIVERIES,
    ECHOES,
    HEARTBEATS,
    KEPT,
    KERNEL_MEMORY,
    MAX,
    P50,
    P99,
    PEAK,
    USER_MEMORY,
    Case,
    Figure,
    Observation,
    latencies,
)
from .load import Load
from .roster import Demands
from .sizes import Sizes

_LATENCIES = (P50, P99, MAX)

_UNREACHED_RATE = 10_000_000
"""Messages per second: a limit that is on, but that no connection reaches."""


def _rate(figure: Figure) -> Callable[[Case, list[Observation]], dict[str, float]]:
    """Read deliveries per second and their latency off a run with traffic."""

    def read(case: Case, seen: list[Observation]) -> dict[str, float]:
        del case
        result = seen[-1].result
        return {figure.name: result.deliveries / result.seconds, **latencies(result)}

    return read


def _bytes(count: int) -> str:
    return f"{count // 1024} KiB" if count >= 1024 and count % 1024 == 0 else f"{count} B"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def fanout(sizes: Sizes) -> Iterator[Case]:
    """One publisher, one topic, many subscribers; the next is published when one has arrived."""
    for payload in sizes.fanout_payload:
        reference = sizes.fanout_reference if payload != sizes.fanout_payload[0] else None
        for subscribers in sizes.fanout_subscribers:
            if reference not in (None, subscribers):
                continue
            for in_flight in sizes.fanout_in_flight:
                load = Load(
                    subscribers=subscribers,
                    publishers=1,
                    in_flight=in_flight,
                    payload=payload,
                    seconds=sizes.seconds,
                    warmup=sizes.warmup,
                )
                yield Case(
                    "fanout",
                    f"{_count(subscribers, 'subscriber', 'subscribers')}, {in_flight} in flight, "
                    f"{_bytes(payload)}",
                    {"subscribers": subscribers, "in_flight": in_flight, "payload": payload},
                    (load,),
                    (DELIVERIES, *_LATENCIES),
                    _rate(DELIVERIES),
                    Demands(
                        connections=load.connections,
                        connections_per_topic=subscribers,
                        # with few subscribers, one publisher reaches the default of 100,000
                        messages_per_second=_UNREACHED_RATE if subscribers <= 100 else 0,
                        mailbox=in_flight * (payload + 200) * 2,
                    ),
                )


def topics(sizes: Sizes) -> Iterator[Case]:
    """Many topics with few subscribers each; a publisher picks topics by Zipf's law."""
    # as many connections as topics, each on several of them, gives each topic that many
    load = Load(
        subscribers=sizes.topics,
        publishers=1,
        topics=sizes.topics,
        topics_each=sizes.topics_subscribers,
        zipf=True,
        in_flight=sizes.topics_in_flight,
        seconds=sizes.seconds,
        warmup=sizes.warmup,
    )
    yield Case(
        "topics",
        f"{sizes.topics:,} topics x {sizes.topics_subscribers} subscribers, "
        f"{sizes.topics_in_flight} in flight",
        {"topics": sizes.topics, "in_flight": sizes.topics_in_flight},
        (load,),
        (DELIVERIES, *_LATENCIES),
        _rate(DELIVERIES),
        Demands(connections=load.connections, messages_per_second=_UNREACHED_RATE),
    )


def rooms(sizes: Sizes) -> Iterator[Case]:
    """Every member of a room publishes to it: many publishers in one turn of the loop."""
    load = Load(
        subscribers=sizes.rooms * sizes.rooms_members,
        topics=sizes.rooms,
        seconds=sizes.seconds,
        warmup=sizes.warmup,
    )
    yield Case(
        "rooms",
        f"{sizes.rooms} rooms x {sizes.rooms_members} members, everyone talks",
        {"rooms": sizes.rooms, "members": sizes.rooms_members},
        (load,),
        (DELIVERIES, *_LATENCIES),
        _rate(DELIVERIES),
        Demands(connections=load.connections, connections_per_topic=sizes.rooms_members),
    )


def echo(sizes: Sizes) -> Iterator[Case]:
    """`ping` and its `pong` on every connection."""
    for connections in sizes.echo_connections:
        for in_flight in sizes.echo_in_flight:
            load = Load(
                subscribers=connections,
                topics_each=0,
                ping=True,
                in_flight=in_flight,
                seconds=sizes.seconds,
                warmup=sizes.warmup,
            )
            yield Case(
                "echo",
                f"{_count(connections, 'connection', 'connections')}, {in_flight} in flight",
                {"connections": connections, "in_flight": in_flight},
                (load,),
                (ECHOES, *_LATENCIES),
                _rate(ECHOES),
                Demands(
                    connections=connections,
                    messages_per_second=_UNREACHED_RATE if connections < 10 else 0,
                ),
            )


def connect(sizes: Sizes) -> Iterator[Case]:
    """Opening handshakes with a token; then all clients are dropped, reconnect and subscribe."""

    def accepts(case: Case, seen: list[Observation]) -> dict[str, float]:
        result = seen[-1].result
        rate = case.loads[-1].connections / result.seconds
        return {ACCEPTS.name: rate, **latencies(result)}

    def back(case: Case, seen: list[Observation]) -> dict[str, float]:
        del case
        result = seen[-1].result
        return {BACK.name: result.seconds, **latencies(result)}

    count = sizes.connect_accepts
    # a rest, since the other case measures the cleaning up of dropped connections
    load = Load(mode="connect", subscribers=count, topics_each=0, concurrency=64, rest=1.0)
    yield Case(
        "connect",
        f"{count:,} handshakes, 64 at a time",
        {"kind": "accepts", "connections": count},
        (load,),
        (ACCEPTS, *_LATENCIES),
        accepts,
        Demands(connections=count),
    )
    count = sizes.connect_return
    load = Load(mode="connect", subscribers=count, concurrency=512)
    yield Case(
        "connect",
        f"{count:,} dropped clients, until all are back and subscribed",
        {"kind": "return", "connections": count},
        (load,),
        (BACK, *_LATENCIES),
        back,
        # the dropped ones count until the server has noticed that they are gone
        Demands(connections=2 * count, connections_per_topic=2 * count),
    )


def idle(sizes: Sizes) -> Iterator[Case]:
    """Connections that send nothing: their memory, and the cost of their heartbeats."""

    def read(case: Case, seen: list[Observation]) -> dict[str, float]:
        count, one = case.loads[-1].connections, seen[-1]
        return {
            USER_MEMORY.name: (one.resident - one.resident_before) / count,
            KERNEL_MEMORY.name: (one.kernel.total - one.kernel_before.total) / count,
            HEARTBEATS.name: one.server_cpu,
        }

    for connections in sizes.idle_connections:
        load = Load(
            mode="idle",
            subscribers=connections,
            topics_each=0,
            concurrency=256,
            seconds=sizes.idle_seconds,
        )
        yield Case(
            "idle",
            f"{_count(connections, 'connection', 'connections')}, {sizes.idle_seconds:g} s",
            {"connections": connections},
            (load,),
            (USER_MEMORY, KERNEL_MEMORY, HEARTBEATS),
            read,
            Demands(connections=connections),
            settle=sizes.idle_settle,
            rounds_at_most=sizes.idle_rounds,
        )


def slow(sizes: Sizes) -> Iterator[Case]:
    """A few subscribers stop reading: the loss of the healthy ones, and the cost in memory."""

    def read(case: Case, seen: list[Observation]) -> dict[str, float]:
        del case
        control, stalled = seen
        rates = [one.result.deliveries / one.result.seconds for one in seen]
        return {
            DELIVERIES.name: rates[1],
            KEPT.name: rates[1] / rates[0],
            **latencies(stalled.result),
            PEAK.name: stalled.peak,
            CONTROL_PEAK.name: control.peak,
        }

    stalled = max(1, round(sizes.slow_subscribers * sizes.slow_share))
    healthy = sizes.slow_subscribers - stalled

    def load(subscribers: int, stalled: int) -> Load:
        return Load(
            subscribers=subscribers,
            publishers=1,
            stalled=stalled,
            in_flight=sizes.slow_in_flight,
            payload=sizes.slow_payload,
            seconds=sizes.slow_seconds,
            warmup=sizes.warmup,
        )

    yield Case(
        "slow",
        f"{healthy:,} healthy and {stalled} stalled subscribers, {sizes.slow_in_flight} in flight, "
        f"{_bytes(sizes.slow_payload)}",
        {"subscribers": sizes.slow_subscribers, "stalled": stalled},
        (load(healthy, 0), load(healthy + stalled, stalled)),
        (DELIVERIES, KEPT, *_LATENCIES, PEAK, CONTROL_PEAK),
        read,
        Demands(
            connections=sizes.slow_subscribers + 1, connections_per_topic=sizes.slow_subscribers
        ),
    )


SCENARIOS: Mapping[str, Callable[[Sizes], Iterator[Case]]] = MappingProxyType(
    {each.__name__: each for each in (fanout, topics, rooms, echo, connect, idle, slow)}
)
