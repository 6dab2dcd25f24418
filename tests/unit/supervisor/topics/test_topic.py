"""A topic's options, and what its slow subscribers cost: neither the others' time nor memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
import trio
import trio.testing

from moorage.protocol.closing import CloseCause
from moorage.protocol.messages.codec import head
from moorage.supervisor.app import App
from moorage.supervisor.topics.routing import PIECE
from moorage.supervisor.topics.topic import Topic
from moorage.supervisor.topics.topic_options import TopicOptions
from tests.fakes import Peer, Server, open_server
from tests.fakes_server import dial_tcp, settle, subscribed, until, welcomed

LIMIT = 20_000


RULES = {
    "news.*": {"overload": "drop_oldest"},
    "price.*": {"overload": "latest"},
    "price.special": {"overload": "drop_oldest"},
}


def test_a_topic_begins_with_nobody_and_the_head_of_its_messages():
    topic = Topic("t", TopicOptions())
    assert (topic.subscribers, topic.published) == ({}, 0)
    assert topic.data_head == head("data", "t")


# Overload


async def slow_peer(server: Server, *topics: str) -> Peer:
    """A client whose connection takes a kilobyte at a time, and that does not read now."""
    peer = await welcomed(server.dial(capacity=1000))
    return await subscribed(peer, *topics)


async def publish(server: Server, topic: str, numbers: range, *, turns: bool = True) -> None:
    for number in numbers:
        server.supervisor.broadcast_to_topic(topic, "data", [number, "x" * 80])
        if turns:
            await trio.testing.wait_all_tasks_blocked()


async def read_numbers(peer: Peer, last: int) -> tuple[list[int], list[int]]:
    """Read up to the message of that number; return all numbers, and what gaps said.

    A gap stands where the messages that it speaks of would have stood.
    """
    numbers: list[int] = []
    gaps: list[int] = []
    expected = 0
    while not numbers or numbers[-1] != last:
        message = await peer.receive()
        if message["type"] == "gap":
            gaps.append(message["data"]["dropped"])
            expected += gaps[-1]
        else:
            assert message["data"][0] == expected
            numbers.append(expected)
            expected += 1
    return numbers, gaps


async def test_by_default_a_slow_consumer_is_closed_and_may_come_back(autojump_clock):
    async with open_server(max_mailbox_size=LIMIT) as server:
        slow = await slow_peer(server, "t")
        fast = await subscribed(await server.connect(), "t")
        async with trio.open_nursery() as nursery:
            results = []

            async def read():
                results.append(await read_numbers(fast, 999))

            nursery.start_soon(read)
            started = trio.current_time()
            await publish(server, "t", range(1000))
            assert trio.current_time() == started  # nobody waited for anybody
        assert results[0] == (list(range(1000)), [])
        # What was in flight is written, what waited is not: 4003 is in the "come back" range.
        assert await slow.close_code() == 4003
        slow.transport.close()
        await settle()
        assert server.supervisor.statistics.closed == {CloseCause.SLOW_CONSUMER: 1}
        traffic = server.supervisor.statistics.traffic
        assert traffic.deliveries_failed > 0
        assert traffic.deliveries_dropped == 0


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize(
    ("topic", "kept"), [("news.sport", "many"), ("price.gold", "one"), ("price.special", "one")]
)
async def test_what_is_dropped_is_announced_in_its_place_and_counted(
    autojump_clock, topic, kept, turns
):
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, topic)
        fast = await subscribed(await welcomed(server.dial(capacity=10_000_000)), topic)
        await publish(server, topic, range(1000), turns=turns)
        await settle()
        connection = server.actor(slow.id)
        if turns:
            assert connection.mailbox.size <= LIMIT
        dropped = connection.mailbox.dropped
        numbers, gaps = await read_numbers(slow, 999)
        assert sum(gaps) == 1000 - len(numbers) == dropped
        assert (len(gaps) > 0) is turns
        if turns and kept == "many":
            assert len(numbers) > 50
        elif turns:
            assert len(numbers) < 30  # what was under way, and the newest
        assert await read_numbers(fast, 999) == (list(range(1000)), [])
        traffic = server.supervisor.statistics.traffic
        assert traffic.deliveries_dropped == dropped
        assert traffic.deliveries_failed == 0
        mailboxes = [one.mailbox for one in server.actors()]
        assert traffic.messages_out == sum(mailbox.messages_out for mailbox in mailboxes)
        # It is as good as new.
        await publish(server, topic, range(1000, 1003))
        assert [(await slow.receive())["data"][0] for _ in range(3)] == [1000, 1001, 1002]


async def test_the_first_pattern_that_matches_counts(autojump_clock):
    rules = {"a.b": {"overload": "latest"}, "a.*": {"overload": "drop_oldest"}}
    async with open_server(topics=rules) as server:
        peer = await subscribed(await server.connect(), "a.b", "a.c", "x")
        topics = server.router.topics
        policies = {name: topic.options.overload.value for name, topic in topics.items()}
        assert policies == {"a.b": "latest", "a.c": "drop_oldest", "x": "disconnect"}
        await peer.close()


async def test_a_topic_that_drops_does_not_harm_one_that_must_not(autojump_clock):
    """A mailbox that was full of what may be dropped had no room, and its client was closed."""
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, "news.a", "t")
        await publish(server, "news.a", range(1000))
        await publish(server, "t", range(20))
        connection = server.actor(slow.id)
        assert connection.is_open
        assert connection.mailbox.size <= LIMIT
        seen = Counter()
        while seen["t"] < 20:
            message = await slow.receive()
            if message["type"] == "gap":
                seen[message["topic"]] += message["data"]["dropped"]
            else:
                assert message["data"][0] == seen[message["topic"]]
                seen[message["topic"]] += 1
        traffic = server.supervisor.statistics.traffic
        assert traffic.deliveries_dropped == connection.mailbox.dropped > 0
        assert traffic.messages_out == connection.mailbox.messages_out
        assert traffic.bytes_out == connection.mailbox.bytes_out


async def test_a_direct_message_takes_the_room_of_what_may_be_dropped(autojump_clock):
    """It was refused, and disconnected the client, though all that waited might be dropped."""
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, "news.a")
        await publish(server, "news.a", range(100))
        connection = server.actor(slow.id)
        before = connection.mailbox.dropped
        lines = len(server.log.of("dropped"))
        assert connection.handle.send("direct", "x" * 5_000)
        assert connection.mailbox.dropped > before
        assert server.log.of("dropped")[lines]["topic"] == "news.a"
        position = 0
        while (message := await slow.receive())["type"] != "direct":
            if message["type"] == "gap":
                position += message["data"]["dropped"]
            else:
                assert message["data"][0] == position
                position += 1
        assert position == 100
        traffic = server.supervisor.statistics.traffic
        assert traffic.deliveries_dropped == connection.mailbox.dropped
        assert traffic.bytes_out == connection.mailbox.bytes_out


async def test_who_unsubscribes_gets_the_rest_under_the_topics_policy(autojump_clock):
    """The rest came as a direct message, for which a full mailbox had no room: disconnected."""
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, "price.a", "t")
        await publish(server, "t", range(40))
        connection = server.actor(slow.id)
        for number in range(1000):  # in one turn, as a batch that is not delivered yet
            server.supervisor.broadcast_to_topic("price.a", "data", [number, "x" * 80])
        assert connection.unsubscribe("price.a")
        assert connection.is_open
        position = 0
        while (message := await slow.receive())["type"] != "unsubscribed":
            if message["type"] == "gap":
                position += message["data"]["dropped"]
            elif message["topic"] == "price.a":
                assert message["data"][0] == position
                position += 1
        assert position == 1000


async def test_in_one_chunk_the_reply_to_subscribe_still_comes_before_what_the_topic_owes(
    autojump_clock,
):
    async with open_server(topics=RULES) as server:
        peer = await server.connect()
        await peer.send(
            {"type": "subscribe", "topic": "news.a"},
            {"type": "data", "topic": "news.a", "data": 1, "id": 2},
            {"type": "unsubscribe", "topic": "news.a"},
            {"type": "ping"},
        )
        types = [(await peer.receive())["type"] for _ in range(5)]
        assert types == ["subscribed", "published", "data", "unsubscribed", "pong"]


async def test_the_welcome_comes_before_what_a_callback_has_published_and_left(autojump_clock):
    app = App()

    @app.connected
    def connected(connection):
        connection.subscribe("news.a")
        server.supervisor.broadcast_to_topic("news.a", "early")
        connection.unsubscribe("news.a")

    async with open_server(app, topics=RULES) as server:
        peer = await server.connect()  # asserts that the welcome is the first message
        types = [(await peer.receive())["type"] for _ in range(3)]
        assert types == ["subscribed", "early", "unsubscribed"]


async def test_replies_are_never_dropped(autojump_clock):
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, "price.a")
        for number in range(50):
            await slow.send({"type": "ping", "id": number})
            await publish(server, "price.a", range(number * 10, number * 10 + 10))
        await settle()
        seen = Counter()
        pongs = []
        while seen["pong"] < 50:
            message = await slow.receive()
            seen[message["type"]] += 1
            if message["type"] == "pong":
                pongs.append(message["id"])
        assert pongs == list(range(50))
        assert seen["gap"] > 0


async def test_two_topics_have_their_own_gaps(autojump_clock):
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, "news.a", "news.b", "price.c")
        for number in range(500):
            for topic in ("news.a", "news.b", "price.c"):
                await publish(server, topic, range(number, number + 1), turns=False)
            await settle()
        seen = Counter()
        last = {}
        while len(last) < 3 or set(last.values()) != {499}:
            message = await slow.receive()
            if message["type"] == "gap":
                seen[message["topic"]] += message["data"]["dropped"]
            else:
                seen[message["topic"]] += 1
                last[message["topic"]] = message["data"][0]
        assert seen == {"news.a": 500, "news.b": 500, "price.c": 500}


async def test_a_peer_that_takes_nothing_at_all_is_closed_by_the_write_timeout(autojump_clock):
    async with open_server(topics=RULES, write_timeout=4.0) as server:
        slow = await slow_peer(server, "price.a")
        await publish(server, "price.a", range(20))
        started = trio.current_time()
        await trio.sleep(3.9)
        assert server.actor(slow.id) is not None
        await trio.sleep(0.2)
        assert server.actor(slow.id) is None
        assert trio.current_time() - started < 4.2
        assert server.supervisor.statistics.closed == {CloseCause.WRITE_TIMEOUT: 1}


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "latest"])
async def test_what_is_published_in_one_turn_cannot_burst_a_mailbox(autojump_clock, policy):
    """What the socket took a part of cannot be dropped; so a big batch goes piece by piece."""
    limit = 100_000
    async with open_server(max_mailbox_size=limit, topics={"**": {"overload": policy}}) as server:
        slow = await slow_peer(server, "t")
        mailbox = server.actor(slow.id).mailbox
        for number in range(200):
            server.supervisor.broadcast_to_topic("t", "data", [number, "x" * 50_000])
        await settle()
        assert mailbox.size <= limit + PIECE
        assert len(mailbox._in_flight) <= PIECE


async def test_many_stalled_peers_cost_what_their_mailboxes_may_hold_and_no_more(autojump_clock):
    limit, count = 30_000, 100
    rules = {"**": {"overload": "drop_oldest"}}
    async with open_server(max_mailbox_size=limit, topics=rules) as server:
        for _ in range(count):
            await slow_peer(server, "t")
        tracemalloc.start()
        try:
            for turn in range(1000):
                server.supervisor.broadcast_to_topic("t", "data", [turn, "x" * 200])
                if turn % 2 == 0:
                    await trio.lowlevel.checkpoint()
            await settle()
            held, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Without a bound it would be a thousand parcels for each.
        assert held < count * limit
        sizes = [one.mailbox.size for one in server.actors()]
        assert len(sizes) == count
        assert max(sizes) <= limit


async def test_on_real_sockets_a_slow_consumer_is_closed_and_the_others_get_everything():
    async with open_server(max_mailbox_size=200_000, close_timeout=1.0) as server:
        slow = await subscribed(await welcomed(await dial_tcp(server, receive_buffer=4096)), "t")
        fast = await subscribed(await welcomed(await dial_tcp(server)), "t")
        publisher = await welcomed(await dial_tcp(server))
        count, text = 300, "x" * 50_000
        received = []

        async def read():
            while len(received) < count:
                received.append((await fast.receive())["data"][0])

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for number in range(count):
                    await publisher.send({"type": "data", "topic": "t", "data": [number, text]})
            assert received == list(range(count))
            closed = server.parts.statistics.closed
            await until(lambda: closed[CloseCause.SLOW_CONSUMER] == 1)
        for peer in (slow, fast, publisher):
            peer.transport.close()


async def test_on_real_sockets_latest_gives_a_slow_consumer_the_newest():
    rules = {"price.*": {"overload": "latest"}}
    async with open_server(max_mailbox_size=200_000, topics=rules) as server:
        slow = await welcomed(await dial_tcp(server, receive_buffer=4096))
        await subscribed(slow, "price.a")
        count, text = 400, "x" * 50_000
        with trio.fail_after(20):
            for number in range(count):
                server.supervisor.broadcast_to_topic("price.a", "data", [number, text])
                await trio.lowlevel.checkpoint()
            mailbox = server.actor(slow.id).mailbox
            assert mailbox.size <= 200_000
            numbers, gaps = await read_numbers(slow, count - 1)
        assert sum(gaps) == count - len(numbers)
        assert len(numbers) < count
        await slow.close()


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
async def test_a_subscriber_that_is_too_slow_for_a_topic_is_told_of_the_gap(autojump_clock, policy):
    settings = {"topics": {"fast.*": {"overload": policy}}, "max_mailbox_size": 5_000}
    async with open_server(**settings) as server:
        peer = await subscribed(await server.connect(capacity=1_000), "fast.a")
        for number in range(50):
            server.supervisor.broadcast_to_topic("fast.a", "n", [number, "x" * 500])
            await settle()
        await peer.send({"type": "ping"})
        position = gaps = 0
        while (message := await peer.receive())["type"] != "pong":
            if message["type"] == "gap":
                assert message["topic"] == "fast.a"
                position += message["data"]["dropped"]
                gaps += 1
            else:
                assert message["data"][0] == position
                position += 1
        assert (position, gaps) == (50, 1)
        assert server.supervisor.statistics.traffic.deliveries_dropped > 0
        assert server.actor(peer.id).is_open


@pytest.mark.parametrize("topic", ["news.a", "price.a"])
async def test_bytes_that_were_dropped_are_not_counted_as_sent(topic, autojump_clock):
    async with open_server(max_mailbox_size=LIMIT, topics=RULES) as server:
        slow = await slow_peer(server, topic)
        await publish(server, topic, range(1000))
        await settle()
        mailboxes = [one.mailbox for one in server.actors()]
        assert sum(mailbox.dropped for mailbox in mailboxes) > 100
        sent = server.parts.statistics.traffic.bytes_out
        assert sent == sum(mailbox.bytes_out for mailbox in mailboxes)
        slow.transport.close()
