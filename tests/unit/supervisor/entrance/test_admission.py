"""The way of one connection into the server: how many come in, and how the others are told."""

from __future__ import annotations

import json
import weakref
from collections import Counter

import pytest
import trio
import trio.testing

from moorage.actors.transports.memory import memory_connection
from moorage.supervisor.app import App
from tests.fakes import open_server
from tests.fakes_containment import (
    Bug,
    errors,
    failing,
    is_served,
    onlooker,
    without_collector,
)
from tests.fakes_server import KEY, count_tasks, settle, waiting_bytes

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_above_the_total_a_client_gets_503_with_retry_after(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        first, _second = await server.connect(), await server.connect()
        status, headers, body = await server.dial().upgrade()
        assert status == 503
        assert int(headers["retry-after"]) > 0
        message = json.loads(body)
        assert message["type"] == "error"
        assert message["data"] == {"code": "unavailable", "retryable": True}
        await first.close()
        await settle()
        await server.connect()  # there is room again
        assert server.supervisor.statistics.refused == {503: 1}


async def test_who_is_in_the_handshake_counts_towards_the_total(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        lurkers = [server.dial(), server.dial()]
        await settle()
        assert (await server.dial().upgrade())[0] == 503
        await trio.sleep(server.parts.settings.handshake_timeout + 5)  # they get 408 and go
        await server.connect()
        assert len(lurkers) == 2


async def test_above_the_total_nothing_is_parsed(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        peer = server.dial()
        status, _, _ = await peer.request(b"\x00" * 1000)  # not HTTP, and not even a whole head
        assert status == 503


async def test_a_refused_client_that_floods_takes_no_turns_from_others():
    # Once the refused client's bytes were read in a loop without a checkpoint.
    async with open_server(max_total_connections=1) as server:
        served = await server.connect()
        flooding = server.dial()
        await settle()
        assert waiting_bytes(flooding).startswith(b"HTTP/1.1 503")
        flooding.transport._outgoing.data = _Endless()
        flooding.transport._outgoing.notify()
        with trio.fail_after(5):
            assert (await served.request_reply({"type": "ping"}))["type"] == "pong"
        flooding.transport.reset()
        await served.close()


class _Endless(bytearray):
    """The bytes of a peer that always has more to send."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key) -> bytes:
        return b"x" * (key.stop or 1)


async def test_many_more_than_the_total_are_refused_without_being_kept(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        crowd = [server.dial() for _ in range(500)]
        await settle()
        answers = Counter(waiting_bytes(peer)[:12] for peer in crowd)
        # A hundred are told; for the others even that would be too much.
        assert answers == {b"HTTP/1.1 503": 100, b"": 400}
        assert server.supervisor.statistics.refused == {503: 500}
        await trio.sleep(10)
        assert (await server.dial().upgrade())[0] == 503


async def test_a_head_beyond_the_size_is_refused_with_431(autojump_clock):
    async with open_server(max_request_head=1000) as server:
        assert (await server.dial().upgrade(headers={"X": "y" * 1000}))[0] == 431


async def test_refused_and_vanished_clients_leave_no_tasks(autojump_clock):
    """trio-websocket's `reject()` and its wait for a request that never comes leak two tasks."""
    async with open_server(jwt_key=KEY, handshake_timeout=5) as server:
        before = count_tasks()
        for _ in range(5):
            for said in (HEAD, HEAD.replace(b"/ws", b"/nowhere"), b"\r\n\r\n", b"GET", b""):
                peer = server.dial()
                await peer.send_bytes(said)
                peer.transport.end_output()
        server.dial()  # says nothing and stays
        await trio.sleep(10)
        assert count_tasks() == before
        assert server.parts.admission.admitted == 0


async def test_an_accepted_client_is_one_task(autojump_clock):
    async with open_server() as server:
        before = count_tasks()
        peers = [await server.connect() for _ in range(3)]
        assert count_tasks() - before == 3
        for peer in peers:
            await peer.close()
        await server.supervisor.wait_empty()
        await trio.testing.wait_all_tasks_blocked()
        assert count_tasks() == before


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "error", [Bug(), OSError(111, "no database"), trio.BrokenResourceError(), ValueError()]
)
async def test_a_connect_authorizer_that_raises_lets_nobody_in(autojump_clock, error, asynchronous):
    # A hook's OSError once read as the client's leaving: no answer, and no line in the log.
    app = App()
    app.authorize_connect(failing(asynchronous, error))
    async with open_server(app) as server:
        assert (await server.dial().upgrade())[0] == 500
        (line,) = errors(server)
        assert line["event"] == "handshake_failed"
        assert error in (line["exc_info"], line["exc_info"].__cause__)
        assert server.supervisor.statistics.left_early == 0


async def test_nothing_that_a_client_sends_before_the_upgrade_is_an_error_of_ours(autojump_clock):
    async with open_server() as server:
        other = await onlooker(server)
        for garbage in (
            b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a TLS client's hello
            b"GET /ws HTTP/1.1\r\nHost: \xff\xfe\r\nX: \x00\r\n\r\n",
            b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        ):
            peer = server.dial()
            status, _, _ = await peer.request(garbage)
            assert 400 <= status < 500
            peer.transport.close()
        await settle()
        assert errors(server) == []
        assert await is_served(other)


@pytest.mark.parametrize(
    "request_", [b"GET /nowhere" + HEAD[7:], b"not HTTP\r\n\r\n", HEAD[:50], b""]
)
async def test_a_handshake_that_failed_is_freed_without_the_collector(autojump_clock, request_):
    """The refusal and the frame that kept it were a cycle, with the transport and its buffers."""
    async with open_server() as server:
        near, far = memory_connection()
        transport = weakref.ref(far)
        with without_collector():
            server.supervisor.serve_transport(far)
            near.write_some(request_)
            await trio.sleep(60)
            del near, far
            await settle()
            assert transport() is None
            assert server.parts.admission.admitted == 0
