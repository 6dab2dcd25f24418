"""Routing, against a naive model, and with the delivery task interrupted wherever it can be."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.actors.connection.traffic import Traffic
from moorage.actors.tick import Tick
from moorage.protocol.messages.codec import encode_value
from moorage.protocol.websocket.frames import FrameReader
from moorage.supervisor.topics import routing
from moorage.supervisor.topics.routing import Router
from moorage.supervisor.topics.topic_options import TopicOptions
from tests.fakes import TEXT, Peer, masked, open_server
from tests.fakes_containment import Bug, errors
from tests.fakes_routing import Subscriber, frame, texts
from tests.fakes_server import counting, settle, subscribed, welcomed

TOPICS = ("a", "b", "c")
CONNECTIONS = 7


@attrs.define
class Model:
    """What must come out: a list for each connection and topic, and nothing clever."""

    subscribers: dict[str, list[Subscriber]] = attrs.field(factory=lambda: {t: [] for t in TOPICS})
    logs: dict[tuple[str, str], list[Any]] = attrs.field(factory=dict)

    def log(self, connection: Subscriber, topic: str) -> list[Any]:
        return self.logs.setdefault((connection.name, topic), [])


def make_router(tick: Tick | None = None) -> Router:
    return Router(tick or Tick(), Traffic(), lambda topic: TopicOptions())


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
        assert not router.subscriptions_of(connection)
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


async def test_a_mailbox_that_breaks_does_not_stop_the_deliveries_to_others(autojump_clock):
    # The delivery task serves everybody: an exception that ended it would end the server.
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "t") for _ in range(3)]

        def broken(_data: bytes) -> int:
            raise Bug

        server.actor(peers[1].id).mailbox._write = broken
        for number in range(3):
            server.supervisor.broadcast_to_topic("t", "data", number)
            await settle()
        for peer in (peers[0], peers[2]):
            assert [(await peer.receive())["data"] for _ in range(3)] == [0, 1, 2]
        assert errors(server)[0]["event"] == "delivery_failed"
        assert errors(server)[0]["connection_id"] == peers[1].id
        peers[1].transport.close()
        await settle()
        assert len(server.actors()) == 2


# What happens while one topic's delivery lets others have a turn


@attrs.define
class Halted:
    """A router in the midst of a tick: `first` has set out, and `second` has not."""

    router: Router
    first: list[Subscriber]
    second: list[Subscriber]

    async def finish(self) -> None:
        """Let the tick end, and those that what has happened meanwhile makes necessary."""
        await settle()

    def publish(self, topic: str, data: str, exclude: tuple[Subscriber, ...] = ()) -> int:
        with trio.testing.assert_no_checkpoints():
            return self.router.publish(topic, "data", encode_value(data), exclude)


@asynccontextmanager
async def halted(monkeypatch, tick: Tick | None = None) -> AsyncGenerator[Halted]:
    """Publish `1` to two topics, and stop after two or four of the first one's six writes."""
    monkeypatch.setattr(routing, "MAX_WRITES", 2)
    monkeypatch.setattr(routing, "_STRIDE", 2)
    router = make_router(tick)
    halt = Halted(router, *([Subscriber(f"{n}{i}") for i in range(6)] for n in "fs"))
    for subscribers, topic in ((halt.first, "first"), (halt.second, "second")):
        for subscriber in subscribers:
            router.subscribe(topic, subscriber)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.deliver)
        await settle()
        halt.publish("first", "1")
        halt.publish("second", "1")
        while router._delivery is None:
            await trio.lowlevel.checkpoint()
        assert [len(halt.first[place].said) for place in (0, 1, 4, 5)] == [1, 1, 0, 0]
        assert [len(subscriber.said) for subscriber in halt.second] == [0] * 6
        yield halt
        nursery.cancel_scope.cancel()


async def test_who_comes_to_a_topic_that_has_not_set_out_gets_only_what_comes_after(monkeypatch):
    async with halted(monkeypatch) as halt:
        late = Subscriber("late")
        halt.router.subscribe("second", late)
        halt.publish("second", "2")
        await halt.finish()
        assert late.log("second") == ["2"]
        assert [one.log("second") for one in halt.second] == [["1", "2"]] * 6


async def test_who_comes_to_a_topic_that_has_set_out_gets_nothing_of_it(monkeypatch):
    async with halted(monkeypatch) as halt:
        late = Subscriber("late")
        halt.router.subscribe("first", late)
        await halt.finish()
        assert late.said == []
        halt.publish("first", "2")
        await halt.finish()
        assert late.log("first") == ["2"]


async def test_who_leaves_a_topic_that_has_not_set_out_takes_along_what_it_is_owed(monkeypatch):
    async with halted(monkeypatch) as halt:
        halt.router.unsubscribe("second", halt.second[0])
        assert halt.second[0].log("second") == ["1"]
        halt.publish("second", "2")
        await halt.finish()
        assert [one.log("second") for one in halt.second] == [["1"]] + [["1", "2"]] * 5


async def test_who_leaves_a_topic_that_has_set_out_takes_along_what_it_is_owed(monkeypatch):
    async with halted(monkeypatch) as halt:
        served, waiting = halt.first[0], halt.first[5]
        for subscriber in (served, waiting):
            halt.router.unsubscribe("first", subscriber)
        assert [one.log("first") for one in (served, halt.first[4], waiting)] == [["1"], [], ["1"]]
        await halt.finish()
        assert [one.log("first") for one in halt.first] == [["1"]] * 6


async def test_who_leaves_and_comes_back_meanwhile_gets_nothing_twice(monkeypatch):
    async with halted(monkeypatch) as halt:
        for topic, subscriber in (("first", halt.first[5]), ("second", halt.second[5])):
            halt.router.unsubscribe(topic, subscriber)
            halt.router.subscribe(topic, subscriber)
            halt.publish(topic, "2")
        await halt.finish()
        assert [one.log("first") for one in halt.first] == [["1", "2"]] * 6
        assert [one.log("second") for one in halt.second] == [["1", "2"]] * 6


async def test_who_closes_gets_nothing_any_more_and_the_others_all(monkeypatch):
    async with halted(monkeypatch) as halt:
        for subscriber in (halt.first[4], halt.second[1]):
            subscriber.over = True
            halt.router.remove(subscriber)
        await halt.finish()
        for subscribers, gone in ((halt.first, 4), (halt.second, 1)):
            assert [len(one.said) for one in subscribers] == [
                0 if place == gone else 1 for place in range(6)
            ]
        assert halt.router.traffic.deliveries_failed == 1  # of the one that had set out
        assert halt.router.subscriptions == 10


async def test_what_is_published_to_a_topic_that_has_not_set_out_joins_its_write(monkeypatch):
    async with halted(monkeypatch) as halt:
        assert halt.publish("second", "2") == 6
        await halt.finish()
        assert [one.log("second") for one in halt.second] == [["1", "2"]] * 6
        assert [len(one.said) for one in halt.second] == [1] * 6


async def test_what_is_published_to_a_topic_that_has_set_out_comes_in_the_next_tick(monkeypatch):
    async with halted(monkeypatch) as halt:
        halt.publish("first", "2")
        halt.publish("second", "2")
        await halt.finish()
        assert [one.log("first") for one in halt.first] == [["1", "2"]] * 6
        assert [len(one.said) for one in halt.first] == [2] * 6


async def test_who_is_left_out_meanwhile_is_left_out_of_that_alone(monkeypatch):
    async with halted(monkeypatch) as halt:
        out = halt.second[2]
        assert halt.publish("second", "2", (out,)) == 5
        assert halt.publish("second", "3") == 6
        await halt.finish()
        assert out.log("second") == ["1", "3"]
        assert [one.log("second") for one in halt.second if one is not out] == [["1", "2", "3"]] * 5


async def test_a_topic_that_dies_and_comes_back_within_a_tick_is_a_new_one(monkeypatch):
    async with halted(monkeypatch) as halt:
        before = halt.router.topics["second"]
        for subscriber in halt.second:
            halt.router.unsubscribe("second", subscriber)
        assert "second" not in halt.router.topics
        late = Subscriber("late")
        halt.router.subscribe("second", late)
        assert halt.router.topics["second"] is not before
        halt.publish("second", "2")
        await halt.finish()
        assert late.log("second") == ["2"]
        assert [one.log("second") for one in halt.second] == [["1"]] * 6
        assert halt.router.topics["second"].published == 1


async def test_nothing_is_kept_for_a_topic_whose_last_subscriber_has_gone():
    router, subscribers = make_router(), [Subscriber("one"), Subscriber("two")]
    for subscriber in subscribers:
        router.subscribe("t", subscriber)
    router.publish("t", "data", b"1")
    router.unsubscribe("t", subscribers[0])
    assert list(router._batches) == [router.topics["t"]]
    router.remove(subscribers[1])
    assert (router._batches, router.topics, router.subscriptions) == ({}, {}, 0)


async def test_a_topic_under_way_that_dies_and_comes_back_is_a_new_one(monkeypatch):
    async with halted(monkeypatch) as halt:
        for subscriber in halt.first:
            halt.router.unsubscribe("first", subscriber)
        halt.router.subscribe("first", halt.first[0])
        halt.publish("first", "2")
        await halt.finish()
        assert [one.log("first") for one in halt.first] == [["1", "2"]] + [["1"]] * 5
        assert [one.log("second") for one in halt.second] == [["1"]] * 6


async def test_a_topic_that_is_new_meanwhile_is_delivered_too(monkeypatch):
    async with halted(monkeypatch) as halt:
        late = Subscriber("late")
        halt.router.subscribe("third", late)
        halt.publish("third", "1")
        await halt.finish()
        assert late.log("third") == ["1"]


async def test_topics_set_out_in_the_order_in_which_they_were_published_to():
    router, subscriber = make_router(), Subscriber("one")
    for topic in TOPICS:
        router.subscribe(topic, subscriber)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.deliver)
        await settle()
        for topic in ("c", "a", "c", "b", "a"):
            router.publish(topic, "data", b"1")
        await settle()
        nursery.cancel_scope.cancel()
    topics_seen = [json.loads(text)["topic"] for text in texts(b"".join(subscriber.said))]
    assert topics_seen == ["c", "c", "a", "a", "b"]


# When it was


def stamps(subscriber: Subscriber) -> list[str]:
    return [json.loads(text)["timestamp"] for text in texts(b"".join(subscriber.said))]


async def test_a_publication_is_stamped_when_it_was_published_and_not_when_it_left(monkeypatch):
    seconds = count(1_000_000_000)
    tick = Tick(wall_clock=lambda: next(seconds))
    async with halted(monkeypatch, tick) as halt:
        tick.after_io_wait(0)  # a turn of the loop later
        halt.publish("second", "2")
        tick.after_io_wait(0)
        halt.publish("first", "2")
        tick.after_io_wait(0)
        await halt.finish()
        one, two, three = (f"2001-09-09T01:46:4{n}.000Z" for n in range(3))
        assert [stamps(subscriber) for subscriber in halt.second] == [[one, two]] * 6
        assert [stamps(subscriber) for subscriber in halt.first] == [[one, three]] * 6


async def test_how_long_a_tick_took_is_observed_once_however_many_topics_and_turns(monkeypatch):
    async with halted(monkeypatch) as halt:
        halt.publish("second", "2")  # joins what this tick delivers
        await halt.finish()
        assert sum(halt.router.durations.counts) == 1
        halt.publish("first", "3")
        halt.publish("second", "3")
        await halt.finish()
        assert sum(halt.router.durations.counts) == 2


async def test_what_is_published_during_a_tick_for_the_next_one_is_observed_with_that(monkeypatch):
    async with halted(monkeypatch) as halt:
        halt.publish("first", "2")
        await halt.finish()
        assert sum(halt.router.durations.counts) == 2


async def test_a_tick_is_as_long_as_from_its_first_publication_to_its_last_write(
    monkeypatch, autojump_clock
):
    tick = Tick()
    trio.lowlevel.add_instrument(tick)
    try:
        async with halted(monkeypatch, tick) as halt:
            autojump_clock.jump(0.5)  # a turn of somebody else that takes its time
            await halt.finish()
            assert halt.router.durations.total == pytest.approx(0.5, abs=0.01)
            await trio.sleep(10)
            halt.publish("first", "2")
            await halt.finish()
            assert halt.router.durations.total == pytest.approx(0.5, abs=0.01)
    finally:
        trio.lowlevel.remove_instrument(tick)


# The tables


def test_a_connections_subscriptions_cannot_be_written_to():
    router, subscriber = make_router(), Subscriber("one")
    for _ in range(2):
        with pytest.raises(TypeError):
            router.subscriptions_of(subscriber)["b"] = None
        router.subscribe("a", subscriber, by_client=True)
    assert list(router.subscriptions_of(subscriber)) == ["a"]
    assert router.subscriptions_of(subscriber)["a"].by_client


def test_the_two_tables_hold_the_same_subscription():
    router, subscriber = make_router(), Subscriber("one")
    router.subscribe("a", subscriber)
    entry = router.topics["a"].subscribers[subscriber]
    assert router.subscriptions_of(subscriber)["a"] is entry


async def test_the_delivery_task_can_be_ended_while_it_sleeps_and_started_again():
    router, subscriber = make_router(), Subscriber("one")
    router.subscribe("t", subscriber)
    for number in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.deliver)
            await settle()
            router.publish("t", "data", encode_value(number))
            await settle()
            nursery.cancel_scope.cancel()
        router.publish("t", "data", encode_value("between"))  # wakes nobody, and waits
    assert subscriber.log("t") == [0, "between", 1, "between", 2]


async def test_the_time_of_a_tick_that_came_to_nothing_is_not_the_next_ones(autojump_clock):
    """An idle night counted as the duration of the first publication after it."""
    tick = Tick()
    trio.lowlevel.add_instrument(tick)
    try:
        router, subscriber = make_router(tick), Subscriber("one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.deliver)
            await settle()
            router.subscribe("t", subscriber)
            router.publish("t", "data", encode_value(1))
            router.remove(subscriber)
            await trio.sleep(3600)
            router.subscribe("t", subscriber)
            router.publish("t", "data", encode_value(2))
            await settle()
            nursery.cancel_scope.cancel()
        assert router.durations.total < 1
    finally:
        trio.lowlevel.remove_instrument(tick)
