"""The protocol's own requests, one function each.

Each does what its message asks for and replies, or raises a ProtocolError that becomes the answer.
If an authorizer of the program has to wait, the function returns an awaitable that does the rest,
for the session's worker; everything else is done at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Final

import trio

from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.messages.codec import Incoming, encode_id, encode_value, head
from ...protocol.messages.topics import check_topic
from ...protocol.messages.types import Authenticated, MessageType, token_of, topics_of
from .message_connection import MessageConnection, Request, expiry_text
from .session import CheckedTopics, SessionActor

_PONG_HEAD: Final = head(MessageType.PONG)


def ping(session: MessageConnection, message: Incoming) -> None:
    """Answer with a `pong` that has the same data."""
    request_id = message.id
    if request_id is None:
        session.say(_PONG_HEAD, message.data)
    else:
        session.say(b'{"type":"pong","id":%b,' % encode_id(request_id), message.data)


def publish(session: SessionActor, message: Incoming) -> Awaitable[None] | None:
    """Publish the data, unparsed; answer a message that has an `id` with `published`."""
    topic = message.topic
    if topic is None:
        text = "`data` needs the `topic` that it is to be published to"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    if session.checked_topics is None or topic not in session.checked_topics:
        _check_publish(session, topic)
    authorizer = session.services.authorizers.get("publish")
    if authorizer is not None:
        answer = authorizer(session.handle, topic)
        if inspect.isawaitable(answer):
            return _publish_when_allowed(session, message, topic, answer)
        _require(answer, "publish to", topic)
    _publish_now(session, message, topic)
    return None


def _check_publish(session: SessionActor, topic: str) -> None:
    check_topic(topic)
    session.services.topics.check_access("publish", session.identity, topic)
    if session.checked_topics is None:
        session.checked_topics = CheckedTopics()
    session.checked_topics.remember(topic)


def _publish_now(session: SessionActor, message: Incoming, topic: str) -> None:
    session.services.topics.publish_raw(topic, message.data)
    if message.id is not None:
        session.say(head(MessageType.PUBLISHED, topic, message.id), None)


async def _publish_when_allowed(
    session: SessionActor, message: Incoming, topic: str, answer: Awaitable[bool | None]
) -> None:
    _require(await _in_time(session, answer), "publish to", topic)
    _publish_now(session, message, topic)


def subscribe(session: SessionActor, message: Incoming) -> Awaitable[None] | None:
    """Subscribe to each topic; answer each on its own, before any message of the topic."""
    topic = _only_topic(session, message)
    if topic is None:
        return None
    session.services.topics.check_access("subscribe", session.identity, topic)
    authorizer = session.services.authorizers.get("subscribe")
    if authorizer is not None:
        answer = authorizer(session.handle, topic)
        if inspect.isawaitable(answer):
            return _subscribe_when_allowed(session, message, topic, answer)
        _require(answer, "subscribe to", topic)
    _subscribe_now(session, message, topic)
    return None


def _subscribe_now(session: SessionActor, message: Incoming, topic: str) -> None:
    # The client asked for it, so it ends when a new token of the client does not allow it.
    session.services.topics.subscribe(session, topic, by_client=True)
    session.say(head(MessageType.SUBSCRIBED, topic, message.id), None)


async def _subscribe_when_allowed(
    session: SessionActor, message: Incoming, topic: str, answer: Awaitable[bool | None]
) -> None:
    _require(await _in_time(session, answer), "subscribe to", topic)
    _subscribe_now(session, message, topic)


def unsubscribe(session: SessionActor, message: Incoming) -> None:
    """End each subscription; no message of the topic follows the answer."""
    topic = _only_topic(session, message)
    if topic is None:
        return
    if not session.services.topics.unsubscribe(session, topic):
        text = f"you are not subscribed to {topic!r}"
        raise RemoteProtocolError(text, ErrorCode.NOT_SUBSCRIBED, topic=topic)
    session.say(head(MessageType.UNSUBSCRIBED, topic, message.id), None)


def _only_topic(session: SessionActor, message: Incoming) -> str | None:
    """Return the topic of a message about one; None if there is a list, whose turn comes now."""
    topics = topics_of(message)
    if message.topic is None:
        session.act_on_each(message, topics)
        return None
    return check_topic(message.topic)


def authenticate(session: MessageConnection, message: Incoming) -> None:
    """Take a token: the first one of this connection, or one that renews it."""
    token = token_of(message)
    before = session.identity
    try:
        identity = session.shared.life.verify(token)
        if before.user_id is not None and identity.user_id != before.user_id:
            text = "this connection belongs to another user; open a new one for this token"
            raise RemoteProtocolError(text, ErrorCode.FORBIDDEN)
    except ProtocolError:
        session.strike()
        raise
    session.set_identity(identity)
    assert identity.user_id is not None  # noqa: S101 - `verify` demands a `sub`
    reply = Authenticated(identity.user_id, expiry_text(identity))
    session.say(head(MessageType.AUTHENTICATED, id=message.id), encode_value(reply))
    if before.is_anonymous:
        session.welcome_user()
    else:
        session.strike()  # a client renews its token now and then, not twenty times in ten seconds


def _require(answer: bool | None, verb: str, topic: str) -> None:  # noqa: FBT001 - an authorizer's
    if answer is False:
        text = f"you may not {verb} {topic!r}"
        raise RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)


async def _in_time(session: SessionActor, answer: Awaitable[bool | None]) -> bool | None:
    """Await an authorizer's answer, within `authorize_timeout`."""
    try:
        with trio.fail_after(session.shared.limits.authorize_timeout):
            return await answer
    except trio.TooSlowError:
        text = "it could not be decided in time whether this is allowed"
        raise RemoteProtocolError(text, ErrorCode.TIMEOUT) from None


COMMON_REQUESTS: Final[dict[str, Request]] = {
    MessageType.PING: ping,
    MessageType.AUTHENTICATE: authenticate,
}
"""The requests that clients and operators may make."""

CLIENT_REQUESTS: Final[dict[str, Request]] = {
    **COMMON_REQUESTS,
    MessageType.DATA: publish,
    MessageType.SUBSCRIBE: subscribe,
    MessageType.UNSUBSCRIBE: unsubscribe,
}
"""The requests that a client may make; all other message types are the program's."""
