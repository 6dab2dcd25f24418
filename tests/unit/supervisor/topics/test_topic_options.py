"""The options of topics: the first rule that matches counts; what it omits has its default."""

from __future__ import annotations

from typing import Any

import attrs

from moorage.actors.connection.mailbox import OverloadPolicy
from moorage.supervisor.config.topic_rules import TopicRule
from moorage.supervisor.topics.topic_options import TopicOptions, TopicRuleTable


def rules(**of_patterns: dict[str, Any]) -> TopicRuleTable:
    return TopicRuleTable.of({name: TopicRule(**rule) for name, rule in of_patterns.items()}, 50)


def test_a_topic_without_a_rule_has_the_default_options():
    assert rules().options_of("t") == TopicOptions(OverloadPolicy.DISCONNECT, 50, True)
    assert rules(other={"max_subscribers": 1}).options_of("t").max_subscribers == 50


def test_a_rule_says_all_options_and_what_it_does_not_say_has_its_default():
    of = rules(a={"overload": "latest"}, b={"max_subscribers": 3}, c={"client_publish": False})
    assert of.options_of("a") == TopicOptions(OverloadPolicy.LATEST, 50, True)
    assert of.options_of("b") == TopicOptions(OverloadPolicy.DISCONNECT, 3, True)
    assert of.options_of("c") == TopicOptions(OverloadPolicy.DISCONNECT, 50, False)


def test_the_first_rule_that_matches_counts_and_later_ones_add_nothing():
    of = rules(**{"a.b": {"max_subscribers": 1}, "a.*": {"overload": "latest"}, "**": {}})
    assert of.options_of("a.b") == TopicOptions(OverloadPolicy.DISCONNECT, 1, True)
    assert of.options_of("a.c") == TopicOptions(OverloadPolicy.LATEST, 50, True)
    assert of.options_of("x.y") == TopicOptions(OverloadPolicy.DISCONNECT, 50, True)


def test_every_key_of_a_rule_is_an_option():
    assert set(attrs.fields_dict(TopicRule)) == set(attrs.fields_dict(TopicOptions))
