"""The rules that say which user may subscribe and publish to which topics."""

from __future__ import annotations

from typing import Final, Literal

from attrs import field, frozen

from .errors import ErrorCode, RemoteProtocolError
from .identity import Identity
from .messages.topics import PatternSet, is_server_topic, user_of

Action = Literal["subscribe", "publish"]

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


def _forbidden(action: Action, topic: str, reason: str) -> RemoteProtocolError:
    verb = "subscribe to" if action == "subscribe" else "publish to"
    text = f"you may not {verb} {topic!r}: {reason}"
    return RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)
