"""Containment: whatever breaks, breaks alone, and leaves one log line that says what it was."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from tests.fakes import CLOSE, PONG, Peer, Server, open_server
from tests.fakes_server import assert_nothing_left, settle, subscribed, upgraded, welcomed


class Bug(Exception):
    """What the program's own code raises."""


def errors(server: Server) -> list[dict[str, Any]]:
    """The log's lines about something that went wrong."""
    return [line for line in server.log.lines if line["level"] >= 40]


async def is_served(peer: Peer) -> bool:
    """Whether this connection works, and has heard nothing of what befell others."""
    reply = await peer.request_reply({"type": "data", "topic": "onlookers", "data": 1})
    return reply["type"] == "published" and (await peer.receive())["data"] == 1


async def onlooker(server: Server, path: str = "/ws") -> Peer:
    return await subscribed(await server.connect(path), "onlookers")


def failing(asynchronous: bool, error: BaseException):  # noqa: FBT001 - a test's parameter
    def fail(*_arguments):
        raise error

    async def fail_later(*_arguments):
        await trio.sleep(1)
        raise error

    return fail_later if asynchronous else fail


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_is_answered_and_logged_once(autojump_clock, asynchronous):
    app = App()
    app.on("break")(failing(asynchronous, Bug("why")))
    async with open_server(app) as server:
        peer, other = await server.connect(), await onlooker(server)
        reply = await peer.request_reply({"type": "break", "topic": "t"})
        assert reply["data"] == {"code": "internal", "retryable": False}
        assert "why" not in str(reply)  # what is in an exception is not for clients
        (line,) = errors(server)
        assert line["event"] == "handler_failed"
        assert line["connection_id"] == peer.id
        assert line["message_type"] == "break"
        assert isinstance(line["exc_info"], Bug)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        assert await is_served(other)


async def test_a_hundred_handlers_that_raise_at_once(autojump_clock):
    app = App()
    app.on("break")(failing(True, Bug()))
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect() for _ in range(100)]
        for peer in peers:
            await peer.send({"type": "break"})
        for peer in peers:
            assert (await peer.receive())["data"]["code"] == "internal"
        assert {line["connection_id"] for line in errors(server)} == {peer.id for peer in peers}
        assert len(errors(server)) == 100
        assert await is_served(other)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_message_after_one_that_failed_is_acted_on(autojump_clock, asynchronous):
    app, seen = App(), []
    app.on("break")(failing(asynchronous, Bug()))
    app.on("note")(lambda context, message: seen.append(message.data))
    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "break"}, {"type": "note", "data": 1}, {"type": "break"})
        await peer.send({"type": "note", "data": 2})
        await trio.sleep(5)
        assert seen == [1, 2]


async def test_an_endpoints_function_that_raises_closes_its_connection(autojump_clock):
    app = App()
    app.endpoint("/break")(failing(True, Bug()))
    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect("/break") for _ in range(100)]
        assert [await peer.close_code() for peer in peers] == [1011] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        failed = [line for line in errors(server) if line["event"] == "endpoint_failed"]
        ended = [line for line in errors(server) if line["event"] == "disconnected"]
        assert len(failed) == len(ended) == 100
        assert all(isinstance(line["exc_info"], Bug) for line in failed)
        for line in ended:
            assert (line["cause"], line["code"]) == ("internal_error", 1011)
        assert await is_served(other)


async def test_a_raw_endpoints_function_that_raises_closes_its_connection(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def fail(connection):
        async for message in connection:
            raise Bug(message)

    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peer = await upgraded(server.dial(), "/raw")
        await peer.send("x")
        assert await peer.close_code() == 1011
        assert await is_served(other)


async def test_a_raw_functions_own_broken_stream_is_not_taken_for_its_clients_leaving(
    autojump_clock,
):
    # Such as a proxy's connection to what is behind it; once that was passed over in silence.
    app = App()

    @app.endpoint("/raw", raw=True)
    async def fail(connection):
        raise trio.BrokenResourceError("the other side")

    async with open_server(app) as server:
        peer = await upgraded(server.dial(), "/raw")
        assert await peer.close_code() == 1011
        assert errors(server)[0]["event"] == "endpoint_failed"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("which", ["connected", "disconnected"])
async def test_a_callback_that_raises_is_logged_and_nothing_else(
    autojump_clock, which, asynchronous
):
    app, seen = App(), []
    getattr(app, which)(failing(asynchronous, Bug()))
    getattr(app, which)(lambda connection, *cause: seen.append(connection.id))
    async with open_server(app) as server:
        peer = await server.connect()
        await trio.sleep(2)
        await peer.close()
        await trio.sleep(2)
        assert seen == [peer.id]  # the other callback was called all the same
        (line,) = errors(server)
        assert (line["event"], line["connection_id"]) == ("callback_failed", peer.id)
        assert server.log.of("disconnected")[0]["cause"] == "peer_closed"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["subscribe", "data"])
async def test_an_authorizer_that_raises_allows_nothing(autojump_clock, kind, asynchronous):
    app = App()
    app.authorize_subscribe(failing(asynchronous, Bug()))
    app.authorize_publish(failing(asynchronous, Bug()))
    async with open_server(app) as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": kind, "topic": "t"})
        assert reply["data"]["code"] == "internal"
        assert server.supervisor.harbor.router.topics == {}
        (line,) = errors(server)
        assert (line["event"], line["message_type"]) == ("handler_failed", kind)


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


async def test_an_actor_that_breaks_takes_nobody_along(autojump_clock):
    async with open_server() as server:
        other = await onlooker(server)
        peers = [await server.connect() for _ in range(100)]
        for peer in peers:
            connection = server.supervisor.connection(peer.id)
            connection._reader = None  # a bug of this package, whichever
        for peer in peers:
            await peer.send({"type": "ping"})
        assert [await peer.close_code() for peer in peers] == [1011] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        lines = errors(server)
        assert {line["connection_id"] for line in lines} == {peer.id for peer in peers}
        assert len(lines) == 100
        for line in lines:
            assert (line["event"], line["cause"]) == ("disconnected", "internal_error")
            assert line["exc_info"] is not None
        assert await is_served(other)


async def test_a_mailbox_that_breaks_does_not_stop_the_deliveries_to_others(autojump_clock):
    # The delivery task serves everybody: an exception that ended it would end the server.
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "t") for _ in range(3)]

        def broken(_data: bytes) -> int:
            raise Bug

        server.supervisor.connection(peers[1].id).mailbox._write = broken
        for number in range(3):
            server.supervisor.broadcast_to_topic("t", "data", number)
            await settle()
        for peer in (peers[0], peers[2]):
            assert [(await peer.receive())["data"] for _ in range(3)] == [0, 1, 2]
        assert errors(server)[0]["event"] == "delivery_failed"
        assert errors(server)[0]["connection_id"] == peers[1].id
        peers[1].transport.close()
        await settle()
        assert len(server.supervisor.connections()) == 2


async def test_an_exception_group_of_a_handler_is_its_error(autojump_clock):
    app = App()

    @app.on("break")
    async def several(context, message):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing(True, Bug("one")))
            nursery.start_soon(failing(True, Bug("two")))

    async with open_server(app) as server:
        peer = await server.connect()
        assert (await peer.request_reply({"type": "break"}))["data"]["code"] == "internal"
        (line,) = errors(server)
        assert isinstance(line["exc_info"], ExceptionGroup)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_cancelled_mixed_with_an_exception_is_told_apart(autojump_clock):
    """The connection ends while its function cleans up, and the cleaning up fails."""
    app = App()

    async def clean_up_badly():
        try:
            await trio.sleep_forever()
        finally:
            raise Bug

    @app.endpoint("/break")
    async def several(connection):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)

    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect("/break") for _ in range(100)]
        await settle()
        for peer in peers:
            await peer.send_frame(CLOSE, (1000).to_bytes(2))
        assert [await peer.close_code() for peer in peers] == [1000] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        assert server.supervisor.statistics.closed == {CloseCause.PEER_CLOSED: 100}
        assert {line["connection_id"] for line in errors(server)} == {peer.id for peer in peers}
        assert len(errors(server)) == 100  # none is lost, though its cause was an expected one
        assert await is_served(other)


async def test_a_handler_that_swallows_its_cancellation_for_a_while_ends_with_its_connection(
    autojump_clock,
):
    app, ends = App(), []

    @app.endpoint("/ws")
    async def cleans_up(connection):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ends.append(connection.id)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.close()
        await trio.sleep(2)
        assert ends == [peer.id]
        assert_nothing_left(server)


async def test_a_handler_that_never_ends_is_given_up_and_its_client_served_on(autojump_clock):
    app = App()

    @app.on("hang")
    async def hang(context, message):
        await trio.sleep_forever()

    async with open_server(app, handler_timeout=3.0) as server:
        peer = await server.connect()
        await peer.send({"type": "hang", "id": 1}, {"type": "hang", "id": 2})
        started = trio.current_time()
        replies = [await peer.receive(), await peer.receive()]
        assert [(reply["id"], reply["data"]["code"]) for reply in replies] == [
            (1, "timeout"),
            (2, "timeout"),
        ]
        assert trio.current_time() - started == pytest.approx(6.0)
        assert server.supervisor.statistics.traffic.handler_timeouts == 2
        assert len(server.log.of("handler_timed_out")) == 2


async def test_a_connection_that_leaves_amidst_an_async_handler_leaves_nothing(autojump_clock):
    app, ends = App(), []

    @app.on("wait")
    async def wait(context, message):
        try:
            await trio.sleep(1)
        finally:
            ends.append(message.data)

    async with open_server(app) as server:
        peers = [await server.connect() for _ in range(50)]
        for number, peer in enumerate(peers):
            await peer.send({"type": "wait", "data": number}, {"type": "wait", "data": "second"})
        await settle()
        for number, peer in enumerate(peers):
            if number % 3 == 0:
                peer.transport.reset()
            elif number % 3 == 1:
                peer.transport.close()
            else:
                await peer.send_frame(CLOSE, b"")
        await trio.sleep(20)
        # Who said goodbye has all of it done; of the others, what was begun was cancelled.
        assert sorted(end for end in ends if end != "second") == list(range(50))
        assert ends.count("second") == 16
        assert errors(server) == []
        assert_nothing_left(server)


async def test_expected_endings_are_no_errors(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        endings = {}
        for code, frame in {
            "peer_closed": b"\x88\x80\0\0\0\0",
            "protocol_error": b"\xff\xff\0\0\0\0",
            "invalid_payload": b"\x81\x81\0\0\0\0\xff",
            "unsupported_data": b"\x82\x81\0\0\0\0x",
            "message_too_big": b"\x81\xfe\x10\x00\0\0\0\0",
        }.items():
            peer = await server.connect()
            await peer.send_bytes(frame)
            endings[code] = await peer.close_code()
            peer.transport.close()
        await settle()
        assert endings == {
            "peer_closed": 0,  # a Close frame without a code is answered by another
            "protocol_error": 1002,
            "invalid_payload": 1007,
            "unsupported_data": 1003,
            "message_too_big": 1009,
        }
        assert [line["cause"] for line in server.log.of("disconnected")] == list(endings)
        assert errors(server) == []


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


async def test_a_ping_and_a_close_at_once_are_not_too_much(autojump_clock):
    """What brought whole servers down with trio-websocket 0.12.2: a ping after the local close."""
    async with open_server() as server:
        other = await onlooker(server)
        peer = await welcomed(server.dial())
        server.supervisor.connections()[-1].disconnect()
        await peer.send_frame(9, b"hello")
        assert await peer.close_code() == 4503
        await peer.send_frame(PONG)
        peer.transport.close()
        assert await is_served(other)
