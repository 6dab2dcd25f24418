"""From a URL to an open WebSocket: the client's half of the opening handshake.

trio-websocket speaks the protocol; this file keeps its sharp edges (0.12.2) away from the rest:

* its reader task raises into whatever nursery it was given, for a refusal, a bad answer, or a ping
  that arrives while we close. So it gets a nursery of its own, and what it raises ends there.
* when the server hangs up before it has answered, `wrap_client_stream` waits for ever; and the body
  of a refusal is collected without limit. So the stream beneath it raises in both cases.
* a send that is cancelled half-way leaves half a frame on the wire. So the stream closes itself
  then, and nothing can be written after the half.
* `aclose` returns at once, socket open, when the peer closed first. So whoever opened the stream
  closes the stream.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote, urlsplit

import trio
import trio_websocket
from attrs import define, field, frozen

from ...protocol.messages.types import PROTOCOL_NAME
from .backoff import parse_retry_after
from .client_errors import ConnectError, ConnectionRefused

# Bytes of the answer to the upgrade request, the body of a refusal included.
MAX_ANSWER: Final = 65_536

# What urllib calls unsafe but a request target may hold (RFC 3986 sections 3.3 and 3.4), and "%".
_TARGET_SAFE: Final = "/%:@!$&'()*+,;=~-._?"

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")

_log: Final = logging.getLogger("moorage.client")


@frozen
class Address:
    """Where a server is, and what to ask it for."""

    # For the Host header, and for the TLS certificate.
    host: str
    port: int
    # Path and query of the request.
    resource: str
    # None: no TLS.
    ssl_context: ssl.SSLContext | None = None
    # Connect to this socket instead of host and port.
    unix_socket: Path | None = None

    @property
    def host_header(self) -> str:
        """The value of the Host header; RFC 9110 section 7.2 leaves out the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 80 if self.ssl_context is None else 443
        return host if self.port == usual else f"{host}:{self.port}"

    def __str__(self) -> str:
        return str(self.unix_socket) if self.unix_socket else f"{self.host}:{self.port}"


# Opens the stream to an address. Programs give their own to go through a proxy or to stay in
# memory; it may raise OSError or ConnectError.
Dial: TypeAlias = Callable[[Address], Awaitable[trio.abc.Stream]]


def parse_address(
    url: str, *, ssl_context: ssl.SSLContext | None = None, unix_socket: Path | None = None
) -> Address:
    """Read a `ws://`, `wss://` or `ws+unix:///path/to.sock:/ws` URL.

    `unix_socket` connects there whatever host and port say. Raises `ValueError`, without repeating
    the query (which may hold a token), when the URL is not one of these.
    """
    if url.startswith("ws+unix://"):
        path, _, resource = url.removeprefix("ws+unix://").partition(":/")
        if not path.startswith("/"):
            raise ValueError("expected ws+unix:///absolute/path.sock:/ws")
        url, unix_socket = f"ws://localhost/{resource}", Path(path)
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError("expected a URL such as ws://host:8765/ws, wss://… or ws+unix:///x.sock:/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user name or password in it: give `token` instead")
    if parts.fragment:
        raise ValueError("a WebSocket URL has no #fragment (RFC 6455 section 3)")
    if parts.scheme == "wss":
        ssl_context = ssl_context or ssl.create_default_context()
    elif ssl_context is not None:
        raise ValueError("`ssl_context` is for wss:// URLs; this one would go unencrypted")
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(
        host=parts.hostname,
        port=parts.port or (80 if ssl_context is None else 443),
        resource=quote(resource, safe=_TARGET_SAFE),
        ssl_context=ssl_context,
        unix_socket=unix_socket,
    )


async def dial(address: Address) -> trio.abc.Stream:
    """Open the stream to a server: TCP or a Unix socket, with TLS on it if the address says so.

    Raises `OSError` when nobody listens there, `ConnectError` when TLS does not come about.
    Has no deadline of its own. Cancelling closes what was open.
    """
    plain: trio.SocketStream
    if address.unix_socket is not None:
        plain = await trio.open_unix_socket(str(address.unix_socket))
    else:
        plain = await trio.open_tcp_stream(address.host, address.port)
    if address.ssl_context is None:
        return plain
    encrypted = trio.SSLStream(
        plain, address.ssl_context, server_hostname=address.host, https_compatible=True
    )
    try:
        await encrypted.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(plain)
        if not isinstance(error, trio.BrokenResourceError):
            raise
        cause = error.__cause__
        raise ConnectError(
            f"{address}: TLS failed: {cause or error}",
            permanent=isinstance(cause, ssl.SSLCertVerificationError),
        ) from error
    return encrypted


@define(eq=False)
class WatchedStream(trio.abc.Stream):
    """The stream beneath trio-websocket: knows when the server was last heard, and fails loudly."""

    inner: trio.abc.Stream
    # Seconds that one write may take.
    write_timeout: float
    # `trio.current_time()` of the last bytes from the server; the client's liveness reads it.
    heard_at: float = field(factory=trio.current_time, init=False)
    # Set once nothing more can come: the server closed, or the stream broke.
    ended: trio.Event = field(factory=trio.Event, init=False)
    # The bytes of the server's answer so far; None once it has agreed to the upgrade.
    _answer: bytearray | None = field(factory=bytearray, init=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, or end the stream: nothing may follow half a frame."""
        try:
            with trio.fail_after(self.write_timeout):
                await self.inner.send_all(data)
        except BaseException as error:
            await trio.aclose_forcefully(self.inner)
            if isinstance(error, trio.TooSlowError):
                raise trio.BrokenResourceError("the server takes no more bytes") from error
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream inside does it."""
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what is there; raise `ConnectError` if there is no proper answer to the upgrade."""
        try:
            data = await self.inner.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.ended.set()
            if self._answer is not None:
                raise self._no_upgrade() from error
            raise
        if not data:
            self.ended.set()
            if self._answer is not None:
                raise self._no_upgrade()
            return data
        self.heard_at = trio.current_time()
        if self._answer is not None:
            self._answer += data
            self._check_answer(self._answer)
        return data

    async def aclose(self) -> None:
        """Close the stream inside."""
        self.ended.set()
        await self.inner.aclose()

    def _check_answer(self, answer: bytearray) -> None:
        status = _STATUS_LINE.match(answer)
        if status is not None and status[1] == b"101" and b"\r\n\r\n" in answer:
            # From here on trio-websocket's own limits apply.
            self._answer = None
        elif len(answer) > MAX_ANSWER:
            raise ConnectError(f"an answer of more than {MAX_ANSWER} bytes to the upgrade request")

    def _no_upgrade(self) -> ConnectError:
        # A refusal whose body ends where the connection ends is a whole one (RFC 9112 section 6.3).
        head, end, body = bytes(self._answer or b"").partition(b"\r\n\r\n")
        status = _STATUS_LINE.match(head)
        if status is None or not end:
            return ConnectError("the server closed the connection without answering the upgrade")
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        return _refusal(int(status[1]), [(name, value) for name, _, value in lines], body)


async def run_websocket(
    stream: WatchedStream,
    address: Address,
    headers: list[tuple[bytes, bytes]],
    max_message_size: int,
    *,
    task_status: trio.TaskStatus[trio_websocket.WebSocketConnection],
) -> None:
    """Do the opening handshake on a stream, report the open WebSocket, and run it to its end.

    For `nursery.start`, which raises `ConnectError` if there is no upgrade. Later on it raises
    nothing: however the connection breaks, whoever reads from the WebSocket learns of it there.
    The caller closes the stream. `max_message_size` is in characters: trio-websocket counts so.
    """
    failure: ConnectError | None = None
    upgraded = False
    try:
        async with trio.open_nursery() as nursery:
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                # It is annotated for sockets and TLS, and uses only what every stream has.
                cast("Any", stream),
                address.host_header,
                address.resource,
                subprotocols=[PROTOCOL_NAME],
                extra_headers=headers,
                max_message_size=max_message_size,
                receive_buffer_size=None,
            )
            upgraded = True
            task_status.started(websocket)
    except* Exception as group:  # noqa: BLE001 - only trio-websocket's reader runs in there
        failure = _explain(_first(group))
        _log.debug("%s: the WebSocket broke: %s", address, failure)
    if failure is not None and not upgraded:
        raise failure


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = group.exceptions[0]
    return error


def _explain(error: BaseException) -> ConnectError:
    match error:
        case ConnectError():
            return error
        case trio_websocket.ConnectionRejected():
            return _refusal(error.status_code, error.headers, error.body or b"")
        case _:
            failure = ConnectError(f"not a proper answer to the upgrade request: {error}")
            failure.__cause__ = error
            return failure


def _refusal(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> ConnectionRefused:
    """Read an HTTP refusal, whose body is an `error` envelope if a Moorage server sent it."""
    retry_after: float | None = None
    for name, value in headers:
        if name.strip().lower() == b"retry-after":
            retry_after = parse_retry_after(value.decode("latin-1"))
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    text, code = fields_of(said).get("error"), fields_of(fields_of(said).get("data")).get("code")
    return ConnectionRefused(
        status,
        code if isinstance(code, str) else None,
        # Of a page from some proxy the beginning is enough to recognise it by.
        text if isinstance(text, str) else body[:200].decode("utf-8", "replace").strip(),
        retry_after=retry_after,
    )


def fields_of(value: object) -> dict[str, Any]:
    """Return the fields of a JSON object; none if it is not one, for servers that err."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
