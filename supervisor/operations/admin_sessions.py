"""The admin sessions: their admission, their tasks, and their commands.

Admin sessions are not clients. They have listeners, an admission and counters of their own, and are
not in the tables of connections and topics. So a server that is full or suspended still answers its
operators. They end last, so that operators can watch a drain to its end.

A process that connects by the Unix socket is let in without a token: the mode of the socket's file
decides which processes can, and the kernel names the process. All others need a token with
`role: admin`.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import msgspec
import trio

from ...actors.containment import Boundary, contain
from ...actors.entrance.endpoint import Endpoint, UpgradeRequest
from ...actors.entrance.forwarded import TrustedProxies
from ...actors.entrance.handshake import Authenticator, HandshakeRefused
from ...actors.session.admin_session import AdminSession
from ...actors.transports.transport import Transport
from ...protocol.admin.commands import COMMANDS, read_raw_request
from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.loopback import LOOPBACK
from ..core import CLIENT_OF
from ..entrance.admission import Admission
from ..entrance.descriptors import LEAVE_TO_LOCAL_OPERATORS, Shortage
from ..entrance.listeners import Listener
from ..parts import Parts
from ..telemetry.statistics import Statistics
from .operations import Caller, Operations

CONTROL_PATH: Final = "/"
"""The path of the URL that operators connect to: `ws+unix:///path/to/control.sock:/`."""

_MAX_SESSIONS: Final = 100
"""Admin sessions at the same time: as many by the Unix socket, and as many by token."""

_MAX_HANDSHAKES: Final = 100
"""Handshakes of operators under way, as many by each of the two ways; see `Newcomers`."""

MAX_COMMAND: Final = 1_048_576
"""Bytes of one message to an admin session, by whatever way it comes."""

_MAX_MAILBOX: Final = 4_194_304
"""Bytes: room for the largest page of connections, and for the events of some time."""

_CREDENTIALS: Final = struct.Struct("3i")  # `struct ucred` of Linux: process, user, group


class AdminSessions:
    """The admin sessions of a server; implements `LifePort` and `CommandPort` for them."""

    def __init__(self, parts: Parts, operations: Operations) -> None:
        """Take the parts of the server, and the operations that carry out the commands."""
        self._parts = parts
        self._operations = operations
        self.sessions = operations.sessions
        self._events = operations.events
        # The sessions' own counters: those of the server are about clients only.
        self.statistics = Statistics(parts.tick.wall_time())
        self._shortage = Shortage(self.log_event, self.statistics)
        # Has the sessions' tasks; set while serving.
        self._nursery: trio.Nursery | None = None
        self._emptied = trio.Event()
        shared = attrs.evolve(
            parts.shared,
            limits=attrs.evolve(
                parts.shared.limits,
                handler_timeout=math.inf,  # a drain takes as long as its own timeout says
                max_message_size=MAX_COMMAND,
                message_rate=0.0,
                byte_rate=0.0,
            ),
            mailbox=attrs.evolve(parts.shared.mailbox, limit=_MAX_MAILBOX),
            traffic=self.statistics.traffic,
            life=self,
        )
        self._remote, self._local = (
            Admission(
                tick=parts.tick,
                poller=parts.admission.poller,
                log_event=self.log_event,
                statistics=self.statistics,
                authenticator=self._authenticator(by_token=by_token),
                max_total=_MAX_SESSIONS,
                max_handshakes=_MAX_HANDSHAKES,
                handshake_timeout=parts.settings.handshake_timeout,
                make=lambda accepted: AdminSession(shared, accepted, self),
            )
            for by_token in (True, False)
        )

    def _authenticator(self, *, by_token: bool) -> Authenticator:
        settings = self._parts.settings
        # Without `*`, which is for clients only. No page can open a Unix socket, and those who can
        # may name it as they like.
        origins = settings.origins - {"*"} - (set() if by_token else {LOOPBACK})
        return Authenticator(
            endpoints={CONTROL_PATH: Endpoint(CONTROL_PATH, require_auth=by_token)},
            verify=self.verify,
            query_token=settings.query_token,
            allowed_origins=origins,
            trusted_proxies=TrustedProxies.parse(settings.trusted_proxies if by_token else ()),
            max_request_head=settings.max_request_head,
            authorize=_require_admin,
        )

    # From the listener to the session

    @asynccontextmanager
    async def serving(self, listeners: Iterable[Listener]) -> AsyncGenerator[None]:
        """Serve operators while the block runs; then end their sessions, within `close_timeout`."""
        listeners = tuple(listeners)
        async with trio.open_nursery() as self._nursery:
            # What follows this nursery is outside of it: it would be cancelled with the listeners.
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    name = f"control listener on {listener.url}"
                    accepting.start_soon(self._accept, listener, name=name)
                yield
                for listener in listeners:
                    listener.close()
                accepting.cancel_scope.cancel()
            await self._stop()

    async def _accept(self, listener: Listener) -> None:
        name = f"{CLIENT_OF}control listener on {listener.url}"
        local = listener.unix_path is not None
        admission = self._local if local else self._remote

        def start(connected: socket.socket, peer: str) -> None:
            peer = _process_of(connected) if local else peer
            transport = admission.transport(connected, peer, listener.tls)
            if transport is not None:
                self._serve(admission, transport, name)

        leave = 0.0 if local else LEAVE_TO_LOCAL_OPERATORS
        with Boundary(partial(self._on_listener_failed, listener)):
            await listener.accept_all(
                start, self._shortage, leave=leave, make_room=admission.handshakes.make_room
            )

    def serve(self, transport: Transport) -> None:
        """Serve an operator that came by other means than a listener; it needs a token."""
        self._serve(self._remote, transport, "admin session")

    def _serve(self, admission: Admission, transport: Transport, name: str) -> None:
        assert self._nursery is not None  # noqa: S101 - it is there while serving
        self._nursery.start_soon(admission.serve, transport, name=name)

    def _on_listener_failed(self, listener: Listener, error: BaseException) -> None:
        self.log_event("error", "listener_failed", address=listener.url, exc_info=error)

    def hurry(self, deadline: float) -> None:
        """Let all goodbyes end by that time, in trio's time, also those that have begun."""
        for session in self.sessions.values():
            session.hurry(deadline)

    async def _stop(self) -> None:
        """End all sessions with a goodbye, within `close_timeout`."""
        for session in tuple(self.sessions.values()):
            session.end(CloseCause.STOPPED)
        with trio.move_on_after(self._parts.settings.close_timeout + 1):
            while self.sessions:
                self._emptied = trio.Event()
                await self._emptied.wait()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # `CommandPort`: the commands of a session

    def run(
        self,
        session: AdminSession,
        command: str,
        data: msgspec.Raw,
        on_progress: Callable[[Any], None],
    ) -> Any:
        """Carry out a command, as `CommandPort.run` says."""
        row = COMMANDS.get(command)
        if row is None:
            text = f"there is no command {command!r}; known are: {', '.join(COMMANDS)}"
            raise RemoteProtocolError(text, ErrorCode.UNKNOWN_TYPE)
        request = read_raw_request(data, row.request)
        return self._operations.run(row, request, Caller(session.operator, on_progress, session))

    def unwatch(self, session: AdminSession) -> None:
        """End a session's stream of events, and deliver what is owed of it."""
        self._events.unwatch(session)

    # `LifePort`: the life of a session

    def arrived(self, connection: AdminSession) -> None:
        """Enter a session."""
        connection.hurry(self._parts.hub.end_by)
        self.sessions[connection.id] = connection
        self.log_event(
            "info",
            "connected",
            connection_id=connection.id,
            user_id=connection.user_id,
            address=connection.address,
        )

    def authenticated(self, connection: AdminSession, before: Identity) -> None:  # noqa: ARG002 - as in `LifePort`
        """Let a session renew its token; RemoteProtocolError if it has no `role: admin`."""
        if not connection.identity.is_admin:
            text = "this token's role is not `admin`"
            raise RemoteProtocolError(text, ErrorCode.FORBIDDEN)

    def lingers(self, connection: AdminSession) -> None:
        """Do nothing: no code of a program runs in a session."""

    def ended(self, connection: AdminSession, cause: CloseCause) -> None:
        """Take a session out, and write its last log line."""
        self.sessions.pop(connection.id, None)
        try:
            self._events.forget(connection)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, partial(self._on_defect, connection))
        self.statistics.closed[cause] += 1
        self.log_event(
            "info" if cause.expected else "error",
            "disconnected",
            connection_id=connection.id,
            user_id=connection.user_id,
            cause=cause.value,
            code=connection.close_code,
            seconds=round(self._parts.tick.now() - connection.began, 3),
        )
        if not self.sessions:
            self._emptied.set()

    def _on_defect(self, connection: AdminSession, error: BaseException) -> None:
        connection.log("error", "connection_failed", exc_info=error)

    def verify(self, token: str) -> Identity:
        """Verify a token and return its identity; RemoteProtocolError if it is not good."""
        return self._parts.hub.verify(token)

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line; `control_` tells it from lines about clients."""
        self._parts.log.write(level, f"control_{event}", **fields)


def _require_admin(request: UpgradeRequest) -> bool:
    """Refuse a token without `role: admin`; only the Unix socket lets in requests without one."""
    if not request.identity.is_anonymous and not request.identity.is_admin:
        text = "the control socket is for tokens with `role: admin`"
        raise HandshakeRefused(403, ErrorCode.FORBIDDEN, text)
    return True


def _process_of(connected: socket.socket) -> str:
    """Return the user and the process at the other end of a Unix socket, as the kernel says."""
    try:
        packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "local"
    process, user, _ = _CREDENTIALS.unpack(packed)
    return f"uid {user}, pid {process}"
