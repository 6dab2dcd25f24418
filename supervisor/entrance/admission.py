"""Admission: a client's way from an accepted socket through the handshake to its actor.

`Admission.serve` is the task of one connection, from its socket to its last log line. No exception
of a connection leaves it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

import attrs
import trio

from ...actors.connection.connection import Connection
from ...actors.entrance.endpoint import Endpoint
from ...actors.entrance.forwarded import TrustedProxies
from ...actors.entrance.handshake import (
    Accepted,
    Authenticator,
    HandshakeRefused,
    PeerLeft,
    handshake,
    refuse,
)
from ...actors.tick import Tick
from ...actors.transports.sockets import SocketTransport
from ...actors.transports.tls import TlsTransport
from ...actors.transports.transport import Transport
from ...protocol.errors import ErrorCode
from ...protocol.identity import Identity
from ..app import App
from ..config.settings import Settings
from ..telemetry.statistics import Statistics

_MAX_REFUSALS: Final = 100
"""Clients that are being refused at the same time; further ones are closed without an answer."""

_REFUSAL_TIME: Final = 2.0
"""Seconds that a refused client has to read the answer."""

_RETRY_AFTER: Final = 5
"""Seconds; the `Retry-After` of a full or draining server."""


@attrs.define(eq=False)
class Admission:
    """The admission of clients, as many as there is room for."""

    tick: Tick
    log_event: Callable[..., None]  # level, event, and fields by name
    statistics: Statistics
    authenticator: Authenticator
    max_total: int
    handshake_timeout: float  # seconds
    make: Callable[[Accepted], Connection]  # makes the actor of a client that is let in
    # Returns the reason why nobody is let in now, for the clients; None: clients are let in.
    closed: Callable[[], str | None] = lambda: None
    admitted: int = 0  # clients in their handshake, or connected; at most `max_total`
    _refusing: int = 0  # clients that are being refused; at most `_MAX_REFUSALS` get an answer

    def transport(
        self, connected: socket.socket, peer: str, tls: ssl.SSLContext | None
    ) -> Transport | None:
        """Return a transport for an accepted socket; None if the socket is broken already."""
        try:
            if tls is None:
                return SocketTransport(connected, peer)
            return TlsTransport(connected, tls, peer)
        except OSError:  # the socket was reset before its options could be set
            self.statistics.accepted += 1
            self.statistics.left_early += 1
            connected.close()
            return None

    async def serve(self, transport: Transport) -> None:
        """Serve a client to the end of its connection, and close the transport."""
        self.statistics.accepted += 1
        closed = self.closed()
        if closed is None and self.admitted >= self.max_total:
            closed = "this server is full"
        if closed is not None:
            await self._turn_away(transport, closed)
            return
        self.admitted += 1
        try:
            connection = await self._welcome(transport)
            if connection is not None:
                self.statistics.connected += 1
                await connection.run()
        finally:
            self.admitted -= 1
            transport.close()

    async def _welcome(self, transport: Transport) -> Connection | None:
        """Perform the handshake within its deadline; None if the client was refused or has left."""
        refusal = HandshakeRefused(408, ErrorCode.TIMEOUT, "the handshake took too long")
        try:
            started = trio.current_time()
            with trio.move_on_after(self.handshake_timeout):
                accepted = await self._shake_hands(transport)
                self.statistics.handshakes.observe(trio.current_time() - started)
                return self.make(accepted)
        except HandshakeRefused as error:
            # Its traceback holds this frame: the two would be a cycle, with all that was received.
            refusal = error.with_traceback(None)
        except (PeerLeft, OSError, trio.BrokenResourceError):
            self.statistics.left_early += 1
            return None
        except Exception as error:  # noqa: BLE001 - containment: a hook of the program, mostly
            self.log_event("error", "handshake_failed", exc_info=error)
            refusal = HandshakeRefused(500, ErrorCode.INTERNAL, "the server failed")
        await self._refuse(transport, refusal)
        return None

    async def _shake_hands(self, transport: Transport) -> Accepted:
        if isinstance(transport, TlsTransport):
            await transport.handshake()
        return await handshake(transport, self.authenticator)

    async def _turn_away(self, transport: Transport, text: str) -> None:
        """Tell a client why nobody is let in now, without reading its request first."""
        self._refusing += 1
        try:
            if self._refusing <= _MAX_REFUSALS:
                headers = (("Retry-After", str(_RETRY_AFTER)),)
                refusal = HandshakeRefused(503, ErrorCode.UNAVAILABLE, text, headers)
                await self._refuse(transport, refusal, tls_first=True)
            else:
                self.statistics.refused[503] += 1
        finally:
            self._refusing -= 1
            transport.close()

    async def _refuse(
        self, transport: Transport, refusal: HandshakeRefused, *, tls_first: bool = False
    ) -> None:
        self.statistics.refused[refusal.status] += 1
        self.log_event(
            "info",
            "refused",
            status=refusal.status,
            reason=refusal.text,
            peer=transport.peer,
        )
        # A client that does not wait for the answer is refused all the same.
        with (
            contextlib.suppress(OSError, trio.BrokenResourceError),
            trio.move_on_after(_REFUSAL_TIME),
        ):
            if tls_first and isinstance(transport, TlsTransport):
                await transport.handshake()
            await refuse(transport, refusal, self.tick.wall_time())


def authenticator(settings: Settings, app: App, verify: Callable[[str], Identity]) -> Authenticator:
    """Return the rules for clients, out of the settings and the program's app."""
    needs_token = not (settings.anonymous or settings.development)
    endpoints = app.endpoints or {settings.path: Endpoint(settings.path)}
    origins = frozenset(origin.lower() for origin in settings.allowed_origins)
    return Authenticator(
        endpoints={
            path: attrs.evolve(endpoint, require_auth=needs_token)
            if endpoint.require_auth is None
            else endpoint
            for path, endpoint in endpoints.items()
        },
        verify=verify,
        query_token=settings.query_token,
        allowed_origins=None if "*" in origins else origins,
        trusted_proxies=TrustedProxies.parse(settings.trusted_proxies),
        max_request_head=settings.max_request_head,
        authorize=app.connect_authorizer,
    )
