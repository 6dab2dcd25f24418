"""The user behind a connection, as read from the claims of a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

from attrs import frozen

from .errors import ErrorCode, LocalProtocolError, RemoteProtocolError, shorten
from .messages.envelope import MAX_INTEGER
from .messages.topics import PatternSet, user_topic

_ADMIN_ROLE: Final = "admin"

_MAX_EXPIRY: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, in seconds since 1970: RFC 3339, in which messages tell a token's end, has
no later year. Programs that count in milliseconds get there."""


@frozen
class Permissions:
    """The topics that a token allows; the server's settings can restrict them further.

    None means that the token does not restrict them. An empty set allows nothing.
    """

    # Topics that its bearer may subscribe to.
    subscribe: PatternSet | None = None
    # Topics that its bearer may publish to.
    publish: PatternSet | None = None


# Shared by all identities whose token says nothing about topics.
_UNRESTRICTED: Final = Permissions()


@frozen
class Identity:
    """The user behind a connection, as the verified token names it."""

    # None: the connection is anonymous.
    user_id: str | None = None
    # `admin` may use the admin commands; other roles are the program's own.
    role: str | None = None
    # From `sid` or `jti`; an admin command ends all connections of one session by it.
    session_id: str | None = None
    # Seconds since 1970, UTC; None: it does not expire. The connection actor sets a deadline by it.
    expires_at: float | None = None
    # The topics that the token allows.
    permissions: Permissions = _UNRESTRICTED
    # The `info` claim, unchanged, for the program.
    info: Any = None

    @property
    def is_admin(self) -> bool:
        """Whether this user may use the admin commands."""
        return self.role == _ADMIN_ROLE

    @property
    def is_anonymous(self) -> bool:
        """Whether the client showed no token."""
        return self.user_id is None


# The identity of a client without a token, where the settings allow that.
ANONYMOUS: Final = Identity()


def identity_from_claims(claims: Mapping[str, Any]) -> Identity:
    """Return the identity that the claims of a verified token describe.

    `sub` (a string or an integer) is required. `exp`, `role`, `sid` (or else `jti`), `topics` and
    `info` are optional. Raises `RemoteProtocolError` (`unauthorized`) naming the wrong claim.
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
    # The bound of 64 bits is needed because `str` refuses numbers of thousands of digits.
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
    # The bound keeps NaN, infinity and integers that no float can hold out of the deadlines.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) < MAX_INTEGER
    ):
        _refuse("exp", "must be a number of seconds since 1970")
    if value > _MAX_EXPIRY:
        _refuse("exp", "is beyond the year 9999; a token without `exp` does not expire")
    return float(value)


def _permissions(value: object) -> Permissions:
    if value is None:
        return _UNRESTRICTED
    if not isinstance(value, Mapping):
        _refuse("topics", "must be an object with `subscribe` and `publish`")
    topics = cast("Mapping[object, object]", value)
    # A misspelt name must not mean "no restriction".
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
