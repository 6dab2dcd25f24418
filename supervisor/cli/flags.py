"""The flags of the settings, made from the settings themselves.

`moorage serve`, `moorage config show` and `moorage config check` all take them. A flag hands on
the text that was typed: reading and checking it is `configuration.load`'s, as for the other
sources, so a value is right or wrong for the same reasons everywhere.
"""

import os
from pathlib import Path
from typing import Annotated, Any, cast

import attrs
from cyclopts import Group, Parameter

from ..config.settings import Group as SettingGroup
from ..config.settings import Settings, about, rule
from ..config.sources import KINDS, Configuration, Given, Kind, flag, load

_METAVARS: dict[Kind, str] = {
    "text": "TEXT",
    "whole number": "N",
    "number": "N",
    "path": "FILE",
    "texts": "TEXT",
    "paths": "FILE",
    "pairs": "PATTERN=POLICY",
}
_HELP_GROUPS = {group: Group(group.value, sort_key=10 + n) for n, group in enumerate(SettingGroup)}
_SEVERAL: tuple[Kind, ...] = ("texts", "paths", "pairs")


def _help(name: str, default: object) -> str:
    known = about(name)
    parts = [known.help]
    if KINDS[name] not in ("flag", "path", "paths") and not known.secret:
        unit = f", in {known.unit}" if known.unit else ""
        parts.append(f"Allowed: {rule(name).allowed}{unit}.")
    match default:
        case None | () | {}:
            pass
        case tuple():
            parts.append(f"Default: {', '.join(map(str, cast('tuple[object, ...]', default)))}.")
        case bool():
            parts.append(f"Default: {'yes' if default else 'no'}.")
        case float():
            parts.append(f"Default: {default:.15g}.")
        case _:
            parts.append(f"Default: {default}." if default else "")
    return " ".join(part for part in parts if part)


def _annotation(name: str) -> Any:
    kind = KINDS[name]
    given: Any = str | None
    if kind == "flag":
        given = bool | None
    elif kind in _SEVERAL:
        given = list[str] | None
    parameter = Parameter(
        name=flag(name),
        negative=() if kind != "flag" else None,
        group=_HELP_GROUPS[about(name).group],
        help=_help(name, getattr(Settings(), name)),
        metavar=_METAVARS.get(kind),
        allow_leading_hyphen=kind != "flag",
        show_default=False,
    )
    return Annotated[given, parameter]


# One field for each setting, None where its flag was not given.
Flags: Any = attrs.make_class(
    "Flags",
    {
        name: attrs.field(default=None, type=_annotation(name))
        for name in attrs.fields_dict(Settings)
    },
    kw_only=True,
    frozen=True,
)
SettingFlags = Annotated[Flags, Parameter(name="*")]

ConfigFile = Annotated[
    Path | None,
    Parameter(
        name="--config",
        metavar="FILE",
        help="TOML file with settings, one `name = value` a line. Without it: $MOORAGE_CONFIG.",
    ),
]


def configuration(flags: Any, config: Path | None) -> Configuration:
    """Return the settings in force for a command that was given these flags.

    Raises InvalidConfigurationError.
    """
    given: dict[str, Given] = attrs.asdict(flags, filter=lambda _, value: value is not None)
    if config is None and "MOORAGE_CONFIG" in os.environ:
        config = Path(os.environ["MOORAGE_CONFIG"])
    return load(given, os.environ, config)
