"""The options of topics, found by the first rule whose pattern matches a topic's name."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...actors.connection.mailbox import OverloadPolicy
from ...protocol.messages.topics import TopicPattern, parse_pattern
from ..config.topic_rules import TopicRule


@attrs.frozen
class TopicOptions:
    """The options of a topic: the keys of its rule, with what the rule leaves to the settings."""

    overload: OverloadPolicy = OverloadPolicy.DISCONNECT
    max_subscribers: int = 1_000
    client_publish: bool = True  # whether clients may publish to it, or only the program

    @classmethod
    def of(cls, rule: TopicRule, max_subscribers: int) -> TopicOptions:
        """Return a rule's options; `max_subscribers` is for a rule that does not set it."""
        keys = attrs.asdict(rule)
        keys["overload"] = OverloadPolicy(rule.overload)
        keys["max_subscribers"] = rule.max_subscribers or max_subscribers
        return cls(**keys)


@attrs.frozen
class TopicRuleTable:
    """The topic rules of a server, in their order."""

    # The options of topics that no rule matches.
    default: TopicOptions = TopicOptions()
    rules: tuple[tuple[TopicPattern, TopicOptions], ...] = ()

    @classmethod
    def of(cls, rules: Mapping[str, TopicRule], max_subscribers: int) -> TopicRuleTable:
        """Read the setting `topics`; `max_subscribers` is for rules that do not set it."""
        return cls(
            TopicOptions(max_subscribers=max_subscribers),
            tuple(
                (parse_pattern(pattern), TopicOptions.of(rule, max_subscribers))
                for pattern, rule in rules.items()
            ),
        )

    def options_of(self, name: str) -> TopicOptions:
        """Return the options of the first rule that matches the name, or the default ones."""
        matching = (options for pattern, options in self.rules if pattern.matches(name))
        return next(matching, self.default)
