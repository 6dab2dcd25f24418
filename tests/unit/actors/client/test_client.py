"""The client as a program uses it: requests, sending, receiving, leaving."""

import contextlib
import random

import pytest
import trio
import trio.testing

from moorage.actors.client.backoff import Backoff
from moorage.actors.client.client_errors import ClientClosed, RequestError
from moorage.actors.client.client_state import ClientState
from moorage.protocol.errors import ErrorCode, LocalProtocolError
from tests.fakes_client import connect, error, lose_connection, wait_until


async def test_open_client_returns_connected_with_what_the_welcome_says(autojump_clock, server):
    async with connect(server) as client:
        assert client.state is ClientState.CONNECTED
        assert client.connection_id == "c1"
        assert client.user_id == "7"
        await client.wait_connected()
    assert client.state is ClientState.CLOSED
    assert client.connection_id is None


async def test_a_request_returns_its_own_answer(autojump_clock, server):
    server.answers["add"] = lambda message: {"type": "sum", "data": sum(message["data"])}
    async with connect(server) as client:
        results = {}

        async def ask(a, b):
            results[a, b] = (await client.request("add", [a, b])).data

        async with trio.open_nursery() as nursery:
            for a in range(10):
                nursery.start_soon(ask, a, 100)
        assert results == {(a, 100): a + 100 for a in range(10)}
        ids = [m["id"] for m in server.connections[0].received]
        assert len(set(ids)) == 10


async def test_an_error_answer_raises_with_code_and_whether_to_retry(autojump_clock, server):
    server.answers["data"] = lambda _: error("rate_limited", "slower", retryable=True)
    async with connect(server) as client:
        with pytest.raises(RequestError, match="slower") as caught:
            await client.publish("t", 1)
        assert caught.value.code == ErrorCode.RATE_LIMITED
        assert caught.value.retryable


async def test_publish_returns_the_confirmation(autojump_clock, server):
    server.answers["data"] = lambda m: {"type": "published", "topic": m["topic"], "offset": 9}
    async with connect(server) as client:
        assert (await client.publish("t", {"a": 1})).offset == 9


async def test_an_answer_that_does_not_come_in_time_is_a_retryable_timeout(autojump_clock, server):
    server.answers["data"] = lambda _: None
    async with connect(server) as client:
        start = trio.current_time()
        with pytest.raises(RequestError) as caught:
            await client.request("data", topic="t", timeout=2)
        assert trio.current_time() - start == pytest.approx(2)
        assert (caught.value.code, caught.value.retryable) == (ErrorCode.TIMEOUT, True)
        assert client.statistics().requests_pending == 0


async def test_a_request_made_while_disconnected_waits_for_the_next_connection(
    autojump_clock, server
):
    async with connect(server) as client:
        server.script.extend([OSError("no")] * 3)
        await lose_connection(server, client)
        await client.publish("t", 1)
        assert server.connections[1].types() == ["data"]


async def test_send_waits_for_a_connection_and_send_nowait_refuses_to(autojump_clock, server):
    async with connect(server) as client:
        server.script.append(OSError("no"))
        await lose_connection(server, client)
        with pytest.raises(trio.WouldBlock):
            client.send_nowait("hello")
        await client.send("hello", 5, topic="t")
        client.send_nowait("again")
        await wait_until(lambda: len(server.connections[1].received) == 2)
        assert server.connections[1].received == [
            {"type": "hello", "data": 5, "topic": "t"},
            {"type": "again"},
        ]


async def test_send_nowait_passes_no_checkpoint_and_tells_when_too_much_waits(
    autojump_clock, server
):
    async with connect(server) as client:
        with trio.testing.assert_no_checkpoints():
            client.send_nowait("hello")
        for _ in range(64):
            client.send_nowait("hello")
        with pytest.raises(trio.WouldBlock):
            client.send_nowait("one-too-many")


async def test_what_json_cannot_say_is_refused_where_it_is_said(autojump_clock, server):
    async with connect(server) as client:
        with pytest.raises(LocalProtocolError):
            await client.publish("t", object())
        with pytest.raises(LocalProtocolError):
            await client.send("no spaces allowed")
        assert client.state is ClientState.CONNECTED


async def test_messages_yields_what_nothing_else_consumes(autojump_clock, server):
    async with connect(server, topics=["always"]) as client, client.subscribe("t"):
        connection = server.connections[0]
        await connection.send("heartbeat")
        await connection.send("data", topic="t", data="for the subscription")
        await connection.send("notification", data="for the user")
        await connection.send("data", topic="always", data="for the rest")
        await connection.send("error", topic="t", error="no", data={"code": "forbidden"})
        messages = client.messages()
        assert [(await anext(messages)).type for _ in range(3)] == ["notification", "data", "error"]


async def test_topics_of_the_client_are_subscribed_before_it_counts_as_connected(
    autojump_clock, server
):
    async with connect(server, topics=["a", "b"]) as client:
        assert client.statistics().topics == 2
        topics = {m["topic"] for m in server.connections[0].received}
        assert topics == {"a", "b"}


async def test_a_refused_topic_of_the_client_is_raised_out_of_open_client(autojump_clock, server):
    server.answers["subscribe"] = lambda _: error("bad_topic", "no such topic")
    with pytest.raises(RequestError, match="no such topic"):
        async with connect(server, topics=["a b"]):
            pass


async def test_leaving_sends_what_is_queued_and_closes_with_1000(autojump_clock, server):
    async with connect(server) as client:
        for number in range(50):
            await client.send("note", number)
    connection = server.connections[0]
    await connection.ended.wait()
    assert [m["data"] for m in connection.received] == list(range(50))
    assert connection.closed_with == 1000


async def test_leaving_ends_within_the_close_timeout_even_if_the_server_sleeps(
    autojump_clock, server
):
    async with connect(server, close_timeout=2) as client:
        server.streams[0].silent = True
        start = trio.current_time()
    assert trio.current_time() - start <= 2.01
    assert client.state is ClientState.CLOSED
    assert server.streams[0].closed.is_set()


async def test_iterators_of_other_tasks_stop_when_the_client_is_left(
    autojump_clock, server, nursery
):
    ended = []

    async def read(iterator):
        async for _ in iterator:
            pass
        ended.append(iterator)

    async with connect(server) as client:
        nursery.start_soon(read, client.messages())
        nursery.start_soon(read, client.subscribe("t"))
        await trio.testing.wait_all_tasks_blocked()
    await wait_until(lambda: len(ended) == 2)
    with pytest.raises(ClientClosed):
        await client.wait_connected()


async def test_leaving_between_two_connections_is_immediate(autojump_clock, server):
    async with connect(server, backoff=Backoff(1000, 1000, random=random.Random(1))) as client:
        await lose_connection(server, client)
        start = trio.current_time()
    assert trio.current_time() == start


async def test_an_exception_of_the_body_comes_out_as_it_is_after_a_proper_goodbye(
    autojump_clock, server
):
    with pytest.raises(KeyError) as caught:
        async with connect(server):
            raise KeyError("mine")
    assert caught.value.__context__ is None
    await server.connections[0].ended.wait()
    assert server.connections[0].closed_with == 1000


async def test_cancelling_leaves_at_once_and_closes_the_socket(autojump_clock, server):
    start = trio.current_time()
    with trio.move_on_after(5) as scope:
        async with connect(server) as client, client.subscribe("t") as subscription:
            async for _ in subscription:
                pass
    assert scope.cancelled_caught
    assert trio.current_time() - start == pytest.approx(5)
    assert client.state is ClientState.CLOSED
    await server.connections[0].ended.wait()


async def test_cancelling_a_first_connection_that_never_comes_leaves_nothing(
    autojump_clock, server
):
    server.script.extend([OSError("no")] * 1000)
    with trio.move_on_after(30) as scope:
        async with connect(server):
            pass
    assert scope.cancelled_caught


async def test_no_task_is_left_over(autojump_clock, server):
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(5):
        server.script.extend([None, b"", (503, [], b"")])
        async with connect(server, topics=["a"]) as client:
            with contextlib.suppress(ClientClosed):
                async with client.subscribe("t"):
                    await server.connections[-1].break_off()
                    await wait_until(lambda c=client: c.connection_id is None)
                    await client.wait_connected()
    await wait_until(lambda: all(c.ended.is_set() for c in server.connections))
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_not_even_an_interrupt_comes_out_in_a_group(autojump_clock, server):
    with pytest.raises(KeyboardInterrupt):
        async with connect(server):
            raise KeyboardInterrupt


async def test_a_group_that_the_body_raises_stays_as_it_is(autojump_clock, server):
    mine = ExceptionGroup("mine", [KeyError(1), ValueError(2)])
    with pytest.raises(ExceptionGroup) as caught:
        async with connect(server):
            raise mine
    assert caught.value is mine


async def test_the_answer_to_a_message_with_an_id_of_the_programs_own_is_among_the_messages(
    autojump_clock, server
):
    async with connect(server) as client:
        await client.send("ping", 5, id="mine")
        client.send_nowait("ping", 6, id="mine too")
        answers = [await anext(client.messages()) for _ in range(2)]
        assert [(one.type, one.id, one.data) for one in answers] == [
            ("pong", "mine", 5),
            ("pong", "mine too", 6),
        ]
