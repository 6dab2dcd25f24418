"""Error codes, and the exceptions that say who made the mistake."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from .closing import CloseCause


class ErrorCode(StrEnum):
    """The machine-readable code of an error: `data.code` of an `error` message."""

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
        """Whether the same request, unchanged, may succeed later."""
        return self in _RETRYABLE


# `internal` is not among them, since nobody knows how far the request got; nor is `token_expired`,
# since a new token is needed first; nor are the limits, which hold until someone unsubscribes.
_RETRYABLE: Final = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.TIMEOUT, ErrorCode.UNAVAILABLE})


def shorten(text: str, limit: int = 40) -> str:
    """Quote text of unknown content for an error message, cut to `limit` characters."""
    return ascii(text) if len(text) <= limit else f"{text[:limit]!a}..."


class MoorageError(Exception):
    """The base of every error that Moorage raises on purpose."""


class ProtocolError(MoorageError):
    """A violation of the message protocol; the subclass says who made it.

    `message` tells people what was wrong and what would be right. It holds no secrets, so it may be
    sent to the peer. `code` is for machines.
    """

    def __init__(
        self,
        message: str,
        code: ErrorCode,
        *,
        topic: str | None = None,
        close: CloseCause | None = None,
    ) -> None:
        # Both are in `args`, so that copying and pickling rebuild the exception.
        super().__init__(message, code)
        self.message = message
        self.code = code
        # The topic that it is about; the `error` message that answers has it as its `topic`.
        self.topic = topic
        # The cause to close the connection for; None: the connection can go on.
        self.close = close

    def __str__(self) -> str:
        return self.message


class RemoteProtocolError(ProtocolError):
    """A mistake of the peer.

    It is answered with an `error` message, and the connection lives on unless `close` is set.
    """


class LocalProtocolError(ProtocolError):
    """A mistake of the calling program: it asked for what the protocol does not allow."""
