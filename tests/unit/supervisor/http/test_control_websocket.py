"""`/control`: a page's admin session by way of the HTTP listener, over a real socket."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio

from moorage.protocol.closing import CloseCause
from tests.fakes import BINARY, CLOSE, TEXT, masked
from tests.fakes_http import EXPIRED, serving
from tests.fakes_server import dial_port, token, until, welcomed

ADMINS = token("root", role="admin")

UPGRADE = (
    "GET /control HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@asynccontextmanager
async def dialed(server):
    """A page's connection to the HTTP listener, with nothing sent yet."""
    with trio.fail_after(10):
        peer = await dial_port(urlsplit(server.url).port)
        try:
            yield peer
        finally:
            peer.transport.close()


@asynccontextmanager
async def page(server):
    """A page with an admin session; as browsers must, it brings its token as a subprotocol."""
    async with dialed(server) as peer:
        offered = f"moorage.v1, bearer.{ADMINS}"
        yield await welcomed(peer, "/control", **{"Sec-WebSocket-Protocol": offered})


async def ended(server):
    """Wait until the server has no admin session."""
    with trio.fail_after(5):
        await until(lambda: not server.admin_sessions.sessions)


async def test_a_page_gives_commands_and_gets_answers():
    async with serving() as server, page(server) as admin:
        assert admin.welcome["data"]["user_id"] == "root"
        reply = await admin.request_reply({"type": "health"})
        assert (reply["type"], reply["data"]["ready"]) == ("result", True)


async def test_the_session_knows_the_pages_address():
    async with serving() as server, page(server):
        (line,) = server.log.of("control_connected")
        assert line["address"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthorized"),
        ({"Authorization": f"Bearer {EXPIRED}"}, 401, "token_expired"),
        ({"Authorization": f"Bearer {token('alice')}"}, 403, "forbidden"),
        ({"Authorization": f"Bearer {ADMINS}", "Origin": "https://evil.test"}, 403, "forbidden"),
    ],
)
async def test_who_may_not_come_in_is_told_why(headers, status, code):
    async with serving() as server, dialed(server) as peer:
        answered, fields, body = await peer.upgrade("/control", headers)
        assert (answered, f'"code":"{code}"'.encode() in body) == (status, True), body
        assert ("www-authenticate" in fields) is (status == 401)
        await ended(server)


async def test_a_page_of_a_named_origin_is_let_in():
    async with serving(allowed_origins="https://ops.test") as server, dialed(server) as peer:
        headers = {"Authorization": f"Bearer {ADMINS}", "Origin": "https://ops.test"}
        await welcomed(peer, "/control", **headers)


async def test_a_message_may_be_as_long_as_on_the_control_socket():
    async with serving() as server, page(server) as admin:
        text = "x" * 300_000
        reply = await admin.request_reply({"type": "ping", "data": text})
        assert reply["data"] == text


async def test_a_page_that_closes_ends_its_session():
    async with serving() as server, page(server) as admin:
        assert len(server.admin_sessions.sessions) == 1
        await admin.send_frame(CLOSE, (1001).to_bytes(2))
        assert await admin.close_code() == 1001
        await ended(server)
        assert server.admin_sessions.statistics.closed == {CloseCause.PEER_CLOSED: 1}


async def test_a_page_that_vanishes_ends_its_session():
    async with serving() as server:
        async with page(server):
            pass
        await ended(server)


async def test_a_binary_message_is_the_sessions_to_refuse():
    async with serving() as server, page(server) as admin:
        await admin.send_frame(BINARY, b"{}")
        assert await admin.close_code() == 1003
        await ended(server)


async def test_a_message_in_pieces_is_put_together():
    async with serving() as server, page(server) as admin:
        message = b'{"type":"ping","id":1,"data":"in pieces"}'
        await admin.send_bytes(masked(TEXT, message[:9], first=TEXT))
        await admin.send_bytes(masked(0, message[9:]))
        assert (await admin.receive_type("pong"))["data"] == "in pieces"


async def test_the_sessions_end_reaches_the_page_with_its_code():
    async with serving() as server, page(server) as admin:
        (session,) = server.admin_sessions.sessions.values()
        session.end(CloseCause.RECONNECT)
        assert await admin.close_code() == CloseCause.RECONNECT.code


async def test_where_there_is_no_room_the_page_gets_503(monkeypatch):
    async with serving() as server, dialed(server) as peer:
        monkeypatch.setattr(server.admin_sessions._remote, "max_total", 0)
        status, _, body = await peer.upgrade("/control", {"Authorization": f"Bearer {ADMINS}"})
        assert (status, b'"code":"unavailable"' in body) == (503, True), body


async def test_one_page_does_not_hear_what_another_is_told():
    async with serving() as server, page(server) as one, page(server) as other:
        await one.request_reply({"type": "ping", "data": 1})
        assert (await other.request_reply({"type": "ping", "data": 2}))["data"] == 2


async def test_requests_without_a_good_token_take_no_operators_place():
    # 100 of them at once took all the places there are, and the operator got 503.
    async with serving() as server, dialed(server) as operator, AsyncExitStack() as strangers:
        offered = f"bearer.{token('alice')}"
        for number in range(120):
            stranger = await strangers.enter_async_context(dialed(server))
            lines = UPGRADE if number % 2 else f"{UPGRADE}Sec-WebSocket-Protocol: {offered}\r\n"
            await stranger.send_bytes(lines.encode() + b"\r\n")
        status, _, body = await operator.upgrade("/control", {"Authorization": f"Bearer {ADMINS}"})
        assert status == 101, body
