"""The control room: where operators come in, and what their commands lead to.

Admin sessions are no clients: they have their own listeners, their own admission (so that a server
that is full or suspended still answers its operators), their own counters, and no place in the
tables of connections and topics. They end last, so that a drain can be watched to its end.

Who comes by the Unix socket is let in without a token: the file's mode is the lock, and the kernel
says which process it is. Everyone else shows a token with `role: admin`.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import msgspec
import trio

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import MailboxPort
from ...actors.entrance.endpoint import Endpoint, UpgradeRequest
from ...actors.entrance.forwarded import TrustedProxies
from ...actors.entrance.handshake import Accepted, Doorkeeper, HandshakeRefused
from ...actors.ports import ActorPort
from ...actors.session.admin_session import ControlSession
from ...actors.transports.transport import Transport
from ...protocol.access import Action
from ...protocol.admin import answers, commands
from ...protocol.admin.commands import Command, read_command
from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity
from ..entrance.admission import Admission
from ..entrance.listeners import Listener
from ..hub import Harbor
from ..telemetry.statistics import Statistics
from .tree import CLIENT_OF

if TYPE_CHECKING:
    from .operations import Operations

CONTROL_PATH: Final = "/"
"""Where operators connect to: `ws+unix:///path/to/control.sock:/`."""

_MAX_SESSIONS: Final = 100
"""Admin sessions at one time: people and scripts, not clients."""

_MAX_MESSAGE: Final = 1_048_576
_MAX_MAILBOX: Final = 4_194_304
"""Bytes: room for the largest page of connections, and for a while of events."""

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: process, user, group


class ControlRoom:
    """Admin sessions, from the listener to the last line; their `SupervisorPort`."""

    def __init__(self, harbor: Harbor) -> None:
        self._harbor = harbor
        self.operations: Operations | None = None  # set before anybody comes in
        self.sessions: dict[str, ControlSession] = {}
        self.listeners: list[Listener] = []
        self.statistics = Statistics(harbor.tick.wall_time())  # nobody's but the sessions' own
        # Of the sessions, and of what they started that outlives them; set while serving.
        self.nursery: trio.Nursery | None = None
        self._emptied = trio.Event()
        settings = harbor.settings
        port = ActorPort(
            tick=harbor.tick,
            limits=attrs.evolve(
                harbor.port.limits,
                handler_timeout=math.inf,  # a drain takes as long as its own timeout says
                max_message_size=_MAX_MESSAGE,
                message_rate=0.0,
                byte_rate=0.0,
            ),
            mailbox=MailboxPort(_MAX_MAILBOX, harbor.tick.now, harbor.port.mailbox.gap_frame),
            traffic=self.statistics.traffic,
            handlers={},
            authorizers={},
            supervisor=self,
        )
        self._remote, self._local = (
            Admission(
                port,
                self._door(by_token=by_token),
                self.statistics,
                _MAX_SESSIONS,
                settings.handshake_timeout,
                make=self._make,
            )
            for by_token in (True, False)
        )

    def _door(self, *, by_token: bool) -> Doorkeeper:
        settings = self._harbor.settings
        origins = frozenset(origin.lower() for origin in settings.allowed_origins) - {"*"}
        return Doorkeeper(
            endpoints={CONTROL_PATH: Endpoint(CONTROL_PATH, require_auth=by_token)},
            verify=self._harbor.verify,
            query_token=settings.query_token,
            allowed_origins=origins,  # by name: what any page may do, it may not do here
            trusted_proxies=TrustedProxies.parse(settings.trusted_proxies if by_token else ()),
            max_request_head=settings.max_request_head,
            authorize=_require_admin,
        )

    def _make(self, port: ActorPort, accepted: Accepted) -> ControlSession:
        return ControlSession(port, accepted, self)

    # From the listener to the session

    async def accept(self, listener: Listener) -> None:
        """Accept operators until the listener is closed. Cancelling is safe."""
        name = f"{CLIENT_OF}control listener on {listener.url}"

        def start(connected: socket.socket, peer: str) -> None:
            local = listener.unix_path is not None
            admission = self._local if local else self._remote
            peer = _process_of(connected) if local else peer
            transport = admission.transport(connected, peer, listener.tls)
            if transport is not None:
                self._serve(admission, transport, name)

        await listener.accept_all(start, self._on_exhausted)

    def serve(self, transport: Transport) -> None:
        """Serve an operator that came by other means than a listener; needs an admin's token."""
        self._serve(self._remote, transport, "admin session")

    def _serve(self, admission: Admission, transport: Transport, name: str) -> None:
        self.start_soon(partial(admission.serve, transport), name)

    def start_soon(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Start what an operator has asked for, and what outlives the session that did."""
        assert self.nursery is not None  # noqa: S101 - it is there while serving
        self.nursery.start_soon(function, name=name)

    def _on_exhausted(self, error: OSError) -> None:
        self.log_event("error", "accept_failed", error=error.strerror)

    async def stop(self) -> None:
        """End all sessions with a goodbye, within `close_timeout`. Cancelling is safe."""
        for session in tuple(self.sessions.values()):
            session.end(CloseCause.STOPPED)
        with trio.move_on_after(self._harbor.settings.close_timeout + 1):
            while self.sessions:
                self._emptied = trio.Event()
                await self._emptied.wait()
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    # What a session may ask for: `CommandPort`

    def run(
        self,
        session: ControlSession,
        command: str,
        data: Any,
        on_progress: Callable[[Any], None],
    ) -> Any:
        """Do a command, or return the coroutine that does; `CommandPort.run`."""
        if command not in commands.REQUESTS:
            known = ", ".join(commands.REQUESTS)
            text = f"there is no command {command!r}; known are: {known}"
            raise RemoteProtocolError(text, ErrorCode.UNKNOWN_TYPE)
        asked = read_command(data, commands.REQUESTS[Command(command)])
        operations = self.operations
        assert operations is not None  # noqa: S101 - the supervisor has set it
        by = session.who
        match asked:
            case commands.Connections():
                return operations.snapshots.connections(asked)
            case commands.Connection():
                return operations.connection(asked.connection_id)
            case commands.Topics():
                return operations.snapshots.topics(asked)
            case commands.Topic():
                return operations.topic(asked.topic)
            case commands.Disconnect():
                return operations.disconnect(**_fields(asked), by=by)
            case commands.Cleanup():
                return operations.cleanup(asked.quiet_for, by=by)
            case commands.Broadcast():
                return operations.broadcast(**_fields(asked), by=by)
            case commands.Drain():
                return operations.drain(asked.timeout, by=by, on_progress=on_progress)
            case commands.Watch():
                return self._watch(session, asked)
            case commands.Tree():
                return operations.tree(asked.limit)
            case _ if command == Command.STATS:
                return operations.stats()
            case _ if command == Command.HEALTH:
                return operations.health()
            case _ if command == Command.SUSPEND:
                return operations.suspend(by=by)
            case _:
                return operations.resume(by=by)

    def _watch(self, session: ControlSession, asked: commands.Watch) -> answers.Watching:
        topic = self._harbor.events.watch(session, asked.events)
        return answers.Watching(asked.events, topic)

    # What a session's life asks for: `SupervisorPort`

    def arrived(self, connection: Connection) -> None:
        """Enter a session."""
        assert isinstance(connection, ControlSession)  # noqa: S101 - `_make` makes no others
        self.sessions[connection.id] = connection
        self.log_event(
            "info",
            "connected",
            connection_id=connection.id,
            user_id=connection.user_id,
            address=connection.address,
        )

    def authenticated(self, connection: Connection, before: Identity) -> None:  # noqa: ARG002 - as in `SupervisorPort`
        """Let a session bring a fresh token; it must be an admin's as well."""
        if not connection.identity.is_admin:
            text = "this token's role is not `admin`"
            raise RemoteProtocolError(text, ErrorCode.FORBIDDEN)

    def ended(self, connection: Connection, cause: CloseCause, error: BaseException | None) -> None:
        """Take a session out, and write its last line."""
        self._harbor.events.forget(connection)
        self.sessions.pop(connection.id, None)
        self.statistics.closed[cause] += 1
        fields: dict[str, Any] = {} if error is None else {"exc_info": error}
        self.log_event(
            "info" if cause.expected and error is None else "error",
            "disconnected",
            connection_id=connection.id,
            user_id=connection.user_id,
            cause=cause.value,
            code=connection.close_code,
            seconds=round(self._harbor.tick.wall_time() - connection.connected_at, 3),
            **fields,
        )
        if not self.sessions:
            self._emptied.set()

    def verify(self, token: str) -> Identity:
        """Verify a token; RemoteProtocolError if it is not good."""
        return self._harbor.verify(token)

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line; it says that it is not about a client."""
        self._harbor.log_event(level, f"control_{event}", **fields)

    def unsubscribe(self, connection: Connection, topic: str) -> bool:
        """Deliver what is owed of a stream of events, and end it: part of a session's goodbye."""
        was_watched = topic in connection.topics
        self._harbor.events.unwatch(connection)
        return was_watched

    # The rest of `SupervisorPort`: an admin session has no topics, and its commands do the sending.

    def check_access(self, action: Action, identity: Identity, topic: str) -> None:  # noqa: ARG002 - as in `SupervisorPort`
        """Forbid it."""
        _forbid()

    def subscribe(self, connection: Connection, topic: str) -> bool:  # noqa: ARG002 - as above
        """Forbid it."""
        _forbid()

    def publish_raw(self, topic: str, data: msgspec.Raw) -> int:  # noqa: ARG002 - as above
        """Forbid it."""
        _forbid()

    def broadcast_to_topic(
        self,
        topic: str,  # noqa: ARG002 - as above
        message_type: str,  # noqa: ARG002 - as above
        data: Any,  # noqa: ARG002 - as above
        *,
        exclude: AbstractSet[str],  # noqa: ARG002 - as above
    ) -> int:
        """Forbid it."""
        _forbid()

    def send_to_user(self, user_id: str | int, message_type: str, data: Any) -> int:  # noqa: ARG002 - as above
        """Forbid it."""
        _forbid()


def _forbid() -> NoReturn:
    text = "an admin session has no topics: use the admin commands"
    raise RemoteProtocolError(text, ErrorCode.FORBIDDEN)


def _require_admin(request: UpgradeRequest) -> bool:
    """Refuse every token but an admin's; without one, only the Unix socket lets anybody in."""
    if not request.identity.is_anonymous and not request.identity.is_admin:
        text = "the control socket is for tokens with `role: admin`"
        raise HandshakeRefused(403, ErrorCode.FORBIDDEN, text)
    return True


def _process_of(connected: socket.socket) -> str:
    """Return who is at the other end of a Unix socket, as the kernel tells it."""
    try:
        packed = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "local"
    process, user, _ = _CREDENTIALS.unpack(packed)
    return f"uid {user}, pid {process}"


def _fields(asked: Any) -> Mapping[str, Any]:
    """Return a payload's fields by name, as keyword arguments."""
    return attrs.asdict(asked, recurse=False)
