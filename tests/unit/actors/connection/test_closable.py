import contextlib
import socket
import struct

import pytest
import trio

from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PONG, TEXT, masked, open_server
from tests.fakes_containment import errors
from tests.fakes_server import (
    dial_tcp,
    echo,
    ended,
    settle,
    torrential,
    types_until_closed,
    upgraded,
    welcomed,
)

ERROR = 40  # the log's level for what nobody expects


def never(max_bytes):
    raise BlockingIOError


# --- every ending has its cause and its code -------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer", "cause"),
    [
        pytest.param(masked(CLOSE, b"\x03\xe8bye"), b"\x03\xe8", "peer_closed", id="closed"),
        pytest.param(masked(CLOSE, b"\x0b\xb8"), b"\x0b\xb8", "peer_closed", id="closed with 3000"),
        pytest.param(masked(CLOSE), b"", "peer_closed", id="closed without a code"),
        pytest.param(masked(TEXT, b"x", first=0xC1), b"\x03\xea", "protocol_error", id="rsv1"),
        pytest.param(b"\x81\x01x", b"\x03\xea", "protocol_error", id="not masked"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"\x03\xea", "protocol_error", id="http"),
        pytest.param(
            masked(CLOSE, b"\x03\xed"), b"\x03\xea", "protocol_error", id="closed with 1005"
        ),
        pytest.param(masked(BINARY, b"x"), b"\x03\xeb", "unsupported_data", id="binary"),
        pytest.param(masked(TEXT, b"\xff"), b"\x03\xef", "invalid_payload", id="not utf-8"),
        pytest.param(masked(TEXT, b"x" * 70_000), b"\x03\xf1", "message_too_big", id="too big"),
        pytest.param(masked(TEXT, b"no") * 20, b"\x11\x95", "bad_messages", id="bad messages"),
    ],
)
async def test_what_the_peer_does_wrong_or_right_has_its_close_code(
    autojump_clock, sent, answer, cause
):
    async with open_server() as server:
        peer = await server.connect(capacity=100_000)
        began = trio.current_time()
        await peer.send_bytes(sent)
        _, payload = await types_until_closed(peer)
        assert payload[:2] == answer
        peer.transport.close()
        code = int.from_bytes(answer) if answer else None
        assert await ended(server) == (cause, code)
        assert trio.current_time() - began == pytest.approx(0, abs=0.1)
        assert not [line for line in server.log.lines if line["level"] >= ERROR]


@pytest.mark.parametrize("leave", ["close", "end_output", "reset"])
async def test_a_peer_that_just_goes_has_vanished(autojump_clock, leave):
    async with open_server() as server:
        peer = await server.connect()
        getattr(peer.transport, leave)()
        assert await ended(server) == ("peer_vanished", None)


@pytest.mark.parametrize("cause", [cause for cause in CloseCause if cause.code is not None])
async def test_each_cause_has_its_code_and_reason_in_the_close_frame(autojump_clock, cause):
    async with open_server() as server:
        peer = await server.connect()
        if cause is CloseCause.PEER_CLOSED:
            await peer.send_frame(CLOSE, b"\x03\xe8")
        else:
            server.actor(peer.id).end(cause)
        _, payload = await types_until_closed(peer)
        reason = b"" if cause is CloseCause.PEER_CLOSED else cause.reason.encode()
        assert payload == cause.code.to_bytes(2) + reason
        peer.transport.close()
        assert await ended(server) == (cause.value, cause.code)
        (line,) = server.log.of("disconnected")
        assert (line["level"] >= ERROR) == (not cause.expected)
        assert server.supervisor.statistics.closed == {cause: 1}


@pytest.mark.parametrize("cause", [CloseCause.PEER_VANISHED, CloseCause.WRITE_TIMEOUT])
async def test_where_nothing_can_be_sent_there_is_no_goodbye(autojump_clock, cause):
    async with open_server() as server:
        peer = await server.connect()
        server.actor(peer.id).end(cause)
        assert await ended(server) == (cause.value, None)
        with pytest.raises(EOFError):
            await peer.receive_frame()


async def test_the_first_cause_wins(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        assert connection.end(CloseCause.DISCONNECTED, code=4999, reason="first")
        assert not connection.end(CloseCause.RECONNECT)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await types_until_closed(peer) == ([], b"\x13\x87first")
        assert await ended(server) == ("disconnected", 4999)


@pytest.mark.parametrize(
    ("code", "reason", "match"),
    [
        pytest.param(1005, "", "1005", id="1005"),
        pytest.param(1006, "", "1006", id="1006"),
        pytest.param(70_000, "", "70000", id="too large"),
        pytest.param(1000, "\ud800", "surrogates", id="surrogate"),
    ],
)
async def test_what_no_close_frame_can_carry_is_refused_and_changes_nothing(
    autojump_clock, code, reason, match
):
    """It was found out during the goodbye, and took the whole server down."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        with pytest.raises(ValueError, match=match):
            connection.end(CloseCause.ENDPOINT_FINISHED, code=code, reason=reason)
        assert connection.is_open
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_a_peer_that_breaks_while_it_is_written_to_has_vanished(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=500)
        connection = server.actor(peer.id)
        connection.handle.send("big", "x" * 2_000)
        await settle()
        far = connection.transport
        far.read_some = never  # so that it is the writer that finds out
        peer.transport.reset()
        assert await ended(server) == ("peer_vanished", None)


# --- the peer's last word --------------------------------------------------------------------


def working_app(done):
    app = App()

    @app.on("work")
    async def work(context, message):
        await trio.sleep(1)
        done.append(message.data)
        context.reply("done")

    return app


VIOLATIONS = [
    pytest.param(masked(TEXT, b"x", first=0xC1), ("protocol_error", 1002), id="rsv1"),
    pytest.param(masked(TEXT, b"\xff"), ("invalid_payload", 1007), id="not utf-8"),
    pytest.param(masked(TEXT, b"x" * 70_000)[:14], ("message_too_big", 1009), id="too big"),
    pytest.param(masked(BINARY, b"x"), ("unsupported_data", 1003), id="binary"),
]


@pytest.mark.parametrize(("violation", "end"), VIOLATIONS)
@pytest.mark.parametrize("before", [0, 600])
async def test_what_came_before_a_violation_is_acted_on(autojump_clock, violation, end, before):
    """What waited for an async handler was dropped with the connection."""
    done = []
    async with open_server(working_app(done)) as server:
        peer = await server.connect()
        work = [masked(TEXT, b'{"type":"work","data":%d}' % number) for number in range(3)]
        await peer.send_bytes(masked(PONG) * before + b"".join(work) + violation + work[0])
        types, payload = await types_until_closed(peer)
        assert (types, done) == (["done"] * 3, [0, 1, 2])
        assert int.from_bytes(payload[:2]) == end[1]
        peer.transport.close()
        assert await ended(server) == end


async def test_what_came_before_a_violation_has_only_so_long(autojump_clock):
    done = []
    async with open_server(working_app(done), close_timeout=2.5) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send(*[{"type": "work", "data": 0}] * 4)
        await peer.send_bytes(b"\xff\xff")
        assert await peer.close_code() == 1002
        assert trio.current_time() - began == pytest.approx(2.5)
        assert len(done) == 2


async def test_nothing_is_read_from_a_peer_whose_last_word_was_read(autojump_clock):
    async with open_server(working_app([])) as server:
        torrent, peer = await torrential(server)
        connection = server.actor(peer.id)
        await peer.send({"type": "work"})
        await peer.send_bytes(b"\xff\xff")
        await settle()
        torrent.chunks = 1_000
        await trio.sleep(0.9)
        assert (torrent.chunks, connection.is_open) == (1_000, True)
        await trio.sleep(0.2)
        assert connection.cause is CloseCause.PROTOCOL_ERROR


@pytest.mark.parametrize("leave", ["close", "end_output", "reset"])
async def test_a_peer_that_closes_and_goes_has_closed(autojump_clock, leave):
    """A reset behind the Close frame was recorded as `peer_vanished`, and ended the handlers."""
    done = []
    async with open_server(working_app(done)) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "work", "data": number} for number in range(3)])
        await peer.send_frame(CLOSE, b"\x03\xe8")
        await settle()
        getattr(peer.transport, leave)()
        assert await ended(server) == ("peer_closed", 1000)
        assert done == [0, 1, 2]


async def test_a_peer_that_closes_and_resets_a_real_connection_has_closed():
    done = []
    app = App()
    app.on("work")(lambda context, message: work())

    async def work():
        await trio.sleep(0.1)
        done.append(1)

    async with open_server(app) as server:
        peer = await welcomed(await dial_tcp(server))
        work_frame = masked(TEXT, b'{"type":"work"}')
        await peer.send_bytes(work_frame * 2 + masked(CLOSE, b"\x03\xe8"))
        linger = struct.pack("ii", 1, 0)  # so that closing sends a reset
        peer.transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.transport.close()
        with trio.fail_after(10):
            assert await ended(server) == ("peer_closed", 1000)
        assert done == [1, 1]


async def test_a_quiet_time_behind_the_last_word_is_no_silence(autojump_clock):
    settings = {"heartbeat_interval": 1, "pong_timeout": 1, "close_timeout": 60}
    done = []
    async with open_server(working_app(done), **settings) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "work", "data": number} for number in range(10)])
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await ended(server) == ("peer_closed", 1000)
        assert done == list(range(10))


# --- and at raw endpoints --------------------------------------------------------------------


def raw_server(function, **settings):
    app = App()
    app.add_endpoint("/raw", function, raw=True)
    return open_server(app, **settings)


def collecting(received, *, seconds=0.5):
    async def collect(connection):
        async for message in connection:
            await trio.sleep(seconds)
            received.append(message)
            with contextlib.suppress(trio.BrokenResourceError):
                await connection.send(message)

    return collect


@pytest.mark.parametrize(
    ("violation", "end"),
    [
        pytest.param(masked(TEXT, b"x", first=0xC1), ("protocol_error", 1002), id="rsv1"),
        pytest.param(masked(TEXT, b"\xff"), ("invalid_payload", 1007), id="not utf-8"),
        pytest.param(masked(TEXT, b"x" * 70_000)[:14], ("message_too_big", 1009), id="too big"),
    ],
)
async def test_what_came_before_a_violation_is_worked_off(autojump_clock, violation, end):
    """It was dropped: the violation cancelled the function before it had seen the messages."""
    received = []
    async with raw_server(collecting(received)) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send_bytes(masked(TEXT, b"1") + masked(BINARY, b"2") + violation)
        assert await peer.receive_frame() == (TEXT, b"1")
        assert await peer.receive_frame() == (BINARY, b"2")
        assert await peer.close_code() == end[1]
        peer.transport.close()
        assert await ended(server) == end
        assert received == ["1", b"2"]


async def test_a_violation_waits_for_a_function_only_so_long(autojump_clock):
    async def stay(connection):
        await trio.sleep_forever()

    async with raw_server(stay, close_timeout=4) as server:
        peer = await upgraded(server.dial(), "/raw")
        began = trio.current_time()
        await peer.send_bytes(b"\xff\xff")
        assert await peer.close_code() == 1002
        assert trio.current_time() - began == pytest.approx(4)


@pytest.mark.parametrize("leave", ["close", "end_output"])
async def test_what_came_before_an_end_without_a_close_frame_is_worked_off(autojump_clock, leave):
    """The end of the stream cancelled the function: 249 of 2,500 messages were lost."""
    received = []
    async with raw_server(collecting(received)) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send_bytes(masked(TEXT, b"1") + masked(TEXT, b"2") + masked(TEXT, b"3"))
        getattr(peer.transport, leave)()
        assert await ended(server) == ("peer_vanished", None)
        assert received == ["1", "2", "3"]
        assert not errors(server)


async def test_a_peer_that_ends_only_its_own_side_still_gets_the_answers(autojump_clock):
    async with raw_server(echo) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send_bytes(masked(TEXT, b"1") + masked(TEXT, b"2"))
        peer.transport.end_output()
        assert [await peer.receive_frame() for _ in range(2)] == [(TEXT, b"1"), (TEXT, b"2")]
        assert await ended(server) == ("peer_vanished", None)


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_peer_that_closes_and_breaks_has_closed(autojump_clock, leave):
    """It was recorded as `peer_vanished`, and the function was cancelled amid its work."""
    received = []
    async with raw_server(collecting(received)) as server:
        peer = await upgraded(server.dial(), "/raw")
        frames = [masked(TEXT, b"1"), masked(TEXT, b"2"), masked(CLOSE, b"\x03\xe8")]
        await peer.send_bytes(b"".join(frames))
        await settle()
        getattr(peer.transport, leave)()
        assert await ended(server) == ("peer_closed", 1000)
        assert received == ["1", "2"]
        assert not errors(server)


async def test_a_function_that_sends_to_a_peer_that_closed_and_broke_ends_without_an_error(
    autojump_clock,
):
    async def slow_echo(connection):
        async for message in connection:
            await trio.sleep(1)
            await connection.send(message)

    async with raw_server(slow_echo) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send_bytes(masked(TEXT, b"1") + masked(TEXT, b"2") + masked(CLOSE))
        await settle()
        peer.transport.reset()
        assert await ended(server) == ("peer_closed", None)
        assert not errors(server)
