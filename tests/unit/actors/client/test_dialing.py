"""From a URL to an open WebSocket, and every way in which that goes wrong."""

import json
import random
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from moorage.actors.client.backoff import Backoff
from moorage.actors.client.client import open_client
from moorage.actors.client.client_errors import ClientClosed, ConnectError, ConnectionRefused
from moorage.actors.client.dialing import WatchedStream, parse_address
from tests.fakes_client import FakeServer, connect, error


@pytest.fixture
def server(nursery):
    return FakeServer(nursery)


async def test_the_upgrade_request_carries_path_token_and_headers_and_offers_the_subprotocol(
    autojump_clock, server
):
    async with connect(server, token="abc.def", extra_headers=[("X-Trace", "1")]):
        request = server.requests[0]
        assert request["authorization"] == "Bearer abc.def"
        assert request["x-trace"] == "1"
        assert server.connections[0].path == "/ws?x=1"
        assert server.connections[0].websocket.subprotocol == "moorage.v1"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_would_not_change_is_raised_with_status_code_and_text(
    autojump_clock, server, status
):
    body = json.dumps(error("forbidden", "this origin is not allowed")).encode()
    server.script.append((status, [], body))
    with pytest.raises(ConnectionRefused) as caught:
        async with connect(server):
            pass
    assert (caught.value.status, caught.value.code) == (status, "forbidden")
    assert caught.value.text == "this origin is not allowed"
    assert len(server.attempts) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\nplain words",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 500\r\n\r\nplain words",
    ],
)
async def test_a_refusal_whose_body_ends_with_the_connection_is_understood(
    autojump_clock, server, answer
):
    server.script.append(answer)
    with pytest.raises(ConnectionRefused, match="plain words") as caught:
        async with connect(server):
            pass
    assert caught.value.status == 403
    assert caught.value.code is None


@pytest.mark.parametrize(
    "trouble",
    [
        OSError("connection refused"),
        b"",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["refused", "hangs up", "no accept", "not http", "endless", "502"],
)
async def test_trouble_that_may_pass_is_tried_again(autojump_clock, server, trouble):
    server.script.extend([trouble] * 3)
    async with connect(server) as client:
        assert client.statistics().failed_attempts == 3
    assert len(server.attempts) == 4


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(autojump_clock, server):
    server.script.append(
        (503, [(b"Retry-After", b"60")], json.dumps(error("unavailable")).encode())
    )
    async with connect(server):
        waited = server.attempts[1] - server.attempts[0]
        assert 60 <= waited <= 61


async def test_waits_are_full_jitter_under_a_doubling_bound(autojump_clock, server):
    server.script.extend([OSError("no")] * 7)
    async with connect(server, backoff=Backoff(1, 8, random=random.Random(3))):
        waits = [b - a for a, b in zip(server.attempts, server.attempts[1:], strict=False)]
    expected = random.Random(3)
    assert waits == pytest.approx(
        [expected.uniform(0, bound) for bound in (1, 2, 4, 8, 8, 8, 8)], abs=1e-6
    )


async def test_the_connect_deadline_ends_the_attempts_and_tells_the_last_trouble(
    autojump_clock, server
):
    server.script.extend([OSError("nobody there")] * 1000)
    start = trio.current_time()
    with pytest.raises(ConnectError, match="nobody there"):
        async with connect(server, connect_deadline=20):
            pass
    assert trio.current_time() - start == pytest.approx(20)


async def test_a_server_that_never_welcomes_is_given_up_after_the_connect_timeout(
    autojump_clock, server
):
    server.welcome = None
    start = trio.current_time()
    with pytest.raises(ConnectError, match="no welcome"):
        async with connect(server, connect_timeout=3, connect_deadline=3.5):
            pass
    assert trio.current_time() - start == pytest.approx(3.5)


async def test_a_dial_that_hangs_is_given_up_after_the_connect_timeout(autojump_clock, server):
    async def hang(address):
        await trio.sleep_forever()

    with pytest.raises(ConnectError, match="no answer within 3"):
        async with open_client("ws://h/", dial=hang, connect_timeout=3, connect_deadline=10):
            pass


async def test_closed_for_good_before_the_first_connection_stands_is_raised(autojump_clock, server):
    server.welcome = None
    async with trio.open_nursery() as nursery:

        async def close():
            await (await server.connection(1)).close(4500, "bad token")

        nursery.start_soon(close)
        with pytest.raises(ClientClosed) as caught:
            async with connect(server):
                pass
    assert (caught.value.code, caught.value.reason) == (4500, "bad token")


@pytest.mark.parametrize(
    ("url", "host", "port", "resource", "header"),
    [
        ("ws://h", "h", 80, "/", "h"),
        ("ws://h:443/ws", "h", 443, "/ws", "h:443"),
        ("ws://[::1]:8765/a?token=b", "::1", 8765, "/a?token=b", "[::1]:8765"),
        ("wss://h/ws", "h", 443, "/ws", "h"),
        ("wss://h:80/ws", "h", 80, "/ws", "h:80"),
        ("ws://h/a b/\u00fc%20", "h", 80, "/a%20b/%C3%BC%20", "h"),
    ],
)
def test_a_url_is_read(url, host, port, resource, header):
    address = parse_address(url)
    assert (address.host, address.port, address.resource) == (host, port, resource)
    assert address.host_header == header
    assert (address.ssl_context is not None) == url.startswith("wss")


def test_a_unix_socket_has_a_url_of_its_own_and_an_argument():
    address = parse_address("ws+unix:///run/moorage.sock:/control?x=1")
    assert address.unix_socket == Path("/run/moorage.sock")
    assert address.resource == "/control?x=1"
    assert parse_address("ws+unix:///run/moorage.sock").resource == "/"
    assert parse_address("ws://h/ws", unix_socket=Path("/x")).unix_socket == Path("/x")


@pytest.mark.parametrize(
    "url", ["http://h/", "h:80", "ws:///x", "ws://u:p@h/", "ws://h/#x", "ws+unix://x.sock:/ws"]
)
def test_what_is_no_websocket_url_is_refused(url):
    with pytest.raises(ValueError, match=r"ws|URL"):
        parse_address(url)


def test_tls_settings_for_a_url_without_tls_are_refused():
    with pytest.raises(ValueError, match="unencrypted"):
        parse_address("ws://h/", ssl_context=ssl.create_default_context())


async def test_half_a_frame_is_never_followed_by_anything(autojump_clock):
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    with trio.move_on_after(1):
        await stream.send_all(b"half a frame")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"the next one")


async def test_a_write_that_nobody_takes_breaks_the_stream(autojump_clock):
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    with pytest.raises(trio.BrokenResourceError, match="takes no more"):
        await stream.send_all(b"x")
