"""Topic rules: the options of topics, by pattern; the first rule whose pattern matches counts.

The setting `topics` is a table of them. Each key of a rule is a field of `TopicRule`, with its
default, its validator and its help: adding a field here adds the key to the TOML file, the JSON of
flag and variable, the errors, `moorage config show` and the reference page.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import attrs
from attrs import field

from ...actors.connection.mailbox import OverloadPolicy
from .about import About, Group, described, description
from .toml_lines import KeyPath
from .validators import (
    FLAG,
    PATTERN,
    ConfigurationError,
    Validator,
    one_of,
    optional,
    shown,
    whole_number,
)

SETTING: Final = "topics"

# Not `backpressure`: with it a publisher would wait for its slowest subscriber.
_POLICIES: Final = (
    OverloadPolicy.DISCONNECT.value,
    OverloadPolicy.DROP_OLDEST.value,
    OverloadPolicy.LATEST.value,
)
_PATTERN_SHOWN: Final = 60  # characters of a pattern that an error repeats


def _policy_name(policy: str | OverloadPolicy) -> str:
    return policy.value if isinstance(policy, OverloadPolicy) else policy


@attrs.frozen(kw_only=True)
class TopicRule:
    """The options of the topics that a pattern matches.

    Raises ConfigurationError, which names the key and what it allows, for a value that cannot be
    used.
    """

    overload: str = field(
        default=OverloadPolicy.DISCONNECT.value,
        converter=_policy_name,
        validator=one_of(_POLICIES),
        metadata=described(
            Group.TOPICS,
            "Decides about a subscriber that is too slow. If its mailbox is full, disconnect "
            "closes it, and drop_oldest drops the oldest of the topic's messages in it; latest "
            "lets only the newest of them wait at all.",
        ),
    )
    max_subscribers: int | None = field(
        default=None,
        validator=optional(whole_number(1)),
        metadata=described(
            Group.TOPICS,
            "Subscribers that a topic may have; unset: max_connections_per_topic.",
            "connections",
        ),
    )
    client_publish: bool = field(
        default=True,
        validator=FLAG,
        metadata=described(
            Group.TOPICS,
            "Clients may publish to the topic; if false, only the program and administrators may.",
        ),
    )


RULE_KEYS: Final[Mapping[str, "attrs.Attribute[Any]"]] = MappingProxyType(
    attrs.fields_dict(TopicRule)
)


def rule_key_about(key: str) -> About:
    """Return the description of a rule's key."""
    return description(RULE_KEYS[key])


def rule_key_validator(key: str) -> Validator:
    """Return what checks the values of a rule's key."""
    return cast("Validator", RULE_KEYS[key].validator)


_A_RULE: Final = "a table with any of the keys " + ", ".join(
    f"{key} ({rule_key_validator(key).allowed})" for key in RULE_KEYS
)


def _table_problem(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"{shown(value)} is not a table"


TOPIC_RULES: Final = Validator(f"for {PATTERN.allowed}: {_A_RULE}", _table_problem)


def read_topic_rules(
    table: object, source: Callable[[KeyPath], str | None] = lambda _: None
) -> tuple[Mapping[str, TopicRule], list[ConfigurationError]]:
    """Return the rules of a table, in its order, and everything that is wrong with it.

    A rule is a TopicRule or a table of its keys. `source` tells where a key stands, for the errors,
    by its path: `("topics", "orders.**", "overload")`.
    """
    rules: dict[str, TopicRule] = {}
    errors: list[ConfigurationError] = []

    def refuse(path: KeyPath, problem: str, allowed: str) -> None:
        errors.append(
            ConfigurationError(_dotted(path), problem, allowed=allowed, source=source(path))
        )

    if not isinstance(table, Mapping):
        refuse((SETTING,), f"{shown(table)} is not a table", TOPIC_RULES.allowed)
        return rules, errors
    for pattern, value in cast("Mapping[Any, Any]", table).items():
        if (problem := PATTERN.problem(pattern)) is not None:
            refuse((SETTING, str(pattern)), problem, PATTERN.allowed)
        if isinstance(value, TopicRule):
            rules[pattern] = value
            continue
        if not isinstance(value, Mapping):
            refuse((SETTING, str(pattern)), f"{shown(value)} is not a table", _A_RULE)
            continue
        options: dict[str, Any] = {}
        for key, option in cast("Mapping[Any, Any]", value).items():
            path = (SETTING, str(pattern), str(key))
            if key not in RULE_KEYS:
                refuse(path, *_unknown_key(str(pattern), str(key), option))
                continue
            try:
                TopicRule(**{key: option})
            except ConfigurationError as error:
                refuse(path, error.problem, error.allowed)
            else:
                options[key] = option
        rules[pattern] = TopicRule(**options)
    return MappingProxyType(rules), errors


def topic_rules(table: Mapping[str, TopicRule | Mapping[str, Any]]) -> Mapping[str, TopicRule]:
    """Return the rules of a program's table, in its order and read-only.

    Raises ConfigurationError for the first thing that is wrong with it.
    """
    rules, errors = read_topic_rules(table)
    if errors:
        raise errors[0]
    return rules


def _unknown_key(pattern: str, key: str, option: object) -> tuple[str, str]:
    """Return what is wrong with a key that does not exist, and what is allowed."""
    problem = "there is no such key"
    if isinstance(option, Mapping):
        # `[topics.orders.paid]` is a table in a table to TOML.
        whole = _dotted((SETTING, f"{pattern}.{key}"))
        return f"{problem}; a pattern with dots is written in quotes: [{whole}]", ""
    if close := difflib.get_close_matches(key.replace("-", "_"), list(RULE_KEYS), n=1):
        return f"{problem}; did you mean {close[0]}?", ""
    return problem, ", ".join(RULE_KEYS)


def _dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it, the pattern in quotes."""
    setting, *inner = path
    if not inner:
        return setting
    pattern, *keys = inner
    if len(pattern) > _PATTERN_SHOWN:
        pattern = f"{pattern[:_PATTERN_SHOWN]}…"
    return ".".join([setting, json.dumps(pattern, ensure_ascii=False), *keys])
