"""Routing, against a naive model, and with the delivery task interrupted wherever it can be."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.actors.connection.mailbox import OverloadPolicy, Verdict
from moorage.actors.ports import Traffic
from moorage.actors.tick import Tick
from moorage.protocol.messages.codec import encode_value
from moorage.protocol.websocket.frames import FrameReader
from moorage.supervisor.topics import routing
from moorage.supervisor.topics.routing import Router
from tests.fakes import TEXT, Peer, masked, open_server
from tests.fakes_server import counting, settle, subscribed, welcomed

TOPICS = ("a", "b", "c")
CONNECTIONS = 7


@attrs.define(eq=False)
class Subscriber:
    """A connection, as far as the routing knows one; writes down all that it is owed."""

    name: str
    topics: dict[str, None] = attrs.field(factory=dict)
    said: list[bytes] = attrs.field(factory=list)
    over: bool = False
    dropped: int = 0

    @property
    def mailbox(self) -> Subscriber:
        return self

    def put(self, data, messages=1, topic=None, policy=None, latest=None) -> Verdict:
        if self.over:
            return Verdict.CLOSED
        self.said.append(data)
        return Verdict.SENT

    def act_on(self, verdict: Verdict) -> bool:
        return verdict is Verdict.SENT

    def owe(self, frames: list[bytes]) -> bool:
        return self.put(b"".join(frames)) is Verdict.SENT

    def note(self, event: str, topic: str) -> None:
        """Say what a session says when a subscription changes."""
        self.said.append(frame({"type": event, "topic": topic}))

    def log(self, topic: str) -> list[Any]:
        """All that was said about a topic, in order."""
        messages = (json.loads(text) for text in texts(b"".join(self.said)))
        return [
            message["data"] if message["type"] == "data" else message["type"]
            for message in messages
            if message["topic"] == topic
        ]


def frame(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode()
    return bytes([0x81, 126]) + len(text).to_bytes(2) + text


def texts(data: bytes) -> list[bytes]:
    """The payloads of a server's text frames."""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        found.append(data[start : start + size])
        data = data[start + size :]
    return found


@attrs.define
class Model:
    """What must come out: a list for each connection and topic, and nothing clever."""

    subscribers: dict[str, list[Subscriber]] = attrs.field(factory=lambda: {t: [] for t in TOPICS})
    logs: dict[tuple[str, str], list[Any]] = attrs.field(factory=dict)

    def log(self, connection: Subscriber, topic: str) -> list[Any]:
        return self.logs.setdefault((connection.name, topic), [])


def make_router() -> Router:
    return Router(Tick(), Traffic(), lambda topic: OverloadPolicy.DISCONNECT)


topics = st.sampled_from(TOPICS)
indexes = st.integers(0, CONNECTIONS - 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), topics, indexes),
        st.tuples(st.just("unsubscribe"), topics, indexes),
        st.tuples(st.just("publish"), topics, st.frozensets(indexes, max_size=3)),
        st.tuples(st.just("publish"), topics, st.just(frozenset())),
        st.tuples(st.just("close"), topics, indexes),
        st.tuples(st.just("turn"), topics, st.just(0)),
    ),
    min_size=20,  # so that what is under way is met by what changes
    max_size=60,
)


@given(operations=operations, everyone_first=st.booleans(), piece=st.sampled_from([100, 10_000]))
@settings(max_examples=150, deadline=None)
async def test_every_subscriber_sees_what_a_naive_model_says_however_turns_interleave(
    operations, everyone_first, piece
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "MAX_WRITES", 2)  # so that a few connections make many turns
        patch.setattr(routing, "_STRIDE", 2)
        patch.setattr(routing, "PIECE", piece)
        router, model = make_router(), Model()
        connections = [Subscriber(f"c{i}") for i in range(CONNECTIONS)]
        if everyone_first:
            every = [("subscribe", topic, i) for topic in TOPICS for i in range(CONNECTIONS)]
            operations = every + operations
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.deliver)
            await settle()
            for number, (what, topic, argument) in enumerate(operations):
                if what == "turn":
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.testing.assert_no_checkpoints():
                    perform(router, model, connections, (what, topic, argument, number))
            assert router.subscriptions == sum(map(len, model.subscribers.values()))
            await settle()
            nursery.cancel_scope.cancel()
    for connection in connections:
        for topic in TOPICS:
            said, expected = connection.log(topic), model.log(connection, topic)
            if connection.over:
                expected = expected[: len(said)]
            assert said == expected
    assert set(router.topics) == {name for name in TOPICS if model.subscribers[name]}


def perform(router, model, connections, operation) -> None:
    """Do one thing to the router, and to the model."""
    what, topic, argument, number = operation
    present = model.subscribers[topic]
    if what == "publish":
        excluded = [connections[i] for i in argument]
        addressed = [c for c in present if c not in excluded]
        data = encode_value(number)
        assert router.publish(topic, "data", data, excluded) == len(addressed)
        for connection in addressed:
            model.log(connection, topic).append(number)
        return
    connection = connections[argument]
    if connection.over:
        return
    if what == "subscribe":
        assert router.subscribe(topic, connection) is (connection not in present)
        if connection not in present:
            connection.note("subscribed", topic)
            model.log(connection, topic).append("subscribed")
            present.append(connection)
    elif what == "unsubscribe":
        assert router.unsubscribe(topic, connection) is (connection in present)
        if connection in present:
            connection.note("unsubscribed", topic)
            model.log(connection, topic).append("unsubscribed")
            present.remove(connection)
    elif what == "close":
        connection.over = True
        router.remove(connection)
        assert not connection.topics
        for subscribers in model.subscribers.values():
            if connection in subscribers:
                subscribers.remove(connection)


async def test_what_many_publish_in_one_turn_leaves_in_one_write(autojump_clock):
    async with open_server() as server:
        listener, writes = counting(server)
        await subscribed(await welcomed(listener), "t")
        publishers = [await server.connect() for _ in range(50)]
        await settle()
        writes.clear()
        for number, publisher in enumerate(publishers):  # no checkpoint in here: one turn
            message = json.dumps({"type": "data", "topic": "t", "data": number}).encode()
            publisher.transport.write_some(masked(TEXT, message))
        await settle()
        assert len(writes) == 1
        assert sorted([(await listener.receive())["data"] for _ in publishers]) == list(range(50))


async def test_what_is_published_in_different_turns_is_not_held_back_to_be_joined(autojump_clock):
    async with open_server() as server:
        listener, writes = counting(server)
        await subscribed(await welcomed(listener), "t")
        writes.clear()
        for number in range(3):
            server.supervisor.broadcast_to_topic("t", "data", number)
            await settle()
        assert len(writes) == 3


async def test_a_publication_is_one_object_in_every_mailbox(autojump_clock):
    router = make_router()
    subscribers = [Subscriber(str(i)) for i in range(3)]
    for subscriber in subscribers:
        router.subscribe("t", subscriber)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.deliver)
        router.publish("t", "data", b"1")
        await settle()
        nursery.cancel_scope.cancel()
    first, *others = (subscriber.said[0] for subscriber in subscribers)
    assert all(other is first for other in others)


async def test_delivery_to_many_lets_others_have_turns(autojump_clock):
    router = make_router()
    for number in range(routing.MAX_WRITES * 3):
        router.subscribe("t", Subscriber(str(number)))
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.deliver)
        await settle()
        router.publish("t", "data", b"1")
        while router.traffic.messages_out < routing.MAX_WRITES * 3:
            await trio.lowlevel.checkpoint()
            turns += 1
        nursery.cancel_scope.cancel()
    assert turns >= 3


async def test_publishing_to_a_topic_without_subscribers_is_counted_and_makes_no_entry():
    router = make_router()
    assert router.publish("nobody", "data", b"1") == 0
    assert router.topics == {}
    assert router.traffic.published == 1


async def test_a_session_hears_nothing_of_a_topic_after_unsubscribed(autojump_clock):
    async with open_server() as server:
        peer, other = await server.connect(), await server.connect()
        await subscribed(peer, "t")
        # The publication and the unsubscribing meet in one turn; what came before still arrives.
        server.supervisor.broadcast_to_topic("t", "data", "before")
        await peer.send({"type": "unsubscribe", "topic": "t"})
        await settle()
        server.supervisor.broadcast_to_topic("t", "data", "after")
        await other.request_reply({"type": "ping"})
        await peer.send({"type": "ping"})
        seen = [await peer.receive() for _ in range(3)]
        assert [message["type"] for message in seen] == ["data", "unsubscribed", "pong"]


async def test_all_subscribers_see_the_same_order_of_a_topic(autojump_clock):
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "t") for _ in range(20)]
        for turn in range(10):
            for peer in peers:
                message = json.dumps({"type": "data", "topic": "t", "data": [turn, peer.id]})
                peer.transport.write_some(masked(TEXT, message.encode()))
            await trio.lowlevel.checkpoint()
        orders = [[(await peer.receive())["data"] for _ in range(200)] for peer in peers]
        assert all(order == orders[0] for order in orders)


async def test_an_excluded_connection_still_gets_what_does_not_exclude_it(autojump_clock):
    async with open_server() as server:
        first = await subscribed(await server.connect(), "t")
        second = await subscribed(await server.connect(), "t")
        broadcast = server.supervisor.broadcast_to_topic
        assert broadcast("t", "data", 1) == 2
        assert broadcast("t", "data", 2, exclude={first.id}) == 1
        assert broadcast("t", "data", 3, exclude={first.id, second.id, "nobody"}) == 0
        assert broadcast("t", "data", 4) == 2
        assert [(await first.receive())["data"] for _ in range(2)] == [1, 4]
        assert [(await second.receive())["data"] for _ in range(3)] == [1, 2, 4]


async def test_a_frame_of_the_router_is_readable_by_any_client(autojump_clock):
    async with open_server() as server:
        peer: Peer = await subscribed(await server.connect(), "t")
        for size in (0, 1, 100, 125, 126, 70_000):
            server.supervisor.broadcast_to_topic("t", "data", "x" * size)
            assert (await peer.receive())["data"] == "x" * size


def test_the_reader_of_this_test_understands_the_frames_that_it_writes():
    reader = FrameReader(1000)
    assert reader.feed(masked(TEXT, b"x")) == [(TEXT, b"x")]
    assert texts(frame({"type": "data"})) == [b'{"type": "data"}']
