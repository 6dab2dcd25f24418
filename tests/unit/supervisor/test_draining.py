"""Suspend, resume, drain and stop, and a process that does it when it gets a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio
import trio.testing

from moorage.supervisor.app import App
from tests.fakes import CLOSE, Peer, open_server
from tests.fakes_server import (
    assert_nothing_left,
    dial_port,
    settle,
    subscribed,
    upgraded,
    welcomed,
)


async def test_suspend_refuses_newcomers_and_resume_lets_them_in(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        server.supervisor.suspend()
        server.supervisor.suspend()
        status, headers, _ = await server.dial().upgrade()
        assert (status, "retry-after" in headers) == (503, True)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        server.supervisor.resume()
        await server.connect()
        assert len(server.log.of("suspended")) == len(server.log.of("resumed")) == 1


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


async def test_who_was_in_the_handshake_when_draining_began_is_sent_away_too(autojump_clock):
    # Once such a client came in, was told nothing, and made the drain wait to its deadline.
    async with open_server() as server:
        late = server.dial()
        await late.send_bytes(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
        staying = await server.connect()
        await settle()
        drained = []

        async def drain():
            drained.append(await server.supervisor.drain())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await settle()
            status, _, _ = await late.request(
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert status == 101
            assert (await late.receive())["type"] == "goodbye"
            assert await late.close_code() == 4000
            late.transport.close()
            await staying.close_code()
            staying.transport.close()
        assert drained == [0]
        assert trio.current_time() < 5


async def test_after_drain_and_resume_the_server_serves_as_before(autojump_clock):
    async with open_server() as server:
        assert await server.supervisor.drain() == 0
        server.supervisor.resume()
        peer = await server.connect()
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


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


async def test_stop_closes_with_going_away_and_waits_no_longer_than_the_close_timeout(
    autojump_clock,
):
    async with open_server(close_timeout=3.0) as server:
        peer = await server.connect()
        stubborn = await server.connect()
        started = trio.current_time()
        with trio.CancelScope(shield=True):  # `stop` cancels the block that it is called in
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.stop)
                assert await peer.close_code() == 1001
                await peer.send_frame(CLOSE, b"")
            assert 3.0 <= trio.current_time() - started <= 4.0
            assert await stubborn.close_code() == 1001
            assert server.supervisor.connections() == ()


async def test_cancelling_the_program_still_says_goodbye(autojump_clock):
    with trio.CancelScope() as scope:
        async with open_server(close_timeout=3.0) as server:
            peer = await server.connect()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await peer.close_code() == 1001


async def test_an_exception_of_the_program_ends_the_server_with_a_goodbye(autojump_clock):
    peers = []

    async def program():
        async with open_server() as server:
            peers.append(await server.connect())
            raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        await program()
    assert await peers[0].close_code() == 1001


# A process and its signals

_SERVER = """
import sys
import trio
from moorage.supervisor import App, Settings, configure_logging, open_supervisor

async def main():
    drain_timeout = float(sys.argv[1])
    settings = Settings(port=0, drain_timeout=drain_timeout, close_timeout=0.2, log_format="json")
    configure_logging(settings)
    async with open_supervisor(settings, App()) as supervisor:
        print(supervisor.listeners[0].socket.getsockname()[1], flush=True)
        await supervisor.serve_until_signal()
    print("ended", flush=True)

trio.run(main)
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def connect(self) -> Peer:
        return await welcomed(await dial_port(self.port))


@pytest.fixture
async def start(nursery):
    async def start(drain_timeout: float) -> Process:
        command = [sys.executable, "-c", _SERVER, str(drain_timeout)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False}
        process = await nursery.start(partial(trio.run_process, command, **options))
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(1)
        return Process(process, int(line))

    return start


async def rest_of(stream) -> str:
    text = b""
    async for chunk in stream:
        text += chunk
    return text.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_process_exits_with_0(start, number):
    with trio.fail_after(15):
        server = await start(20)
        peer = await server.connect()
        server.process.send_signal(number)
        goodbye = await peer.receive_type("goodbye")
        assert 0 <= goodbye["data"]["reconnect_after"] <= 1.0
        assert await peer.close_code() == 4000
        await peer.send_frame(CLOSE, (4000).to_bytes(2))
        peer.transport.close()
        assert "ended" in await rest_of(server.process.stdout)
        lines = [json.loads(line) for line in (await rest_of(server.process.stderr)).splitlines()]
        assert await server.process.wait() == 0
    events = [line["event"] for line in lines]
    assert events[-3:] == ["draining", "disconnected", "drained"]
    assert lines[-2]["code"] == 4000


async def test_a_second_signal_cuts_the_draining_short(start):
    with trio.fail_after(15):
        server = await start(60)
        peer = await server.connect()
        # A client that hears the goodbye, but whose server would wait for it long.
        server.process.send_signal(signal.SIGTERM)
        await peer.receive_type("goodbye")
        started = trio.current_time()
        server.process.send_signal(signal.SIGTERM)
        assert "ended" in await rest_of(server.process.stdout)
        assert await server.process.wait() == 0
        assert trio.current_time() - started < 5
        peer.transport.close()
