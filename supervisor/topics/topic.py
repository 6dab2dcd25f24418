"""A topic, with its options and its subscribers."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import OverloadPolicy
from ...actors.subscription import Subscription
from ...protocol.messages.codec import head
from ...protocol.messages.topics import TopicPattern, parse_pattern
from ...protocol.messages.types import MessageType
from ..config.topic_rules import TopicRule


@attrs.frozen
class TopicOptions:
    """The options of a topic: those of the first rule that matches its name."""

    overload: OverloadPolicy = OverloadPolicy.DISCONNECT
    max_subscribers: int = 1_000
    client_publish: bool = True  # whether clients may publish to it, or only the program


@attrs.frozen
class TopicRules:
    """The topic rules of the settings, which give a topic its options by its name."""

    # The options of topics that no rule matches.
    default: TopicOptions = TopicOptions()
    rules: tuple[tuple[TopicPattern, TopicOptions], ...] = ()

    @classmethod
    def of(cls, rules: Mapping[str, TopicRule], max_subscribers: int) -> TopicRules:
        """Read the setting `topics`; `max_subscribers` is for rules that do not set it."""
        return cls(
            TopicOptions(max_subscribers=max_subscribers),
            tuple(
                (
                    parse_pattern(pattern),
                    TopicOptions(
                        OverloadPolicy(rule.overload),
                        rule.max_subscribers or max_subscribers,
                        rule.client_publish,
                    ),
                )
                for pattern, rule in rules.items()
            ),
        )

    def options_of(self, name: str) -> TopicOptions:
        """Return the options of the first rule that matches the name, or the default ones."""
        matching = (options for pattern, options in self.rules if pattern.matches(name))
        return next(matching, self.default)


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
