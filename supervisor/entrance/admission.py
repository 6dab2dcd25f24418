"""From an accepted socket to a connection's last line: permit, handshake, actor.

This is the whole way of one connection through the server, in the one task that it is. Whatever
happens on the way stays here: no exception of a connection leaves `Admission.serve`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from ...actors.connection.connection import Connection
from ...actors.connection.raw import RawConnection
from ...actors.entrance.endpoint import Endpoint
from ...actors.entrance.forwarded import TrustedProxies
from ...actors.entrance.handshake import (
    Accepted,
    Doorkeeper,
    HandshakeRefused,
    PeerLeft,
    handshake,
    refuse,
)
from ...actors.ports import ActorPort
from ...actors.session.session import Session
from ...actors.transports.tls import TlsTransport
from ...actors.transports.transport import SocketTransport, Transport
from ...protocol.errors import ErrorCode
from ...protocol.identity import Identity
from ..app import App
from ..config.settings import Settings
from ..telemetry.statistics import Statistics

_MAX_REFUSALS: Final = 100
"""Clients that are told at one time that there is no room; beyond that they are just closed."""

_REFUSAL_TIME: Final = 2.0
"""Seconds that a refused client has to read why."""

_RETRY_AFTER: Final = 5
"""Seconds; the `Retry-After` of a full or draining server."""


def _make(port: ActorPort, accepted: Accepted) -> Connection:
    kind = Session if accepted.endpoint.raw_handler is None else RawConnection
    return kind(port, accepted)


@attrs.define(eq=False)
class Admission:
    """Lets clients in, as many as there is room for."""

    port: ActorPort
    door: Doorkeeper
    statistics: Statistics
    max_total: int
    handshake_timeout: float
    make: Callable[[ActorPort, Accepted], Connection] = _make  # the actor of one let in
    suspended: bool = False
    admitted: int = 0  # with a permit: in their handshake, or connected
    _refusing: int = 0

    def transport(
        self, connected: socket.socket, peer: str, tls: ssl.SSLContext | None
    ) -> Transport | None:
        """Make a transport of an accepted socket; None if it is broken already."""
        try:
            if tls is None:
                return SocketTransport(connected, peer)
            return TlsTransport(connected, tls, peer)
        except OSError:  # it was reset before its options could be set
            self.statistics.accepted += 1
            self.statistics.left_early += 1
            connected.close()
            return None

    async def serve(self, transport: Transport) -> None:
        """Serve one transport to its end, and close it."""
        self.statistics.accepted += 1
        if self.suspended or self.admitted >= self.max_total:
            await self._turn_away(transport)
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
        """Perform the handshake within its deadline; None if it came to nothing."""
        refusal = HandshakeRefused(408, ErrorCode.TIMEOUT, "the handshake took too long")
        try:
            started = trio.current_time()
            with trio.move_on_after(self.handshake_timeout):
                accepted = await self._shake_hands(transport)
                self.statistics.handshakes.observe(trio.current_time() - started)
                return self.make(self.port, accepted)
        except HandshakeRefused as error:
            refusal = error
        except (PeerLeft, OSError, trio.BrokenResourceError):
            self.statistics.left_early += 1
            return None
        except Exception as error:  # noqa: BLE001 - containment: a hook of the program, mostly
            self._log("error", "handshake_failed", exc_info=error)
            refusal = HandshakeRefused(500, ErrorCode.INTERNAL, "the server failed")
        await self._refuse(transport, refusal)
        return None

    async def _shake_hands(self, transport: Transport) -> Accepted:
        if isinstance(transport, TlsTransport):
            await transport.handshake()
        return await handshake(transport, self.door)

    async def _turn_away(self, transport: Transport) -> None:
        """Tell a client that there is no room, reading no more than its request's head."""
        self._refusing += 1
        try:
            if self._refusing <= _MAX_REFUSALS:
                text = "this server is draining" if self.suspended else "this server is full"
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
        self._log(
            "info",
            "refused",
            status=refusal.status,
            reason=refusal.text,
            peer=transport.peer,
        )
        # A client that does not wait to read why is refused all the same.
        with (
            contextlib.suppress(OSError, trio.BrokenResourceError),
            trio.move_on_after(_REFUSAL_TIME),
        ):
            if tls_first and isinstance(transport, TlsTransport):
                await transport.handshake()
            await refuse(transport, refusal, self.port.tick.wall_time())

    def _log(self, level: str, event: str, **fields: Any) -> None:
        self.port.supervisor.log_event(level, event, **fields)


def doorkeeper(settings: Settings, app: App, verify: Callable[[str], Identity]) -> Doorkeeper:
    """Make what decides who comes in, out of the settings and what the program registered."""
    needs_token = not (settings.anonymous or settings.development)
    endpoints = app.endpoints or {settings.path: Endpoint(settings.path)}
    origins = frozenset(origin.lower() for origin in settings.allowed_origins)
    return Doorkeeper(
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
