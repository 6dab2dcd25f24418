"""The flags of the settings, made from the settings themselves.

`moorage serve`, `moorage config show` and `moorage config check` all take them. A flag passes on
the text that was typed. `load` reads and checks it, as it does for the other sources, so that a
value is right or wrong for the same reasons everywhere.
"""

import os
from pathlib import Path
from typing import Annotated, Any, cast

import attrs
from cyclopts import Group, Parameter
from cyclopts.help import (
    ColumnSpec,
    DefaultFormatter,
    DescriptionRenderer,
    NameRenderer,
)

from ..config.about import Group as SettingGroup
from ..config.settings import Settings, about, validator
from ..config.sources import KINDS, REPLACED, Configuration, Given, Kind, flag, load

_METAVARS: dict[Kind, str] = {
    "text": "TEXT",
    "whole number": "N",
    "number": "N",
    "path": "FILE",
    "texts": "TEXT",
    "paths": "FILE",
    "rules": "JSON",
}
# The help keeps each flag with its value on one line: Cyclopts gives it a third of the width, and
# breaks the longest ones in two on a terminal of 80 columns.
_WHOLE_FLAGS = DefaultFormatter(
    column_specs=(
        ColumnSpec(renderer=NameRenderer(), style="cyclopts.name", no_wrap=True),
        ColumnSpec(renderer=DescriptionRenderer(), overflow="fold"),
    )
)
_HELP_GROUPS = {
    group: Group(group.value, sort_key=10 + n, help_formatter=_WHOLE_FLAGS)
    for n, group in enumerate(SettingGroup)
}
_SEVERAL: tuple[Kind, ...] = ("texts", "paths")


def _help(name: str, default: object) -> str:
    known = about(name)
    parts = [known.help]
    if KINDS[name] not in ("flag", "path", "paths") and not known.secret:
        unit = f", in {known.unit}" if known.unit else ""
        parts.append(f"Allowed: {validator(name).allowed}{unit}.")
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


# The flag of a setting that was replaced is taken too, so that its error can say what by.
_REPLACED_FLAG: Any = Annotated[list[str] | None, Parameter(show=False, negative=())]

# One field for each setting; it is None if its flag was not given.
Flags: Any = attrs.make_class(
    "Flags",
    {name: attrs.field(default=None, type=_annotation(name)) for name in KINDS}
    | {name: attrs.field(default=None, type=_REPLACED_FLAG) for name in REPLACED},
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

ProgramApp = Annotated[
    str | None,
    Parameter(
        name="--app",
        metavar="MODULE:NAME",
        help="Your endpoints and handlers: an `App` in a module that can be imported from here. "
        "Without it: $MOORAGE_APP, or else the standard endpoint alone.",
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
