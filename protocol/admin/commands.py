"""The admin commands, and what the `data` of each may hold.

The classes are used alike by the control socket, the HTTP interface and the command line; what is
answered stands in `answers.py`. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeVar, cast

import attrs
from attrs import frozen

from ..errors import ErrorCode, RemoteProtocolError, shorten
from ..messages.types import read_payload

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
