"""The lines on which the keys of a TOML text stand, which `tomllib` does not tell."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

# A key and the tables that it is in: ("topics", "orders.**", "overload").
KeyPath = tuple[str, ...]


def key_lines(text: str) -> Mapping[KeyPath, int]:
    """Return the first line, counted from 1, of every key and table of a TOML text.

    The text must be TOML as a whole: `tomllib.loads` has taken it before.
    """
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, statement in _statements(text):
        paths = list(_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            table = paths[-1]
        else:
            paths = [table + path for path in paths]
        for path in paths:
            found.setdefault(path, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each header and each assignment of the text with the line on which it begins.

    A statement ends with the first line at which what was read is TOML by itself: before that, it
    is inside a list, or a string of many lines.
    """
    begun = 1
    statement = ""
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        yield begun, statement
        begun, statement = number + 1, ""


def _paths(table: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Yield the path of every key in a table, each before those inside it."""
    for key, value in table.items():
        yield (key,)
        if isinstance(value, dict):  # and not the list of `[[name]]`: no setting is one
            for path in _paths(cast("dict[str, Any]", value)):
                yield (key, *path)
