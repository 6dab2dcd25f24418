"""The rules that say which user may subscribe and publish to which topics."""

from __future__ import annotations

from typing import Final, Literal

from attrs import field, frozen

from .errors import ErrorCode, RemoteProtocolError
from .identity import Identity
from .messages.topics import PatternSet, check_topic, is_server_topic, user_of

Action = Literal["subscribe", "publish"]

USER_ID: Final = "{user_id}"
"""The part of an endpoint's topic that stands for the id of the connection's user."""

_EVERYTHING: Final = PatternSet(("**",))


@frozen
class AccessRules:
    """The topics that the server's settings allow to all clients; a token can only narrow them."""

    subscribe: PatternSet = field(default=_EVERYTHING)
    publish: PatternSet = field(default=_EVERYTHING)

    def check(self, action: Action, identity: Identity, topic: str) -> None:
        """Raise `RemoteProtocolError` (`forbidden`) with the reason if the action is not allowed.

        Only the user `<id>` may use the topic `user:<id>`; that user may subscribe to it whatever
        the patterns say. Topics whose names begin with `$` are the server's.
        """
        if is_server_topic(topic):
            raise _forbidden(action, topic, "topics that begin with $ are the server's")
        owner = user_of(topic)
        if owner is not None:
            if owner != identity.user_id:
                raise _forbidden(action, topic, "it belongs to another user")
            if action == "subscribe":
                return
        allowed = self.subscribe if action == "subscribe" else self.publish
        if not allowed.matches(topic):
            raise _forbidden(action, topic, "this server does not allow it")
        permissions = identity.permissions
        granted = permissions.subscribe if action == "subscribe" else permissions.publish
        if granted is not None and not granted.matches(topic):
            raise _forbidden(action, topic, "your token does not allow it")


def topic_of_user(template: str, identity: Identity) -> str:
    """Return a topic of an endpoint, with the user's id in place of `{user_id}`.

    The template is the program's decision, and the id is not: the issuer of tokens takes it from
    somewhere, often from the user. So the result may be neither another user's own topic nor one
    of the server's, unless the template itself is one. Raises `RemoteProtocolError` (`forbidden`,
    or `bad_topic` for a name that no topic can have).
    """
    user_id = identity.user_id or ""
    topic = check_topic(template.replace(USER_ID, user_id))
    if is_server_topic(topic) and not is_server_topic(template):
        raise _forbidden("subscribe", topic, "topics that begin with $ are the server's")
    if user_of(topic) not in (None, user_id):
        raise _forbidden("subscribe", topic, "it belongs to another user")
    return topic


def _forbidden(action: Action, topic: str, reason: str) -> RemoteProtocolError:
    verb = "subscribe to" if action == "subscribe" else "publish to"
    text = f"you may not {verb} {topic!r}: {reason}"
    return RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)
