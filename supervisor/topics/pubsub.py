"""Publishing and subscribing, for connections and for the program, within access rules and limits.

Access and limits are decided here; the routing tables below decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import msgspec

from ...actors.connection.connection import Connection
from ...actors.containment import contain
from ...actors.subscription import Subscription
from ...protocol.access import AccessRules, Action
from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import encode_value
from ...protocol.messages.topics import require_topic
from .routing import Router
from .topic_options import TopicRuleTable


@attrs.define(eq=False)
class PubSub:
    """The topics of a server; implements `TopicsPort`. All of it is synchronous."""

    router: Router
    rules: TopicRuleTable
    access: AccessRules
    max_topics_per_connection: int
    # Is called for each subscription that begins (`subscribed`) or ends (`unsubscribed`); set while
    # an operator watches events.
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None

    def check_access(self, action: Action, identity: Identity, topic: str) -> None:
        """Raise RemoteProtocolError if the settings, the token or the topic's rule forbid it."""
        self.access.check(action, identity, topic)
        if action == "publish" and not self.rules.options_of(topic).client_publish:
            text = f"clients may not publish to {topic!r}: the server's rule for the topic says so"
            raise RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)

    def subscribe(self, connection: Connection, topic: str, *, by_client: bool = False) -> bool:
        """Enter a subscription; False if there was one, or the connection is ending.

        RemoteProtocolError: the connection has too many topics, or the topic too many subscribers.
        """
        present = self.router.subscriptions_of(connection)
        if topic in present:
            return self.router.subscribe(topic, connection, by_client=by_client)
        if not connection.is_open:
            return False  # a subscription of an ended connection would never be taken out
        most = self.max_topics_per_connection
        if len(present) >= most:
            text = f"a connection may subscribe to {most} topics"
            raise RemoteProtocolError(text, ErrorCode.SUBSCRIPTION_LIMIT, topic=topic)
        entry = self.router.topics.get(topic)
        options = self.rules.options_of(topic) if entry is None else entry.options
        most = options.max_subscribers
        if entry is not None and len(entry.subscribers) >= most:
            text = f"{topic!r} has {most} subscribers already, and may not have more"
            raise RemoteProtocolError(text, ErrorCode.TOPIC_LIMIT, topic=topic)
        if self.on_event is not None:
            self._tell("subscribed", connection, topic)
        return self.router.subscribe(topic, connection, by_client=by_client)

    def unsubscribe(self, connection: Connection, topic: str) -> bool:
        """Take a subscription out, and deliver what is owed of it; False if there was none."""
        if self.on_event is not None and topic in self.router.subscriptions_of(connection):
            self._tell("unsubscribed", connection, topic)
        return self.router.unsubscribe(topic, connection)

    def _tell(self, event: str, connection: Connection, topic: str) -> None:
        """Tell those who watch; their failure is none of the subscription."""
        assert self.on_event is not None  # noqa: S101 - the caller has looked
        fields = {"connection_id": connection.id, "user_id": connection.user_id, "topic": topic}
        try:
            self.on_event(event, fields)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(
                error, lambda failure: connection.log("error", "event_failed", exc_info=failure)
            )

    def subscriptions_of(self, connection: Connection) -> Mapping[str, Subscription]:
        """Return a connection's subscriptions by topic, as a read-only view."""
        return self.router.subscriptions_of(connection)

    def publish_raw(self, topic: str, data: msgspec.Raw) -> int:
        """Publish a client's data, unparsed; return how many connections are addressed."""
        return self.router.publish_raw(topic, data)

    def publish(
        self, topic: str, message_type: str, data: Any, exclude: Iterable[Connection] = ()
    ) -> int:
        """Publish a message of the program; return how many connections are addressed.

        LocalProtocolError: the topic, the type or the data cannot be sent.
        """
        require_topic(topic)
        return self.router.publish(topic, message_type, encode_value(data), exclude)

    def forget(self, connection: Connection) -> None:
        """Take out all subscriptions of a connection that is over."""
        self.router.remove(connection)
