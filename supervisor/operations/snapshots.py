"""Snapshots of a running server for operators, made on request and not kept.

Most are made in one pass over the tables, without waiting. With 10,000 connections the largest of
these, `stats`, takes a few milliseconds. What grows with the rows of a page is done over several
turns of the loop.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest, nsmallest
from operator import attrgetter
from typing import Any, Final, TypeVar

import attrs

from ...actors.connection.connection import Connection
from ...actors.connection.lifecycle import ConnectionState
from ...actors.connection.pacer import in_turns
from ...actors.containment import contain
from ...actors.session.session import SessionActor
from ...actors.subscription import Subscription
from ...protocol.admin import answers, commands
from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, shorten
from ...protocol.messages.codec import encode_value, timestamp
from ...protocol.messages.topics import check_topic
from ...protocol.version import VERSION
from ..config.about import Group
from ..config.settings import Settings, about
from ..entrance.descriptors import descriptor_limit, has_room, open_descriptors
from ..parts import Parts
from ..telemetry.rates import RateMeter

ItemT = TypeVar("ItemT")

_LARGEST_TOPICS: Final = 20
_SLOWEST: Final = 10

_BY_AGE: Final[Callable[[Connection], tuple[float, str]]] = attrgetter("connected_at", "id")
"""The order of a page of connections, and what its cursor says."""

_REMEMBERED_TOPICS: Final = 1000
"""Topics whose latest request is remembered, so that the next answer can have a rate."""

_STATES: Final = (ConnectionState.AUTHENTICATING, ConnectionState.OPEN, ConnectionState.CLOSING)
"""The states that connections in the tables can have."""

_TIMEOUTS: Final = (
    CloseCause.HEARTBEAT_TIMEOUT,
    CloseCause.CONNECTION_TIMEOUT,
    CloseCause.WRITE_TIMEOUT,
)
_FAILED_DELIVERIES: Final = (CloseCause.SLOW_CONSUMER, CloseCause.WRITE_TIMEOUT)


class NotFound(RemoteProtocolError):
    """Nothing has the name in the request; over HTTP this is a 404."""


class Snapshots:
    """The maker of answers to the commands that change nothing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.rates = RateMeter(parts.statistics, parts.tick.now)
        # By topic: the time of its latest request, and the number of its publications at that time.
        self._asked: dict[str, tuple[float, int]] = {}

    def stats(self, control_sessions: int) -> answers.Stats:
        """Return all counters and rates; `control_sessions` is the number of admin sessions."""
        parts, admission = self._parts, self._parts.admission
        statistics, traffic = parts.statistics, parts.statistics.traffic
        connections = tuple(parts.hub.by_id.values())
        waiting = [connection for connection in connections if connection.mailbox.size]
        topics = parts.router.topics
        largest = nlargest(
            _LARGEST_TOPICS, topics.items(), key=lambda item: len(item[1].subscribers)
        )
        lag, lag_max = parts.tick.lag()
        now = parts.tick.now()
        return answers.Stats(
            started_at=_point_in_time(statistics.started_at),
            uptime=self.uptime,
            version=VERSION,
            total_connections=statistics.connected,
            active_connections=len(connections),
            handshaking=admission.handshaking,
            gave_way=admission.handshakes.gave_way,
            control_sessions=control_sessions,
            connections_by_state=_by_state(connections),
            topics=len(topics),
            subscriptions=parts.router.subscriptions,
            connections_by_topic={name: len(topic.subscribers) for name, topic in largest},
            users=len(parts.hub.by_user),
            messages_received=traffic.messages_in,
            messages_sent=traffic.messages_out,
            messages_failed=traffic.deliveries_failed,
            messages_dropped=traffic.deliveries_dropped,
            published=traffic.published,
            bytes_received=traffic.bytes_in,
            bytes_sent=traffic.bytes_out,
            bad_messages=traffic.bad_messages,
            rate_limited=traffic.rate_limited,
            handler_errors=traffic.handler_errors,
            handler_timeouts=traffic.handler_timeouts,
            accepted=statistics.accepted,
            refused={str(status): count for status, count in statistics.refused.items()},
            left_early=statistics.left_early,
            unanswered=statistics.unanswered,
            closed_by_cause={cause.value: count for cause, count in statistics.closed.items()},
            mailbox_bytes=sum(connection.mailbox.size for connection in waiting),
            slowest_consumers=tuple(
                self._summary(connection, now)
                for connection in nlargest(_SLOWEST, waiting, key=attrgetter("mailbox.size"))
            ),
            loop_lag=lag,
            loop_lag_max=lag_max,
            log_lines_lost=parts.log.lost,
            slow_turns=parts.tick.slow_turns,
            rates=self.rates.read(),
            cleanup=self._cleanup_stats(),
        )

    @property
    def uptime(self) -> float:
        """Seconds since the server started."""
        return round(self._parts.tick.age(), 3)

    def _cleanup_stats(self) -> answers.CleanupStats:
        statistics = self._parts.statistics
        traffic, closed = statistics.traffic, statistics.closed
        owed = traffic.messages_out + traffic.deliveries_failed + traffic.deliveries_dropped
        return answers.CleanupStats(
            runs=statistics.cleanups,
            probed=statistics.cleanup_probed,
            closed=statistics.cleanup_closed,
            heartbeats=traffic.heartbeats,
            closed_by_timeout=sum(closed[cause] for cause in _TIMEOUTS),
            closed_by_failed_delivery=sum(closed[cause] for cause in _FAILED_DELIVERIES),
            delivery_success_rate=round(traffic.messages_out / owed, 6) if owed else 1.0,
        )

    async def connections(self, request: commands.ConnectionsRequest) -> answers.ConnectionsPage:
        """Return a page of connections, oldest first.

        The page is that of one moment. Its rows are read over several turns of the loop, each as
        its connection is then.
        """
        check_limit(request.limit)
        after = _read_cursor(request.cursor, _connection_key)
        # The table is nearly in this order, which makes sorting cheap: 2 ms for 10,000, a third of
        # what it takes to find the first thousand without.
        found = sorted(self._matching(request), key=_BY_AGE)
        begin = 0 if after is None else bisect_right(found, after, key=_BY_AGE)
        page = found[begin : begin + request.limit]
        cursor = _BY_AGE(page[-1]) if begin + request.limit < len(found) else None
        rows: list[answers.ConnectionSummary] = []

        def read(connection: Connection) -> None:
            rows.append(self._summary(connection, self._parts.tick.now()))

        await in_turns(page, read)
        return answers.ConnectionsPage(
            connections=tuple(rows),
            total=len(found),
            cursor=None if cursor is None else "{!r}:{}".format(*cursor),
        )

    def _matching(self, request: commands.ConnectionsRequest) -> list[Connection]:
        registry = self._parts.hub
        found: Iterable[Connection] = registry.by_id.values()
        if request.user_id is not None:
            found = registry.of_user(str(request.user_id))
        if request.topic is not None:
            topic = check_topic(request.topic)
            if request.user_id is None:
                entry = self._parts.router.topics.get(topic)
                found = () if entry is None else entry.subscribers
            else:
                found = [one for one in found if topic in self._topics_of(one)]
        if request.state is not None:
            names = {state.value: state for state in _STATES}
            if request.state not in names:
                raise _bad("state", request.state, f"one of {', '.join(names)}")
            found = [connection for connection in found if connection.state is names[request.state]]
        return list(found)

    def connection(self, connection_id: str) -> answers.ConnectionDetail:
        """Return one connection, in detail; NotFound if there is none of that id."""
        connection = self._parts.hub.by_id.get(connection_id)
        if connection is None:
            text = f"there is no connection {shorten(connection_id)}, or no longer"
            raise NotFound(text, ErrorCode.BAD_MESSAGE)
        return self._detail(connection)

    def topics(self, request: commands.TopicsRequest) -> answers.TopicsPage:
        """Return a page of topics, in the order of their names."""
        topics = self._parts.router.topics
        prefix = request.prefix or ""
        found = [topic for name, topic in topics.items() if name.startswith(prefix)]
        page, cursor = _page(found, attrgetter("name"), request.limit, request.cursor)
        return answers.TopicsPage(
            topics=tuple(
                answers.TopicSummary(topic.name, len(topic.subscribers), topic.published)
                for topic in page
            ),
            total=len(found),
            cursor=cursor,
        )

    def topic(self, name: str) -> answers.TopicDetail:
        """Return one topic; a topic without subscribers is not kept, and its counts are 0."""
        entry = self._parts.router.topics.get(check_topic(name))
        subscribers = [] if entry is None else list(entry.subscribers)
        published = 0 if entry is None else entry.published
        options = self._parts.router.options_of(name) if entry is None else entry.options
        return answers.TopicDetail(
            topic=name,
            subscribers=len(subscribers),
            connection_ids=tuple(connection.id for connection in subscribers[: commands.MAX_PAGE]),
            published=published,
            overload_policy=options.overload.value,
            publish_rate=self._publish_rate(name, published),
        )

    def _publish_rate(self, name: str, published: int) -> float | None:
        now = self._parts.tick.now()
        before = self._asked.pop(name, None)
        if len(self._asked) >= _REMEMBERED_TOPICS:
            del self._asked[next(iter(self._asked))]  # the topic whose request is the oldest
        self._asked[name] = (now, published)
        if before is None or now <= before[0]:
            return None
        # The count is smaller than before if all subscribers have left meanwhile: it began again.
        return round(max(published - before[1], 0) / (now - before[0]), 3)

    def health(self, reasons: tuple[str, ...]) -> answers.Health:
        """Return the health of the server; `reasons` are those that come from its state."""
        admission, settings = self._parts.admission, self._parts.settings
        lag, lag_max = self._parts.tick.lag()
        descriptors = open_descriptors()
        if admission.admitted >= admission.max_total:
            reasons += ("full",)
        if not has_room():
            reasons += ("descriptors",)
        if settings.max_loop_lag and lag > settings.max_loop_lag:
            reasons += ("loop_lag",)
        return answers.Health(
            live=True,
            ready=not reasons,
            reasons=reasons,
            uptime=self.uptime,
            loop_lag=lag,
            loop_lag_max=lag_max,
            connections=_headroom(admission.max_total, admission.admitted),
            handshakes=_headroom(admission.max_handshakes, len(admission.handshakes)),
            descriptors=None if descriptors is None else _headroom(descriptor_limit(), descriptors),
            log=answers.LogHealth(self._parts.log.lost, self._parts.log.waiting),
            limits=_limits(settings),
        )

    def _topics_of(self, connection: Connection) -> Mapping[str, Subscription]:
        return self._parts.router.subscriptions_of(connection)

    def _summary(self, connection: Connection, now: float) -> answers.ConnectionSummary:
        return answers.ConnectionSummary(
            connection_id=connection.id,
            user_id=connection.user_id,
            address=connection.address,
            path=connection.endpoint.path,
            state=connection.state.value,
            connected_at=_point_in_time(connection.connected_at),
            quiet_for=round(now - connection.last_heard, 3),
            rtt=connection.rtt,
            topics=len(self._topics_of(connection)),
            messages_in=connection.messages_in,
            messages_out=connection.mailbox.messages_out,
            mailbox_bytes=connection.mailbox.size,
            dropped=connection.mailbox.dropped,
        )

    def _detail(self, connection: Connection) -> answers.ConnectionDetail:
        now, wall_time = self._parts.tick.now(), self._parts.tick.wall_time()
        identity, mailbox = connection.identity, connection.mailbox
        quiet_for = now - connection.last_heard
        expires_at = identity.expires_at
        return answers.ConnectionDetail(
            connection_id=connection.id,
            user_id=identity.user_id,
            role=identity.role,
            session_id=identity.session_id,
            token_expires_at=None if expires_at is None else _point_in_time(expires_at),
            address=connection.address,
            path=connection.endpoint.path,
            kind="session" if isinstance(connection, SessionActor) else "raw",
            state=connection.state.value,
            close_cause=None if connection.cause is None else connection.cause.value,
            connected_at=_point_in_time(connection.connected_at),
            last_activity=_point_in_time(wall_time - quiet_for),
            quiet_for=round(quiet_for, 3),
            rtt=connection.rtt,
            probed=connection.is_probed,
            next_deadline=round(connection.next_deadline() - now, 3)
            if connection.is_open
            else None,
            topics=tuple(self._topics_of(connection)),
            metadata=_sendable(connection.metadata),
            mailbox_bytes=mailbox.size,
            mailbox_oldest=None if mailbox.oldest is None else round(now - mailbox.oldest, 3),
            messages_in=connection.messages_in,
            messages_out=mailbox.messages_out,
            bytes_in=connection.bytes_in,
            bytes_out=mailbox.bytes_out,
            dropped=mailbox.dropped,
            errors=connection.errors,
        )


def check_limit(limit: int) -> int:
    """Return a page's number of entries unchanged; RemoteProtocolError if it is out of range."""
    if not 1 <= limit <= commands.MAX_PAGE:
        raise _bad("limit", limit, f"from 1 to {commands.MAX_PAGE}")
    return limit


def _page(
    found: Iterable[ItemT], key: Callable[[ItemT], Any], limit: int, after: Any
) -> tuple[list[ItemT], Any]:
    """Return the next entries in the order of their keys, and the last key; None at the end.

    A page begins behind the last key of the page before, even if that entry is gone. So an entry
    that stays is on exactly one page, also if others come and go between two pages.
    """
    check_limit(limit)
    if after is not None:
        found = (item for item in found if key(item) > after)
    page = nsmallest(limit + 1, found, key=key)
    if len(page) <= limit:
        return page, None
    return page[:limit], key(page[limit - 1])


def _read_cursor(cursor: str | None, read: Callable[[str], Any]) -> Any:
    try:
        return None if cursor is None else read(cursor)
    except ValueError:
        raise _bad("cursor", cursor, "the `cursor` of the page before") from None


def _connection_key(cursor: str) -> tuple[float, str]:
    connected_at, _, connection_id = cursor.partition(":")
    return float(connected_at), connection_id


def _bad(field: str, value: object, allowed: str) -> RemoteProtocolError:
    text = f"`data.{field}`: {shorten(str(value))} is not allowed; allowed: {allowed}"
    return RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)


def _by_state(connections: Iterable[Connection]) -> dict[str, int]:
    # Counts by `id`, since hashing a member of an Enum runs Python code, which is slow.
    counts = Counter(id(connection.state) for connection in connections)
    return {state.value: counts[id(state)] for state in _STATES}


def _point_in_time(seconds: float) -> str:
    return timestamp(seconds).decode()


def _sendable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a program's metadata, with the `repr` of values that JSON cannot hold."""
    result: dict[str, Any] = {}
    for name, value in metadata.items():
        try:
            encode_value(value)
        except LocalProtocolError:
            try:
                result[str(name)] = shorten(repr(value), 200)
            except BaseException as error:  # noqa: BLE001 - the object is the program's
                shown = f"a {type(value).__name__} that cannot be shown"
                contain(error, lambda _, name=name, shown=shown: result.update({name: shown}))
        else:
            result[str(name)] = value
    return result


def _headroom(limit: int, used: int) -> answers.Headroom:
    return answers.Headroom(limit, used, max(0, limit - used))


def _limits(settings: Settings) -> dict[str, float]:
    names = [name for name in attrs.fields_dict(Settings) if about(name).group is Group.LIMITS]
    return {name: getattr(settings, name) for name in names}
