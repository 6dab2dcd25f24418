"""The description that every setting carries: its heading, its help and its unit.

The command's help, `moorage config show` and the reference page are made of it.
"""

from enum import StrEnum
from typing import Any

import attrs

_KEY = "about"  # under which a field's metadata holds it


class Group(StrEnum):
    """The heading under which a setting is shown."""

    LISTENING = "Listening"
    IDENTITY = "Identity"
    DEADLINES = "Deadlines"
    DRAINING = "Draining"
    LIMITS = "Limits"
    HTTP = "HTTP"
    CONTROL = "Control"
    LOGS = "Logs"
    # The last one, because a TOML file has its tables after all other keys.
    TOPICS = "Topics"


@attrs.frozen
class About:
    """What a setting is for, in words."""

    group: Group
    help: str
    unit: str = ""
    # The value of a secret is never shown: neither in errors, nor in `config show`, nor in repr().
    secret: bool = False


def described(group: Group, text: str, unit: str = "", *, secret: bool = False) -> dict[str, About]:
    """Return the metadata of a field that is a setting."""
    return {_KEY: About(group, text, unit, secret=secret)}


def description(field: "attrs.Attribute[Any]") -> About:
    """Return the description in a field's metadata; KeyError where there is none."""
    return field.metadata[_KEY]
