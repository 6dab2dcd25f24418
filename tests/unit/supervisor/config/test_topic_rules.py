"""Topic rules: their keys, how a table is read, and what an error says."""

import attrs
import pytest

from moorage.actors.connection.mailbox import OverloadPolicy
from moorage.supervisor.config.about import Group
from moorage.supervisor.config.topic_rules import (
    RULE_KEYS,
    TOPIC_RULES,
    TopicRule,
    read_topic_rules,
    rule_key_about,
    rule_key_validator,
    topic_rules,
)
from moorage.supervisor.config.validators import ConfigurationError


def refused(table) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        topic_rules(table)
    return caught.value


def test_the_defaults_change_nothing():
    rule = TopicRule()
    assert (rule.overload, rule.max_subscribers, rule.client_publish) == ("disconnect", None, True)


@pytest.mark.parametrize("key", RULE_KEYS)
def test_every_key_says_what_it_is_and_what_it_allows(key):
    assert rule_key_about(key).group is Group.TOPICS
    assert rule_key_about(key).help.endswith(".")
    assert rule_key_about(key).help[0].isupper()
    assert rule_key_validator(key).problem(getattr(TopicRule(), key)) is None
    assert f"{key} ({rule_key_validator(key).allowed})" in TOPIC_RULES.allowed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("overload", wrong) for wrong in ("explode", "backpressure", None, 7, ["latest"])),
        ("overload", OverloadPolicy.BACKPRESSURE),
        *(("max_subscribers", wrong) for wrong in (0, -1, "7", 1.5, True)),
        *(("client_publish", wrong) for wrong in (None, 1, "no")),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(key, value):
    with pytest.raises(ConfigurationError) as caught:
        TopicRule(**{key: value})
    assert caught.value.setting == key
    assert caught.value.allowed == rule_key_validator(key).allowed


def test_a_policy_may_be_of_the_enum_or_its_name():
    assert TopicRule(overload=OverloadPolicy.LATEST) == TopicRule(overload="latest")
    assert topic_rules({"a": {"overload": OverloadPolicy.LATEST}})["a"].overload == "latest"


def test_a_table_holds_rules_and_tables_of_keys_and_keeps_its_order():
    rules = topic_rules(
        {"b": {"max_subscribers": 2}, "a.*": TopicRule(overload="latest"), "**": {}}
    )
    assert list(rules.items()) == [
        ("b", TopicRule(max_subscribers=2)),
        ("a.*", TopicRule(overload="latest")),
        ("**", TopicRule()),
    ]


def test_rules_cannot_be_changed():
    table = {"a": TopicRule()}
    rules = topic_rules(table)
    table["b"] = TopicRule()
    assert list(rules) == ["a"]
    with pytest.raises(TypeError):
        rules["b"] = TopicRule()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        rules["a"].overload = "latest"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("latest", "topics: 'latest' is not a table; allowed: for a topic pattern such as"),
        ({"a..b": {}}, "topics.\"a..b\": topic pattern 'a..b' has an empty segment"),
        ({7: {}}, 'topics."7": 7 is not text'),
        ({"a": "latest"}, "topics.\"a\": 'latest' is not a table; allowed: a table with any of"),
        ({"a": None}, 'topics."a": None is not a table'),
        (
            {"a.*": {"overload": "explode"}},
            "topics.\"a.*\".overload: 'explode' is not one of them; allowed: disconnect, drop",
        ),
        (
            {"a": {"max-subscriber": 7}},
            'topics."a".max-subscriber: there is no such key; did you mean max_subscribers?',
        ),
        (
            {"a": {"unheard_of": 7}},
            'topics."a".unheard_of: there is no such key; allowed: ' + ", ".join(RULE_KEYS),
        ),
        (
            {"orders": {"paid": {"overload": "latest"}}},
            (
                'topics."orders".paid: there is no such key; '
                'a pattern with dots is written in quotes: [topics."orders.paid"]'
            ),
        ),
        ({'say "hi"..': {}}, 'topics."say \\"hi\\"..": '),
    ],
)
def test_an_error_names_the_rule_and_the_key_and_teaches(table, said):
    assert str(refused(table)).startswith(said)


def test_an_error_repeats_no_more_than_a_line_of_a_pattern():
    assert len(str(refused({"x" * 10_000: {}}))) < 400


def test_everything_that_is_wrong_is_found_at_once_with_its_place():
    table = {"a": {"overload": 1, "x": 2, "max_subscribers": 0}, "b c": {"client_publish": 3}}
    _, errors = read_topic_rules(table, "/".join)
    assert [error.source for error in errors] == [
        "topics/a/overload",
        "topics/a/x",
        "topics/a/max_subscribers",
        "topics/b c",
        "topics/b c/client_publish",
    ]
