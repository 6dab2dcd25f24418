"""`/control`, the control socket for pages: a relay from Hypercorn's WebSocket to an admin session.

A page cannot open a Unix socket, and should not need a further port. So the relay hands its
messages on, over a connection in memory, to the handshake and the admin session that the control
socket has: there is one implementation of tokens, commands and overload policies. The relay knows
WebSocket, and nothing of the admin protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import trio
from starlette.websockets import WebSocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from ...actors.transports.memory import memory_connection
from ...actors.transports.transport_stream import TransportStream
from ...protocol.closing import is_sendable_close_code
from ...protocol.messages.codec import decode_envelope
from ..operations.admin_sessions import AdminSessions
from .authorization import Authorizer
from .responses import RequestRefused, error_response

_PASSED_ON: Final = (b"authorization", b"user-agent", b"x-forwarded-for")
"""Headers of the page's request that the handshake of the admin session reads."""

_END: Final = 5.0
"""Seconds for both sides to be told of the end."""


def control_endpoint(
    admin_sessions: AdminSessions, authorizer: Authorizer
) -> Callable[[WebSocket], Awaitable[None]]:
    """Return the endpoint of `/control`."""

    async def control(websocket: WebSocket) -> None:
        try:
            # The admin session decides by itself. But what it would refuse takes no operator's
            # place meanwhile, however many such requests come at once.
            authorizer.admin(websocket)
        except RequestRefused as error:
            response = error_response(error.status, error.code, error.text, error.headers)
            await websocket.send_denial_response(response)
            return
        address = websocket.client.host if websocket.client is not None else ""
        near, far = memory_connection(peers=(address, "control"))
        admin_sessions.serve(far)
        try:
            await _Relay(websocket, TransportStream(near)).run()
        finally:
            near.close()

    return control


class _Relay:
    """Relays between one page and one admin session."""

    def __init__(self, page: WebSocket, session: TransportStream) -> None:
        self._page = page
        self._session = session
        # The WebSocket to the session, whose client this is.
        self._client = WSConnection(ConnectionType.CLIENT)

    async def run(self) -> None:
        """Relay until either side has ended. Cancelling is safe."""
        if not await self._shake_hands():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._page_to_session, nursery.cancel_scope)
            await self._session_to_page()
            nursery.cancel_scope.cancel()

    async def _shake_hands(self) -> bool:
        """Upgrade on the page's behalf; if that is refused, tell the page and return False."""
        headers = [pair for pair in self._page.headers.raw if pair[0] in _PASSED_ON]
        request = Request(
            host="localhost",
            target="/",
            subprotocols=list(self._page.scope["subprotocols"]),
            extra_headers=headers,
        )
        await self._session.send_all(self._client.send(request))
        refusal: RejectConnection | None = None
        body = b""
        while True:
            try:
                chunk = await self._session.receive_some()
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                text = "the server has no room for another session"
                await self._page.send_denial_response(error_response(503, "unavailable", text))
                return False
            self._client.receive_data(chunk)
            for event in self._client.events():
                if isinstance(event, AcceptConnection):
                    await self._page.accept(event.subprotocol)
                    return True
                if isinstance(event, RejectConnection):
                    refusal = event
                elif isinstance(event, RejectData):
                    body += event.data
                    if event.body_finished and refusal is not None:
                        await self._refuse(refusal, body)
                        return False

    async def _refuse(self, refusal: RejectConnection, body: bytes) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in refusal.headers
            if name.lower() in (b"www-authenticate", b"retry-after")
        }
        # The session words an error as a message: {"error": …, "data": {"code": …}}.
        said = decode_envelope(body)
        code = cast("dict[str, Any]", said.data)["code"]
        response = error_response(refusal.status_code, code, said.error or "", headers)
        await self._page.send_denial_response(response)

    async def _page_to_session(self, scope: trio.CancelScope) -> None:
        while True:
            message = await self._page.receive()
            try:
                if message["type"] == "websocket.disconnect":
                    code = message.get("code") or 1000
                    closing = CloseConnection(code if is_sendable_close_code(code) else 1000)
                    await self._session.send_all(self._client.send(closing))
                    scope.cancel()
                    return
                text = message.get("text")
                event = (
                    TextMessage(data=text)
                    if text is not None
                    else BytesMessage(data=message["bytes"])
                )
                await self._session.send_all(self._client.send(event))
            except (LocalProtocolError, trio.BrokenResourceError):
                return  # the session has ended; the other direction passes on why

    async def _session_to_page(self) -> None:
        parts: list[str] = []
        while True:
            # Before the first read: some frames may have come with the answer to the handshake.
            for event in self._client.events():
                if isinstance(event, TextMessage):
                    parts.append(event.data)
                    if event.message_finished:
                        await self._page.send_text("".join(parts))
                        parts.clear()
                elif isinstance(event, Ping):
                    await self._session.send_all(self._client.send(event.response()))
                elif isinstance(event, CloseConnection):
                    with trio.move_on_after(_END):
                        await self._page.close(event.code, event.reason)
                        await self._session.send_all(self._client.send(event.response()))
                    return
            try:
                chunk = await self._session.receive_some()
            except trio.BrokenResourceError:
                return
            if not chunk:
                return
            self._client.receive_data(chunk)
