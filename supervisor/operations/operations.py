"""What operators can see and do: the one implementation of every admin command.

The control socket, the HTTP interface and the command line are thin clients of this class. What it
returns are the payload classes of `protocol/commands.py`; what is asked wrongly raises
`RemoteProtocolError`, whose text says what would be right. Whatever changes the server's state is
logged with who did it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ...actors.connection.connection import Connection
from ...actors.session.session import Session
from ...protocol.admin import answers, commands
from ...protocol.closing import CloseCause, is_sendable_close_code, should_reconnect
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ...protocol.messages.codec import encode_value, head, splice
from ...protocol.messages.topics import check_topic
from ...protocol.websocket.frames import encode_text
from .snapshots import Snapshots, check_limit
from .tree import actor_tree

if TYPE_CHECKING:
    from ..supervisor import Supervisor

_PER_TURN: Final = 200
"""Connections that are probed, written to or ended before others have a turn: 2 to 10 ms."""

_PROGRESS_INTERVAL: Final = 0.5
"""Seconds between two reports of a drain's progress."""

_MAX_REASON: Final = 123
"""Bytes of a Close frame's reason (RFC 6455, section 5.5, less the code)."""

UserId = str | int


class Operations:
    """Every admin command, for one server; `supervisor.operations`.

    Synchronous where it cannot block. `by` says who wants it: a user, or the owner of the process
    at the other end of a Unix socket.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._harbor = supervisor.harbor
        self.snapshots = Snapshots(supervisor)
        self._drain: _Drain | None = None  # the one under way, or else the latest
        # What goes to everyone, in order, and the task that sends it has a turn like others.
        self._for_everyone: deque[tuple[bytes, list[Connection]]] = deque()

    # To look at

    def stats(self) -> answers.Stats:
        """Return all that is counted, at a glance."""
        return self.snapshots.stats()

    def connections(
        self,
        user_id: UserId | None = None,
        topic: str | None = None,
        state: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> answers.ConnectionsPage:
        """Return a page of connections, oldest first; the filters narrow each other.

        RemoteProtocolError: a state, limit, cursor or topic that there cannot be.
        """
        asked = commands.Connections(user_id, topic, state, limit, cursor)
        return self.snapshots.connections(asked)

    def connection(self, connection_id: str) -> answers.ConnectionDetail:
        """Return one connection, whole; `NotFound` if there is none of that id."""
        return self.snapshots.connection(connection_id)

    def topics(
        self, prefix: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> answers.TopicsPage:
        """Return a page of the topics that have subscribers, by name.

        RemoteProtocolError: a limit that there cannot be.
        """
        return self.snapshots.topics(commands.Topics(prefix, limit, cursor))

    def topic(self, topic: str) -> answers.TopicDetail:
        """Return one topic; RemoteProtocolError if there can be none of that name."""
        return self.snapshots.topic(topic)

    def health(self) -> answers.Health:
        """Return whether the server lives, whether it is ready for new clients, and why not."""
        reasons: tuple[str, ...] = ()
        if self._supervisor.admission.suspended:
            draining = self._drain is not None and self._drain.ended is None
            reasons = ("draining" if draining else "suspended",)
        return self.snapshots.health(reasons)

    def tree(self, limit: int = 100) -> answers.Actor:
        """Return the live tree of actors, with at most `limit` connections in it."""
        return actor_tree(self._supervisor, check_limit(limit))

    # To do

    def disconnect(
        self,
        *,
        connection_ids: Iterable[str] | None = None,
        user_id: UserId | None = None,
        topic: str | None = None,
        reason: str = "",
        code: int | None = None,
        reconnect: bool = False,
        by: str,
    ) -> answers.Disconnected:
        """Close connections: those of these ids, of a user, or of a topic's subscribers.

        They are told to stay away (4503), with `reconnect` to come back (4007), or `code`. Returns
        at once; they leave with a goodbye, within `close_timeout`. RemoteProtocolError: not exactly
        one of the three, or a code or reason that cannot be sent.
        """
        _exactly_one(connection_ids=connection_ids, user_id=user_id, topic=topic)
        _check_close(reason, code, reconnect=reconnect)
        found, missing = self._targets(connection_ids, user_id, topic)
        cause = CloseCause.RECONNECT if reconnect else CloseCause.DISCONNECTED
        closing = [connection for connection in found if connection.is_open]
        missing += [connection.id for connection in found if not connection.is_open]
        for connection in closing[:_PER_TURN]:
            connection.end(cause, code=code, reason=reason or None)
        if rest := closing[_PER_TURN:]:
            end_rest = partial(_end_all, rest, cause, code, reason or None)
            self._supervisor.control.start_soon(end_rest, "disconnect")
        closed = tuple(connection.id for connection in closing)
        self._log(
            "admin.disconnect",
            by,
            disconnected=len(closed),
            for_user=user_id,
            topic=topic,
            reason=reason,
            reconnect=reconnect,
        )
        return answers.Disconnected(len(closed), closed, tuple(missing))

    def _targets(
        self,
        connection_ids: Iterable[str] | None,
        user_id: UserId | None,
        topic: str | None,
    ) -> tuple[list[Connection], list[str]]:
        """Return the connections that are meant, and the ids of which there are none."""
        registry = self._harbor.registry
        if user_id is not None:
            return list(registry.of_user(str(user_id))), []
        if topic is not None:
            entry = self._harbor.router.topics.get(check_topic(topic))
            return [] if entry is None else list(entry.subscribers), []
        wanted = dict.fromkeys(connection_ids or ())
        found = [registry.by_id[name] for name in wanted if name in registry.by_id]
        return found, [name for name in wanted if name not in registry.by_id]

    def broadcast(
        self,
        *,
        topic: str | None = None,
        user_id: UserId | None = None,
        everyone: bool = False,
        message_type: str,
        data: Any = None,
        exclude: Iterable[str] = (),
        by: str,
    ) -> answers.Broadcasted:
        """Send a message to a topic's subscribers, to a user, or to everyone; never waits.

        `exclude` are ids of connections that do not get it. RemoteProtocolError: not exactly one of
        the three, or a topic, type or data that cannot be sent.
        """
        _exactly_one(topic=topic, user_id=user_id, everyone=everyone or None)
        left_out = frozenset(exclude)
        try:
            if topic is not None:
                recipients = self._harbor.broadcast_to_topic(
                    topic, message_type, data, exclude=left_out
                )
            else:
                recipients = self._send(user_id, message_type, data, left_out)
        except LocalProtocolError as error:  # it came from afar: not this program's mistake
            raise RemoteProtocolError(error.message, error.code) from error
        self._log(
            "admin.broadcast",
            by,
            recipients=recipients,
            message_type=message_type,
            topic=topic,
            for_user=user_id,
            everyone=everyone,
        )
        return answers.Broadcasted(recipients)

    def _send(
        self, user_id: UserId | None, message_type: str, data: Any, left_out: frozenset[str]
    ) -> int:
        stamp = self._harbor.tick.stamp()
        frame = encode_text(splice(head(message_type), encode_value(data), stamp))
        registry = self._harbor.registry
        addressed = registry.by_id.values() if user_id is None else registry.of_user(str(user_id))
        recipients: list[Connection] = [
            connection
            for connection in addressed
            # What a raw connection's messages look like is not known here.
            if isinstance(connection, Session) and connection.id not in left_out
        ]
        self._for_everyone.append((frame, recipients))
        if len(self._for_everyone) == 1:
            self._supervisor.control.start_soon(self._send_waiting, "broadcast")
        return len(recipients)

    async def _send_waiting(self) -> None:
        """Send what waits, one broadcast after the other, with turns for others in between."""
        while self._for_everyone:
            frame, recipients = self._for_everyone[0]
            for count, connection in enumerate(recipients, 1):
                if connection.is_open:
                    connection.owe([frame])
                if count % _PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            self._for_everyone.popleft()

    async def cleanup(self, quiet_for: float | None = None, *, by: str) -> answers.CleanedUp:
        """Ask those who have been quiet for a sign of life, and close who gives none.

        Probes all that were silent for `quiet_for` seconds (by default `pong_timeout`), waits
        `pong_timeout`, and reports. RemoteProtocolError: a negative time. Cancelling is safe: who
        was probed has to answer in any case.
        """
        pong_timeout = self._supervisor.settings.pong_timeout
        quiet_for = pong_timeout if quiet_for is None else quiet_for
        if not quiet_for >= 0:
            text = f"`data.quiet_for`: {quiet_for} is not allowed; allowed: seconds, 0 or more"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        probed: list[Connection] = []
        for count, connection in enumerate(self._harbor.registry, 1):
            if connection.is_open and trio.current_time() - connection.last_heard >= quiet_for:
                if not connection.is_probed:
                    connection.probe()
                probed.append(connection)
            if count % _PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        statistics = self._harbor.statistics
        statistics.cleanups += 1
        statistics.cleanup_probed += len(probed)
        self._log("admin.cleanup", by, probed=len(probed), quiet_for=quiet_for)
        if probed:
            await trio.sleep(pong_timeout)
        closed: list[str] = []
        for connection in probed:
            if connection.is_probed:
                connection.end(CloseCause.HEARTBEAT_TIMEOUT)
            if not connection.is_open:
                closed.append(connection.id)
        statistics.cleanup_closed += len(closed)
        alive = len(probed) - len(closed)
        self._log("admin.cleaned_up", by, probed=len(probed), alive=alive, closed=len(closed))
        return answers.CleanedUp(len(probed), alive, len(closed), tuple(closed))

    # To drain

    def suspend(self, *, by: str) -> answers.Suspended:
        """Let nobody in any more; what is connected stays, and readiness goes red."""
        self._log("admin.suspend", by)
        self._supervisor.suspend()
        return self._suspended()

    def resume(self, *, by: str) -> answers.Suspended:
        """Let clients in again, and end a drain that is under way."""
        self._log("admin.resume", by)
        if self._drain is not None:
            self._drain.scope.cancel()
        self._supervisor.resume()
        return self._suspended()

    def _suspended(self) -> answers.Suspended:
        return answers.Suspended(self._supervisor.admission.suspended, len(self._harbor.registry))

    async def drain(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - part of what is asked for
        *,
        by: str,
        on_progress: Callable[[answers.DrainProgress], None] | None = None,
    ) -> answers.DrainProgress:
        """Tell every client to leave and come back elsewhere, and wait until they have left.

        At most `timeout` seconds, by default `drain_timeout`; `on_progress` is told how it goes,
        twice a second. Whoever asks while a drain is under way joins it. The server stays suspended
        afterwards. RemoteProtocolError: a negative time. Cancelling is safe, and does not end the
        drain: `resume` does.
        """
        timeout = self._supervisor.settings.drain_timeout if timeout is None else timeout
        if not timeout >= 0:
            text = f"`data.timeout`: {timeout} is not allowed; allowed: seconds, 0 or more"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        drain = self._drain
        if drain is None or drain.ended is not None:
            drain = self._drain = _Drain(self._supervisor, timeout)
            self._supervisor.control.start_soon(drain.run, "drain")
        self._log("admin.drain", by, timeout=drain.timeout, connections=drain.total)
        while drain.ended is None:
            if on_progress is not None:
                on_progress(drain.progress())
            with trio.move_on_after(_PROGRESS_INTERVAL):
                await drain.over.wait()
        return drain.progress()

    def _log(self, event: str, by: str, **fields: Any) -> None:
        self._harbor.log_event("info", event, by=by, **fields)


async def _end_all(
    connections: list[Connection], cause: CloseCause, code: int | None, reason: str | None
) -> None:
    """End many connections, with turns for others in between."""
    for count, connection in enumerate(connections, 1):
        connection.end(cause, code=code, reason=reason)
        if count % _PER_TURN == 0:
            await trio.lowlevel.checkpoint()


class _Drain:
    """One drain, in a task of the server: it outlives the session that asked for it."""

    def __init__(self, supervisor: Supervisor, timeout: float) -> None:
        self._supervisor = supervisor
        self._registry = supervisor.harbor.registry
        self.timeout = timeout
        self.began = trio.current_time()
        self.ended: float | None = None
        self.total = len(self._registry)
        self.finished = False
        self.over = trio.Event()
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self.scope:
                # `resume` may have come before this task's first turn: then nobody is sent away.
                await trio.lowlevel.checkpoint_if_cancelled()
                await self._supervisor.drain(self.timeout)
                self.finished = True
        finally:
            self.ended = trio.current_time()
            self.over.set()

    def progress(self) -> answers.DrainProgress:
        until = trio.current_time() if self.ended is None else self.ended
        return answers.DrainProgress(
            total=self.total,
            left=len(self._registry),
            seconds=round(until - self.began, 3),
            timeout=self.timeout,
            done=self.finished,
        )


def _exactly_one(**given: object) -> None:
    """Raise RemoteProtocolError unless exactly one of these has a value."""
    if sum(value is not None for value in given.values()) != 1:
        names = ", ".join(f"`{name}`" for name in given)
        text = f"`data` needs exactly one of {names}"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)


def _check_close(reason: str, code: int | None, *, reconnect: bool) -> None:
    """Raise RemoteProtocolError for what no Close frame can say."""
    if len(reason.encode()) > _MAX_REASON:
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
    if reconnect and not should_reconnect(code):
        text = f"`data.code`: {code} tells clients to stay away, `reconnect` to come back"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
