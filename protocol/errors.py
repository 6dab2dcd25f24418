"""Error codes, and exceptions that say whose fault it was."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .closing import CloseCause


class ErrorCode(StrEnum):
    """What went wrong, for machines: `data.code` of an `error` message."""

    BAD_MESSAGE = "bad_message"
    UNKNOWN_TYPE = "unknown_type"
    UNAUTHORIZED = "unauthorized"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - the name of an error, no secret
    FORBIDDEN = "forbidden"
    BAD_TOPIC = "bad_topic"
    NOT_SUBSCRIBED = "not_subscribed"
    TOPIC_LIMIT = "topic_limit"
    SUBSCRIPTION_LIMIT = "subscription_limit"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"

    @property
    def retryable(self) -> bool:
        """Whether the same request, sent again later and unchanged, may well succeed."""
        return self in _RETRYABLE


# Not `internal`: nobody knows how far the request got. Not `token_expired`: a new token is needed
# first. Not the limits: they stay until somebody unsubscribes.
_RETRYABLE: Final = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.TIMEOUT, ErrorCode.UNAVAILABLE})


def shorten(text: str, limit: int = 40) -> str:
    """Quote text of unknown content for an error message, cut to `limit` characters."""
    return ascii(text) if len(text) <= limit else f"{text[:limit]!a}..."


class MoorageError(Exception):
    """The base of every error that Moorage raises on purpose."""


class ProtocolError(MoorageError):
    """Somebody broke the message protocol; the subclass says who.

    `message` is for people, says what was wrong and what would be right, and may be sent to the
    peer as it is: it holds no secrets. `code` is for machines.
    """

    def __init__(
        self,
        message: str,
        code: ErrorCode,
        *,
        topic: str | None = None,
        close: CloseCause | None = None,
    ) -> None:
        # Both go to `args`, so that copying and pickling rebuild the exception.
        super().__init__(message, code)
        self.message = message
        self.code = code
        # The topic it was about, for the `topic` of the answering `error` message.
        self.topic = topic
        # Set when the connection cannot go on: it is closed for this cause.
        self.close = close

    def __str__(self) -> str:
        return self.message


class RemoteProtocolError(ProtocolError):
    """The peer did wrong: it is answered with an `error` message, and the connection lives."""


class LocalProtocolError(ProtocolError):
    """The calling program did wrong: it asked for something that the protocol does not allow."""
