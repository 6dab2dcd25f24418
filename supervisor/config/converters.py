"""Converters of settings: they turn what a program or a source gives into the setting's type.

A program may give a string where a setting is a list or a path. The setting's validator checks what
a converter returns.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def to_texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return texts; a string is one, though `tuple` would make a list of its characters."""
    return (value,) if isinstance(value, str) else tuple(value)


def to_paths(
    value: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[Path, ...]:
    """Return paths, of one path or several."""
    if isinstance(value, str | os.PathLike):
        return (Path(value),)
    return tuple(Path(entry) for entry in value)


def to_path(value: str | os.PathLike[str] | None) -> Path | None:
    """Return a path, or None where there is none."""
    return None if value is None else Path(value)


def to_lower(value: str) -> str:
    """Return a word in small letters; its validator refuses what is not text."""
    return value.lower() if isinstance(value, str) else value  # pyright: ignore[reportUnnecessaryIsInstance]
