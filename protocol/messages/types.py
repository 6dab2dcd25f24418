"""The standard message types, and the payload classes of those that have one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeVar, cast

from attrs import frozen
from cattrs import BaseValidationError, transform_error
from cattrs.preconf.msgspec import make_converter

from ..errors import ErrorCode, RemoteProtocolError
from .codec import Incoming

# The name of the WebSocket subprotocol, and the `protocol` of a welcome.
PROTOCOL_NAME: Final = "moorage.v1"

Payload = TypeVar("Payload")

# Each topic of a message is checked and answered by itself; this many take 10 ms of the server's
# time, and as many answers.
MAX_TOPICS_PER_MESSAGE: Final = 1000


class MessageType(StrEnum):
    """The message types that the protocol itself defines; any other is a program's own."""

    PING = "ping"
    PONG = "pong"
    AUTHENTICATE = "authenticate"
    AUTHENTICATED = "authenticated"
    SUBSCRIBE = "subscribe"
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBE = "unsubscribe"
    UNSUBSCRIBED = "unsubscribed"
    DATA = "data"
    PUBLISHED = "published"
    WELCOME = "welcome"
    HEARTBEAT = "heartbeat"
    GAP = "gap"
    GOODBYE = "goodbye"
    ERROR = "error"


@frozen
class Authenticate:
    """`authenticate`, from a client: it shows its first token or a newer one."""

    token: str


@frozen
class TopicNames:
    """`subscribe` and `unsubscribe`, from a client, for several topics."""

    topics: tuple[str, ...]


@frozen
class Welcome:
    """`welcome`: the first message of every connection."""

    # The name of the connection in logs, in admin commands, and in `exclude` of a broadcast.
    connection_id: str
    # `PROTOCOL_NAME`, for clients that speak several versions.
    protocol: str
    # After so many seconds of quiet the server sends a `heartbeat`; a client that receives nothing
    # for much longer knows that the connection is dead.
    heartbeat_interval: float
    # None: connected without a token.
    user_id: str | None = None
    # The topics that the server subscribed the client to.
    topics: tuple[str, ...] = ()
    # When the token expires, in RFC 3339, for a client that renews it in time. None: it does not.
    expires_at: str | None = None


@frozen
class Authenticated:
    """`authenticated`: the reply to `authenticate`."""

    user_id: str
    # When the token expires, in RFC 3339, for a client that renews it in time. None: it does not.
    expires_at: str | None = None


@frozen
class Goodbye:
    """`goodbye`: sent before a planned close."""

    # A text for people.
    reason: str
    # How many seconds to wait before coming back. Each client gets a time of its own, so that they
    # come back spread over time. None: the client waits as it likes.
    reconnect_after: float | None = None


@frozen
class Gap:
    """`gap`: the overload policy dropped messages from this subscriber's mailbox."""

    # How many messages were dropped, all of the topic in the envelope.
    dropped: int


@frozen
class ErrorData:
    """`error`: what went wrong, for machines."""

    # One of `ErrorCode`, or a code that only a newer server knows.
    code: str
    # Whether the same request, unchanged, may succeed later.
    retryable: bool = False

    @classmethod
    def of(cls, code: ErrorCode) -> ErrorData:
        """Return the payload for one of the codes of this version."""
        return cls(code=code.value, retryable=code.retryable)


def _exactly(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(value)
    return value


def _number(value: Any, _: type[Any]) -> float:
    if type(value) is not float and type(value) is not int:
        raise ValueError(value)
    return float(value)


def _texts(value: Any, _: type[Any]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)  # noqa: TRY004 - cattrs has the best text for a ValueError
    return tuple(_exactly(item, str) for item in cast("list[Any]", value))


def _text_or_integer(value: Any, _: type[Any]) -> str | int | None:
    if value is not None and type(value) is not str and type(value) is not int:
        raise ValueError(value)
    return value


# Without these hooks cattrs converts where it can: 5 to "5", "abc" to ("a", "b", "c"). In a
# message, a field of the wrong type is an error.
_converter: Final = make_converter()
_converter.register_structure_hook(str, _exactly)
_converter.register_structure_hook(int, _exactly)
_converter.register_structure_hook(bool, _exactly)
_converter.register_structure_hook(float, _number)
_converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
_converter.register_structure_hook_func(lambda kind: kind == str | int | None, _text_or_integer)


def read_payload(data: Any, kind: type[Payload]) -> Payload:
    """Read the `data` of a message, given as Python objects, into a payload class.

    Unknown fields are ignored. Raises `RemoteProtocolError` (`bad_message`) naming each field that
    is missing or of the wrong type.
    """
    if not isinstance(data, dict):
        raise RemoteProtocolError("`data` must be an object", ErrorCode.BAD_MESSAGE)
    try:
        return _converter.structure(cast("dict[str, Any]", data), kind)
    except BaseValidationError as error:
        # cattrs gives each as "what is wrong @ data.field".
        faults = [
            fault.partition(" @ ")
            for fault in transform_error(error, path="data", format_exception=_word)
        ]
        raise RemoteProtocolError(
            "; ".join(f"`{place}`: {what}" for what, _, place in faults), ErrorCode.BAD_MESSAGE
        ) from error


def _word(error: BaseException, kind: type[Any] | None) -> str:
    match error:
        case KeyError():
            return "is required, and missing"
        case OverflowError():
            return "a number is too large"
        case _ if kind in _KINDS:
            return f"expected {_KINDS[kind]}"
        case _:
            return "a value of the wrong type"


_KINDS: Final[dict[Any, str]] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    float: "a number",
    str | None: "a string or null",
    int | None: "an integer or null",
    float | None: "a number or null",
    str | int | None: "a string, an integer or null",
    tuple[str, ...]: "a list of strings",
    tuple[str, ...] | None: "a list of strings or null",
}


def fields_of(value: object) -> dict[str, Any]:
    """Return the fields of a JSON object, or none if the value is not an object.

    A lenient reader, such as the client, takes from the result what it can use.
    """
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def topics_of(message: Incoming) -> tuple[str, ...]:
    """Return the topics that a `subscribe` or `unsubscribe` is about, each once, in order.

    The names are those of the message, unchecked: each topic is answered by itself. Raises
    `RemoteProtocolError` (`bad_message`) unless there is either a `topic` or a list of 1 to
    `MAX_TOPICS_PER_MESSAGE` names in `data.topics`.
    """
    value = message.value()
    several = isinstance(value, dict) and "topics" in value
    if several and message.topic is not None:
        raise RemoteProtocolError(
            f"`{message.type}` takes a `topic` or `data.topics`, not both", ErrorCode.BAD_MESSAGE
        )
    if message.topic is not None:
        return (message.topic,)
    names = read_payload(value, TopicNames).topics if several else ()
    if len(names) > MAX_TOPICS_PER_MESSAGE:
        raise RemoteProtocolError(
            f"`{message.type}` takes at most {MAX_TOPICS_PER_MESSAGE} topics at once, "
            f"not {len(names)}",
            ErrorCode.BAD_MESSAGE,
        )
    if not names:
        raise RemoteProtocolError(
            f"`{message.type}` needs a `topic`, or a list of at least one in `data.topics`",
            ErrorCode.BAD_MESSAGE,
        )
    # A dict keeps the order and drops names that come again.
    return tuple(dict.fromkeys(names))


def token_of(message: Incoming) -> str:
    """Return the token of an `authenticate`, unverified.

    Raises `RemoteProtocolError` (`bad_message`) when there is none. Its text never holds the token.
    """
    token = fields_of(message.value()).get("token")
    if not isinstance(token, str) or not token:
        raise RemoteProtocolError(
            f"`{message.type}` needs the token, a string, in `data.token`", ErrorCode.BAD_MESSAGE
        )
    return token
