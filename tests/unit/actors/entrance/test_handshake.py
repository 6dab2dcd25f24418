import gc
import json
import re
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.actors.entrance.handshake import (
    HandshakeRefused,
    PeerLeft,
    handshake,
    read_head,
    refuse,
)
from moorage.actors.transports.memory import memory_connection
from moorage.protocol.errors import ErrorCode
from moorage.supervisor.app import App
from tests.fakes import CLOSE, PING, PONG, TEXT, Peer, masked, open_server
from tests.fakes_server import KEY, echo_app, token, waiting_bytes

KEY_HEADER = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
]


def head(first="GET /ws HTTP/1.1", *, without="", headers=()):
    lines = [line for line in (*HEADERS, KEY_HEADER) if not without or not line.startswith(without)]
    return "\r\n".join([first, *lines, *headers]).encode("latin-1") + b"\r\n\r\n"


def check_refusal(response, status, code):
    got, headers, body = response
    message = json.loads(body)
    assert (got, message["type"], message["data"]["code"]) == (status, "error", code)
    assert message["error"]
    assert message["timestamp"].endswith("Z")
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == ("Upgrade, close" if status == 426 else "close")
    assert parsedate_to_datetime(headers["date"]).utcoffset() == timedelta(0)
    return message


async def assert_closed(peer):
    """The server closes as soon as the client does."""
    peer.transport.end_output()
    assert await peer.stream.receive_some() == b""
    with trio.fail_after(1):
        while True:
            try:
                peer.transport.write_some(b"x")
            except BrokenPipeError:
                break
            await trio.lowlevel.checkpoint()


# --- coming in -------------------------------------------------------------------------------


async def test_a_client_comes_in_and_is_welcomed(autojump_clock):
    async with open_server() as server:
        peer = server.dial()
        status, headers, _ = await peer.upgrade()
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of the RFC
        assert "sec-websocket-protocol" not in headers
        assert (await peer.receive())["type"] == "welcome"


async def test_the_subprotocol_is_selected_where_it_is_offered(autojump_clock):
    async with open_server() as server:
        offered = {"Sec-WebSocket-Protocol": "chat, moorage.v1"}
        _, headers, _ = await server.dial().upgrade("/ws", offered)
        assert headers["sec-websocket-protocol"] == "moorage.v1"
        _, headers, _ = await server.dial().upgrade("/ws", {"Sec-WebSocket-Protocol": "chat"})
        assert "sec-websocket-protocol" not in headers


# --- every refusal ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", id="plain http"),
        pytest.param(head("POST /ws HTTP/1.1"), id="not get"),
        pytest.param(head(without="Upgrade"), id="no upgrade"),
        pytest.param(head(without="Connection"), id="no connection"),
        pytest.param(head(without="Host"), id="no host"),
        pytest.param(head(without="Sec-WebSocket-Key"), id="no key"),
        pytest.param(head(without="Sec-WebSocket-Version"), id="no version"),
        pytest.param(head(without="Upgrade", headers=["Upgrade: h2c"]), id="another upgrade"),
        pytest.param(head("GET"), id="half a request line"),
        pytest.param(head("GET /ws HTTP/1.1\r\nno colon"), id="half a header"),
        pytest.param(b"\r\n\r\n", id="nothing"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", id="tls"),
        pytest.param(b"\x00\xff\r\n\r\n", id="garbage"),
        # These broke trio-websocket's task: the client was told that the server failed, and the log
        # had an error with a traceback for it.
        pytest.param(head(without="Host", headers=["Host: \xff"]), id="host beyond ascii"),
        pytest.param(head(without="Connection", headers=["Connection: \xff"]), id="beyond ascii"),
        pytest.param(head(headers=["Sec-WebSocket-Protocol: \xe9"]), id="subprotocol beyond ascii"),
    ],
)
async def test_what_is_no_websocket_request_gets_400(autojump_clock, request_head):
    async with open_server() as server:
        peer = server.dial()
        check_refusal(await peer.request(request_head), 400, "bad_message")
        await assert_closed(peer)
        assert not [line for line in server.log.lines if line["level"] >= 40]


async def test_another_version_gets_426_and_the_right_one(autojump_clock):
    async with open_server() as server:
        old = head(without="Sec-WebSocket-Version", headers=["Sec-WebSocket-Version: 8"])
        response = await server.dial().request(old)
        check_refusal(response, 426, "bad_message")
        assert response[1]["sec-websocket-version"] == "13"
        # RFC 9110, section 15.5.22.
        assert response[1]["upgrade"] == "websocket"


@pytest.mark.parametrize("line", ["HEAD /ws HTTP/1.1", "\r\nHEAD /ws HTTP/1.1"])
async def test_the_answer_to_head_has_no_body(autojump_clock, line):
    async with open_server() as server:
        peer = server.dial()
        await peer.send_bytes(head(line))
        await trio.testing.wait_all_tasks_blocked()
        answer = waiting_bytes(peer)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert re.search(rb"\r\nContent-Length: [1-9]", answer)  # that of the answer to GET
        assert answer.endswith(b"\r\n\r\n")


async def test_an_empty_line_before_the_request_line_is_ignored(autojump_clock):
    async with open_server() as server:
        peer = server.dial()
        await peer.send_bytes(b"\r")
        await trio.sleep(1)
        assert (await peer.request(b"\n" + head()))[0] == 101


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client's hello
        *(b"\x00\x01\x02", b"\xff", b"GET\x00", b"\n", b"\r\n\r"),
        *(b"SSH-2.0-OpenSSH_9.6\xff", b"a" * 33),
    ],
)
async def test_what_can_be_no_request_is_refused_at_once(autojump_clock, said):
    # Once it was held for the whole `handshake_timeout`.
    async with open_server() as server:
        began = trio.current_time()
        check_refusal(await server.dial().request(said), 400, "bad_message")
        assert trio.current_time() == began


async def test_a_path_without_an_endpoint_gets_404(autojump_clock):
    async with open_server() as server:
        peer = server.dial()
        message = check_refusal(await peer.upgrade("/elsewhere?token=x"), 404, "forbidden")
        assert "'/elsewhere'" in message["error"]
        await assert_closed(peer)


async def test_a_missing_token_gets_401_and_how_to_bring_one(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = server.dial()
        response = await peer.upgrade()
        message = check_refusal(response, 401, "unauthorized")
        assert "Authorization: Bearer" in message["error"]
        assert response[1]["www-authenticate"] == "Bearer"
        await assert_closed(peer)


@pytest.mark.parametrize("credentials", ["Bearer nonsense", "Bearer", "bearer  ", "BEARER a.b.c"])
async def test_a_bad_token_gets_401(autojump_clock, credentials):
    async with open_server(jwt_key=KEY, anonymous=True) as server:
        response = await server.dial().upgrade("/ws", {"Authorization": credentials})
        check_refusal(response, 401, "unauthorized")


async def test_a_token_of_another_key_gets_401_without_being_repeated(autojump_clock):
    async with open_server(jwt_key="another secret, which is as long") as server:
        bad = token("7")
        response = await server.dial().upgrade("/ws", {"Authorization": f"Bearer {bad}"})
        check_refusal(response, 401, "unauthorized")
        assert bad.encode() not in response[2]


async def test_an_origin_that_is_not_allowed_gets_403(autojump_clock):
    async with open_server(allowed_origins=("https://app.example.org",)) as server:
        peer = server.dial()
        response = await peer.upgrade("/ws", {"Origin": "https://evil.example.org"})
        message = check_refusal(response, 403, "forbidden")
        assert "evil.example.org" in message["error"]
        await assert_closed(peer)


@pytest.mark.parametrize("origin", ["https://app.example.org", "HTTPS://App.Example.Org", None])
async def test_an_allowed_origin_and_none_at_all_come_in(autojump_clock, origin):
    async with open_server(allowed_origins=("https://app.example.org",)) as server:
        await server.connect(headers={"Origin": origin} if origin else {})


async def test_two_origins_are_not_one_that_is_allowed(autojump_clock):
    """Of a header that came twice the last one counted, so the first could be anything."""
    async with open_server(allowed_origins=("https://app.example.org",)) as server:
        both = head(headers=["Origin: https://evil.test", "Origin: https://app.example.org"])
        check_refusal(await server.dial().request(both), 400, "bad_message")


@pytest.mark.parametrize("path", ["/ws", "/raw"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8765", "https://evil.example"),
        ("localhost:8765", "null"),
        ("evil.example:8765", "http://evil.example:8765"),  # its name has this machine's address
        ("evil.example", None),
        ("192.0.2.7", None),
    ],
)
async def test_without_a_key_pages_of_the_web_get_403(autojump_clock, host, origin, path):
    # Any page that was open in a browser on this machine got in, and could publish.
    async with open_server(echo_app() if path == "/raw" else None) as server:
        headers = [f"Host: {host}", *([f"Origin: {origin}"] if origin else [])]
        response = await server.dial().request(
            head(f"GET {path} HTTP/1.1", without="Host", headers=headers)
        )
        message = check_refusal(response, 403, "forbidden")
        assert "`allowed_origins`" in message["error"]
        assert not server.actors()


TUNNEL = "https://x.tunnel.example"


@pytest.mark.parametrize(
    ("options", "address", "headers"),
    [
        pytest.param({}, "::1", ["Host: [::1]", "Origin: http://localhost:5173"], id="its own"),
        pytest.param({"allowed_origins": TUNNEL}, "::1", [f"Host: {TUNNEL[8:]}"], id="named"),
        pytest.param({}, "", ["Host: anything"], id="unix socket, which no page can open"),
        pytest.param({"jwt_key": KEY, "anonymous": True}, "::1", ["Host: x.y"], id="with a key"),
    ],
)
async def test_other_hosts_and_pages_are_let_in(autojump_clock, options, address, headers):
    async with open_server(**options) as server:
        request = head(without="Host", headers=headers)
        assert (await server.dial(address=address).request(request))[0] == 101


async def test_an_authorizer_that_says_no_gets_403(autojump_clock):
    app = App()
    app.authorize_connect(lambda request: request.path != "/ws")
    async with open_server(app) as server:
        check_refusal(await server.dial().upgrade(), 403, "forbidden")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_authorizer_that_fails_gets_500_and_is_logged(autojump_clock, asynchronous):
    app = App()

    @app.authorize_connect
    def fail(request):
        async def later():
            raise RuntimeError("broken")

        return later() if asynchronous else 1 / 0

    async with open_server(app) as server:
        peer = server.dial()
        check_refusal(await peer.upgrade(), 500, "internal")
        await assert_closed(peer)
        (line,) = server.log.of("handshake_failed")
        assert isinstance(line["exc_info"], RuntimeError | ZeroDivisionError)


@pytest.mark.parametrize("error", [OSError("database"), trio.BrokenResourceError()])
async def test_an_authorizers_broken_connection_is_not_taken_for_the_clients(autojump_clock, error):
    app = App()

    @app.authorize_connect
    async def fail(request):
        raise error

    async with open_server(app) as server:
        check_refusal(await server.dial().upgrade(), 500, "internal")
        assert server.supervisor.statistics.left_early == 0


async def test_an_authorizer_that_takes_too_long_gets_408(autojump_clock):
    app = App()

    @app.authorize_connect
    async def wait(request):
        await trio.sleep_forever()

    async with open_server(app, handshake_timeout=4) as server:
        began = trio.current_time()
        message = check_refusal(await server.dial().upgrade(), 408, "timeout")
        assert message["data"]["retryable"] is True
        assert trio.current_time() - began == pytest.approx(4)


@pytest.mark.parametrize("pause", [0.001, 0.5])
async def test_a_head_that_comes_one_byte_at_a_time_has_one_deadline(autojump_clock, pause):
    async with open_server(handshake_timeout=10) as server:
        peer = server.dial()
        began = trio.current_time()
        try:
            for byte in head():
                await peer.send_bytes(bytes([byte]))
                await trio.sleep(pause)
                if trio.current_time() - began > 10.1:
                    break
            status = (await peer.request(b""))[0]
        except trio.BrokenResourceError:
            status = 408
        assert status == (101 if pause < 0.1 else 408)


async def test_a_silent_client_gets_408_at_the_deadline_and_is_closed(autojump_clock):
    async with open_server(handshake_timeout=10) as server:
        peer = server.dial()
        began = trio.current_time()
        check_refusal(await peer.request(b"GET /ws HT"), 408, "timeout")
        assert trio.current_time() - began == pytest.approx(10)
        await trio.sleep(3)  # it does not even close: it has two seconds to read the refusal
        assert server.parts.admission.admitted == 0


@pytest.mark.parametrize("size", [4_097, 8_000, 60_000])
async def test_too_large_a_head_gets_431_whether_it_ends_or_not(autojump_clock, size):
    async with open_server(max_request_head=4_096) as server:
        peer = server.dial()
        padding = "X: " + "x" * size
        check_refusal(await peer.request(head(headers=[padding])), 431, "too_large")
        await assert_closed(peer)
        peer = server.dial()
        check_refusal(await peer.request(b"x" * (size + 1)), 431, "too_large")


async def test_a_head_of_exactly_the_limit_is_read():
    request = head()
    near, far = memory_connection()
    near.write_some(request + b"m")
    assert await read_head(far, len(request)) == (request, b"m")
    near.write_some(request)
    with pytest.raises(Exception, match=f"at most {len(request) - 1} bytes, not {len(request)}"):
        await read_head(far, len(request) - 1)


@pytest.mark.parametrize("said", [b"", b"GET /ws HTTP/1.1\r\nHost"])
async def test_a_client_that_leaves_early_is_nobody_to_talk_to(autojump_clock, said):
    near, far = memory_connection()
    near.write_some(said)
    near.close()
    with pytest.raises(PeerLeft):
        await read_head(far, 1_000)
    async with open_server() as server:
        peer = server.dial()
        await peer.send_bytes(said)
        peer.transport.close()
        await trio.testing.wait_all_tasks_blocked()
        assert server.supervisor.statistics.left_early == 1
        assert server.parts.admission.admitted == 0


async def test_a_connection_that_is_reset_in_the_handshake_is_contained(autojump_clock):
    async with open_server() as server:
        for said in (b"GET /ws", head()):
            peer = server.dial()
            peer.transport.write_some(said)
            peer.transport.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert server.supervisor.statistics.left_early == 2


async def test_half_an_answer_is_not_followed_by_a_refusal(autojump_clock):
    """A client that did not read its 101 got a part of it and then a 408."""
    async with open_server(handshake_timeout=2) as server:
        peer = server.dial(capacity=64)
        for start in range(0, len(head()), 64):
            await peer.send_bytes(head()[start : start + 64])
        await trio.sleep(3)
        received = b""
        while chunk := await peer.stream.receive_some():
            received += chunk
        assert received.startswith(b"HTTP/1.1 101")
        assert b"408" not in received


class FloodingTransport:
    """A client that sends faster than it can be read."""

    peer = ""

    def __init__(self):
        self.written = b""

    def read_some(self, max_bytes):
        return b"x" * max_bytes

    def write_some(self, data):
        self.written += data
        return len(data)

    def end_output(self):
        pass


async def test_a_refused_client_that_floods_does_not_hold_the_loop(autojump_clock):
    transport = FloodingTransport()
    refusal = HandshakeRefused(401, ErrorCode.UNAUTHORIZED, "no")
    turns = 0

    async def count_turns(scope):
        nonlocal turns
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            turns += 1
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns, nursery.cancel_scope)
        await refuse(transport, refusal, 0.0)
    assert turns == 20
    assert transport.written.startswith(b"HTTP/1.1 401 Unauthorized\r\n")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.data())
def test_a_damaged_request_is_refused_or_accepted_and_never_an_error(changes, data):
    request = bytearray(head(headers=["Origin: https://a.test", "X-Forwarded-For: 1.2.3.4"]))
    for place, value in changes:
        request[place % (len(request) - 4)] = value

    async def run():
        async with open_server(jwt_key=KEY, anonymous=True) as server:
            peer = server.dial()
            peer.transport.write_some(bytes(request))
            peer.transport.end_output()
            await trio.testing.wait_all_tasks_blocked()
            answer = await peer.stream.receive_some()
            assert answer[:12] in {f"HTTP/1.1 {status}".encode() for status in (101, 400, 404, 426)}
            assert not [line for line in server.log.lines if line["level"] >= 40]

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


# --- the token's places ----------------------------------------------------------------------


async def user_of(server, path="/ws", headers=None):
    peer = server.dial()
    status, answer, _ = await peer.upgrade(path, headers)
    if status != 101:
        return status
    assert "bearer" not in answer.get("sec-websocket-protocol", "")
    return (await peer.receive())["data"]["user_id"]


def bearer(user):
    return {"Authorization": f"Bearer {token(user)}"}


def as_subprotocol(user):
    return {"Sec-WebSocket-Protocol": f"moorage.v1, bearer.{token(user)}"}


async def test_the_token_may_stand_in_three_places_and_the_first_one_counts(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        query = f"/ws?token={token('query')}"
        assert await user_of(server, headers=bearer("header")) == "header"
        assert await user_of(server, headers=as_subprotocol("subprotocol")) == "subprotocol"
        assert await user_of(server, query) == "query"
        both = bearer("header") | as_subprotocol("subprotocol")
        assert await user_of(server, query, both) == "header"
        assert await user_of(server, query, as_subprotocol("subprotocol")) == "subprotocol"
        assert await user_of(server, query, {"Authorization": "Basic eDp5"}) == "query"


async def test_a_bad_token_in_an_earlier_place_is_not_made_good_by_a_later_one(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        query = f"/ws?token={token('query')}"
        assert await user_of(server, query, {"Authorization": "Bearer bad"}) == 401


async def test_the_reply_selects_the_protocol_and_never_the_token(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        _, headers, _ = await server.dial().upgrade("/ws", as_subprotocol("7"))
        assert headers["sec-websocket-protocol"] == "moorage.v1"


async def test_the_query_token_can_be_switched_off(autojump_clock):
    async with open_server(jwt_key=KEY, query_token=False) as server:
        assert await user_of(server, f"/ws?token={token('query')}") == 401
        assert await user_of(server, headers=bearer("header")) == "header"


async def test_a_token_is_never_logged(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        good, bad = token("7"), token("7") + "bad"
        for secret in (good, bad):
            await user_of(server, f"/ws?token={secret}")
            await user_of(server, f"/nowhere?token={secret}")
            await user_of(server, headers={"Authorization": f"Bearer {secret}"})
            await user_of(server, headers={"Sec-WebSocket-Protocol": f"bearer.{secret}"})
        peer = await server.connect(token=good)
        await peer.request_reply({"type": "authenticate", "data": {"token": bad}})
        await peer.close()
        written = repr(server.log.lines)
    for part in {*good.split("."), *bad.split(".")}:
        assert part not in written


async def test_proxies_that_add_a_header_of_their_own_make_one_list(autojump_clock):
    async with open_server(trusted_proxies=("192.0.2.1", "10.0.0.0/8")) as server:
        lines = ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: 10.0.0.1"]
        await server.dial().request(head(headers=lines))
        (connection,) = server.actors()
        assert connection.address == "203.0.113.5"


# --- what trio-websocket does to a server that lets it run on --------------------------------


async def test_early_frames_are_neither_lost_nor_kept_waiting(autojump_clock):
    """trio-websocket 0.12.2 buffers what comes with the request without limit, and loses it."""
    async with open_server() as server:
        peer = server.dial()
        early = masked(TEXT, b'{"type":"ping","id":1}') + masked(PING, b"early")
        status, _, _ = await peer.request(head() + early)
        assert status == 101
        assert (await peer.receive())["type"] == "welcome"
        assert (await peer.receive())["id"] == 1
        assert await peer.receive_frame() == (PONG, b"early")


async def test_an_early_close_frame_is_answered(autojump_clock):
    async with open_server() as server:
        peer = server.dial()
        await peer.request(head() + masked(CLOSE, b"\x03\xe8"))
        assert await peer.close_code() == 1000


async def test_early_bytes_are_bounded_by_what_a_head_may_have():
    near, far = memory_connection(1 << 20)
    near.write_some(head() + b"x" * 500_000)
    _, rest = await read_head(far, 4_096)
    assert len(rest) <= 2 * 4_097


def trio_websocket_connections() -> set[int]:
    from trio_websocket import WebSocketConnection

    gc.collect()
    return {id(one) for one in gc.get_objects() if isinstance(one, WebSocketConnection)}


async def test_nothing_of_trio_websocket_outlives_the_handshake(autojump_clock):
    before = trio_websocket_connections()  # clients of other tests, in tracebacks
    async with open_server() as server:
        await server.connect()
        assert trio_websocket_connections() <= before


async def test_a_handshake_ends_with_what_the_connection_needs(autojump_clock):
    async with open_server() as server:
        near, far = memory_connection()
        near.write_some(head("GET /ws?x=1 HTTP/1.1") + b"rest")
        accepted = await handshake(far, server.parts.admission.authenticator)
        assert accepted.transport is far
        assert accepted.endpoint.path == "/ws"
        assert accepted.identity.is_anonymous
        assert accepted.rest == b"rest"
        peer = Peer(near)
        assert (await peer.request(b""))[0] == 101
