"""The admin commands: what the `data` of each may hold, and the `data` of its `result`.

One class for what is asked (`Connections`) and one for what is answered (`ConnectionsPage`), used
alike by the control socket, the HTTP interface and the command line. Times are in seconds, points
in time RFC 3339 in UTC, sizes in bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeVar, cast

import attrs
from attrs import field, frozen

from .errors import ErrorCode, RemoteProtocolError, shorten
from .messages import read_payload

Payload = TypeVar("Payload")


class Command(StrEnum):
    """The message types that an admin session understands, beside `ping` and `authenticate`."""

    STATS = "stats"
    CONNECTIONS = "connections"
    CONNECTION = "connection"
    TOPICS = "topics"
    TOPIC = "topic"
    DISCONNECT = "disconnect"
    CLEANUP = "cleanup"
    BROADCAST = "broadcast"
    HEALTH = "health"
    SUSPEND = "suspend"
    RESUME = "resume"
    DRAIN = "drain"
    WATCH = "watch"
    TREE = "tree"


class AnswerType(StrEnum):
    """The message types that an admin session sends, beside those that every session does."""

    RESULT = "result"  # the one reply to a command that was done; has its `id`
    PROGRESS = "progress"  # any number of them before the `result` of a `drain`; has its `id`
    EVENT = "event"  # of a `watch`; what `gap` announces as dropped are these


MAX_PAGE: Final = 1000
"""Entries that one page may have."""


# What is asked


@frozen
class Nothing:
    """`stats`, `health`, `suspend` and `resume`: nothing is asked beside the command itself."""


@frozen
class Connections:
    """`connections`: which ones, and which page of them."""

    # A user's, a topic's subscribers, those in one state; together they narrow each other.
    user_id: str | int | None = None
    topic: str | None = None
    state: str | None = None
    # Entries on the page, at most `MAX_PAGE`; the `cursor` of the page before.
    limit: int = 100
    cursor: str | None = None


@frozen
class Connection:
    """`connection`: one, whole."""

    connection_id: str


@frozen
class Topics:
    """`topics`: which ones, and which page of them."""

    # How their names begin.
    prefix: str | None = None
    limit: int = 100
    cursor: str | None = None


@frozen
class Topic:
    """`topic`: one, whole."""

    topic: str


@frozen
class Disconnect:
    """`disconnect`: exactly one of the first three says whom."""

    connection_ids: tuple[str, ...] | None = None
    user_id: str | int | None = None
    # All its subscribers.
    topic: str | None = None
    # For the Close frame, which has room for 123 bytes of it.
    reason: str = ""
    # The close code instead of the usual one; its range tells clients whether to come back.
    code: int | None = None
    # Whether they are to come back at once: 4007 instead of 4503.
    reconnect: bool = False


@frozen
class Cleanup:
    """`cleanup`: who is asked for a sign of life."""

    # Seconds for which nothing was heard; None: as long as a pong may take.
    quiet_for: float | None = None


@frozen
class Broadcast:
    """`broadcast`: exactly one of the first three says to whom."""

    message_type: str
    topic: str | None = None
    user_id: str | int | None = None
    everyone: bool = False
    data: Any = None
    # Ids of connections that are left out.
    exclude: tuple[str, ...] = ()


@frozen
class Drain:
    """`drain`: how long the clients may take to leave; None: as the settings say."""

    timeout: float | None = None


@frozen
class Watch:
    """`watch`: which events, by patterns as over topics; instead of those watched before."""

    # None at all ends the watching.
    events: tuple[str, ...] = ("**",)


@frozen
class Tree:
    """`tree`: how many connections may be among the actors shown."""

    limit: int = 100


REQUESTS: Final[dict[Command, type[Any]]] = {
    Command.STATS: Nothing,
    Command.CONNECTIONS: Connections,
    Command.CONNECTION: Connection,
    Command.TOPICS: Topics,
    Command.TOPIC: Topic,
    Command.DISCONNECT: Disconnect,
    Command.CLEANUP: Cleanup,
    Command.BROADCAST: Broadcast,
    Command.HEALTH: Nothing,
    Command.SUSPEND: Nothing,
    Command.RESUME: Nothing,
    Command.DRAIN: Drain,
    Command.WATCH: Watch,
    Command.TREE: Tree,
}


def read_command(data: Any, kind: type[Payload]) -> Payload:
    """Read the `data` of a command, given as Python objects, into its class; None reads as empty.

    Stricter than `read_payload`, since what an operator misspells must not be done otherwise:
    `RemoteProtocolError` (`bad_message`) names every field that is unknown, missing or of the
    wrong type.
    """
    if data is None:
        data = {}
    if isinstance(data, dict):
        known = [attribute.name for attribute in attrs.fields(cast("Any", kind))]
        unknown = [name for name in cast("dict[Any, Any]", data) if name not in known]
        if unknown:
            names = ", ".join(shorten(str(name)) for name in unknown[:10])
            allowed = f"known are: {', '.join(known)}" if known else "this command has none"
            text = f"`data` has unknown fields: {names}; {allowed}"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    return read_payload(data, kind)


# What is answered


@frozen
class Rates:
    """How much came and went per second, lately."""

    seconds: float  # that these are averages over
    messages_in: float
    messages_out: float
    bytes_in: float
    bytes_out: float
    published: float
    connected: float
    disconnected: float


@frozen
class CleanupStats:
    """What `cleanup` and the heartbeats have found since the start."""

    runs: int  # of the command `cleanup`
    probed: int  # connections that it asked for a sign of life
    closed: int  # connections that gave none
    heartbeats: int  # signs of life asked for in all, by deadlines or by the command
    closed_by_timeout: int  # connections: heartbeat unanswered, silent, or taking no bytes
    closed_by_failed_delivery: int  # connections that did not take what they were sent
    delivery_success_rate: float  # of all messages owed to clients, the part that they were sent


@frozen
class ConnectionSummary:
    """One line of a list of connections."""

    connection_id: str
    user_id: str | None
    address: str
    path: str  # of the endpoint
    state: str
    connected_at: str
    quiet_for: float  # seconds since anything was heard
    rtt: float | None  # seconds, of the last Ping that was answered
    topics: int
    messages_in: int
    messages_out: int
    mailbox_bytes: int  # waiting to be sent
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
    control_sessions: int
    connections_by_state: dict[str, int]
    topics: int
    subscriptions: int
    connections_by_topic: dict[str, int]  # the largest, at most 20
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
    refused: dict[str, int]  # by HTTP status
    left_early: int  # before their handshake was complete
    closed_by_cause: dict[str, int]
    mailbox_bytes: int  # of all connections together
    slowest_consumers: tuple[ConnectionSummary, ...]  # whose mailboxes hold most, at most 10
    loop_lag: float  # seconds, smoothed
    loop_lag_max: float  # seconds, of the last ten
    rates: Rates
    cleanup: CleanupStats


@frozen
class ConnectionsPage:
    """The `result` of `connections`, newest last."""

    connections: tuple[ConnectionSummary, ...]
    # Of all pages together.
    total: int
    # To be sent for the next page; None: this is the last one.
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
    kind: str  # `session`, or `raw`: of a protocol of the program's own
    state: str
    close_cause: str | None
    connected_at: str
    last_activity: str  # when anything was heard last
    quiet_for: float
    rtt: float | None
    probed: bool  # whether a heartbeat is unanswered
    next_deadline: float | None  # seconds until time itself does something
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
    published: int  # since its first subscriber came


@frozen
class TopicsPage:
    """The `result` of `topics`, by name."""

    topics: tuple[TopicSummary, ...]
    total: int
    cursor: str | None = None


@frozen
class TopicDetail:
    """The `result` of `topic`; a topic without subscribers is as good as none."""

    topic: str
    subscribers: int
    connection_ids: tuple[str, ...]  # of the first `MAX_PAGE`; `connections` has all, by pages
    published: int
    overload_policy: str
    publish_rate: float | None  # per second since it was last asked for; None: never before


@frozen
class Disconnected:
    """The `result` of `disconnect`."""

    disconnected: int
    connection_ids: tuple[str, ...]
    # Of those asked for: there is no such connection, or it was ending already.
    missing: tuple[str, ...] = ()


@frozen
class CleanedUp:
    """The `result` of `cleanup`."""

    probed: int
    alive: int
    closed: int
    closed_ids: tuple[str, ...]


@frozen
class Broadcasted:
    """The `result` of `broadcast`."""

    recipients: int  # connections


@frozen
class Headroom:
    """How much of a limit is used."""

    limit: int
    used: int
    left: int


@frozen
class Health:
    """The `result` of `health`."""

    live: bool
    ready: bool  # whether new clients should be sent here
    reasons: tuple[str, ...]  # why not: `suspended`, `draining`, `full`, `loop_lag`
    uptime: float
    loop_lag: float
    loop_lag_max: float
    connections: Headroom
    descriptors: Headroom  # that the system lets this process have open
    limits: dict[str, float]  # the settings of that group, by name; 0: no limit


@frozen
class Suspended:
    """The `result` of `suspend` and `resume`."""

    suspended: bool
    connections: int


@frozen
class DrainProgress:
    """The `result` of `drain`, and its `progress` before that."""

    total: int  # connections, as it began
    left: int
    seconds: float  # since it began
    timeout: float
    done: bool  # False: under way, or ended by `resume`


@frozen
class Watching:
    """The `result` of `watch`."""

    events: tuple[str, ...]
    # The `topic` of the `event` and `gap` messages that follow; None: nothing is watched now.
    topic: str | None


@frozen
class Actor:
    """A task, or a group of them, in the `result` of `tree`."""

    name: str
    kind: str
    state: str
    # The function that it waits in, and for what, such as `Connection._receive: wait_readable`.
    waits_for: str | None = None
    mailbox_bytes: int = 0
    mailbox_oldest: float | None = None
    next_deadline: float | None = None
    children: tuple[Actor, ...] = ()
    # Connections that are not shown, by the `limit`.
    omitted: int = field(default=0)
