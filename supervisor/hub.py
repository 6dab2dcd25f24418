"""The harbor: the supervisor's side of the actors' port.

Here the tables are owned (who is connected, who is subscribed to what), and what an actor asks of
its supervisor is decided within the limits. All of it is synchronous. Starting and ending tasks is
not this file's business but `supervisor.py`'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Any

import attrs
import msgspec
import trio

from ..actors.connection.connection import Connection
from ..actors.connection.limits import ConnectionLimits
from ..actors.connection.mailbox import MailboxPort, OverloadPolicy
from ..actors.ports import ActorPort
from ..actors.session.session import Session
from ..actors.tick import Tick
from ..protocol.access import AccessRules, Action
from ..protocol.closing import CloseCause
from ..protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ..protocol.identity import Identity
from ..protocol.messages.codec import encode_value, head, splice, timestamp
from ..protocol.messages.topics import PatternSet, parse_pattern, require_topic
from ..protocol.messages.types import Gap, MessageType
from ..protocol.websocket.frames import encode_text
from .app import App
from .config.settings import Settings
from .entrance.tokens import TokenVerifier
from .operations.events import Events
from .registry import Registry
from .telemetry.logs import EventLog, Logger
from .telemetry.statistics import Statistics
from .topics.routing import Router


class Harbor:
    """The tables, and what actors may do with them; implements `SupervisorPort`."""

    def __init__(self, settings: Settings, app: App, logger: Logger) -> None:
        self.settings = settings
        self.app = app
        self.tick = Tick()
        self.statistics = Statistics(self.tick.wall_time())
        self.registry = Registry(
            settings.max_connections_per_user, settings.max_connections_per_address
        )
        self.router = Router(
            self.tick, self.statistics.traffic, _policies(settings), on_dropped=_log_dropped
        )
        # Where callbacks about connections that are over run; set while the supervisor runs.
        self.nursery: trio.Nursery | None = None
        # Set while the server drains or stops: ends those whose handshake was under way then.
        self.on_late_arrival: Callable[[Connection], None] | None = None
        self._emptied: trio.Event | None = None
        # What operators watch; emitting costs nothing while nobody does.
        self.events = Events(self.tick)
        self._log = EventLog(logger, self.tick.now)
        self._verifier = TokenVerifier.from_settings(settings)
        self._access = AccessRules(
            PatternSet(settings.subscribe_patterns), PatternSet(settings.publish_patterns)
        )
        self.port = ActorPort(
            tick=self.tick,
            limits=_connection_limits(settings),
            mailbox=MailboxPort(settings.max_mailbox_size, self.tick.now, self._gap_frame),
            traffic=self.statistics.traffic,
            handlers=app.handlers,
            authorizers=app.authorizers,
            supervisor=self,
        )

    # The life of a connection

    def arrived(self, connection: Connection) -> None:
        """Enter a connection; one too many of its user or address is closed."""
        if self.on_late_arrival is not None:
            self.on_late_arrival(connection)
            return
        try:
            self.registry.add(connection)
        except ProtocolError as error:
            connection.end(CloseCause.TOO_MANY_CONNECTIONS, reason=error.message)
            return
        connection.log(
            "info", "connected", address=connection.address, path=connection.endpoint.path
        )
        for callback in self.app.connected_callbacks:
            self._call_back(connection.nursery, connection, callback, connection)

    def authenticated(self, connection: Connection, before: Identity) -> None:
        """Follow a connection's change of identity."""
        self.registry.set_user(connection, before.user_id)
        expires_at = connection.identity.expires_at
        connection.log(
            "info",
            "authenticated",
            expires_at=None if expires_at is None else timestamp(expires_at).decode(),
        )

    def ended(self, connection: Connection, cause: CloseCause, error: BaseException | None) -> None:
        """Take a connection out of all tables, and write its last line."""
        self.router.remove(connection)
        had_arrived = self.registry.remove(connection)
        self.statistics.closed[cause] += 1
        fields: dict[str, Any] = {} if error is None else {"exc_info": error}
        connection.log(
            "info" if cause.expected and error is None else "error",
            "disconnected",
            cause=cause.value,
            code=connection.close_code,
            seconds=round(self.tick.wall_time() - connection.connected_at, 3),
            messages_in=connection.messages_in,
            messages_out=connection.mailbox.messages_out,
            **fields,
        )
        if had_arrived:
            for callback in self.app.disconnected_callbacks:
                self._call_back(self.nursery, connection, callback, connection, cause)
        if not self.registry.by_id and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    async def wait_empty(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        while self.registry.by_id:
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()

    def verify(self, token: str) -> Identity:
        """Verify a token; RemoteProtocolError if it is not good."""
        return self._verifier.verify(token)

    # Topics

    def check_access(self, action: Action, identity: Identity, topic: str) -> None:
        """RemoteProtocolError if the settings or the token do not allow it."""
        self._access.check(action, identity, topic)

    def subscribe(self, connection: Connection, topic: str) -> bool:
        """Enter a subscription, within the limits; False if there was one, or the end is near."""
        if topic in connection.topics or not connection.is_open:
            return False  # what is entered for a connection that is over would stay for ever
        most = self.settings.max_topics_per_connection
        if len(connection.topics) >= most:
            text = f"a connection may subscribe to {most} topics"
            raise RemoteProtocolError(text, ErrorCode.SUBSCRIPTION_LIMIT, topic=topic)
        entry = self.router.topics.get(topic)
        most = self.settings.max_connections_per_topic
        if entry is not None and len(entry.subscribers) >= most:
            text = f"{topic!r} has {most} subscribers already, which is all that it may have"
            raise RemoteProtocolError(text, ErrorCode.TOPIC_LIMIT, topic=topic)
        if self.events.streams:
            self._emit("subscribed", connection, topic)
        return self.router.subscribe(topic, connection)

    def unsubscribe(self, connection: Connection, topic: str) -> bool:
        """Take a subscription out; False if there was none."""
        if self.events.streams and topic in connection.topics:
            self._emit("unsubscribed", connection, topic)
        return self.router.unsubscribe(topic, connection)

    def _emit(self, event: str, connection: Connection, topic: str) -> None:
        """Tell who watches of a subscription; clients could flood a log with them."""
        fields = {"connection_id": connection.id, "user_id": connection.user_id, "topic": topic}
        self.events.emit(event, fields)

    def publish_raw(self, topic: str, data: msgspec.Raw) -> int:
        """Publish a client's data, unparsed; return how many are addressed."""
        return self.router.publish_raw(topic, data)

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish from the program; return how many are addressed."""
        require_topic(topic)
        by_id = self.registry.by_id
        excluded = [by_id[name] for name in exclude if name in by_id] if exclude else ()
        return self.router.publish(topic, message_type, encode_value(data), excluded)

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send to all of a user's connections; return how many those are."""
        frame = self._frame(message_type, data)
        connections = self.registry.of_user(str(user_id))
        return sum(_speaks(connection) and connection.owe([frame]) for connection in connections)

    def send_to_connection(self, connection_id: str, message_type: str, data: Any = None) -> bool:
        """Send to one connection; False if there is none of that id, or a raw one."""
        frame = self._frame(message_type, data)
        connection = self.registry.by_id.get(connection_id)
        return connection is not None and _speaks(connection) and connection.owe([frame])

    def _frame(self, message_type: str, data: Any) -> bytes:
        return encode_text(splice(head(message_type), encode_value(data), self.tick.stamp()))

    def _gap_frame(self, topic: str, dropped: int) -> bytes:
        data = encode_value(attrs.asdict(Gap(dropped)))
        return encode_text(splice(head(MessageType.GAP, topic), data, self.tick.stamp()))

    # The program's callbacks, and the log

    def _call_back(
        self,
        nursery: trio.Nursery | None,
        connection: Connection,
        callback: Callable[..., Awaitable[None] | None],
        *arguments: Any,
    ) -> None:
        """Call a callback of the program; an async one gets a task, and `handler_timeout`."""
        try:
            result = callback(*arguments)
        except Exception as error:  # noqa: BLE001 - containment
            self.statistics.traffic.handler_errors += 1
            connection.log("error", "callback_failed", exc_info=error)
            return
        if inspect.isawaitable(result) and nursery is not None:
            nursery.start_soon(self._finish_callback, connection, result)

    async def _finish_callback(self, connection: Connection, result: Awaitable[None]) -> None:
        try:
            with trio.fail_after(self.settings.handler_timeout):
                await result
        except Exception as error:  # noqa: BLE001 - containment
            self.statistics.traffic.handler_errors += 1
            connection.log("error", "callback_failed", exc_info=error)

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line."""
        if self.events.streams:
            self.events.emit(event, fields)
        self._log.write(level, event, fields)


def _log_dropped(connection: Connection, topic: str, messages: int) -> None:
    connection.log("warning", "dropped", topic=topic, messages=messages)


def _speaks(connection: Connection) -> bool:
    """Whether a connection speaks the message protocol; what raw ones speak is their own."""
    return isinstance(connection, Session)


def _connection_limits(settings: Settings) -> ConnectionLimits:
    names = attrs.fields_dict(ConnectionLimits).keys() - {"authentication_timeout"}
    return ConnectionLimits(
        authentication_timeout=settings.handshake_timeout,
        **{name: getattr(settings, name) for name in names},
    )


def _policies(settings: Settings) -> Callable[[str], OverloadPolicy]:
    """Return what finds a topic's overload policy: the first pattern that matches counts."""
    rules = [
        (parse_pattern(pattern), OverloadPolicy(policy))
        for pattern, policy in settings.overload.items()
    ]

    def policy_of(topic: str) -> OverloadPolicy:
        matching = (policy for pattern, policy in rules if pattern.matches(topic))
        return next(matching, OverloadPolicy.DISCONNECT)

    return policy_of
