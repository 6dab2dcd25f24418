"""The connections of the HTTP listener: Hypercorn serves each, and here they are bounded.

Hypercorn's own server has no bound, speaks HTTP/2 to whoever asks, and holds a connection that its
client has closed until the time for the next request is over. So only its part for one connection
is used, behind the accept loop of all listeners.

When there are as many connections as there may be, one that waits for its client gives way to a
newcomer: the oldest that has never sent a request, or else the one that has waited longest for its
next, or else the one that has waited longest for the rest of a request, or for its client to take
the answer. So nobody keeps others out by being silent or slow. Where the application is at work for
all, a newcomer is answered with 503.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send

from ...actors.containment import contain
from ..entrance.descriptors import LEAVE_TO_LOCAL_OPERATORS, Shortage
from ..entrance.listeners import Listener
from .headers import SecureHeaders
from .responses import error_response

_MAX_REFUSALS: Final = 32
"""Connections beyond the bound that are told so; further ones are closed without an answer."""

_RETRY_AFTER: Final = "5"
"""Seconds, for a client that is told so."""

_CHUNK: Final = 65_536
"""Bytes that are read at once, as Hypercorn's own server does."""

_DECODED: Final = frozenset({b"connection", b"sec-websocket-extensions", b"sec-websocket-protocol"})
"""Fields of an opening handshake that must be ASCII."""

_Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class _Http11(h11.Connection):
    """A server's side of HTTP/1.1, which offers no other version.

    A proxy's path filter sees the first request of a connection. Over HTTP/2 in cleartext, any
    others would pass it unseen.
    """

    def next_event(self) -> Any:
        """Return the next event, as h11 does."""
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        # The preface of HTTP/2 is a request, too: PRI * HTTP/2.0 (RFC 9113, section 3.4).
        if event.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("this is not HTTP/1.1", error_status_hint=505)
        # A proxy that goes by the other field would find another end of this request: RFC 9112,
        # section 6.1.
        fields = {name for name, _ in event.headers}
        if fields >= {b"content-length", b"transfer-encoding"}:
            text = "a request has Content-Length or Transfer-Encoding, not both"
            raise h11.RemoteProtocolError(text, error_status_hint=400)
        upgrades = [value.strip().lower() for name, value in event.headers if name == b"upgrade"]
        if upgrades == []:
            return event
        if upgrades == [b"websocket"]:
            if _asks_for_websocket(event) and not self._opens_websocket(event):
                text = "this is no opening handshake of a WebSocket"
                raise h11.RemoteProtocolError(text, error_status_hint=400)
            return event
        # RFC 9110, section 7.8: a server may ignore an upgrade, and answers in HTTP/1.1 then.
        others = [pair for pair in event.headers.raw_items() if pair[0].lower() != b"upgrade"]
        return h11.Request(
            method=event.method,
            headers=others,
            target=event.target,
            http_version=event.http_version,
        )

    def _opens_websocket(self, request: h11.Request) -> bool:
        """Tell whether a request is an opening handshake, with nothing behind it.

        Hypercorn answers others with 400, but does not end the connection then, nor bound it in
        time. The client "MUST wait for a response" before it sends more (RFC 6455, section 4.1).
        """
        fields = dict(request.headers)
        return (
            request.http_version == b"1.1"
            and b"sec-websocket-key" in fields
            and fields.get(b"sec-websocket-version") == b"13"
            and not fields.keys() & {b"content-length", b"transfer-encoding"}
            # Hypercorn decodes them as such.
            and all(value.isascii() for name, value in request.headers if name in _DECODED)
            and not self.trailing_data[0]
        )


def _asks_for_websocket(request: h11.Request) -> bool:
    """Tell whether a request with `Upgrade: websocket` asks for it in `Connection`, too."""
    values = [value for name, value in request.headers if name == b"connection"]
    options = b",".join(values).lower().split(b",")
    return request.method == b"GET" and b"upgrade" in (option.strip() for option in options)


class _Connection(TCPServer):
    """One connection, which says whether it waits for its client."""

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        stream: _Stream,
        on_idle: Callable[[_Connection, bool], None],
        on_waiting: Callable[[_Connection, bool], None],
    ) -> None:
        # The framework words the types of ASGI otherwise, and Hypercorn those of a stream.
        served: Any = ASGIWrapper(app)  # pyright: ignore[reportArgumentType]
        anything: Any = stream
        super().__init__(served, config, WorkerContext(None), ConnectionState({}), anything)
        self._on_idle = on_idle
        self._on_waiting = on_waiting
        self.scope = trio.CancelScope()
        is_tls = isinstance(stream, trio.SSLStream)
        self._socket = (stream.transport_stream if is_tls else stream).socket

    def give_way(self) -> None:
        """End the connection at once."""
        self.scope.cancel()
        # Hypercorn shields what it writes from being cancelled.
        self._socket.close()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks for."""
        if isinstance(event, Updated):
            self._on_idle(self, event.idle)
        is_output = isinstance(event, RawData)
        if is_output:
            self._on_waiting(self, True)  # noqa: FBT003 - it has begun to wait
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:  # the connection is being closed
            await self.protocol.handle(Closed())
        if is_output:
            self._on_waiting(self, False)  # noqa: FBT003 - it has ended

    async def _read_data(self) -> None:
        protocol = self.protocol.protocol
        assert isinstance(protocol, H11Protocol)  # noqa: S101 - no other one is negotiated
        size = self.config.h11_max_incomplete_size
        protocol.connection = _Http11(h11.SERVER, max_incomplete_event_size=size)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                data = await self.stream.receive_some(_CHUNK)
                if data and _awaits_answer(protocol.connection):
                    # Hypercorn's 400 would mix with the answer of the application.
                    await self._close()
                    break
                await self.protocol.handle(RawData(bytes(data)))
                self._on_waiting(self, protocol.connection.their_state is h11.SEND_BODY)
                if not data:
                    break
        await self.protocol.handle(Closed())
        # The client has closed. Hypercorn would wait for its next request all the same, and hold
        # its socket for `keep_alive_timeout`.
        await self.idle_task.stop()


def _awaits_answer(connection: h11.Connection | H11WSConnection) -> bool:
    """Tell whether a client has asked for a WebSocket and was not answered yet."""
    if not isinstance(connection, H11WSConnection):
        return False
    return connection.h11_connection.our_state is h11.SEND_RESPONSE


@attrs.define(eq=False)
class HttpConnections:
    """The connections of the HTTP listener, as many as there may be."""

    app: ASGIApp
    config: Config
    limit: int
    on_full: Callable[[], None]  # is called for each connection that is refused
    shortage: Shortage  # of descriptors or memory
    on_failure: Callable[[BaseException], None]  # of one connection, which is over then
    # In the order in which they came here: those that have sent no request yet, those that wait for
    # a further request, those that wait for the rest of one or for their answer to be taken, and
    # those for which the application is at work.
    _silent: dict[_Connection, None] = attrs.field(factory=dict[_Connection, None])
    _idle: dict[_Connection, None] = attrs.field(factory=dict[_Connection, None])
    _waiting: dict[_Connection, None] = attrs.field(factory=dict[_Connection, None])
    _busy: dict[_Connection, None] = attrs.field(factory=dict[_Connection, None])

    def __len__(self) -> int:
        return len(self._silent) + len(self._idle) + len(self._waiting) + len(self._busy)

    async def serve(self, listeners: Iterable[Listener]) -> None:
        """Serve until cancelled. OSError: a listening socket is broken."""
        context = self.config.create_ssl_context()
        async with trio.open_nursery() as nursery:
            start = partial(self._start, nursery, context)
            for listener in listeners:
                accept_all = partial(listener.accept_all, leave=LEAVE_TO_LOCAL_OPERATORS)
                nursery.start_soon(accept_all, start, self.shortage)

    def _start(
        self,
        nursery: trio.Nursery,
        context: ssl.SSLContext | None,
        connected: socket.socket,
        _peer: str,
    ) -> None:
        while len(self) >= self.limit and self._give_way():
            pass
        app = self.app
        if len(self) >= self.limit:
            self.on_full()
            app = _REFUSING
        if len(self) >= self.limit + _MAX_REFUSALS:
            connected.close()
            return
        stream: _Stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        connection = _Connection(app, self.config, stream, self._note_idle, self._note_waiting)
        self._silent[connection] = None
        nursery.start_soon(self._run, connection, name="HTTP connection")

    async def _run(self, connection: _Connection) -> None:
        """Serve one connection to its end. No failure leaves this method."""
        task = trio.lowlevel.current_task()
        try:
            try:
                with connection.scope:
                    await connection.run()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client is gone
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, self.on_failure, task)
        finally:
            self._forget(connection)
            await trio.aclose_forcefully(connection.stream)

    def _note_idle(self, connection: _Connection, idle: bool) -> None:  # noqa: FBT001 - as Hypercorn says it
        if self._forget(connection):
            (self._idle if idle else self._busy)[connection] = None

    def _note_waiting(self, connection: _Connection, waits: bool) -> None:  # noqa: FBT001 - as above
        """Note whether a connection with a request under way waits for its client."""
        before, after = self._busy, self._waiting
        if not waits:
            before, after = after, before
        if connection in before:
            del before[connection]
            after[connection] = None

    def _forget(self, connection: _Connection) -> bool:
        """Take a connection out; False if it has given way already."""
        for kind in (self._silent, self._idle, self._waiting, self._busy):
            if connection in kind:
                del kind[connection]
                return True
        return False

    def _give_way(self) -> bool:
        """End the connection that has waited longest for its client; False if none waits."""
        for kind in (self._silent, self._idle, self._waiting):
            for connection in kind:
                del kind[connection]
                connection.give_way()
                return True
        return False


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    text = "there is no room for another connection; come back later"
    headers = {"Retry-After": _RETRY_AFTER, "Connection": "close"}
    await error_response(503, "unavailable", text, headers)(scope, receive, send)


_REFUSING: Final = SecureHeaders(_refuse)
