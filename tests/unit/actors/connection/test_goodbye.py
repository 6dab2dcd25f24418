"""The closing handshake: what is still said, what is waited for, and for how long.

And what is left of a connection afterwards: nothing.
"""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
import weakref

import pytest
import trio
import trio.testing

from moorage.actors.connection.lifecycle import ConnectionState
from moorage.actors.connection.mailbox import OverloadPolicy
from moorage.actors.transports.memory import memory_connection
from moorage.actors.transports.transport import CHUNK, COMMITTED
from moorage.protocol.closing import CloseCause, should_reconnect
from moorage.protocol.websocket.frames import encode_text
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, Peer, masked, open_server
from tests.fakes_containment import Bug, failing, is_served, onlooker, without_collector
from tests.fakes_server import (
    echo,
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
        turns, torrent.chunks = 0, 3
        connection.end(CloseCause.DISCONNECTED)
        while connection.state is not ConnectionState.CLOSED:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns >= 3
        assert torrent.chunks < 0


async def test_a_peer_that_floods_is_read_slowly_while_we_say_goodbye(autojump_clock):
    """It was read at full speed, which kept a core busy for `close_timeout`."""
    async with open_server() as server:
        torrent, peer = await torrential(server)
        torrent.chunks = 1_000_000
        server.actor(peer.id).end(CloseCause.RATE_LIMITED)
        assert (await types_until_closed(peer))[1] == b"\x0f\xa5sending too fast"
        assert await peer.stream.receive_some() == b""  # FIN, before the deadline
        assert await ended(server) == ("rate_limited", 4005)
        assert 1_000_000 - torrent.chunks == pytest.approx(4 + 5 / 0.05, abs=2)


async def test_a_close_frame_behind_as_much_as_kernels_hold_is_found(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=300_000)
        began = trio.current_time()
        server.actor(peer.id).end(CloseCause.DRAINED)
        await peer.send_bytes(masked(PONG, b"x" * 58) * (250_000 // 64) + masked(CLOSE))
        assert await ended(server) == ("drained", 4000)
        assert trio.current_time() == began


async def test_a_close_frame_that_was_read_before_the_end_is_found(autojump_clock):
    """The frames of a chunk that had no turn before the end are looked through."""
    app = App()
    app.on("leave")(lambda context, message: context.connection.disconnect())
    async with open_server(app) as server:
        peer = await server.connect()
        began = trio.current_time()
        rest = masked(PONG) * 3_000 + masked(CLOSE, b"\x03\xe8")
        await peer.send_bytes(masked(TEXT, b'{"type":"leave"}') + rest)
        assert await ended(server) == ("disconnected", 4503)
        assert trio.current_time() == began


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


# --- a client that does not read -------------------------------------------------------------


async def overloaded(server, topic):
    """Connect a client that takes 5,000 bytes at once, and publish more than its mailbox holds."""
    peer = await subscribed(await server.connect(capacity=5_000), topic)
    for _ in range(600):
        server.supervisor.broadcast_to_topic(topic, "data", "x" * 1_000)
    await settle()
    assert server.actor(peer.id).cause is CloseCause.SLOW_CONSUMER
    return peer


async def test_a_client_that_reads_slowly_still_reads_why_it_was_closed(autojump_clock):
    """Up to 256 KiB of whole frames stood before the Close frame, more than it read in time."""
    async with open_server(max_mailbox_size=300_000) as server:
        peer = await overloaded(server, "t")
        received = b""
        while b"reading too slowly" not in received:
            await trio.sleep(1)
            chunk = peer.transport.read_some(5_000)
            assert chunk, f"the stream ended after {len(received)} bytes"
            received += chunk
        assert received.endswith(b"\x88\x14\x0f\xa3reading too slowly")
        assert len(received) < 5_000 + COMMITTED + 2_000


async def test_a_client_that_stalls_longer_than_the_goodbye_sees_an_end_that_means_come_back(
    autojump_clock,
):
    """No Close frame can reach it: the kernel's buffers are full, amid a frame."""
    async with open_server(max_mailbox_size=300_000) as server:
        peer = await overloaded(server, "t")
        await trio.sleep(6)
        assert await ended(server) == ("slow_consumer", 4003)
        code = await peer.close_code()
        assert code is None
        assert should_reconnect(code)


# --- what is let go of ------------------------------------------------------------------------


def program_with_bugs():
    app = App()
    app.add_endpoint("/ws")
    app.add_endpoint("/echo", echo, raw=True)
    app.endpoint("/echo/fails", raw=True)(failing(True, Bug))
    app.endpoint("/fails")(failing(True, Bug))
    app.on("bug")(failing(False, Bug))
    app.on("later")(failing(True, Bug))
    return app


async def close(peer, actor):
    await peer.close()


async def vanish(peer, actor):
    peer.transport.reset()


async def vanish_amid_a_message(peer, actor):
    await peer.send_bytes(masked(TEXT, b"x" * 30_000, first=TEXT) + masked(0, b"y" * 20_000)[:-1])
    await settle()
    peer.transport.close()


async def wait_for_the_end(peer, actor):
    await peer.close_code()
    peer.transport.close()


async def make_handlers_fail(peer, actor):
    await peer.send({"type": "bug"}, {"type": "later"}, {"type": "later"})
    await trio.sleep(5)
    await peer.close()


async def leave_handlers_behind(peer, actor):
    await peer.send(*({"type": "later"} for _ in range(9)))
    await settle()
    peer.transport.reset()


async def break_the_actor(peer, actor):
    actor._reader = None  # a bug of this package, whichever
    await peer.send_frame(TEXT, b"x")
    await wait_for_the_end(peer, actor)


async def break_the_goodbye(peer, actor):
    actor.transport.end_output = failing(False, Bug)
    await peer.close()


async def break_the_writer(peer, actor):
    actor.transport.wait_writable = failing(False, Bug)
    actor.owe([b"x" * 100_000])
    await trio.sleep(6)


async def read_nothing(peer, actor):
    actor.owe([b"x" * 100_000], OverloadPolicy.BACKPRESSURE)
    await trio.sleep(20)


async def fill_the_mailbox(peer, actor):
    while actor.owe([encode_text(b"x" * 10_000)]):
        pass
    await trio.sleep(20)


async def cancel(peer, actor):
    """Nothing: the test cancels every connection in the end."""


ENDINGS = [
    close,
    vanish,
    vanish_amid_a_message,
    break_the_actor,
    break_the_goodbye,
    break_the_writer,
    read_nothing,
    fill_the_mailbox,
    cancel,
]


@pytest.mark.parametrize(
    ("path", "end"),
    [
        *((path, end) for path in ("/ws", "/echo", "/") for end in ENDINGS),
        ("/fails", wait_for_the_end),
        ("/echo/fails", wait_for_the_end),
        ("/ws", make_handlers_fail),
        ("/ws", leave_handlers_behind),
    ],
)
async def test_a_connection_that_is_over_is_freed_without_the_collector(autojump_clock, path, end):
    """It was in a cycle, and stayed in memory, buffers and all, until the collector ran."""
    async with open_server(program_with_bugs()) as server:
        near, far = memory_connection()
        peer = Peer(near)
        kinds = {"/": server.admin_sessions._local}
        with without_collector():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kinds.get(path, server.parts.admission).serve, far)
                assert (await peer.upgrade(path))[0] == 101
                await settle()
                (actor,) = (*server.hub, *server.admin_sessions.sessions.values())
                connection = weakref.ref(actor)
                await end(peer, actor)
                del actor
                await settle()
                nursery.cancel_scope.cancel()
            del peer, near, far
            server.log.lines.clear()  # this logger keeps exceptions, and so frames
            await settle()
            assert connection() is None


@pytest.mark.parametrize("path", ["/ws", "/raw"])
async def test_a_handle_that_is_kept_keeps_nothing_that_was_buffered(autojump_clock, path):
    """With its handle, a program kept an unfinished message of 30 MiB, or a full inbox."""

    async def stay(_):
        await trio.sleep_forever()

    app = program_with_bugs()
    app.add_endpoint("/raw", stay, raw=True)
    big = 4_000_000
    settings = {"max_message_size": big, "max_inbox_size": big, "max_mailbox_size": big}
    async with open_server(app, **settings) as server:
        peer = server.dial()
        assert (await peer.upgrade(path))[0] == 101
        await settle()
        (actor,) = server.actors()
        kept = [actor.handle]
        tracemalloc.start()
        try:
            await peer.send(*({"type": "later", "data": "x" * 60_000} for _ in range(20)))
            await peer.send_bytes(masked(TEXT, b"x" * 1_000_000)[:-1])
            actor.owe([encode_text(b"x" * 1_000_000)])
            await settle()
            gc.collect()
            held, _peak = tracemalloc.get_traced_memory()
            assert held > 3_000_000
            peer.transport.reset()
            await server.supervisor.wait_empty()
            await settle()
            gc.collect()
            held, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 400_000  # 130,000 of them are in the pipes of the network in memory
        assert kept[0]._actor is actor
