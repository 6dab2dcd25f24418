"""Draining: everybody is told to leave, in batches, and is waited for."""

from __future__ import annotations

import pytest
import trio

from moorage.supervisor import drain
from moorage.supervisor.app import App
from moorage.supervisor.server_lifecycle import ServerState
from tests.fakes import CLOSE, open_server
from tests.fakes_server import (
    OTHER_HALF,
    assert_nothing_left,
    half_way_in,
    settle,
    subscribed,
    upgraded,
)


async def test_drain_tells_everyone_when_to_come_back_spread_over_what_the_fleet_takes(
    autojump_clock,
):
    async with open_server(reconnect_rate=10.0) as server:
        peers = [await server.connect() for _ in range(200)]
        told: list[float] = []

        async def leave(peer):
            goodbye = await peer.receive_type("goodbye")
            told.append(goodbye["data"]["reconnect_after"])
            assert await peer.close_code() == 4000
            await peer.send_frame(CLOSE, (1000).to_bytes(2))

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(leave, peer)
            assert await server.supervisor.drain() == 0
        # 200 clients at 10 a second: within 20 seconds, and in each half of it about half.
        assert 0 <= min(told) < 2
        assert 18 < max(told) <= 20
        assert 60 < sum(after < 10 for after in told) < 140
        assert_nothing_left(server)


async def test_drain_gives_up_on_those_who_do_not_leave(autojump_clock):
    async with open_server(close_timeout=1000.0) as server:
        for _ in range(3):
            await server.connect()
        assert await server.supervisor.drain(7.0) == 3
        assert trio.current_time() == pytest.approx(7.0, abs=1)


async def test_drain_of_an_empty_server_is_done_at_once(autojump_clock):
    async with open_server() as server:
        started = trio.current_time()
        assert await server.supervisor.drain() == 0
        assert trio.current_time() == started


async def test_a_cancelled_drain_has_still_told_everyone(autojump_clock):
    async with open_server() as server:
        peers = [await server.connect() for _ in range(5)]
        with trio.move_on_after(0.5):
            await server.supervisor.drain()
        assert [await peer.close_code() for peer in peers] == [4000] * 5


async def test_a_raw_connection_is_drained_by_its_close_code(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def wait(connection):
        await trio.sleep_forever()

    async with open_server(app) as server:
        peer = await upgraded(server.dial(), "/raw")
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain)
            assert await peer.close_code() == 4000
            peer.transport.close()


async def test_what_was_broadcast_before_a_drain_arrives_before_the_goodbye(autojump_clock):
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "t") for _ in range(20)]
        async with trio.open_nursery() as nursery:
            server.supervisor.broadcast_to_topic("t", "notice", "we are going down")
            nursery.start_soon(server.supervisor.drain)
            for peer in peers:
                assert (await peer.receive())["type"] == "notice"
                assert (await peer.receive())["type"] == "goodbye"
                await peer.close_code()
                peer.transport.close()


async def test_a_second_caller_joins_the_draining_that_is_under_way(autojump_clock):
    async with open_server(close_timeout=1000) as server:
        await server.connect()
        began, results = trio.current_time(), []

        async def join(seconds):
            left = await server.supervisor.drain(seconds)
            results.append((seconds, left, round(trio.current_time() - began)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, 10.0)
            await trio.sleep(1)
            nursery.start_soon(join, 500.0)
            nursery.start_soon(join, 2.0)
        assert sorted(results) == [(2.0, 1, 10), (10.0, 1, 10), (500.0, 1, 10)]
        assert len(server.log.of("draining")) == len(server.log.of("drained")) == 1


async def test_who_joins_is_told_when_a_resume_ends_the_draining(autojump_clock):
    async with open_server(close_timeout=1000) as server:
        await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain, 500.0)
            nursery.start_soon(server.supervisor.drain, 500.0)
            await settle()
            began = trio.current_time()
            server.supervisor.resume()
        assert trio.current_time() == began


async def test_a_resume_during_a_draining_keeps_whoever_was_not_told_yet(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(drain, "PER_TURN", 2)
    async with open_server(close_timeout=1000) as server:
        peers = [await server.connect() for _ in range(7)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain)
            while all(actor.is_open for actor in server.actors()):
                await trio.lowlevel.checkpoint()
            server.supervisor.resume()
        told = [actor.is_open for actor in server.actors()].count(False)
        assert told in (2, 4)  # after which turn this task saw it is up to the event loop
        assert server.supervisor.state is ServerState.SERVING
        for peer in peers[:told]:
            assert await peer.close_code() == 4000
        for peer in peers[told:]:
            assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await server.connect()


async def test_a_server_that_was_drained_can_be_drained_again(autojump_clock):
    async with open_server(close_timeout=1000) as server:
        late = await half_way_in(server)
        assert await server.supervisor.drain() == 0
        server.supervisor.resume()
        await late.request(OTHER_HALF)
        assert await server.supervisor.drain(3.0) == 1
        assert await server.supervisor.drain(4.0) == 1
        assert server.supervisor.state is ServerState.DRAINED
        assert len(server.log.of("drained")) == 3


async def test_a_server_that_drains_lets_nobody_in(autojump_clock):
    async with open_server(close_timeout=1000) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(server.supervisor.drain, 5.0)
        await settle()
        assert server.supervisor.state is ServerState.DRAINING
        status, headers, body = await server.dial().upgrade()
        assert (status, "retry-after" in headers) == (503, True)
        assert b"draining" in body


async def test_a_draining_tells_how_far_it_has_come(autojump_clock):
    async with open_server(close_timeout=1000) as server:
        await server.connect()
        under_way = server.core.start_drain(8.0)
        assert (under_way.total, under_way.timeout, under_way.ended) == (1, 8.0, None)
        await trio.sleep(3)
        assert under_way.seconds == pytest.approx(3)
        under_way.shorten(100.0)  # never later than it was to end
        under_way.shorten(2.0)
        await under_way.over.wait()
        await trio.sleep(50)
        assert under_way.seconds == pytest.approx(5)
        assert under_way.finished


async def test_a_draining_that_was_cancelled_has_not_finished(autojump_clock):
    async with open_server(close_timeout=1000) as server:
        await server.connect()
        under_way = server.core.start_drain()
        server.supervisor.resume()
        await under_way.over.wait()
        assert not under_way.finished
        assert all(actor.is_open for actor in server.actors())


async def test_a_draining_that_follows_a_resume_at_once_is_a_new_one(autojump_clock):
    """It joined the one that had been cancelled, and told nobody to leave."""
    async with open_server(close_timeout=1000) as server:
        peers = [await server.connect() for _ in range(3)]
        cancelled = server.core.start_drain()
        server.supervisor.resume()
        assert await server.supervisor.drain(5.0) == 3
        assert not cancelled.finished
        assert server.supervisor.state is ServerState.DRAINED
        assert [await peer.close_code() for peer in peers] == [4000] * 3


async def test_a_server_that_stops_or_has_stopped_has_nobody_left_to_drain(autojump_clock):
    """After the end, a draining raised an error of a nursery that was closed."""
    async with open_server(close_timeout=5) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(server.supervisor.stop)
        await settle()
        began = trio.current_time()
        assert await server.supervisor.drain() == 1
        assert trio.current_time() == began
        await server.supervisor.wait_stopped()
        assert await server.supervisor.drain() == 0
        assert server.log.of("draining") == []
        assert server.supervisor.state is ServerState.STOPPED


async def test_all_are_told_however_little_time_there_is(autojump_clock):
    """Beyond the first batch nobody was told, and stayed connected to a drained server."""
    async with open_server(close_timeout=1.0) as server:
        for _ in range(450):
            await server.connect()
        await server.supervisor.drain(0)
        assert all(not connection.is_open for connection in server.actors())


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("-inf")])
async def test_a_time_that_there_cannot_be_is_refused_and_nothing_is_drained(
    seconds, autojump_clock
):
    async with open_server() as server:
        with pytest.raises(ValueError, match="0 seconds or more"):
            await server.supervisor.drain(seconds)
        assert server.supervisor.state is ServerState.SERVING
