"""A topic, with its options and its subscribers."""

from __future__ import annotations

import attrs

from ...actors.connection.connection import Connection
from ...actors.subscription import Subscription
from ...protocol.messages.codec import head
from ...protocol.messages.types import MessageType
from .topic_options import TopicOptions


@attrs.define(eq=False)
class Topic:
    """A topic. The routing tables keep it for as long as it has subscribers."""

    name: str
    options: TopicOptions
    subscribers: dict[Connection, Subscription] = attrs.field(
        factory=dict[Connection, Subscription]
    )
    published: int = 0  # messages since its first subscriber came; shown to operators
    data_head: bytes = attrs.field(init=False)  # the head of its `data` messages, encoded
    # The two values that a subscription to this topic can have: the client asked for it, or the
    # program. All subscribers share them.
    _by_client: Subscription = attrs.field(init=False)
    _by_program: Subscription = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.data_head = head(MessageType.DATA, self.name)
        self._by_client = Subscription(self.name, by_client=True)
        self._by_program = Subscription(self.name)

    def enter(self, connection: Connection, *, by_client: bool) -> Subscription:
        """Enter a subscriber, and return its subscription."""
        subscription = self._by_client if by_client else self._by_program
        self.subscribers[connection] = subscription
        return subscription
