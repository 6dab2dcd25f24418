"""The one implementation of every admin command.

The control socket, the REST interface and the command line are thin clients of `Operations`. Each
row of `protocol.admin.commands.COMMANDS` is a method of its name here, and all methods have one
form: they take the command's request and the caller, and return its answer. A request that cannot
be done raises `RemoteProtocolError`, whose text says what would be right. Whatever changes the
server's state is logged with who asked for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from attrs import frozen

from ...actors.connection.connection import Connection
from ...actors.connection.lifecycle import ConnectionState
from ...actors.connection.pacer import PER_TURN, in_turns
from ...actors.session.admin_session import AdminSession
from ...actors.session.session import SessionActor
from ...protocol.admin import answers, commands
from ...protocol.admin.commands import EMPTY, AnswerT, Command, EmptyRequest, RequestT
from ...protocol.closing import CloseCause, is_sendable_close_code, should_reconnect
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ...protocol.messages.topics import check_topic
from ..core import ResumeRefused, ServerCore
from ..drain import Drain
from .events import Events
from .snapshots import Snapshots, check_limit
from .tree import actor_tree

_PROGRESS_INTERVAL: Final = 0.5
"""Seconds between two reports of a drain's progress."""

_MAX_REASON: Final = 123
"""Bytes of a Close frame's reason (RFC 6455, section 5.5, less the code)."""


@frozen(eq=False)
class Caller:
    """Who has given a command, and where to send what comes beside its answer."""

    # For the log: a user and an address, or the process at the other end of a Unix socket.
    by: str
    # Takes the reports of a command that sends any; None: the caller wants none.
    on_progress: Callable[[Any], None] | None = None
    # Takes the events of a `watch`; None: the caller has no connection that could.
    watcher: AdminSession | None = None


UNNAMED: Final = Caller(by="")
"""The caller of commands that change nothing, and so log nobody."""


class Operations:
    """Every admin command, for one server. What cannot block is synchronous."""

    def __init__(self, core: ServerCore) -> None:
        """Take the running server."""
        self._core = core
        self._parts = core.parts
        self._hub = core.parts.hub
        self.snapshots = Snapshots(core.parts)
        # The admin sessions, by id; `AdminSessions` enters them.
        self.sessions: dict[str, AdminSession] = {}
        # The events that admin sessions watch.
        parts = core.parts
        self.events = Events(parts.tick, (parts.log, parts.pubsub), self._on_events_lost)
        core.parts.tick.every_second = self.snapshots.rates.sample
        # The broadcasts that are being sent, in order; one task takes turns with others to do so.
        self._broadcasts: deque[tuple[bytes, list[Connection]]] = deque()

    def run(
        self, command: Command[RequestT, AnswerT], request: RequestT, caller: Caller
    ) -> AnswerT | Awaitable[AnswerT]:
        """Do a command; for one that takes time, return the coroutine that does."""
        return getattr(self, command.name)(request, caller)

    # Commands that change nothing

    def stats(self, _request: EmptyRequest = EMPTY, _caller: Caller = UNNAMED) -> answers.Stats:
        """Return all counters and rates."""
        return self.snapshots.stats(len(self.sessions))

    async def connections(
        self, request: commands.ConnectionsRequest, _caller: Caller = UNNAMED
    ) -> answers.ConnectionsPage:
        """Return a page of connections, oldest first; the filters narrow each other.

        RemoteProtocolError: a state, limit, cursor or topic that there cannot be.
        """
        return await self.snapshots.connections(request)

    def connection(
        self, request: commands.ConnectionRequest, _caller: Caller = UNNAMED
    ) -> answers.ConnectionDetail:
        """Return one connection, in detail; `NotFound` if there is none of that id."""
        return self.snapshots.connection(request.connection_id)

    def topics(
        self, request: commands.TopicsRequest, _caller: Caller = UNNAMED
    ) -> answers.TopicsPage:
        """Return a page of the topics that have subscribers, by name.

        RemoteProtocolError: a limit that there cannot be.
        """
        return self.snapshots.topics(request)

    def topic(
        self, request: commands.TopicRequest, _caller: Caller = UNNAMED
    ) -> answers.TopicDetail:
        """Return one topic; RemoteProtocolError if there can be none of that name."""
        return self.snapshots.topic(request.topic)

    def health(self, _request: EmptyRequest = EMPTY, _caller: Caller = UNNAMED) -> answers.Health:
        """Return whether the server lives, whether it is ready for new clients, and why not."""
        reason = self._core.state.reason
        return self.snapshots.health(() if reason is None else (reason,))

    async def tree(self, request: commands.TreeRequest, _caller: Caller = UNNAMED) -> answers.Actor:
        """Return the tree of actors; RemoteProtocolError for a limit that there cannot be."""
        limit = check_limit(request.limit)
        return await actor_tree(self._parts, tuple(self.sessions.values()), limit)

    def watch(self, request: commands.WatchRequest, caller: Caller) -> answers.Watching:
        """Send events to the caller's connection, and none of those it watched before.

        RemoteProtocolError: a pattern is wrong, or the caller has no such connection.
        """
        if caller.watcher is None:
            text = "events are sent to admin sessions only: `watch` on the control socket"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        topic = self.events.watch(caller.watcher, request.events)
        return answers.Watching(request.events, topic)

    # Connections and messages

    def disconnect(
        self, request: commands.DisconnectRequest, caller: Caller
    ) -> answers.Disconnected:
        """Close connections: those of these ids, of a user, or of a topic's subscribers.

        Their clients are told to stay away (4503), to come back where `reconnect` is set (4007), or
        what `code` says. Returns at once; the connections end with a goodbye, within
        `close_timeout`. RemoteProtocolError: not exactly one of the three says whose, or no Close
        frame can have this code or reason.
        """
        _exactly_one(
            connection_ids=request.connection_ids, user_id=request.user_id, topic=request.topic
        )
        _check_close(request)
        found, missing = self._targets(request)
        cause = CloseCause.RECONNECT if request.reconnect else CloseCause.DISCONNECTED
        closing = [connection for connection in found if connection.is_open]
        missing += [connection.id for connection in found if not connection.is_open]

        def end(connection: Connection) -> None:
            connection.end(cause, code=request.code, reason=request.reason or None)

        for connection in closing[:PER_TURN]:
            end(connection)
        if rest := closing[PER_TURN:]:
            self._core.start_service(partial(in_turns, rest, end, Connection.fail), "disconnect")
        closed = tuple(connection.id for connection in closing)
        self._log(
            "admin.disconnect",
            caller,
            disconnected=len(closed),
            for_user=request.user_id,
            topic=request.topic,
            reason=request.reason,
            reconnect=request.reconnect,
        )
        return answers.Disconnected(len(closed), closed, tuple(missing))

    def _targets(
        self, request: commands.DisconnectRequest
    ) -> tuple[Sequence[Connection], list[str]]:
        """Return the connections that are meant, and the ids of which there are none."""
        if request.user_id is not None:
            return list(self._hub.of_user(str(request.user_id))), []
        if request.topic is not None:
            entry = self._parts.router.topics.get(check_topic(request.topic))
            return [] if entry is None else list(entry.subscribers), []
        wanted = dict.fromkeys(request.connection_ids or ())
        by_id = self._hub.by_id
        found = [by_id[name] for name in wanted if name in by_id]
        return found, [name for name in wanted if name not in by_id]

    def broadcast(self, request: commands.BroadcastRequest, caller: Caller) -> answers.Broadcasted:
        """Send a message to a topic's subscribers, to a user, or to everyone; never waits.

        Everyone means every session that is open: not those that still have to show a token.
        RemoteProtocolError: not exactly one of the three says to whom, or the topic, type or data
        cannot be sent.
        """
        _exactly_one(
            topic=request.topic, user_id=request.user_id, everyone=request.everyone or None
        )
        try:
            recipients = self._broadcast(request, frozenset(request.exclude))
        except LocalProtocolError as error:  # the caller's mistake, not this program's
            raise RemoteProtocolError(error.message, error.code) from error
        self._log(
            "admin.broadcast",
            caller,
            recipients=recipients,
            message_type=request.message_type,
            topic=request.topic,
            for_user=request.user_id,
            everyone=request.everyone,
        )
        return answers.Broadcasted(recipients)

    def _broadcast(self, request: commands.BroadcastRequest, exclude: frozenset[str]) -> int:
        """Send a message, or begin to; return how many connections it is addressed to."""
        message_type, data = request.message_type, request.data
        if request.topic is not None:
            return self._hub.broadcast_to_topic(request.topic, message_type, data, exclude=exclude)
        frame, user_id = self._hub.frame(message_type, data), request.user_id
        addressed = self._hub.by_id.values() if user_id is None else self._hub.of_user(str(user_id))
        recipients: list[Connection] = [
            connection
            for connection in addressed
            # A raw connection speaks a protocol of the program's own. One that has shown no token
            # yet may be anybody's.
            if isinstance(connection, SessionActor)
            and connection.state is ConnectionState.OPEN
            and connection.id not in exclude
        ]
        self._broadcasts.append((frame, recipients))
        if len(self._broadcasts) == 1:
            self._core.start_service(self._send_broadcasts, "broadcast")
        return len(recipients)

    async def _send_broadcasts(self) -> None:
        """Send the broadcasts that wait, one after the other, with turns for others in between."""
        while self._broadcasts:
            frame, recipients = self._broadcasts[0]
            try:
                await in_turns(recipients, partial(_send, frame=frame), Connection.fail)
            finally:  # what stays first here would keep all later ones from being sent
                self._broadcasts.popleft()

    async def cleanup(self, request: commands.CleanupRequest, caller: Caller) -> answers.CleanedUp:
        """Ask quiet connections for a sign of life, and close those that give none.

        Probes all that were silent for `quiet_for` seconds (by default `pong_timeout`), waits
        `pong_timeout`, and reports. Those that ended meanwhile for another reason, for example
        since the client closed, count neither as alive nor as closed. RemoteProtocolError: a
        negative time. Cancelling is safe: who was probed has to answer in any case.
        """
        pong_timeout = self._parts.settings.pong_timeout
        quiet_for = _seconds("quiet_for", request.quiet_for, pong_timeout)
        probed: list[Connection] = []

        def probe(connection: Connection) -> None:
            if connection.is_open and trio.current_time() - connection.last_heard >= quiet_for:
                if not connection.is_probed:
                    connection.probe()
                probed.append(connection)

        await in_turns(self._hub, probe, Connection.fail)
        statistics = self._parts.statistics
        statistics.cleanups += 1
        statistics.cleanup_probed += len(probed)
        self._log("admin.cleanup", caller, probed=len(probed), quiet_for=quiet_for)
        if probed:
            await trio.sleep(pong_timeout)
        closed: list[str] = []
        alive = 0

        def end(connection: Connection) -> None:
            nonlocal alive
            if connection.is_probed:
                connection.end(CloseCause.HEARTBEAT_TIMEOUT)  # mostly its own deadline has done so
            if connection.is_open:
                alive += 1
            elif connection.cause is CloseCause.HEARTBEAT_TIMEOUT:
                closed.append(connection.id)

        await in_turns(probed, end, Connection.fail)
        statistics.cleanup_closed += len(closed)
        self._log("admin.cleaned_up", caller, probed=len(probed), alive=alive, closed=len(closed))
        return answers.CleanedUp(len(probed), alive, len(closed), tuple(closed))

    # Draining

    def suspend(self, _request: EmptyRequest, caller: Caller) -> answers.Suspended:
        """Let no new clients in; those that are connected stay, and the server is not ready."""
        self._log("admin.suspend", caller)
        self._core.suspend()
        return self._suspended()

    def resume(self, _request: EmptyRequest, caller: Caller) -> answers.Suspended:
        """Let clients in again, and end a drain that is under way.

        RemoteProtocolError: the server has been told to stop; the text says how.
        """
        self._log("admin.resume", caller)
        try:
            self._core.resume()
        except ResumeRefused as error:
            raise RemoteProtocolError(str(error), ErrorCode.FORBIDDEN) from error
        return self._suspended()

    def _suspended(self) -> answers.Suspended:
        return answers.Suspended(not self._core.state.admits, len(self._hub))

    async def drain(self, request: commands.DrainRequest, caller: Caller) -> answers.DrainProgress:
        """Tell every client to come back elsewhere, and wait until all have left.

        It takes `timeout` seconds at most, by default `drain_timeout`, and reports its progress
        twice a second. A caller that asks while a drain is under way joins it. The server stays
        suspended afterwards. RemoteProtocolError: a negative time. Cancelling is safe, and does not
        end the drain: `resume` does.
        """
        timeout = _seconds("timeout", request.timeout, self._parts.settings.drain_timeout)
        drain = self._core.start_drain(timeout)
        self._log("admin.drain", caller, timeout=drain.timeout, connections=drain.total)
        while drain.ended is None:
            if caller.on_progress is not None:
                caller.on_progress(self._progress(drain))
            with trio.move_on_after(_PROGRESS_INTERVAL):
                await drain.over.wait()
        return self._progress(drain)

    def _progress(self, drain: Drain) -> answers.DrainProgress:
        return answers.DrainProgress(
            total=drain.total,
            left=len(self._hub),
            seconds=round(drain.seconds, 3),
            timeout=drain.timeout,
            done=drain.finished,
        )

    def _on_events_lost(self, error: BaseException) -> None:
        self._parts.log.write("error", "event_failed", exc_info=error)

    def _log(self, event: str, caller: Caller, **fields: Any) -> None:
        self._parts.log.write("info", event, by=caller.by, **fields)


def _send(connection: Connection, *, frame: bytes) -> None:
    if connection.is_open:
        connection.owe([frame])


def _exactly_one(**given: object) -> None:
    """Raise RemoteProtocolError unless exactly one of these fields has a value."""
    if sum(value is not None for value in given.values()) != 1:
        names = ", ".join(f"`{name}`" for name in given)
        text = f"`data` needs exactly one of {names}"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)


def _seconds(field: str, given: float | None, default: float) -> float:
    """Return the time that a field asks for; RemoteProtocolError if that is none."""
    seconds = default if given is None else given
    if not seconds >= 0:  # nor a NaN
        text = f"`data.{field}`: {seconds} is not allowed; allowed: seconds, 0 or more"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    return seconds


def _check_close(request: commands.DisconnectRequest) -> None:
    """Raise RemoteProtocolError for a code or a reason that no Close frame can have."""
    code = request.code
    if len(request.reason.encode()) > _MAX_REASON:
        text = f"`data.reason`: a Close frame has room for {_MAX_REASON} bytes of it"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    if code is None:
        return
    if not is_sendable_close_code(code):
        text = (
            f"`data.code`: {code} cannot be sent; allowed: 4000 to 4499 for clients that are to "
            "come back, 4500 to 4999 for those that are to stay away, and the standard ones"
        )
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    if request.reconnect and not should_reconnect(code):
        text = f"`data.code`: {code} tells clients to stay away, `reconnect` to come back"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
