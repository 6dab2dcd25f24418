"""From a fresh stream to an accepted, authenticated peer, within one deadline of the caller.

The request is read by `protocol/upgrade.py`, and no further than the end of its head: what came
after it are the first frames, and goes to the connection actor with the transport. A refusal is
answered with an HTTP status and a JSON body in the shape of an `error` message.

Every way out of `handshake` other than its result is an exception, and the caller closes the
transport.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

import attrs
import trio

from ...protocol.errors import ErrorCode, MoorageError, ProtocolError, RemoteProtocolError
from ...protocol.identity import ANONYMOUS, Identity
from ...protocol.messages.codec import encode_value, head, splice, timestamp
from ...protocol.messages.types import PROTOCOL_NAME, ErrorData
from ...protocol.websocket.upgrade import (
    HEAD_END,
    UnsupportedVersionError,
    UpgradeHead,
    accept_upgrade,
    read_upgrade,
)
from ..transports.transport import CHUNK, Transport, TransportStream
from .endpoint import Endpoint, UpgradeRequest
from .forwarded import TrustedProxies

_BEARER_SUBPROTOCOL: Final = "bearer."

Answer = bool | None | Awaitable[bool | None]
"""Of an authorize hook: False refuses; None and True let pass."""


class HandshakeRefused(MoorageError):
    """The upgrade is refused with an HTTP status; `response` is what the client is told."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        text: str,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers

    def response(self, wall_time: float) -> bytes:
        """Return the HTTP response; its body has the shape of an `error` message."""
        data = encode_value(attrs.asdict(ErrorData(str(self.code), self.code.retryable)))
        body = splice(head("error", error=self.text), data, timestamp(wall_time))
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(lines).encode() + HEAD_END + body


class PeerLeft(MoorageError):
    """The client went away before the handshake was complete."""


@attrs.frozen
class Doorkeeper:
    """What decides who comes in; one for each listener. The supervisor makes it."""

    endpoints: Mapping[str, Endpoint]
    verify: Callable[[str], Identity]  # a token; ProtocolError if it is not good
    query_token: bool
    allowed_origins: frozenset[str] | None  # of pages; None: any
    trusted_proxies: TrustedProxies
    max_request_head: int  # bytes
    authorize: Callable[[UpgradeRequest], Answer] | None = None


@attrs.frozen
class Accepted:
    """A client that has come in, and what the connection actor needs to know of it."""

    transport: Transport
    endpoint: Endpoint
    identity: Identity
    address: str
    metadata: dict[str, Any]
    subprotocol: str | None
    rest: bytes  # what arrived after the request's head: the first frames


async def handshake(transport: Transport, door: Doorkeeper) -> Accepted:
    """Negotiate the upgrade and authenticate the client.

    Give it a deadline. `HandshakeRefused`: say so to the client. `PeerLeft` and OSError: there is
    nobody to say it to. Cancelling is safe, but leaves a transport that can only be closed.
    """
    head_bytes, rest = await read_head(transport, door.max_request_head)
    try:
        request = read_upgrade(head_bytes)
    except UnsupportedVersionError as error:  # RFC 6455, section 4.4
        version = (("Sec-WebSocket-Version", "13"),)
        raise HandshakeRefused(426, error.code, error.message, version) from None
    except RemoteProtocolError as error:
        raise HandshakeRefused(400, error.code, error.message) from None
    accepted = await _admit(request, transport, door, rest)
    answer = accept_upgrade(request.key, accepted.subprotocol)
    try:
        await TransportStream(transport).send_all(answer)
    except trio.Cancelled:
        transport.close()  # part of the answer may be out: no refusal may follow it
        raise
    return accepted


async def read_head(transport: Transport, limit: int) -> tuple[bytes, bytes]:
    """Read a request's head, and no further than needed; return it and what came with it."""
    received = b""
    while (end := received.find(HEAD_END)) < 0:
        if len(received) > limit:
            text = f"the request's head may have at most {limit} bytes"
            raise HandshakeRefused(431, ErrorCode.TOO_LARGE, text)
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
        raise HandshakeRefused(431, ErrorCode.TOO_LARGE, text)
    return received[:end], received[end:]


async def refuse(transport: Transport, refusal: HandshakeRefused, wall_time: float) -> None:
    """Write a refusal and let the client read it; the caller closes. Give it a deadline.

    OSError or trio.BrokenResourceError: the client did not wait for it.
    """
    await TransportStream(transport).send_all(refusal.response(wall_time))
    # Closing with unread bytes at hand would reset the connection, and with it the response.
    transport.end_output()
    while True:
        try:
            if not transport.read_some(CHUNK):
                return
            await trio.lowlevel.checkpoint()  # however fast it sends, others have turns
        except BlockingIOError:
            await transport.wait_readable()


async def _admit(
    request: UpgradeHead,
    transport: Transport,
    door: Doorkeeper,
    rest: bytes,
) -> Accepted:
    """Decide about a request that is a proper upgrade."""
    endpoint = door.endpoints.get(request.path)
    if endpoint is None:
        text = f"there is no endpoint at {request.path[:255]!r}"
        raise HandshakeRefused(404, ErrorCode.FORBIDDEN, text)
    headers = request.headers
    _check_origin(headers, door)
    query = {name: values[0] for name, values in parse_qs(request.query).items()}
    identity = _authenticate(request, headers, query, endpoint, door)
    headers.pop("authorization", None)
    query.pop("token", None)
    forwarded_for = headers.get("x-forwarded-for", "")
    address = door.trusted_proxies.client_address(transport.peer, forwarded_for)
    upgrade = UpgradeRequest(request.path, query, headers, address, identity)
    if identity.info is not None:
        upgrade.metadata["info"] = identity.info
    if door.authorize is not None and not await _ask(door.authorize, upgrade):
        raise HandshakeRefused(403, ErrorCode.FORBIDDEN, "you may not connect here")
    spoken = endpoint.subprotocols if endpoint.raw_handler else (PROTOCOL_NAME,)
    subprotocol = next((name for name in spoken if name in request.subprotocols), None)
    return Accepted(transport, endpoint, identity, address, upgrade.metadata, subprotocol, rest)


async def _ask(authorize: Callable[[UpgradeRequest], Answer], upgrade: UpgradeRequest) -> bool:
    """Ask the program's hook whether the client may come in.

    RuntimeError: the hook failed with what would read, outside of here, as the client's leaving.
    """
    try:
        answer = authorize(upgrade)
        if inspect.isawaitable(answer):
            answer = await answer
    except (OSError, trio.BrokenResourceError) as error:
        raise RuntimeError("the hook that authorizes connecting failed") from error
    return answer is not False


def _check_origin(headers: Mapping[str, str], door: Doorkeeper) -> None:
    origin = headers.get("origin")
    allowed = door.allowed_origins
    if origin is None or allowed is None or origin.lower() in allowed:
        return
    raise HandshakeRefused(403, ErrorCode.FORBIDDEN, f"pages of {origin[:255]!r} may not connect")


def _authenticate(
    request: UpgradeHead,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    endpoint: Endpoint,
    door: Doorkeeper,
) -> Identity:
    """Find the token where PROTOCOL.md says that it may stand, first place first."""
    token = None
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        token = credentials.strip()
    for name in request.subprotocols:
        if token is None and name.startswith(_BEARER_SUBPROTOCOL):
            token = name.removeprefix(_BEARER_SUBPROTOCOL)
    if token is None and door.query_token:
        token = query.get("token")
    challenge = (("WWW-Authenticate", "Bearer"),)
    if token is not None:
        try:
            return door.verify(token)
        except ProtocolError as error:
            raise HandshakeRefused(401, error.code, error.message, challenge) from None
    if endpoint.require_auth and not endpoint.authenticate_by_message:
        text = (
            "a token is needed: in `Authorization: Bearer …`, "
            "or as the subprotocol `bearer.<token>`"
        )
        raise HandshakeRefused(401, ErrorCode.UNAUTHORIZED, text, challenge)
    return ANONYMOUS
