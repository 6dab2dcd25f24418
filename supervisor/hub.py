"""The hub: the tables of connections by id, by user and by address, and direct messages to them.

It implements the actors' ports `LifePort` and `SendingPort`. All of it is synchronous, apart from
waiting for the last connection to end. `core.py` starts and ends the connections' tasks; `topics/`
has the topics.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, TypeAlias, TypeVar

import attrs
import trio

from ..actors.connection.raw import RawActor, RawConnection
from ..actors.containment import apart, contain
from ..actors.session.session import Session, SessionActor
from ..actors.tick import Tick
from ..protocol.closing import CloseCause
from ..protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ..protocol.identity import Identity
from ..protocol.messages.codec import encode_value, head, splice, timestamp
from ..protocol.websocket.frames import encode_text
from .app import App
from .config.settings import Settings
from .entrance.tokens import TokenVerifier
from .server_lifecycle import ServerLifecycle
from .telemetry.logs import EventLog
from .telemetry.statistics import Statistics
from .topics.pubsub import PubSub
from .waiting import Endings

ClientActor: TypeAlias = SessionActor | RawActor
"""The actor of a client, which speaks the message protocol or a protocol of the program's own."""

ResultT = TypeVar("ResultT")


@attrs.define(eq=False)
class Hub:
    """The table of connections, from arrival to end; implements `LifePort` and `SendingPort`."""

    settings: Settings
    app: App
    tick: Tick
    log: EventLog
    statistics: Statistics
    lifecycle: ServerLifecycle
    verifier: TokenVerifier
    pubsub: PubSub
    endings: Endings
    by_id: dict[str, ClientActor] = attrs.field(factory=dict[str, ClientActor], init=False)
    by_user: dict[str, dict[ClientActor, None]] = attrs.field(
        factory=dict[str, dict[ClientActor, None]], init=False
    )
    by_address: dict[str, int] = attrs.field(
        factory=dict[str, int], init=False
    )  # the number of its connections
    # For callbacks about connections that are over; set while the server serves.
    nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    # Gives a connection a place when its token has come; RemoteProtocolError: there is none. The
    # admission's, which is made after the hub.
    take_place: Callable[[ClientActor], None] = attrs.field(default=lambda _: None, init=False)
    # Seconds over which the return of clients that are sent away is spread; set by each draining.
    reconnect_spread: float = attrs.field(default=1.0, init=False)
    # Trio's time at which all goodbyes are over, whatever the peers do; set by a second signal.
    end_by: float = attrs.field(default=math.inf, init=False)
    _emptied: trio.Event | None = attrs.field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[ClientActor]:
        """Iterate over a copy, since connections may come and go meanwhile."""
        return iter(tuple(self.by_id.values()))

    def of_user(self, user_id: str | int) -> tuple[ClientActor, ...]:
        """Return all connections of a user, oldest first."""
        return tuple(self.by_user.get(str(user_id), ()))

    async def wait_empty(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        while self.by_id:
            if self._emptied is None:
                self._emptied = trio.Event()
            await self._emptied.wait()

    # The life of a connection

    def arrived(self, connection: ClientActor) -> None:
        """Enter a connection, or close it if its user or its address has too many.

        If the server began to drain or to stop during the connection's handshake, the connection is
        sent away at once.
        """
        state = self.lifecycle.state
        connection.hurry(self.end_by)
        if state.sends_away:
            self.send_away(connection)
            return
        if state.is_ending:
            connection.end(CloseCause.STOPPED)
            return
        try:
            self.enter(connection)
        except ProtocolError as error:
            connection.end(CloseCause.TOO_MANY_CONNECTIONS, reason=error.message)
            return
        connection.log(
            "info", "connected", address=connection.address, path=connection.endpoint.path
        )
        for callback in self.app.connected_callbacks:
            self._call_back(connection.nursery, connection, callback, connection.handle)

    def authenticated(self, connection: ClientActor, before: Identity) -> None:
        """Follow a change of identity.

        RemoteProtocolError: the server is full, or the user has too many connections.
        """
        self.take_place(connection)
        self.enter_user(connection, before.user_id)
        expires_at = connection.identity.expires_at
        connection.log(
            "info",
            "authenticated",
            expires_at=None if expires_at is None else timestamp(expires_at).decode(),
        )

    def lingers(self, connection: ClientActor) -> None:
        """Note that a connection ends, and has tasks that have not ended: handlers, mostly."""
        self.endings.expect(
            connection,
            self.settings.close_timeout,
            lambda: () if connection.nursery is None else connection.nursery.child_tasks,
            connection.id,
            connection.user_id,
        )

    def ended(self, connection: ClientActor, cause: CloseCause) -> None:
        """Take a connection out of all tables, and write its last log line.

        Each step is done whatever has failed in those before, so that no table keeps it.
        """
        self.endings.ended(connection)
        # Before its subscriptions are forgotten, which the handle still shows.
        handle = _attempt(self._last_handle, connection)
        had_arrived = _attempt(self.leave, connection)
        _attempt(self.pubsub.forget, connection)
        _attempt(self._note_end, connection, cause)
        if had_arrived:
            _attempt(self._call_disconnected, connection, cause, handle)
        if not self.by_id and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    def _note_end(self, connection: ClientActor, cause: CloseCause) -> None:
        self.statistics.closed[cause] += 1
        connection.log(
            "info" if cause.expected else "error",
            "disconnected",
            cause=cause.value,
            code=connection.close_code,
            seconds=round(self.tick.now() - connection.began, 3),
            messages_in=connection.messages_in,
            messages_out=connection.mailbox.messages_out,
        )

    def _last_handle(self, connection: ClientActor) -> Session | RawConnection | None:
        """Return the handle for the callbacks about the end; None if there are no callbacks."""
        if not self.app.disconnected_callbacks:
            return None
        is_session = isinstance(connection, SessionActor)
        return connection.last_handle() if is_session else connection.handle

    def _call_disconnected(
        self, connection: ClientActor, cause: CloseCause, handle: Session | RawConnection | None
    ) -> None:
        for callback in self.app.disconnected_callbacks:
            self._call_back(self.nursery, connection, callback, handle, cause)

    def verify(self, token: str) -> Identity:
        """Verify a token and return its identity; RemoteProtocolError if it is not good."""
        return self.verifier.verify(token)

    def send_away(self, connection: ClientActor) -> None:
        """End a connection, and let its client come back within `reconnect_spread` seconds."""
        if isinstance(connection, SessionActor):
            after = round(random.uniform(0.0, self.reconnect_spread), 3)  # noqa: S311 - spreads a load
            connection.disconnect(cause=CloseCause.DRAINED, reconnect_after=after)
        else:
            connection.end(CloseCause.DRAINED)

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line."""
        self.log.write(level, event, **fields)

    # Messages of the program

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish a message of the program; return how many connections are addressed."""
        excluded = [self.by_id[name] for name in exclude if name in self.by_id] if exclude else ()
        return self.pubsub.publish(topic, message_type, data, excluded)

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send a message to all sessions of a user; return how many there are."""
        frame = self.frame(message_type, data)
        return sum(_send(connection, frame) for connection in self.of_user(user_id))

    def send_to_connection(self, connection_id: str, message_type: str, data: Any = None) -> bool:
        """Send a message to one session; return False if there is none of that id."""
        frame = self.frame(message_type, data)
        connection = self.by_id.get(connection_id)
        return connection is not None and _send(connection, frame)

    def frame(self, message_type: str, data: Any) -> bytes:
        """Return a message without a topic as one frame."""
        return encode_text(splice(head(message_type), encode_value(data), self.tick.stamp()))

    # The tables

    def enter(self, connection: ClientActor) -> None:
        """Enter a connection into all tables.

        RemoteProtocolError: its user or its address has as many as it may; nothing changes then.
        """
        address = connection.address
        count = self.by_address.get(address, 0)
        most = self.settings.max_connections_per_address
        if address and most and count >= most:
            raise _too_many(f"your address may have {most} connections")
        self.enter_user(connection, None)
        self.by_id[connection.id] = connection
        if address:
            self.by_address[address] = count + 1

    def enter_user(self, connection: ClientActor, before: str | None) -> None:
        """Enter a connection under its new user; RemoteProtocolError if that user has too many."""
        user_id = connection.user_id
        if user_id is None or user_id == before:
            return
        most = self.settings.max_connections_per_user
        if most and len(self.by_user.get(user_id, ())) >= most:
            raise _too_many(f"a user may have {most} connections")
        self.by_user.setdefault(user_id, {})[connection] = None

    def leave(self, connection: ClientActor) -> bool:
        """Take a connection out of the tables; return False if it never was in them."""
        if self.by_id.pop(connection.id, None) is None:
            return False
        user_id = connection.user_id
        if user_id is not None and user_id in self.by_user:
            self.by_user[user_id].pop(connection, None)
            if not self.by_user[user_id]:
                del self.by_user[user_id]
        if connection.address:
            self.by_address[connection.address] -= 1
            if not self.by_address[connection.address]:
                del self.by_address[connection.address]
        return True

    # The program's callbacks

    def _call_back(
        self,
        nursery: trio.Nursery | None,
        connection: ClientActor,
        callback: Callable[..., Awaitable[None] | None],
        *arguments: Any,
    ) -> None:
        """Call a callback of the program; an async one gets a task and `handler_timeout`."""
        try:
            result = callback(*arguments)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, partial(self._on_callback_error, connection))
            return
        if inspect.isawaitable(result) and nursery is not None:
            if nursery is self.nursery:  # the whole server's
                result = apart(result)
            name = f"callback of {connection.id}"
            nursery.start_soon(self._finish_callback, connection, result, name=name)

    async def _finish_callback(self, connection: ClientActor, result: Awaitable[None]) -> None:
        task = trio.lowlevel.current_task()
        within = self.settings.handler_timeout
        user_id = connection.user_id
        self.endings.expect(task, within + 1, lambda: (task,), connection.id, user_id)
        try:
            with trio.fail_after(within):
                await result
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, partial(self._on_callback_error, connection), task)
        finally:
            self.endings.ended(task)

    def _on_callback_error(self, connection: ClientActor, error: BaseException) -> None:
        self.statistics.traffic.handler_errors += 1
        connection.log("error", "callback_failed", exc_info=error)


def _attempt(
    function: Callable[..., ResultT], connection: ClientActor, *arguments: Any
) -> ResultT | None:
    """Do something for a connection that is over; if that fails, log it and return None."""
    try:
        return function(connection, *arguments)
    except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
        contain(error, partial(_log_defect, connection))
        return None


def _log_defect(connection: ClientActor, error: BaseException) -> None:
    connection.log("error", "connection_failed", exc_info=error)


def _send(connection: ClientActor, frame: bytes) -> bool:
    """Send a frame to a client of the message protocol; return False for others."""
    return isinstance(connection, SessionActor) and connection.owe([frame])


def _too_many(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, ErrorCode.FORBIDDEN, close=CloseCause.TOO_MANY_CONNECTIONS)
