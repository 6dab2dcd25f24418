"""The answers to admin commands: the `data` of each `result`.

The requests, and the table that says which answer belongs to which command, are in `commands.py`.
Times are in seconds, points in time RFC 3339 in UTC, sizes in bytes, rates per second.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen


@frozen
class Rates:
    """Rates of the last seconds, in `stats`."""

    seconds: float  # the time that the others are averages over
    messages_in: float
    messages_out: float
    bytes_in: float
    bytes_out: float
    published: float
    connected: float
    disconnected: float


@frozen
class CleanupStats:
    """The results of `cleanup` and of the heartbeats since the start, in `stats`."""

    runs: int  # times that the command `cleanup` was given
    probed: int  # connections that it asked for a sign of life
    closed: int  # connections that gave none
    heartbeats: int  # signs of life asked for in all, by deadlines or by the command
    closed_by_timeout: int  # connections: heartbeat unanswered, silent, or taking no bytes
    closed_by_failed_delivery: int  # connections that did not take what they were sent
    delivery_success_rate: float  # the part of all messages owed to clients that was sent


@frozen
class ConnectionSummary:
    """One line of a list of connections."""

    connection_id: str
    user_id: str | None
    address: str
    path: str  # of the endpoint
    state: str
    connected_at: str
    quiet_for: float  # seconds since anything was heard of it
    rtt: float | None  # seconds, of the last Ping that was answered
    topics: int  # how many it subscribes to
    messages_in: int
    messages_out: int
    mailbox_bytes: int  # waiting to be sent to it
    dropped: int  # messages, by an overload policy


@frozen
class Stats:
    """The `result` of `stats`."""

    started_at: str
    uptime: float
    version: str
    total_connections: int  # since the start
    active_connections: int
    handshaking: int  # sockets that are no connection yet
    gave_way: int  # handshakes that ended for newer ones, since there were `max_handshakes`
    control_sessions: int
    connections_by_state: dict[str, int]
    topics: int
    subscriptions: int
    connections_by_topic: dict[str, int]  # of the largest topics, at most 20
    users: int
    messages_received: int
    messages_sent: int
    messages_failed: int  # publications that a subscriber could not be given
    messages_dropped: int  # by an overload policy
    published: int
    bytes_received: int
    bytes_sent: int
    bad_messages: int
    rate_limited: int
    handler_errors: int
    handler_timeouts: int
    accepted: int  # sockets
    refused: dict[str, int]  # that were told so, by HTTP status
    left_early: int  # before their handshake was complete
    unanswered: int  # closed before they had sent a request
    closed_by_cause: dict[str, int]
    mailbox_bytes: int  # of all connections together
    slowest_consumers: tuple[ConnectionSummary, ...]  # those with the fullest mailboxes, at most 10
    loop_lag: float  # seconds, smoothed
    loop_lag_max: float  # seconds, the largest of the last ten seconds
    log_lines_lost: int  # log lines that standard error did not take, or not in time
    slow_turns: int  # of the event loop, since the start: those longer than `slow_turn`
    rates: Rates
    cleanup: CleanupStats


@frozen
class ConnectionsPage:
    """The `result` of `connections`, oldest first."""

    connections: tuple[ConnectionSummary, ...]
    # Connections on all pages together.
    total: int
    # The `cursor` that asks for the next page; None: this is the last one.
    cursor: str | None = None


@frozen
class ConnectionDetail:
    """The `result` of `connection`."""

    connection_id: str
    user_id: str | None
    role: str | None
    session_id: str | None
    token_expires_at: str | None
    address: str
    path: str
    kind: str  # `session`, or `raw` where the program speaks a protocol of its own
    state: str
    close_cause: str | None
    connected_at: str
    last_activity: str  # when anything was heard of it last
    quiet_for: float
    rtt: float | None
    probed: bool  # whether a heartbeat is unanswered
    next_deadline: float | None  # seconds until the next of its deadlines
    topics: tuple[str, ...]
    metadata: dict[str, Any]
    mailbox_bytes: int
    mailbox_oldest: float | None  # seconds that the oldest waiting bytes have waited
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    dropped: int
    errors: int  # `error` messages sent to it


@frozen
class TopicSummary:
    """One line of a list of topics."""

    topic: str
    subscribers: int
    published: int  # messages, since its first subscriber came


@frozen
class TopicsPage:
    """The `result` of `topics`, by name."""

    topics: tuple[TopicSummary, ...]
    # Both as in `ConnectionsPage`.
    total: int
    cursor: str | None = None


@frozen
class TopicDetail:
    """The `result` of `topic`; a topic without subscribers has zeros."""

    topic: str
    subscribers: int
    connection_ids: tuple[str, ...]  # at most `MAX_PAGE`; `connections` lists all, by pages
    published: int
    overload_policy: str
    publish_rate: float | None  # per second since it was last asked for; None: the first time


@frozen
class Disconnected:
    """The `result` of `disconnect`."""

    disconnected: int
    connection_ids: tuple[str, ...]
    # Ids in the request of which there is no connection, or one that was ending already.
    missing: tuple[str, ...] = ()


@frozen
class CleanedUp:
    """The `result` of `cleanup`."""

    probed: int
    alive: int  # gave a sign of life
    closed: int  # gave none; who left by itself meanwhile is neither
    closed_ids: tuple[str, ...]


@frozen
class Broadcasted:
    """The `result` of `broadcast`."""

    recipients: int  # connections


@frozen
class Headroom:
    """How much of a limit is used, in `health`."""

    limit: int
    used: int
    left: int


@frozen
class LogHealth:
    """Whether the log flows, in `health`."""

    lines_lost: int  # since the start: standard error did not take them, or not in time
    bytes_waiting: int  # of lines that standard error has not taken yet


@frozen
class Health:
    """The `result` of `health`."""

    live: bool
    ready: bool  # whether new clients should be sent here
    reasons: tuple[str, ...]  # why not: the server's state, `full`, `descriptors`, `loop_lag`
    uptime: float
    loop_lag: float
    loop_lag_max: float
    connections: Headroom
    handshakes: Headroom  # those beyond the limit take the places of silent ones
    # The limit is what the system lets this process have open; None: they cannot be counted.
    descriptors: Headroom | None
    log: LogHealth
    limits: dict[str, float]  # the settings that are limits, by name; 0: no limit


@frozen
class Suspended:
    """The `result` of `suspend` and `resume`."""

    suspended: bool
    connections: int


@frozen
class DrainProgress:
    """The `result` of `drain`, and its `progress` before that."""

    total: int  # connections when it began
    left: int  # connections that have not left
    seconds: float  # since it began
    timeout: float
    done: bool  # False: under way, or ended by `resume`


@frozen
class Watching:
    """The `result` of `watch`."""

    events: tuple[str, ...]
    # The `topic` of the `event` and `gap` messages that follow; None: nothing is watched any more.
    topic: str | None


@frozen
class Actor:
    """A task or a group of tasks; the `result` of `tree` is the root of all."""

    name: str
    kind: str
    state: str
    # The function that it waits in, and what that waits for: `Connection._receive: wait_readable`.
    waits_for: str | None = None
    mailbox_bytes: int = 0
    mailbox_oldest: float | None = None
    next_deadline: float | None = None
    children: tuple[Actor, ...] = ()
    # Connections that are not shown because of the `limit`; only the root has any.
    omitted: int = field(default=0)
