"""The opening handshake: it turns a new transport into an accepted, authenticated client.

The caller gives it one deadline. `protocol/websocket/upgrade.py` reads the head of the request.
Bytes behind the head are the first frames, and go to the connection actor with the transport. A
refusal is an HTTP status, and a JSON body that has the shape of an `error` message.

If `handshake` does not return, it raises, and the caller closes the transport.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

import attrs
import trio

from ...protocol.errors import ErrorCode, MoorageError, ProtocolError, RemoteProtocolError
from ...protocol.identity import ANONYMOUS, Identity
from ...protocol.loopback import host_problem, page_problem
from ...protocol.messages.codec import encode_value, head, splice, timestamp
from ...protocol.messages.types import PROTOCOL_NAME, ErrorData
from ...protocol.websocket.upgrade import (
    HEAD_END,
    UnsupportedVersionError,
    UpgradeHead,
    accept_upgrade,
    may_become_request,
    read_upgrade,
)
from ..containment import apart
from ..transports.transport import CHUNK, Transport
from ..transports.transport_stream import TransportStream
from .endpoint import Endpoint, UpgradeRequest
from .forwarded import TrustedProxies

_BEARER_SUBPROTOCOL: Final = "bearer."

Answer = bool | None | Awaitable[bool | None]
"""The answer of an authorizing hook: only False refuses."""


class HandshakeRefused(MoorageError):
    """The upgrade is refused with an HTTP status; `response` returns the answer to the client."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        text: str,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        request: bytes = b"",
    ) -> None:
        """Take what the response says, and the request, or what has been read of it."""
        super().__init__(f"{status}: {text}")
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers
        # The answer to HEAD has all but the body: RFC 9110, section 9.3.2.
        self.has_body = not is_for_head(request)

    def response(self, wall_time: float) -> bytes:
        """Return the HTTP response; its body has the shape of an `error` message."""
        data = encode_value(attrs.asdict(ErrorData(str(self.code), self.code.retryable)))
        body = splice(head("error", error=self.text), data, timestamp(wall_time))
        # "must send an Upgrade header field", and name it in `Connection`: RFC 9110, section 7.8.
        options = "Upgrade, close" if "Upgrade" in dict(self.headers) else "close"
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Date: {formatdate(wall_time, usegmt=True)}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Connection: {options}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        response = "\r\n".join(lines).encode() + HEAD_END
        return response + body if self.has_body else response


class PeerLeft(MoorageError):
    """The client went away before the handshake was complete."""


@attrs.frozen
class Authenticator:
    """The rules by which clients are let in. The supervisor makes one for each kind of listener."""

    endpoints: Mapping[str, Endpoint]
    verify: Callable[[str], Identity]  # of a token; ProtocolError if it is not good
    query_token: bool  # whether the token may stand in the URL
    allowed_origins: frozenset[str] | None  # of browsers' pages, `LOOPBACK` too; None: all
    trusted_proxies: TrustedProxies
    max_request_head: int  # bytes
    authorize: Callable[[UpgradeRequest], Answer] | None = None


@attrs.frozen
class Accepted:
    """A client that has been let in, with what its connection actor needs."""

    transport: Transport
    endpoint: Endpoint
    identity: Identity
    address: str
    metadata: dict[str, Any]
    subprotocol: str | None  # the one agreed on
    rest: bytes  # what arrived behind the request's head: the first frames


def awaits_token(endpoint: Endpoint, identity: Identity) -> bool:
    """Tell whether a client was let in only to send its token, in the first message."""
    needs_token = identity.is_anonymous and endpoint.require_auth is True
    return needs_token and endpoint.authenticate_by_message


async def handshake(
    transport: Transport,
    authenticator: Authenticator,
    *,
    on_request: Callable[[], None] = lambda: None,
    on_accepted: Callable[[Accepted], None] = lambda _: None,
) -> Accepted:
    """Negotiate the upgrade and authenticate the client.

    Calls `on_request` when the request has been read, and `on_accepted` before the client is told
    that it is let in; either may raise HandshakeRefused.

    The caller gives it a deadline. HandshakeRefused: the client must be told so, by `refuse`.
    PeerLeft, OSError or trio.BrokenResourceError: the client is gone. Cancelling is safe, but
    leaves a transport that can only be closed.
    """
    head_bytes, rest = await read_head(transport, authenticator.max_request_head)
    on_request()
    try:
        request = read_upgrade(head_bytes)
    except UnsupportedVersionError as error:  # RFC 6455, section 4.4
        headers = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
        raise HandshakeRefused(426, error.code, error.message, headers) from None
    except RemoteProtocolError as error:
        raise HandshakeRefused(400, error.code, error.message, request=head_bytes) from None
    accepted = await _admit(request, transport, authenticator, rest)
    on_accepted(accepted)
    answer = accept_upgrade(request.key, accepted.subprotocol)
    try:
        await TransportStream(transport).send_all(answer)
    except trio.Cancelled:
        transport.close()  # a part of the answer may be sent: no refusal may follow it
        raise
    return accepted


async def read_head(transport: Transport, limit: int) -> tuple[bytes, bytes]:
    """Read a request's head, of at most `limit` bytes; return it, and the bytes behind it.

    HandshakeRefused: it is longer, or its first bytes show that none will come. PeerLeft or
    OSError: the client is gone.
    """
    received = b""
    while (end := received.find(HEAD_END)) < 0:
        if len(received) > limit:
            text = f"the request's head may have at most {limit} bytes"
            raise HandshakeRefused(431, ErrorCode.TOO_LARGE, text, request=received)
        if not may_become_request(received):
            text = "this is not HTTP; connect with a ws:// URL, and with wss:// only where TLS is"
            raise HandshakeRefused(400, ErrorCode.BAD_MESSAGE, text)
        try:
            chunk = transport.read_some(min(CHUNK, limit + 1))
        except BlockingIOError:
            await transport.wait_readable()
            continue
        if not chunk:
            raise PeerLeft("the client left before its request was complete")
        received += chunk
    end += len(HEAD_END)
    if end > limit:
        text = f"the request's head may have at most {limit} bytes, not {end}"
        raise HandshakeRefused(431, ErrorCode.TOO_LARGE, text, request=received)
    return received[:end], received[end:]


def is_for_head(request: bytes) -> bool:
    """Tell whether a request, or its beginning, has the method HEAD."""
    return request.removeprefix(b"\r\n").startswith(b"HEAD ")


async def refuse(
    transport: Transport,
    refusal: HandshakeRefused,
    wall_time: float,
    *,
    on_written: Callable[[], None] = lambda: None,
) -> None:
    """Write a refusal, and wait until the client has closed, so that it can read it.

    Calls `on_written` in between. The caller gives it a deadline, and closes the transport. OSError
    or trio.BrokenResourceError: the client has not waited for it.
    """
    await TransportStream(transport).send_all(refusal.response(wall_time))
    on_written()
    # To close a socket with unread bytes resets the connection, and the client loses the response.
    transport.end_output()
    while True:
        try:
            if not transport.read_some(CHUNK):
                return
            await trio.lowlevel.checkpoint()  # other tasks have turns, however fast it sends
        except BlockingIOError:
            await transport.wait_readable()


async def _admit(
    request: UpgradeHead,
    transport: Transport,
    authenticator: Authenticator,
    rest: bytes,
) -> Accepted:
    """Decide whether the client of a well-formed request may come in."""
    endpoint = authenticator.endpoints.get(request.path)
    if endpoint is None:
        text = f"there is no endpoint at {request.path[:255]!r}"
        raise HandshakeRefused(404, ErrorCode.FORBIDDEN, text)
    headers = request.headers
    _check_origin(headers, authenticator, transport)
    query = {name: values[0] for name, values in parse_qs(request.query).items()}
    identity = _authenticate(request, headers, query, endpoint, authenticator)
    headers.pop("authorization", None)
    query.pop("token", None)
    forwarded_for = headers.get("x-forwarded-for", "")
    address = authenticator.trusted_proxies.client_address(transport.peer, forwarded_for)
    upgrade = UpgradeRequest(request.path, query, headers, address, identity)
    if identity.info is not None:
        upgrade.metadata["info"] = identity.info
    if authenticator.authorize is not None and not await _ask(authenticator.authorize, upgrade):
        raise HandshakeRefused(403, ErrorCode.FORBIDDEN, "you may not connect here")
    spoken = endpoint.subprotocols if endpoint.raw_handler else (PROTOCOL_NAME,)
    subprotocol = next((name for name in spoken if name in request.subprotocols), None)
    return Accepted(transport, endpoint, identity, address, upgrade.metadata, subprotocol, rest)


async def _ask(authorize: Callable[[UpgradeRequest], Answer], upgrade: UpgradeRequest) -> bool:
    """Ask the program's hook whether the client may come in.

    RuntimeError: the hook failed with an error that the caller would take for the client's leaving.
    """
    try:
        answer = authorize(upgrade)
        if inspect.isawaitable(answer):
            # In a task of its own: this one is the connection's, in a nursery of the whole server.
            answer = await apart(answer)
    except (OSError, trio.BrokenResourceError) as error:
        raise RuntimeError("the hook that authorizes connecting failed") from error
    return answer is not False


def _check_origin(
    headers: Mapping[str, str], authenticator: Authenticator, transport: Transport
) -> None:
    allowed = authenticator.allowed_origins
    problem = page_problem(headers.get("origin"), allowed)
    if problem is None and transport.peer:  # a Unix socket has none, and no page can open it
        problem = host_problem(headers.get("host"), allowed)
    if problem is not None:
        raise HandshakeRefused(403, ErrorCode.FORBIDDEN, problem)


def _authenticate(
    request: UpgradeHead,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    endpoint: Endpoint,
    authenticator: Authenticator,
) -> Identity:
    """Find the token, in the places and the order of docs/protocol.md, and verify it."""
    token = None
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        token = credentials.strip()
    for name in request.subprotocols:
        if token is None and name.startswith(_BEARER_SUBPROTOCOL):
            token = name.removeprefix(_BEARER_SUBPROTOCOL)
    if token is None and authenticator.query_token:
        token = query.get("token")
    challenge = (("WWW-Authenticate", "Bearer"),)
    if token is not None:
        try:
            return authenticator.verify(token)
        except ProtocolError as error:
            raise HandshakeRefused(401, error.code, error.message, challenge) from None
    if endpoint.require_auth and not endpoint.authenticate_by_message:
        text = (
            "a token is needed: in `Authorization: Bearer …`, "
            "or as the subprotocol `bearer.<token>`"
        )
        raise HandshakeRefused(401, ErrorCode.UNAUTHORIZED, text, challenge)
    return ANONYMOUS
