"""The admin commands: what the `data` of each may hold, and the one table of them all.

The control socket, the REST interface, the OpenAPI document and the command line are made of this
table or checked against it, and so is docs/control.md. A new command is a request class and a row
here, an answer class in `answers.py`, and a method of its name in the supervisor's `Operations`.

Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar, cast, get_type_hints

import attrs
import msgspec
from attrs import frozen

from ..errors import ErrorCode, RemoteProtocolError, shorten
from ..messages.codec import read_fields
from ..messages.types import read_payload
from . import answers

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

MAX_PAGE: Final = 1000
"""Entries that one page may have."""


class AnswerType(StrEnum):
    """The message types that an admin session sends, beside those of every session."""

    RESULT = "result"  # the one reply to a command that was done; has its `id`
    PROGRESS = "progress"  # any number of them before the `result` of a `drain`; has its `id`
    EVENT = "event"  # of a `watch`; these are the messages that a `gap` counts as dropped


# The requests


@frozen
class EmptyRequest:
    """`stats`, `health`, `suspend` and `resume` ask for nothing beside the command itself."""


EMPTY: Final = EmptyRequest()


@frozen
class ConnectionsRequest:
    """`connections`: filters, which narrow each other, and the page of what they find."""

    user_id: str | int | None = None
    # Only the subscribers of this topic.
    topic: str | None = None
    state: str | None = None
    # Entries on the page, at most `MAX_PAGE`.
    limit: int = 100
    # The `cursor` of the page before; None: the first page.
    cursor: str | None = None


@frozen
class ConnectionRequest:
    """`connection`: one connection, in detail."""

    connection_id: str


@frozen
class TopicsRequest:
    """`topics`: a filter, and the page of what it finds."""

    # How the names of the topics begin.
    prefix: str | None = None
    # Both as in `ConnectionsRequest`.
    limit: int = 100
    cursor: str | None = None


@frozen
class TopicRequest:
    """`topic`: one topic, in detail."""

    topic: str


@frozen
class DisconnectRequest:
    """`disconnect`: exactly one of the first three fields says whose connections are closed."""

    connection_ids: tuple[str, ...] | None = None
    user_id: str | int | None = None
    # All subscribers of this topic.
    topic: str | None = None
    # For the Close frame, which has room for 123 bytes of it.
    reason: str = ""
    # The close code instead of the usual one; its range tells clients whether to come back.
    code: int | None = None
    # Whether clients are told to come back at once: 4007 instead of 4503.
    reconnect: bool = False


@frozen
class CleanupRequest:
    """`cleanup`: which connections are asked for a sign of life."""

    # Seconds for which nothing was heard of them; None: as long as a pong may take.
    quiet_for: float | None = None


@frozen
class BroadcastRequest:
    """`broadcast`: a message; exactly one of `topic`, `user_id` and `everyone` says to whom."""

    message_type: str
    topic: str | None = None
    user_id: str | int | None = None
    everyone: bool = False
    data: Any = None
    # Ids of connections that do not get it.
    exclude: tuple[str, ...] = ()


@frozen
class DrainRequest:
    """`drain`: the time that clients have to leave."""

    # Seconds; None: the setting `drain_timeout`.
    timeout: float | None = None


@frozen
class WatchRequest:
    """`watch`: the events to watch from now on, instead of those watched before."""

    # Patterns over the names of events, as over topics; an empty list ends the watching.
    events: tuple[str, ...] = ("**",)


@frozen
class TreeRequest:
    """`tree`: how much of the tree is shown."""

    # Connections among the actors, at most `MAX_PAGE`.
    limit: int = 100


# The table


@frozen
class Command(Generic[RequestT, AnswerT]):
    """One admin command: a row of `COMMANDS`."""

    # The message type that asks for it, and the method of `Operations` that does it.
    name: str
    # The classes of the `data` of the command and of its `result`.
    request: type[RequestT]
    answer: type[AnswerT]
    # One sentence, for the OpenAPI document.
    summary: str
    # Whether it changes anything for clients: then the log says who asked, and REST takes a POST.
    changes: bool = False
    # Whether it waits for something: then it is answered when that is over, beside other commands.
    takes_time: bool = False
    # The class of the `data` of each `progress`; None: the command sends none.
    progress: type[Any] | None = None


STATS: Final = Command(
    "stats",
    EmptyRequest,
    answers.Stats,
    "All counters and rates of the server.",
)
CONNECTIONS: Final = Command(
    "connections",
    ConnectionsRequest,
    answers.ConnectionsPage,
    "A page of connections, oldest first; the filters narrow each other.",
)
CONNECTION: Final = Command(
    "connection",
    ConnectionRequest,
    answers.ConnectionDetail,
    "One connection, in detail.",
)
TOPICS: Final = Command(
    "topics",
    TopicsRequest,
    answers.TopicsPage,
    "A page of the topics that have subscribers, by name.",
)
TOPIC: Final = Command(
    "topic",
    TopicRequest,
    answers.TopicDetail,
    "One topic, in detail.",
)
DISCONNECT: Final = Command(
    "disconnect",
    DisconnectRequest,
    answers.Disconnected,
    "Close connections: those of `connection_ids`, of a `user_id`, or of a `topic`.",
    changes=True,
)
CLEANUP: Final = Command(
    "cleanup",
    CleanupRequest,
    answers.CleanedUp,
    "Ask quiet connections for a sign of life, and close those that give none.",
    changes=True,
    takes_time=True,
)
BROADCAST: Final = Command(
    "broadcast",
    BroadcastRequest,
    answers.Broadcasted,
    "Send a message to the subscribers of a `topic`, to a `user_id`, or to `everyone`.",
    changes=True,
)
HEALTH: Final = Command(
    "health",
    EmptyRequest,
    answers.Health,
    "Whether the server lives, whether it is ready for new clients, and why not.",
)
SUSPEND: Final = Command(
    "suspend",
    EmptyRequest,
    answers.Suspended,
    "Let no new clients in; those that are connected stay.",
    changes=True,
)
RESUME: Final = Command(
    "resume",
    EmptyRequest,
    answers.Suspended,
    "Let new clients in again, and end a drain that is under way.",
    changes=True,
)
DRAIN: Final = Command(
    "drain",
    DrainRequest,
    answers.DrainProgress,
    "Tell every client to come back elsewhere, and wait until all have left.",
    changes=True,
    takes_time=True,
    progress=answers.DrainProgress,
)
WATCH: Final = Command(
    "watch",
    WatchRequest,
    answers.Watching,
    "Send events as they happen, until another `watch`.",
)
TREE: Final = Command(
    "tree",
    TreeRequest,
    answers.Actor,
    "The tree of actors at this moment.",
)

COMMANDS: Final[Mapping[str, Command[Any, Any]]] = MappingProxyType(
    {
        command.name: command
        for command in (
            *(STATS, CONNECTIONS, CONNECTION, TOPICS, TOPIC, DISCONNECT, CLEANUP, BROADCAST),
            *(HEALTH, SUSPEND, RESUME, DRAIN, WATCH, TREE),
        )
    }
)
"""All admin commands, by name."""


def read_raw_request(data: bytes | msgspec.Raw, kind: type[RequestT]) -> RequestT:
    """Read the `data` of a command, given as JSON, into its class; nothing or null reads as empty.

    A field that may hold anything stays JSON, as a `msgspec.Raw`, whose nesting is not checked. The
    others are built only if they have the right shape. So a long value costs next to nothing,
    wherever it stands. Raises what `read_request` does.
    """
    given: Any = None
    if data and bytes(data).strip() != b"null":
        given = read_fields(data)
        if given is None:
            given = ()  # no object
    if isinstance(given, dict):
        decoders = _decoders(kind)
        for name, raw in cast("dict[str, msgspec.Raw]", given).items():
            if (decoder := decoders.get(name)) is not None:
                given[name] = _read_field(decoder, raw)
    return read_request(given, kind)


def _read_field(decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    """Return the value of a field, or one of no type that a field has."""
    try:
        decoder.decode(raw)
        # Once more, as it stands: the decoder of a type takes 5.0 for an integer.
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ...


@cache
def _decoders(kind: type[Any]) -> Mapping[str, msgspec.json.Decoder[Any] | None]:
    """Return the decoders of a request's fields, by name; None: the field may hold anything."""
    return {
        name: None if hint is Any else msgspec.json.Decoder(hint)
        for name, hint in get_type_hints(kind).items()
    }


def read_request(data: Any, kind: type[RequestT]) -> RequestT:
    """Read the `data` of a command, given as Python objects, into its class; None reads as empty.

    Stricter than `read_payload`, so that a misspelled filter never becomes a wider command:
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
