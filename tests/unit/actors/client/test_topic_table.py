"""The topics that a client wants, and the readers that get each message."""

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import RequestError
from moorage.actors.client.client_subscription import ClientSubscription
from moorage.actors.client.message_buffer import MessageBuffer
from moorage.actors.client.topic_table import TopicTable
from moorage.protocol.messages.envelope import Envelope
from tests.fakes_client import connect, error


class Connection:
    """The part of a connection that the table uses."""

    def __init__(self):
        self.subscribed, self.leaving = set(), set()


def subscription(topic, max_messages=10):
    return ClientSubscription(topic, MessageBuffer(max_messages, 1_000, topic), None, None)


def table(*always):
    return TopicTable(set(always), MessageBuffer(10, 1_000))


def data(topic, value=None):
    return Envelope("data", topic=topic, data=value)


def test_a_topic_is_wanted_while_it_has_readers_or_always():
    topics, one, two = table("always"), subscription("t"), subscription("t")
    topics.add(one)
    topics.add(two)
    assert topics.wanted == {"always", "t"}
    assert not topics.remove(one)
    assert topics.remove(two)
    assert topics.wanted == {"always"}


def test_a_topic_that_is_always_wanted_outlives_its_last_reader():
    topics, one = table("t"), subscription("t")
    topics.add(one)
    assert not topics.remove(one)


def test_every_reader_of_a_topic_gets_its_messages_and_nobody_else():
    topics, readers = table(), [subscription("t"), subscription("t"), subscription("other")]
    for reader in readers:
        topics.add(reader)
    topics.deliver(Connection(), data("t"), 1)
    assert [len(reader.buffer) for reader in readers] == [1, 1, 0]
    assert len(topics.unclaimed) == 0


def test_errors_and_messages_without_a_reader_are_unclaimed():
    topics, reader = table(), subscription("t")
    topics.add(reader)
    for message in (data("other"), Envelope("note"), Envelope("error", topic="t")):
        topics.deliver(Connection(), message, 1)
    assert len(topics.unclaimed) == 3
    assert len(reader.buffer) == 0


def test_only_a_topic_that_was_interrupted_gets_a_gap_once_it_is_confirmed_again():
    topics, reader = table(), subscription("t")
    topics.add(reader)
    first, second = Connection(), Connection()
    topics.confirm(first, "t")
    assert len(reader.buffer) == 0
    topics.interrupt(first)
    topics.confirm(second, "t")
    topics.confirm(second, "t")
    assert len(reader.buffer) == 1
    assert second.subscribed == {"t"}


def test_dropped_messages_are_counted_after_their_subscription_has_gone():
    topics, reader = table(), subscription("t", max_messages=1)
    topics.add(reader)
    for _ in range(4):
        topics.deliver(Connection(), data("t"), 1)
    assert topics.dropped == 3
    topics.remove(reader)
    assert topics.dropped == 3


async def test_what_still_arrives_of_a_topic_that_was_left_is_for_nobody(autojump_clock, server):
    async with connect(server) as client:
        connection = server.connections[0]
        server.answers["unsubscribe"] = lambda _: None
        async with trio.open_nursery() as nursery, client.subscribe("t"):
            nursery.cancel_scope.cancel()
        await connection.send("data", topic="t", data="late")
        await connection.send("note", data="for you")
        assert (await anext(client.messages())).data == "for you"
        assert connection.types() == ["subscribe", "unsubscribe"]


async def test_topics_that_the_server_subscribes_by_itself_are_not_asked_for(
    autojump_clock, server
):
    server.welcome = {"topics": ["a"]}
    async with connect(server, topics=["a"]) as client:
        assert server.connections[0].received == []
        await server.connections[0].send("data", topic="a", data=1)
        assert (await anext(client.messages())).data == 1


async def test_a_topic_that_is_refused_on_the_way_back_ends_its_subscription_only(
    autojump_clock, server
):
    def subscribe(message):
        if message["topic"] == "a":
            return error("forbidden", "no longer")
        return {"type": "subscribed", "topic": message["topic"]}

    async with (
        connect(server) as client,
        client.subscribe("a") as a,
        client.subscribe("b") as b,
    ):
        server.answers["subscribe"] = subscribe
        await server.connections[0].break_off()
        with pytest.raises(RequestError, match="no longer"):
            await anext(a)
        await server.connections[1].send("data", topic="b", data=1)
        assert [(await anext(b)).type for _ in range(2)] == ["gap", "data"]
