"""Admission: a client's way from an accepted socket through the handshake to its actor.

`Admission.serve` is the task of one connection, from its socket to its last log line. No exception
of a connection leaves it.

A socket is counted in one of three ways, each with a limit of its own. It is a handshake until the
client has been authenticated, a connection from then on, and a refusal once that is decided. A
handshake takes no connection's place, so sockets that say nothing keep nobody out.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Final

import attrs
import trio

from ...actors.connection.connection import Connection
from ...actors.containment import contain
from ...actors.entrance.endpoint import Endpoint
from ...actors.entrance.forwarded import TrustedProxies, source_of
from ...actors.entrance.handshake import (
    Accepted,
    Authenticator,
    HandshakeRefused,
    PeerLeft,
    awaits_token,
    handshake,
    is_for_head,
    read_head,
    refuse,
)
from ...actors.tick import Tick
from ...actors.transports.poller import Poller
from ...actors.transports.sockets import SocketTransport
from ...actors.transports.tls import TlsTransport
from ...actors.transports.transport import Transport
from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity
from ..app import App
from ..config.settings import Settings
from ..telemetry.statistics import Statistics
from .newcomers import Newcomer, Newcomers

_REFUSAL_TIME: Final = 2.0
"""Seconds that a refused client has to send its request, and to read the answer."""

_RETRY_AFTER: Final = 5
"""Seconds; the `Retry-After` of a full or draining server."""

_FULL: Final = "this server is full"


@attrs.define(eq=False)
class Admission:
    """The admission of clients, as many as there is room for."""

    tick: Tick
    poller: Poller  # waits for the clients' sockets
    log_event: Callable[..., None]  # level, event, and fields by name
    statistics: Statistics
    authenticator: Authenticator
    max_total: int
    max_handshakes: int  # under way; as many clients again may be refused at the same time
    handshake_timeout: float  # seconds
    make: Callable[[Accepted], Connection]  # makes the actor of a client that is let in
    # Returns the reason why nobody is let in now, for the clients; None: clients are let in.
    closed: Callable[[], str | None] = lambda: None
    admitted: int = 0  # connections that have a place; at most `max_total`
    # The handshakes under way, connections that have not sent their token yet among them.
    handshakes: Newcomers = attrs.field(init=False)
    # The clients that are being refused.
    refusals: Newcomers = attrs.field(init=False)
    # The connections that are to send their token; all others have a place.
    _unauthenticated: dict[Connection, Newcomer] = attrs.field(
        factory=dict[Connection, Newcomer], init=False
    )

    def __attrs_post_init__(self) -> None:
        self.handshakes = Newcomers(self.max_handshakes)
        self.refusals = Newcomers(self.max_handshakes)

    @property
    def handshaking(self) -> int:
        """The number of sockets in their handshake that are no connection yet."""
        # One that gave way is a connection for a moment longer than it is a handshake.
        return max(0, len(self.handshakes) - len(self._unauthenticated))

    def transport(
        self, connected: socket.socket, peer: str, tls: ssl.SSLContext | None
    ) -> Transport | None:
        """Return a transport for an accepted socket; None if the socket is broken already."""
        try:
            if tls is None:
                return SocketTransport(connected, peer, self.poller)
            return TlsTransport(connected, tls, peer, self.poller)
        except OSError:  # the socket was reset before its options could be set
            self.statistics.accepted += 1
            self.statistics.left_early += 1
            connected.close()
            return None

    async def serve(self, transport: Transport) -> None:
        """Serve a client to the end of its connection, and close the transport."""
        task = trio.lowlevel.current_task()
        self.statistics.accepted += 1
        connection: Connection | None = None
        try:
            try:
                closed = self.closed()
                if closed is None and self.admitted >= self.max_total:
                    closed = _FULL
                if closed is not None:
                    await self._turn_away(transport, closed)
                    return
                connection = await self._welcome(transport)
                if connection is not None:
                    self.statistics.connected += 1
                    await connection.run()
            finally:
                if connection is not None:
                    self._release(connection)
                transport.close()
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, self._on_defect, task)

    def _on_defect(self, error: BaseException) -> None:
        """Log a failure that nothing in the connection has contained: it ends with this task."""
        self.log_event("error", "connection_failed", exc_info=error)

    def take_place(self, connection: Connection) -> None:
        """Give a connection whose token has come a place, unless it has one.

        RemoteProtocolError: the server is full; the connection has to end.
        """
        newcomer = self._unauthenticated.get(connection)
        if newcomer is None:
            return
        if newcomer.gave_way or self.admitted >= self.max_total:
            raise RemoteProtocolError(_FULL, ErrorCode.UNAVAILABLE, close=CloseCause.SERVER_FULL)
        del self._unauthenticated[connection]
        self.handshakes.leave(newcomer)
        self.admitted += 1

    def _release(self, connection: Connection) -> None:
        """Give up what a connection was counted as, at its end."""
        newcomer = self._unauthenticated.pop(connection, None)
        if newcomer is None:
            self.admitted -= 1
        else:
            self.handshakes.leave(newcomer)

    # The handshake

    async def _welcome(self, transport: Transport) -> Connection | None:
        """Perform the handshake within its deadline; None if the client was refused or has left."""
        scope = trio.CancelScope()
        newcomer = Newcomer(source_of(transport.peer), scope.cancel)
        if not self.handshakes.enter(newcomer):
            await self._turn_away(transport, "too many handshakes are under way")
            return None
        refusal = HandshakeRefused(408, ErrorCode.TIMEOUT, "the handshake took too long")
        task = trio.lowlevel.current_task()
        started = trio.current_time()
        scope.deadline = started + self.handshake_timeout
        connection: Connection | None = None
        made: list[Connection] = []
        placed = False

        def on_accepted(accepted: Accepted) -> None:
            nonlocal placed
            if not awaits_token(accepted.endpoint, accepted.identity):
                if self.admitted >= self.max_total:
                    raise _unavailable(_FULL)
                self.admitted += 1
                placed = True
            made.append(self.make(accepted))  # before the answer: if it fails, that is a 500

        try:
            with scope:
                if isinstance(transport, TlsTransport):
                    await transport.handshake()
                await handshake(
                    transport,
                    self.authenticator,
                    on_request=lambda: self.handshakes.note_busy(newcomer),
                    on_accepted=on_accepted,
                )
                self.statistics.handshakes.observe(trio.current_time() - started)
                (connection,) = made
                if not placed:
                    self._await_token(connection, newcomer)
                return connection
        except HandshakeRefused as error:
            # Its traceback, and that of what it stands for, hold this frame: the two would be a
            # cycle, with all that was received.
            refusal = error.with_traceback(None)
            refusal.__context__ = None
        except (PeerLeft, OSError, trio.BrokenResourceError):
            self.statistics.left_early += 1
            return None
        except BaseException as error:  # noqa: BLE001 - a hook of the program may raise any
            contain(error, self._on_failure, task)
            refusal = HandshakeRefused(500, ErrorCode.INTERNAL, "the server failed")
        finally:
            if connection is None or placed:
                self.handshakes.leave(newcomer)
            if connection is None and placed:
                self.admitted -= 1
        if newcomer.gave_way:
            self.statistics.unanswered += 1
            self.log_event("warning", "gave_way", peer=transport.peer, limit=self.max_handshakes)
            return None
        await self._refuse(transport, refusal)
        return None

    def _on_failure(self, error: BaseException) -> None:
        self.log_event("error", "handshake_failed", exc_info=error)

    def _await_token(self, connection: Connection, newcomer: Newcomer) -> None:
        """Let a connection stay a handshake, which gives way, until its token comes."""

        def give_way() -> None:
            # If it is ending already, its closing handshake is cut short.
            if not connection.end(CloseCause.GAVE_WAY):
                connection.transport.close()

        newcomer.give_way = give_way
        newcomer.source = source_of(connection.address)  # behind a proxy, the client's own
        self.handshakes.note_silent(newcomer)
        self._unauthenticated[connection] = newcomer

    # Refusals

    async def _turn_away(self, transport: Transport, text: str) -> None:
        """Tell a client why nobody is let in now, after its request.

        If an answer comes before the request, nginx 1.22 takes it for a part of the answer of the
        server that it asks next.
        """
        await self._refuse(transport, _unavailable(text), after_request=True)

    async def _refuse(
        self, transport: Transport, refusal: HandshakeRefused, *, after_request: bool = False
    ) -> None:
        """Refuse a client, within `_REFUSAL_TIME`; count whether it got the answer."""
        answered = False

        def on_written() -> None:
            nonlocal answered
            answered = True
            self.statistics.refused[refusal.status] += 1
            self.log_event(
                "info",
                "refused",
                status=refusal.status,
                reason=refusal.text,
                peer=transport.peer,
            )

        scope = trio.CancelScope(deadline=trio.current_time() + _REFUSAL_TIME)
        newcomer = Newcomer(source_of(transport.peer), scope.cancel)
        self.refusals.enter(newcomer)  # there is room: all others wait for their peers
        try:
            with scope:
                if after_request:
                    refusal.has_body = await self._read_request(transport)
                wall_time = self.tick.wall_time()
                await refuse(transport, refusal, wall_time, on_written=on_written)
        except (PeerLeft, OSError, trio.BrokenResourceError):
            if not answered:
                self.statistics.left_early += 1
            return
        finally:
            self.refusals.leave(newcomer)
        if not answered:
            self.statistics.unanswered += 1

    async def _read_request(self, transport: Transport) -> bool:
        """Read a request that is refused in any case; return whether its answer has a body."""
        if isinstance(transport, TlsTransport):
            await transport.handshake()
        try:
            request, _ = await read_head(transport, self.authenticator.max_request_head)
        except HandshakeRefused as error:  # it is no request, or has no end
            return error.has_body
        return not is_for_head(request)


def _unavailable(text: str) -> HandshakeRefused:
    headers = (("Retry-After", str(_RETRY_AFTER)),)
    return HandshakeRefused(503, ErrorCode.UNAVAILABLE, text, headers)


def authenticator(settings: Settings, app: App, verify: Callable[[str], Identity]) -> Authenticator:
    """Return the rules for clients, out of the settings and the program's app."""
    needs_token = not (settings.anonymous or settings.development)
    endpoints = app.endpoints or {settings.path: Endpoint(settings.path)}
    return Authenticator(
        endpoints={
            path: attrs.evolve(endpoint, require_auth=needs_token)
            if endpoint.require_auth is None
            else endpoint
            for path, endpoint in endpoints.items()
        },
        verify=verify,
        query_token=settings.query_token,
        allowed_origins=None if "*" in settings.origins else settings.origins,
        trusted_proxies=TrustedProxies.parse(settings.trusted_proxies),
        max_request_head=settings.max_request_head,
        authorize=app.connect_authorizer,
    )
