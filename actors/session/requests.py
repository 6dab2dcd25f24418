"""The protocol's own requests, one function each.

Each does what its message asks for and replies, or raises a ProtocolError that becomes the answer.
Where an authorizer of the program has to wait, the function returns what is left to do, to be
awaited by the session's worker; everything else is done at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import Incoming, encode_id, encode_value, head, timestamp
from ...protocol.messages.topics import check_topic
from ...protocol.messages.types import (
    PROTOCOL_NAME,
    Authenticated,
    MessageType,
    Welcome,
    token_of,
    topics_of,
)
from ..connection.lifecycle import State

if TYPE_CHECKING:
    from ..ports import Authorizer
    from .session import Session

Request = Callable[["Session", Incoming], Awaitable[None] | None]

_PONG_HEAD: Final = head(MessageType.PONG)

_MAX_CHECKED_TOPICS: Final = 256
"""Topics whose permission to publish is remembered, per connection."""


def ping(session: Session, message: Incoming) -> None:
    """Answer with the same data."""
    request_id = message.id
    if request_id is None:
        session.say(_PONG_HEAD, message.data)
    else:
        session.say(b'{"type":"pong","id":%b,' % encode_id(request_id), message.data)


def publish(session: Session, message: Incoming) -> Awaitable[None] | None:
    """Publish the data, unparsed; a request with an `id` is told that it was."""
    topic = message.topic
    if topic is None:
        text = "`data` needs the `topic` that it is to be published to"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    if session.checked_topics is None or topic not in session.checked_topics:
        _check_publish(session, topic)
    authorizer = session.port.authorizers.get("publish")
    if authorizer is not None:
        answer = authorizer(session, topic)
        if inspect.isawaitable(answer):
            return _publish_when_allowed(session, message, topic, answer)
        _require(answer, "publish to", topic)
    _publish_now(session, message, topic)
    return None


def _check_publish(session: Session, topic: str) -> None:
    check_topic(topic)
    session.port.supervisor.check_access("publish", session.identity, topic)
    if session.checked_topics is None or len(session.checked_topics) >= _MAX_CHECKED_TOPICS:
        session.checked_topics = set()
    session.checked_topics.add(topic)


def _publish_now(session: Session, message: Incoming, topic: str) -> None:
    session.port.supervisor.publish_raw(topic, message.data)
    if message.id is not None:
        session.say(head(MessageType.PUBLISHED, topic, message.id), None)


async def _publish_when_allowed(
    session: Session, message: Incoming, topic: str, answer: Awaitable[bool | None]
) -> None:
    _require(await _in_time(session, answer), "publish to", topic)
    _publish_now(session, message, topic)


def subscribe(session: Session, message: Incoming) -> Awaitable[None] | None:
    """Subscribe to each topic; each is answered for itself, before any message of it."""
    topics = topics_of(message)
    authorizer = session.port.authorizers.get("subscribe")
    for position, topic in enumerate(topics):
        try:
            session.port.supervisor.check_access("subscribe", session.identity, topic)
            if authorizer is not None:
                answer = authorizer(session, topic)
                if inspect.isawaitable(answer):
                    rest = topics[position:]
                    return _subscribe_when_allowed(session, message, rest, authorizer, answer)
                _require(answer, "subscribe to", topic)
            _subscribe_now(session, message, topic)
        except ProtocolError as error:
            error.topic = topic
            session.refuse(message, error)
    return None


def _subscribe_now(session: Session, message: Incoming, topic: str) -> None:
    if session.port.supervisor.subscribe(session, topic):
        session.topics[topic] = True  # subject to the client's permissions, whenever they change
    session.say(head(MessageType.SUBSCRIBED, topic, message.id), None)


async def _subscribe_when_allowed(
    session: Session,
    message: Incoming,
    topics: tuple[str, ...],
    authorizer: Authorizer,
    first_answer: Awaitable[bool | None],
) -> None:
    """Go on with a `subscribe` from the first topic whose authorizer has to wait."""
    answer: Awaitable[bool | None] | bool | None = first_answer
    for position, topic in enumerate(topics):
        try:
            if position:
                session.port.supervisor.check_access("subscribe", session.identity, topic)
                answer = authorizer(session, topic)
            allowed = await _in_time(session, answer) if inspect.isawaitable(answer) else answer
            _require(allowed, "subscribe to", topic)
            _subscribe_now(session, message, topic)
        except ProtocolError as error:
            error.topic = topic
            session.refuse(message, error)


def unsubscribe(session: Session, message: Incoming) -> None:
    """Undo each subscription; nothing of the topic follows the answer."""
    for topic in topics_of(message):
        if session.port.supervisor.unsubscribe(session, topic):
            session.say(head(MessageType.UNSUBSCRIBED, topic, message.id), None)
        else:
            text = f"you are not subscribed to {topic!r}"
            error = RemoteProtocolError(text, ErrorCode.NOT_SUBSCRIBED, topic=topic)
            session.refuse(message, error)


def authenticate(session: Session, message: Incoming) -> None:
    """Take a token: the first of this connection, or a fresh one in place of an older."""
    identity = session.port.supervisor.verify(token_of(message))
    before = session.identity
    if before.user_id is not None and identity.user_id != before.user_id:
        text = "this connection belongs to another user; open a new one for this token"
        raise RemoteProtocolError(text, ErrorCode.FORBIDDEN)
    was_waiting = session.state is State.AUTHENTICATING
    session.set_identity(identity)
    assert identity.user_id is not None  # noqa: S101 - `verify` demands a `sub`
    reply = Authenticated(identity.user_id, expiry_text(identity))
    session.say(head(MessageType.AUTHENTICATED, id=message.id), encode_value(reply))
    if was_waiting:
        for topic in session.open_for_user():
            session.say(head(MessageType.SUBSCRIBED, topic), None)


def drop_forbidden_topics(session: Session) -> None:
    """Undo the client's own subscriptions that its new token does not allow any more."""
    for topic, asked_for in tuple(session.topics.items()):
        try:
            if asked_for:
                session.port.supervisor.check_access("subscribe", session.identity, topic)
        except ProtocolError as error:
            session.unsubscribe(topic)
            session.answer_error(None, error)


def say_welcome(session: Session, topics: tuple[str, ...]) -> None:
    """Say the first message of a connection: who it is, and what it is subscribed to."""
    data = Welcome(
        session.id,
        PROTOCOL_NAME,
        session.port.limits.heartbeat_interval,
        session.user_id,
        topics,
        expiry_text(session.identity),
    )
    session.say(head(MessageType.WELCOME), encode_value(data))


def expiry_text(identity: Identity) -> str | None:
    """Return when a token expires, as messages say it; None if it does not."""
    return None if identity.expires_at is None else timestamp(identity.expires_at).decode()


def _require(answer: bool | None, verb: str, topic: str) -> None:  # noqa: FBT001 - an authorizer's
    if answer is False:
        text = f"you may not {verb} {topic!r}"
        raise RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)


async def _in_time(session: Session, answer: Awaitable[bool | None]) -> bool | None:
    """Await an authorizer's answer, within `authorize_timeout`."""
    try:
        with trio.fail_after(session.port.limits.authorize_timeout):
            return await answer
    except trio.TooSlowError:
        text = "whether this is allowed could not be found out in time"
        raise RemoteProtocolError(text, ErrorCode.TIMEOUT) from None


REQUESTS: Final[dict[str, Request]] = {
    MessageType.PING: ping,
    MessageType.DATA: publish,
    MessageType.SUBSCRIBE: subscribe,
    MessageType.UNSUBSCRIBE: unsubscribe,
    MessageType.AUTHENTICATE: authenticate,
}
"""What a client may always ask for; every other type is the program's."""
