"""One connection: its requests, its queue, and the watch for silence."""

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import ConnectionLost
from tests.fakes_client import connect, lose_connection, wait_until


async def test_a_request_whose_connection_goes_raises_connection_lost(autojump_clock, server):
    server.answers["data"] = lambda _: None
    async with connect(server) as client:
        async with trio.open_nursery() as nursery:

            async def ask():
                with pytest.raises(ConnectionLost) as caught:
                    await client.publish("t")
                assert caught.value.code == 1012

            nursery.start_soon(ask)
            connection = server.connections[0]
            await wait_until(lambda: connection.received)
            await connection.close(1012, "restart")
        await client.wait_connected()
        assert client.connection_id == "c2"


async def test_an_odd_welcome_is_survived(autojump_clock, server):
    server.welcome = {"topics": 5, "heartbeat_interval": "soon", "user_id": 9}
    async with connect(server) as client:
        assert client.user_id is None


async def test_cancelled_requests_leave_nothing_behind_and_break_nothing(autojump_clock, server):
    server.answers["data"] = lambda _: None
    async with connect(server) as client:
        for _ in range(10):
            with trio.move_on_after(0.1):
                await client.publish("t", "x" * 10_000)
        assert client.statistics().requests_pending == 0
        assert (await client.request("ping", 5)).data == 5
        assert client.connection_id == "c1"


async def test_what_waits_for_room_on_a_connection_that_goes_is_sent_on_the_next(
    autojump_clock, server
):
    async with connect(server) as client, trio.open_nursery() as nursery:
        server.streams[0].stuck = True
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(65):
            nursery.start_soon(client.send, "early")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.send, "late")
        nursery.start_soon(client.subscribe("t").__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        await lose_connection(server, client)
        await client.wait_connected()
        await wait_until(lambda: len(server.connections[1].received) >= 2)
        assert sorted(server.connections[1].types()) == ["late", "subscribe"]


async def test_a_server_that_answers_pings_is_kept_however_quiet(autojump_clock, server):
    async with connect(server) as client:
        await trio.sleep(3600)
        assert client.connection_id == "c1"


async def test_a_server_that_has_vanished_is_noticed(autojump_clock, server):
    async with connect(server) as client:
        start = trio.current_time()
        server.streams[0].silent = True
        await wait_until(lambda: client.connection_id is None, within=100)
        # The heartbeat interval and its margin, then the time for a pong.
        assert trio.current_time() - start == pytest.approx(30 + 5 + 10, abs=0.1)
        await client.wait_connected()
        assert client.connection_id == "c2"


async def test_any_message_counts_as_life(autojump_clock, server):
    async with connect(server) as client:
        with trio.move_on_after(1000):
            while True:
                await trio.sleep(34)
                await server.connections[0].send("heartbeat")
        assert client.connection_id == "c1"


async def test_a_server_that_reads_nothing_is_given_up_after_the_write_timeout(
    autojump_clock, server
):
    async with connect(server, write_timeout=4) as client:
        start = trio.current_time()
        server.streams[0].stuck = True
        with pytest.raises(ConnectionLost):
            await client.publish("t")
        assert trio.current_time() - start == pytest.approx(4, abs=0.1)
        await client.publish("t")


async def test_an_unusual_answer_that_is_no_error_counts_as_subscribed(autojump_clock, server):
    server.answers["subscribe"] = lambda _: {"type": "ok"}
    async with connect(server) as client, client.subscribe("t") as subscription:
        assert client.statistics().topics == 1
        await server.connections[0].send("data", topic="t", data=1)
        assert (await anext(subscription)).data == 1


async def test_an_answer_to_no_request_is_left_for_messages(autojump_clock, server):
    async with connect(server) as client:
        await server.connections[0].send("pong", id=12345)
        assert (await anext(client.messages())).id == 12345
