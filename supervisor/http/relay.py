"""The control socket for pages: a relay between Hypercorn's WebSocket and an admin session.

A page cannot open a Unix socket, and should not need a further port. So what comes in here is
handed on, over the in-memory network, to the same handshake and the same admin session that the
control socket has: one implementation of tokens, commands and overload policies. The relay knows
WebSocket and nothing of what is said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

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
from ...actors.transports.transport import TransportStream
from ...protocol.closing import is_sendable_close_code
from ...protocol.messages.codec import decode_envelope
from .bearer import Access
from .refusals import Refused, error_response

if TYPE_CHECKING:
    from ..supervisor import Supervisor

_PASSED_ON: Final = (b"authorization", b"user-agent", b"x-forwarded-for")
"""Headers of the page's request that the admin session's handshake looks at."""

_END: Final = 5.0
"""Seconds for either side to take note of the end."""


def control_endpoint(
    supervisor: Supervisor, access: Access
) -> Callable[[WebSocket], Awaitable[None]]:
    """Return what serves a page's control socket."""

    async def control(websocket: WebSocket) -> None:
        try:
            access.check_origin(websocket)
        except Refused as error:
            response = error_response(error.status, error.code, error.text, error.headers)
            await websocket.send_denial_response(response)
            return
        address = websocket.client.host if websocket.client is not None else ""
        near, far = memory_connection(peers=(address, "control"))
        supervisor.serve_control(far)
        try:
            await _Relay(websocket, TransportStream(near)).run()
        finally:
            near.close()

    return control


class _Relay:
    """One page's socket on one side, an admin session's on the other."""

    def __init__(self, page: WebSocket, session: TransportStream) -> None:
        self._page = page
        self._session = session
        self._client = WSConnection(ConnectionType.CLIENT)  # towards the session

    async def run(self) -> None:
        """Relay until either side has ended. Cancelling is safe."""
        if not await self._shake_hands():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._page_to_session, nursery.cancel_scope)
            await self._session_to_page()
            nursery.cancel_scope.cancel()

    async def _shake_hands(self) -> bool:
        """Upgrade on the page's behalf; False if that is refused, of which the page is told."""
        headers = [pair for pair in self._page.headers.raw if pair[0] in _PASSED_ON]
        request = Request(
            host="control",
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
        # The session's side says it in a message's words: {"error": …, "data": {"code": …}}.
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
                return  # the session has ended; why, the other direction says

    async def _session_to_page(self) -> None:
        parts: list[str] = []
        while True:
            # Before anything is read: the first frames may have come with the handshake's answer.
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
