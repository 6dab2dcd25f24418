"""The connections of the HTTP listener: the one version that they speak, and their bound."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
import trustme
from hypercorn.protocol import ProtocolWrapper
from starlette.responses import Response
from starlette.websockets import WebSocket

from moorage.supervisor.http import application
from tests.fakes_http import serving
from tests.fakes_server import tls_stream, token, until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def dialed(server, data=b""):
    """A connection to the HTTP listener, after it has sent something."""
    stream = await trio.open_tcp_stream("127.0.0.1", urlsplit(server.url).port)
    async with stream:
        if data:
            await stream.send_all(data)
        yield stream


async def head_of(stream):
    """Read one answer, or to the end; return its head."""
    received = b""
    with trio.fail_after(5):
        while b"\r\n\r\n" not in received and (chunk := await stream.receive_some()):
            received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head.lower()) or [b"0"]
        while len(body) < int(length):
            body += await stream.receive_some()
    return head + b"\r\n"


async def is_closed(stream, within=2.0):
    """Read on; return whether the server closes soon."""
    with trio.move_on_after(within):
        while await stream.receive_some():
            pass
        return True
    return False


def count(server):
    return len(server.composition.http.connections)


# --- HTTP/1.1 and nothing else


@pytest.mark.parametrize("upgrade", [b"h2c", b"H2C", b"websocket, h2c", b"TLS/1.0"])
async def test_an_upgrade_to_another_protocol_is_ignored(upgrade):
    # It was answered with 101, and the next requests were HTTP/2, unseen by a proxy's filter.
    request = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    )
    async with serving() as server, dialed(server, request) as stream:
        assert (await head_of(stream)).startswith(b"HTTP/1.1 200 ")
        await stream.send_all(HEALTH)
        assert (await head_of(stream)).startswith(b"HTTP/1.1 200 ")


async def test_the_preface_of_http_2_is_refused_in_http_1():
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    async with serving() as server, dialed(server, preface) as stream:
        answer = await head_of(stream)
        assert answer.startswith(b"HTTP/1.1 505 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert await is_closed(stream)
        assert not server.log.of("http_request_failed")


async def test_over_tls_http_2_is_not_negotiated_either(tmp_path):
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "server.pem"
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        serving(tls_certificate=tmp_path / "server.pem", http_tls=True) as server,
        tls_stream(urlsplit(server.url).port, context) as stream,
    ):
        await stream.send_all(HEALTH)
        assert (await head_of(stream)).startswith(b"HTTP/1.1 200 ")
        assert stream.selected_alpn_protocol() == "http/1.1"


async def test_a_probe_over_http_1_0_needs_no_host_even_without_a_key():
    # HAProxy's is one; refused, it took the server for dead.
    request = b"GET /readyz HTTP/1.0\r\n\r\n"
    async with serving(jwt_key=()) as server, dialed(server, request) as stream:
        assert (await head_of(stream)).startswith(b"HTTP/1.1 200 ")


async def test_a_request_with_two_lengths_is_refused():
    # It was answered, and what came behind it as well: a proxy could take that for its body.
    request = (
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with serving() as server, dialed(server, request + HEALTH) as stream:
        assert (await head_of(stream)).startswith(b"HTTP/1.1 400 ")
        assert await is_closed(stream)


async def test_a_body_that_is_wrong_while_the_answer_is_written_is_no_failure_of_ours():
    # It was logged as one, for the connection was closed while a task wrote.
    request = HEALTH.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with serving() as server:
        for _ in range(20):
            async with dialed(server, request + b"2\r\nabXX0\r\n\r\n") as stream:
                assert await is_closed(stream)
        assert not server.log.of("http_request_failed")


# --- Opening handshakes that are none


def opening(*lines, version=b"1.1", rest=b""):
    """A WebSocket's opening handshake at `/control`, with these lines."""
    first = b"GET /control HTTP/" + version
    return b"\r\n".join((first, b"Host: localhost", *lines)) + b"\r\n\r\n" + rest


UPGRADE = (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket")
KEY_LINE = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = b"Sec-WebSocket-Version: 13"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(opening(*UPGRADE, VERSION), id="without a key"),
        pytest.param(opening(*UPGRADE, KEY_LINE), id="without a version"),
        pytest.param(opening(*UPGRADE, KEY_LINE, b"Sec-WebSocket-Version: 8"), id="version 8"),
        pytest.param(opening(*UPGRADE, KEY_LINE, VERSION, version=b"1.0"), id="HTTP/1.0"),
        pytest.param(opening(*UPGRADE, KEY_LINE, VERSION, b"Content-Length: 5"), id="a body"),
        pytest.param(
            opening(*UPGRADE, KEY_LINE, VERSION, rest=b"\x81\x85"), id="a frame behind it"
        ),
        pytest.param(
            opening(*UPGRADE, KEY_LINE, VERSION, b"Sec-WebSocket-Protocol: \xff"),
            id="a protocol that is no text",
        ),
        pytest.param(
            opening(*UPGRADE, KEY_LINE, VERSION, b"Connection: \xff, upgrade"),
            id="an option that is no text",
        ),
    ],
)
async def test_a_wrong_opening_handshake_is_refused_and_gives_up_its_place(request_bytes):
    # Hypercorn answered with 400 and forgot the connection: 256 requests without a token kept
    # everybody out for as long as their clients liked. Some were logged as failures of ours.
    async with serving() as server, dialed(server, request_bytes) as stream:
        answer = await head_of(stream)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert await is_closed(stream)
        await until(lambda: count(server) == 0)
        assert not server.log.of("http_request_failed")


async def test_a_client_that_speaks_before_its_upgrade_is_answered_gives_up_its_place(monkeypatch):
    # Hypercorn answered with 400, beside the answer of the application.
    answered = trio.Event()

    async def send_denial_response(_page, _response):
        await answered.wait()

    monkeypatch.setattr(WebSocket, "send_denial_response", send_denial_response)
    request = opening(*UPGRADE, KEY_LINE, VERSION)
    async with serving() as server, dialed(server, request) as stream:
        await until(lambda: len(server.composition.http.connections._busy) == 1)
        await stream.send_all(b"\x81\x85")
        assert await is_closed(stream)
        answered.set()
        await until(lambda: count(server) == 0)
        assert not server.log.of("http_request_failed")


async def test_a_request_that_only_names_websocket_is_answered_as_any_other():
    request = HEALTH.replace(b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n")
    async with serving() as server, dialed(server, request) as stream:
        assert (await head_of(stream)).startswith(b"HTTP/1.1 200 ")


# --- Their bound


async def test_silent_connections_give_way_to_newcomers_the_oldest_first():
    # 300 of them kept newcomers out for 14 s.
    async with (
        serving(max_http_connections=3) as server,
        dialed(server) as first,
        dialed(server) as second,
        dialed(server) as third,
    ):
        await until(lambda: count(server) == 3)
        async with dialed(server, HEALTH) as newcomer:
            assert (await head_of(newcomer)).startswith(b"HTTP/1.1 200 ")
            assert await is_closed(first)
            await second.send_all(HEALTH)
            assert (await head_of(second)).startswith(b"HTTP/1.1 200 ")
            assert not await is_closed(third, within=0.2)
            assert count(server) == 3


async def test_however_many_are_silent_a_newcomer_is_served_at_once():
    async with serving() as server, trio.open_nursery() as nursery:

        async def be_silent(task_status):
            async with dialed(server):
                task_status.started()
                await trio.sleep_forever()

        for _ in range(300):
            await nursery.start(be_silent)
        with trio.fail_after(1):
            async with dialed(server, HEALTH) as newcomer:
                assert (await head_of(newcomer)).startswith(b"HTTP/1.1 200 ")
        assert count(server) <= 256
        nursery.cancel_scope.cancel()


async def test_one_that_has_sent_a_request_stays_while_a_silent_one_can_go():
    async with (
        serving(max_http_connections=2) as server,
        dialed(server, HEALTH) as kept,
        dialed(server) as silent,
    ):
        await head_of(kept)
        await until(lambda: count(server) == 2)
        async with dialed(server, HEALTH) as newcomer:
            await head_of(newcomer)
            assert await is_closed(silent)
            async with dialed(server, HEALTH) as another:
                await head_of(another)
                assert await is_closed(kept)  # for it had waited longer than the newcomer
                assert not await is_closed(newcomer, within=0.2)


@pytest.fixture
def working(monkeypatch):
    """Let `/healthz` take until the event is set; return the event."""
    done = trio.Event()

    async def healthz(_request):
        await done.wait()
        return Response()

    monkeypatch.setattr(application, "healthz", healthz)
    return done


READY = HEALTH.replace(b"healthz", b"readyz")


async def test_where_the_server_is_at_work_for_all_a_newcomer_is_told_to_come_back(working):
    async with (
        serving(max_http_connections=2) as server,
        dialed(server, HEALTH) as first,
        dialed(server, HEALTH),
    ):
        await until(lambda: len(server.composition.http.connections._busy) == 2)
        for _ in range(2):
            async with dialed(server, READY) as newcomer:
                answer = await head_of(newcomer)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 5\r\n" in answer.lower()
                assert await is_closed(newcomer)
        line, _ = server.log.of("http_full")
        assert (line["level"], line["connections"]) == (logging.WARNING, 2)
        working.set()
        assert (await head_of(first)).startswith(b"HTTP/1.1 200 ")
        await until(lambda: len(server.composition.http.connections._idle) == 2)
        async with dialed(server, READY) as newcomer:
            assert (await head_of(newcomer)).startswith(b"HTTP/1.1 200 ")


async def test_a_flood_beyond_the_bound_takes_no_descriptors(working):
    async with serving(max_http_connections=1) as server, trio.open_nursery() as nursery:

        async def hold(task_status):
            async with dialed(server, HEALTH):
                task_status.started()
                await trio.sleep_forever()

        await nursery.start(hold)
        await until(lambda: len(server.composition.http.connections._busy) == 1)
        for _ in range(60):
            await nursery.start(hold)
        with trio.fail_after(5):
            await until(lambda: count(server) <= 33)
        nursery.cancel_scope.cancel()


async def test_one_whose_body_does_not_come_gives_way():
    # Such requests, with any client's token, kept everybody out for 10 s.
    unfinished = (
        b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        b"Authorization: Bearer " + token("root", role="admin").encode() + b"\r\n\r\n"
    )
    async with (
        serving(max_http_connections=2) as server,
        dialed(server, unfinished) as first,
        dialed(server, unfinished) as second,
    ):
        await until(lambda: len(server.composition.http.connections._waiting) == 2)
        async with dialed(server, HEALTH) as newcomer:
            assert (await head_of(newcomer)).startswith(b"HTTP/1.1 200 ")
            assert await is_closed(first)
            await second.send_all(b'{"topic":')  # the body is complete, and no JSON
            assert (await head_of(second)).startswith(b"HTTP/1.1 400 ")
            assert not server.log.of("http_request_failed")


@pytest.mark.parametrize("tls", [False, True])
async def test_one_that_does_not_take_its_answers_gives_way(tls, tmp_path):
    # They needed no token, and kept everybody out for `write_timeout`, again and again.
    settings = {}
    context = ssl.create_default_context()
    if tls:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        authority.configure_trust(context)
        settings = {"tls_certificate": tmp_path / "server.pem", "http_tls": True}
    async with (
        serving(max_http_connections=2, **settings) as server,
        trio.open_nursery() as nursery,
    ):
        connections = server.composition.http.connections

        async def take_nothing():
            async with opened() as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(HEALTH.replace(b"healthz", b"openapi.json") * 2000)
                await trio.sleep_forever()

        @asynccontextmanager
        async def opened():
            port = urlsplit(server.url).port
            async with tls_stream(port, context) if tls else dialed(server) as stream:
                yield stream

        nursery.start_soon(take_nothing)
        nursery.start_soon(take_nothing)
        await until(lambda: len(connections._waiting) == 2)
        await trio.sleep(0.5)  # until the kernel's buffers are full
        assert len(connections._waiting) == 2
        async with opened() as newcomer:
            await newcomer.send_all(HEALTH)
            assert (await head_of(newcomer)).startswith(b"HTTP/1.1 200 ")
            await until(lambda: len(connections._waiting) == 1)
        assert not server.log.of("http_request_failed")
        nursery.cancel_scope.cancel()


async def test_a_connection_that_its_client_has_closed_is_gone_at_once():
    # Each held its place for 15 s more: the time in which the next request might have come.
    async with serving() as server:
        for request in (b"", HEALTH, HEALTH[:20]):
            async with dialed(server, request) as stream:
                if request == HEALTH:
                    await head_of(stream)
                await until(lambda: count(server) == 1)
            with trio.fail_after(1):
                await until(lambda: count(server) == 0)


async def test_a_failure_of_one_connection_is_logged_and_leaves_the_others_alone(monkeypatch):
    real = ProtocolWrapper.initiate

    async def initiate(protocol):
        if protocol.client[1] == failing:
            raise RuntimeError("a bug in Hypercorn")
        await real(protocol)

    failing = None
    monkeypatch.setattr(ProtocolWrapper, "initiate", initiate)
    async with serving() as server, dialed(server, HEALTH) as other:
        await head_of(other)
        with socket.socket() as mine:
            mine.bind(("127.0.0.1", 0))
            failing = mine.getsockname()[1]
            mine.connect(("127.0.0.1", urlsplit(server.url).port))
            await until(lambda: server.log.of("http_request_failed"))
        await other.send_all(HEALTH)
        assert (await head_of(other)).startswith(b"HTTP/1.1 200 ")
        assert not server.log.of("http_failed")
