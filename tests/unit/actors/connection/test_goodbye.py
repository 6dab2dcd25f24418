"""The closing handshake: what is still said, what is waited for, and for how long."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from moorage.actors.connection.lifecycle import ConnectionState
from moorage.actors.transports.transport import CHUNK
from moorage.protocol.closing import CloseCause
from tests.fakes import BINARY, CLOSE, PING, PONG, masked, open_server
from tests.fakes_containment import is_served, onlooker
from tests.fakes_server import (
    ended,
    settle,
    subscribed,
    torrential,
    types_until_closed,
    waiting_bytes,
    welcomed,
)


async def test_what_is_owed_goes_before_the_close_frame_and_nothing_behind_it(autojump_clock):
    """Publications went on after the Close frame, for as long as the peer's was awaited."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        connection.subscribe("topic")
        connection.handle.send("owed")
        connection.end(CloseCause.DISCONNECTED)
        await settle()
        assert not connection.handle.send("late")
        server.supervisor.broadcast_to_topic("topic", "late")
        server.supervisor.send_to_connection(peer.id, "late")
        connection.probe()
        await settle()
        assert (await types_until_closed(peer))[0] == ["subscribed", "owed"]
        assert waiting_bytes(peer) == b""


async def test_a_peer_that_never_answers_the_close_frame_is_cut_off(autojump_clock):
    async with open_server(close_timeout=7) as server:
        peer = await server.connect()
        began = trio.current_time()
        server.actor(peer.id).end(CloseCause.DISCONNECTED)
        assert await ended(server) == ("disconnected", 4503)
        assert trio.current_time() - began == pytest.approx(7)
        assert (await types_until_closed(peer))[0] == []
        assert await peer.stream.receive_some() == b""


async def test_a_peer_that_does_not_even_read_is_cut_off(autojump_clock):
    async with open_server(write_timeout=60) as server:
        peer = await server.connect(capacity=500)
        connection = server.actor(peer.id)
        connection.handle.send("big", "x" * 5_000)
        await settle()
        began = trio.current_time()
        connection.end(CloseCause.DISCONNECTED)
        assert await ended(server) == ("disconnected", 4503)
        assert trio.current_time() - began == pytest.approx(5)


async def test_a_peer_that_floods_while_we_say_goodbye_gains_no_time(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        began = trio.current_time()
        connection.end(CloseCause.DISCONNECTED)
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.send({"type": "ping", "data": "x" * 10_000})
                await trio.sleep(0.01)
        assert trio.current_time() - began == pytest.approx(5, abs=0.1)
        assert connection.messages_in == 0
        assert connection._reader.waiting <= 65_536 + CHUNK


async def test_the_peers_close_frame_is_found_among_what_it_still_says(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        began = trio.current_time()
        server.actor(peer.id).end(CloseCause.RECONNECT)
        await peer.send({"type": "ping"})
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await ended(server) == ("reconnect", 4007)
        assert trio.current_time() == began


async def test_a_peer_whose_frames_are_not_understood_is_told_that_nothing_follows(autojump_clock):
    """Its own Close frame could not be read any more, and was waited for in vain."""
    async with open_server() as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send_bytes(b"\xff\xff")
        await types_until_closed(peer)
        assert await peer.stream.receive_some() == b""  # FIN, at once
        await peer.send_frame(CLOSE, b"\x03\xea")
        peer.transport.end_output()
        assert await ended(server) == ("protocol_error", 1002)
        assert trio.current_time() == began


async def test_a_close_frame_behind_the_message_that_ends_the_connection_is_not_waited_for(
    autojump_clock,
):
    async with open_server() as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send_bytes(masked(BINARY, b"x") + masked(CLOSE, b"\x03\xe8"))
        assert (await types_until_closed(peer))[1][:2] == b"\x03\xeb"
        assert await peer.stream.receive_some() == b""
        peer.transport.end_output()
        assert await ended(server) == ("unsupported_data", 1003)
        assert trio.current_time() == began


async def test_a_peer_that_breaks_amid_the_goodbye_ends_it(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        began = trio.current_time()
        server.actor(peer.id).end(CloseCause.DISCONNECTED)
        await settle()
        peer.transport.reset()
        assert await ended(server) == ("disconnected", 4503)
        assert trio.current_time() == began


async def test_what_is_owed_after_the_cause_is_written_by_the_goodbye(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=500)
        connection = server.actor(peer.id)
        connection.end(CloseCause.DISCONNECTED)
        assert connection.handle.send("last", "x" * 2_000)
        assert (await types_until_closed(peer))[0] == ["last"]


async def test_nor_does_it_hold_them_up_while_we_say_goodbye(autojump_clock):
    async with open_server() as server:
        torrent, peer = await torrential(server)
        connection = server.actor(peer.id)
        turns, torrent.chunks = 0, 30
        connection.end(CloseCause.DISCONNECTED)
        while connection.state is not ConnectionState.CLOSED:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns >= 30
        assert torrent.chunks < 0


async def test_nothing_follows_a_close_frame(autojump_clock):
    """RFC 6455, section 5.5.1: no data frames after a Close frame."""
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "t")
        connection = server.supervisor.connection(peer.id)
        connection.disconnect()
        await settle()
        # The peer has not answered yet, and the connection is still there.
        assert server.supervisor.broadcast_to_topic("t", "late", 1) == 0
        assert connection.send("late") is False
        assert connection.subscribe("u") is False
        await settle()
        data = waiting_bytes(peer)
        assert data[0] & 0x0F == CLOSE
        assert len(data) == 2 + data[1]


async def test_a_ping_after_a_local_close_brings_nothing_down(autojump_clock):
    """trio-websocket 0.12.2 raises out of its reader task for it, and the whole server ends."""
    async with open_server() as server:
        peer = await server.connect()
        server.actor(peer.id).end(CloseCause.DISCONNECTED)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await peer.send_frame(PING, b"still here")
        assert await peer.close_code() == 4503
        await peer.send_frame(CLOSE, b"\x03\xe8")
        await server.connect()
        assert not [line for line in server.log.lines if line["level"] >= 40]


async def test_a_ping_and_a_close_at_once_are_not_too_much(autojump_clock):
    """What brought whole servers down with trio-websocket 0.12.2: a ping after the local close."""
    async with open_server() as server:
        other = await onlooker(server)
        peer = await welcomed(server.dial())
        server.actors()[-1].disconnect()
        await peer.send_frame(9, b"hello")
        assert await peer.close_code() == 4503
        await peer.send_frame(PONG)
        peer.transport.close()
        assert await is_served(other)
