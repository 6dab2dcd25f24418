"""Who a connection speaks for, and what a token's claims say about that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

from attrs import frozen

from .errors import ErrorCode, LocalProtocolError, RemoteProtocolError, shorten
from .messages.envelope import MAX_INTEGER
from .messages.topics import PatternSet, user_topic

_ADMIN_ROLE: Final = "admin"


@frozen
class Permissions:
    """What a token allows, on top of which the server's settings restrict.

    None: the token does not restrict it. An empty set allows nothing.
    """

    subscribe: PatternSet | None = None
    publish: PatternSet | None = None


# Shared by the many whose token says nothing about topics.
_UNRESTRICTED: Final = Permissions()


@frozen
class Identity:
    """The user behind a connection, as the verified token tells it."""

    # None: nobody is known to be there.
    user_id: str | None = None
    # `admin` opens the control commands; other roles are the program's own.
    role: str | None = None
    # Of `sid` or `jti`: ends all connections of one session.
    session_id: str | None = None
    # Seconds since 1970, UTC; None: never. The connection actor makes a deadline of it.
    expires_at: float | None = None
    permissions: Permissions = _UNRESTRICTED
    # Copied to the connection's metadata as it is.
    info: Any = None

    @property
    def is_admin(self) -> bool:
        """Whether the control commands are open to this user."""
        return self.role == _ADMIN_ROLE

    @property
    def is_anonymous(self) -> bool:
        """Whether no token was shown."""
        return self.user_id is None


# A connection without a token, where that is allowed.
ANONYMOUS: Final = Identity()


def identity_from_claims(claims: Mapping[str, Any]) -> Identity:
    """Read the claims of a token that has been verified already.

    `sub` (string or integer) is required; `exp`, `role`, `sid` or else `jti`, `topics` and `info`
    are not. Raises `RemoteProtocolError` (`unauthorized`) naming the claim that is wrong.
    """
    return Identity(
        user_id=_user_id(claims.get("sub")),
        role=_text(claims, "role"),
        session_id=_text(claims, "sid") or _text(claims, "jti"),
        expires_at=_expiry(claims.get("exp")),
        permissions=_permissions(claims.get("topics")),
        info=claims.get("info"),
    )


def _refuse(claim: str, rule: str) -> NoReturn:
    raise RemoteProtocolError(f"the token's `{claim}` {rule}", ErrorCode.UNAUTHORIZED)


def _user_id(value: object) -> str:
    # Within 64 bits: `str` refuses numbers of thousands of digits.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER:
        value = str(value)
    if not isinstance(value, str) or not value:
        _refuse("sub", "must name the user, by a string or an integer")
    try:
        user_topic(value)
    except LocalProtocolError as error:
        _refuse("sub", f"must be usable in a topic's name: {error}")
    return value


def _text(claims: Mapping[str, Any], claim: str) -> str | None:
    value = claims.get(claim)
    if value is not None and not isinstance(value, str):
        _refuse(claim, "must be a string")
    return value


def _expiry(value: object) -> float | None:
    if value is None:
        return None
    # The bound keeps NaN, infinity and integers that no float holds out of the deadlines.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) < MAX_INTEGER
    ):
        _refuse("exp", "must be a number of seconds since 1970")
    return float(value)


def _permissions(value: object) -> Permissions:
    if value is None:
        return _UNRESTRICTED
    if not isinstance(value, Mapping):
        _refuse("topics", "must be an object with `subscribe` and `publish`")
    topics = cast("Mapping[object, object]", value)
    # A misspelt name must not lift the restriction that it was meant to be.
    if unknown := topics.keys() - {"subscribe", "publish"}:
        _refuse(
            "topics",
            f"may hold `subscribe` and `publish`, not {shorten(str(min(map(str, unknown))))}",
        )
    return Permissions(
        subscribe=_patterns(topics, "subscribe"), publish=_patterns(topics, "publish")
    )


def _patterns(topics: Mapping[object, object], action: str) -> PatternSet | None:
    if action not in topics:
        return None
    claim = f"topics.{action}"
    texts = topics[action]
    if not isinstance(texts, list | tuple):
        _refuse(claim, "must be a list of topic patterns")
    patterns: list[str] = []
    for text in cast("list[object]", texts):
        if not isinstance(text, str):
            _refuse(claim, "must be a list of topic patterns, each a string")
        patterns.append(text)
    try:
        return PatternSet(patterns, cache_size=64)
    except LocalProtocolError as error:
        _refuse(claim, f"is wrong: {error}")
