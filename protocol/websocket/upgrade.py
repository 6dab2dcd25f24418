"""The bytes of the opening handshake: a client's upgrade request, and the answer that accepts it.

The rules are those of RFC 6455, section 4.2, and of HTTP/1.1 (RFC 9112). Two strict regular
expressions match the head of the request, and all that they do not match is refused. So a proxy in
front cannot understand a request differently: there are no folded lines, no bare line feeds, no
body, and no field twice that may stand only once.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from hashlib import sha1
from typing import Final

from attrs import frozen

from ..errors import ErrorCode, RemoteProtocolError

HEAD_END: Final = b"\r\n\r\n"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

# The "origin-form", or the "absolute-form" that RFC 6455, section 4.1, also allows. The scheme (in
# capitals or not: RFC 3986, section 3.1) and the host of the latter are not checked. RFC 9112,
# section 2.2, asks servers to ignore an empty line before the request line.
_REQUEST_LINE: Final = re.compile(
    rb"(?:\r\n)?([A-Z]+) (?:(?i:https?)://[!\x22$-.0->@-~]*)?(/[!-~]*) HTTP/1\.1\r\n"
)
# What the first line can be so far: a method (RFC 9110, section 9.1: a token; none in use has more
# than 20 characters), a space, visible characters.
_BEGINNING: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?: [ -~]*)?\r?)?")
# RFC 9110, sections 5.1 (field-name = token) and 5.5 (field-value). `*+` does not backtrack:
# otherwise the spaces before a value could also match as those after it, and a line of 16,000
# spaces would take 0.3 s.
_FIELD: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+([!-~\x80-\xff](?:[ -~\t\x80-\xff]*[!-~\x80-\xff])?)?"
    rb"[ \t]*\r\n"
)

_JUDGED: Final = 64
"""Bytes by which a client is known to speak HTTP: the longest method, and the start of a target."""

_ONLY_ONCE: Final = frozenset(
    ("host", "origin", "authorization", "sec-websocket-key", "sec-websocket-version")
)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110, section 7.2: uri-host [":" port]. The host is a name, which may be empty, or an address
# in brackets (RFC 3986, section 3.2.2).
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+\]"
    r"|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)

_OF_THE_HANDSHAKE: Final = (
    "connection",
    "upgrade",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
)


class UnsupportedVersionError(RemoteProtocolError):
    """A correct upgrade request for a version of the WebSocket protocol other than 13."""


@frozen
class UpgradeHead:
    """The contents of a client's upgrade request."""

    path: str
    query: str
    # Names are in lower case; the values of repeated ones are joined by ", ". The handshake's own
    # headers are left out, since one of them may hold a token.
    headers: dict[str, str]
    subprotocols: tuple[str, ...]  # those that the client offers, the preferred one first
    key: bytes  # the answer proves with it that the server has read the request


def read_upgrade(head: bytes) -> UpgradeHead:
    """Read the head of an upgrade request, with the empty line at its end.

    Raises `RemoteProtocolError` (`bad_message`) saying why it is no upgrade request. Its subclass
    `UnsupportedVersionError` is to be answered with 426.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise _bad_request("the request line is not `GET /path HTTP/1.1`")
    headers = _read_fields(head, line.end())
    method, target = line.groups()
    if method != b"GET":
        raise _bad_request(f"the method must be GET, not {method.decode()[:32]}")
    if "websocket" not in _tokens(headers.get("upgrade", "").lower()):
        raise _bad_request("`Upgrade: websocket` is missing; connect with a ws:// or wss:// URL")
    if "upgrade" not in _tokens(headers.get("connection", "").lower()):
        raise _bad_request("`Connection: Upgrade` is missing")
    if _HOST.fullmatch(headers.get("host", " ")) is None:  # RFC 9112, section 3.2
        raise _bad_request("`Host` is missing, or not a host and a port")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise _bad_request("an upgrade request has no body")
    version = headers.get("sec-websocket-version")
    if version is None:
        raise _bad_request("`Sec-WebSocket-Version: 13` is missing")
    if version != "13":
        text = "this server supports only version 13 of the WebSocket protocol"
        raise UnsupportedVersionError(text, ErrorCode.BAD_MESSAGE)
    key = headers.get("sec-websocket-key", "").encode("latin-1")
    if not _is_key(key):
        raise _bad_request("`Sec-WebSocket-Key` must be 16 bytes in base64")
    offered = _tokens(headers.get("sec-websocket-protocol", ""))
    if not all(_TOKEN.fullmatch(name) for name in offered):
        raise _bad_request("`Sec-WebSocket-Protocol` must be a list of tokens")
    for name in _OF_THE_HANDSHAKE:
        headers.pop(name, None)
    path, _, query = target.decode().partition("?")
    return UpgradeHead(path, query, headers, tuple(offered), key)


def may_become_request(received: bytes) -> bool:
    """Tell whether these first bytes of a client can become an HTTP request, whatever follows.

    Those of a TLS client's hello and of a binary protocol cannot: nothing has to be waited for.
    """
    line, _, _ = received[:_JUDGED].removeprefix(b"\r\n").partition(b"\r\n")
    return received == b"\r" or _BEGINNING.fullmatch(line) is not None


def accept_upgrade(key: bytes, subprotocol: str | None) -> bytes:
    """Return the answer that accepts an upgrade; it negotiates no extension."""
    proof = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    chosen = (
        b"" if subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode()
    )
    return (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (proof, chosen)
    )


def _read_fields(head: bytes, position: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    last = len(head) - 2  # where the empty line begins
    while position < last:
        field = _FIELD.match(head, position)
        if field is None:
            raise _bad_request("one of its header lines is not `Name: value`")
        position = field.end()
        name = field[1].decode().lower()
        value = (field[2] or b"").decode("latin-1")
        if name in headers:
            if name in _ONLY_ONCE:
                raise _bad_request(f"`{name}` may stand only once")
            value = f"{headers[name]}, {value}"  # RFC 9110, section 5.3
        headers[name] = value
    return headers


def _tokens(value: str) -> list[str]:
    return [token for part in value.split(",") if (token := part.strip())]


def _is_key(key: bytes) -> bool:
    try:
        return len(key) == 24 and len(b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _bad_request(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"this is not a WebSocket request: {why}", ErrorCode.BAD_MESSAGE)
