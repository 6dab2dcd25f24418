"""The opening handshake's bytes, against RFC 6455's own example and against wsproto."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import LocalProtocolError as WsprotoLocalError
from wsproto.utilities import RemoteProtocolError as WsprotoRemoteError

from moorage.protocol.errors import RemoteProtocolError
from moorage.protocol.websocket.upgrade import (
    UnsupportedVersionError,
    UpgradeHead,
    accept_upgrade,
    may_become_request,
    read_upgrade,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = (
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY.decode()}",
    "Sec-WebSocket-Version: 13",
)


def request(*lines: str, line: str = "GET /chat HTTP/1.1", without: str = "") -> bytes:
    """Return a request that is correct apart from the changes of the test."""
    kept = [text for text in GOOD if not without or not text.startswith(without)]
    return "\r\n".join([line, *kept, *lines]).encode("latin-1") + b"\r\n\r\n"


def test_the_answer_to_the_rfcs_own_example():
    """RFC 6455, section 1.3."""
    answer = accept_upgrade(KEY, "chat")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in answer
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\n\r\n")


def test_a_good_request_is_read_whole():
    head = read_upgrade(
        request(
            "Sec-WebSocket-Protocol: chat, superchat",
            "X-Twice: one",
            "x-twice: two",
            "X-Empty:",
            line="GET /chat?room=1&x=%20 HTTP/1.1",
        )
    )
    assert head == UpgradeHead(
        path="/chat",
        query="room=1&x=%20",
        headers={"host": "server.example.com", "x-twice": "one, two", "x-empty": ""},
        subprotocols=("chat", "superchat"),
        key=KEY,
    )


def test_a_target_with_scheme_and_host_is_the_same_one():
    """RFC 6455, section 4.1, allows an absolute URI."""
    for scheme in ("http", "HTTP", "Https"):
        line = f"GET {scheme}://a.example/chat HTTP/1.1"
        assert read_upgrade(request(line=line)).path == "/chat"


def test_one_empty_line_before_the_request_line_is_ignored():
    """RFC 9112, section 2.2."""
    assert read_upgrade(b"\r\n" + request()) == read_upgrade(request())
    for more in (b"\r\n\r\n", b"\n", b" \r\n"):
        with pytest.raises(RemoteProtocolError):
            read_upgrade(more + request())


@pytest.mark.parametrize(
    "host",
    [
        *("", "a", "a.example:8765", "a.example:", "192.0.2.1", "[::1]", "[2001:db8::1]:443"),
        *("[v1.fe80::a+en1]", "a_b-c~d", "%41.example", "xn--nxasmq6b"),
    ],
)
def test_what_may_be_a_host_is_one(host):
    """RFC 9110, section 7.2, and RFC 3986, section 3.2.2."""
    assert read_upgrade(request(f"Host: {host}", without="Host")).headers["host"] == host


@pytest.mark.parametrize(
    "host",
    ["a b", "a/b", "a:b", "a:1:2", "a@b", "::1", "[::1", "[::1]a", "[g]", "%4", "a\tb", "a,b c"],
)
def test_what_is_no_host_is_refused(host):
    with pytest.raises(RemoteProtocolError, match="Host"):
        read_upgrade(request(f"Host: {host}", without="Host"))


@given(st.integers(0, 200))
def test_every_beginning_of_a_request_may_become_one(length):
    for whole in (request(), b"\r\n" + request(), request(line="PROPFIND /a%20b?c=d HTTP/1.1")):
        assert may_become_request(whole[:length])


@given(st.binary(min_size=1, max_size=80))
def test_what_may_not_become_a_request_never_does(junk):
    if not may_become_request(junk):
        with pytest.raises(RemoteProtocolError):
            read_upgrade(junk + request())


@pytest.mark.parametrize(
    "wrong",
    [
        request(line="POST /chat HTTP/1.1"),
        request(line="GET /chat HTTP/1.0"),
        request(line="GET /chat HTTP/2"),
        request(line="GET chat HTTP/1.1"),
        request(line="GET  /chat HTTP/1.1"),
        request(line="GET /ch\x01at HTTP/1.1"),
        request(line="get /chat HTTP/1.1"),
        request(line="GET http://a.example\r\nX: b/chat HTTP/1.1"),
        request(line="GET http://a.example\n/chat HTTP/1.1"),
        request(line="GET http://a\x00b/chat HTTP/1.1"),
        request(without="Host"),
        request(without="Upgrade"),
        request(without="Connection"),
        request(without="Sec-WebSocket-Key"),
        request(without="Sec-WebSocket-Version"),
        request("Host: twice.example.com"),
        request("Origin: https://a.example", "Origin: https://b.example"),
        request("Content-Length: 5"),
        request("Transfer-Encoding: chunked"),
        request("Folded: one", " two"),
        request("No colon"),
        request("Space : before"),
        request(": no name"),
        request("Na\u00efve: no token"),
        request("Nul: \x00"),
        request("Sec-WebSocket-Protocol: a b"),
        request("Sec-WebSocket-Key: c2hvcnQ=", without="Sec-WebSocket-Key"),
        request("Sec-WebSocket-Key: !!!!IHNhbXBsZSBub25jZQ==", without="Sec-WebSocket-Key"),
        request().replace(b"\r\n", b"\n"),
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_is_not_to_the_letter_is_refused(wrong):
    with pytest.raises(RemoteProtocolError, match="not a WebSocket request"):
        read_upgrade(wrong)


def test_a_line_of_nothing_but_spaces_is_refused_as_fast_as_any_other():
    """A client that is not connected yet must not hold the event loop; it once took 0.3 s."""
    began = time.perf_counter()
    with pytest.raises(RemoteProtocolError):
        read_upgrade(request("X:" + " " * 16_000 + "\x01"))
    assert time.perf_counter() - began < 0.1
    assert read_upgrade(request("X:" + " " * 16_000)).headers["x"] == ""


def test_another_version_is_told_which_one_is_spoken():
    with pytest.raises(UnsupportedVersionError, match="13"):
        read_upgrade(request("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(junk):
    for data in (junk + b"\r\n\r\n", request()[:-2] + junk + b"\r\n\r\n"):
        try:
            read_upgrade(data)
        except RemoteProtocolError as error:
            assert str(error).isprintable()  # noqa: PT017 - not every input is refused


_names = st.from_regex(r"X-[A-Za-z0-9]{1,8}", fullmatch=True)
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@given(
    path=st.from_regex(r"/[a-z0-9/%._-]{0,20}(\?[a-z0-9=&%]{0,20})?", fullmatch=True),
    fields=st.lists(st.tuples(_names, _values), max_size=8),
    offered=st.lists(st.from_regex(r"[a-z.0-9]{1,12}", fullmatch=True), unique=True, max_size=4),
)
def test_it_reads_what_wsproto_reads_and_answers_what_wsproto_expects(path, fields, offered):
    lines = [f"{name}: {value}" for name, value in fields]
    if offered:
        lines.append(f"Sec-WebSocket-Protocol: {', '.join(offered)}")
    data = request(*lines, line=f"GET {path} HTTP/1.1")
    theirs = WSConnection(ConnectionType.SERVER)
    theirs.receive_data(data)
    event = next(iter(theirs.events()))
    assert isinstance(event, Request)
    ours = read_upgrade(data)
    assert f"{ours.path}?{ours.query}".rstrip("?") == event.target.rstrip("?")
    assert list(ours.subprotocols) == event.subprotocols
    expected: dict[str, str] = {}
    for raw_name, raw_value in event.extra_headers:
        name, value = raw_name.decode(), raw_value.decode()
        expected[name] = f"{expected[name]}, {value}" if name in expected else value
    extra = {name: value for name, value in expected.items() if name.startswith("x-")}
    assert {name: value for name, value in ours.headers.items() if name != "host"} == extra
    chosen = offered[0] if offered else None
    accept = accept_upgrade(ours.key, chosen).lower()
    for line in theirs.send(AcceptConnection(subprotocol=chosen)).lower().split(b"\r\n"):
        assert line in accept


def client_and_key() -> tuple[WSConnection, bytes]:
    """Return a client that has asked for an upgrade, and the key that it sent."""
    client = WSConnection(ConnectionType.CLIENT)
    sent = client.send(Request(host="server.example.com", target="/chat"))
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r", sent, re.IGNORECASE)
    assert key is not None
    return client, key[1]


def test_a_client_takes_the_answer_that_proves_its_key_was_read():
    client, key = client_and_key()
    client.receive_data(accept_upgrade(key, None))
    assert [type(event) for event in client.events()] == [AcceptConnection]


def test_a_client_refuses_the_answer_to_another_key():
    client, _ = client_and_key()
    with pytest.raises((WsprotoLocalError, WsprotoRemoteError)):
        client.receive_data(accept_upgrade(KEY, None))
