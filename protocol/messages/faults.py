"""Explanations of faulty JSON, in the words of the person who sent it.

This code runs only after a mistake, so it is written for clarity and not for speed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final, cast

import attrs
import msgspec

from ..errors import shorten
from .envelope import FIELD_RULES

# How many levels of arrays and objects a message may have, the envelope's own included. msgspec
# skips a nested `data` without building it, so without this limit the server would relay a depth
# that breaks the parsers of subscribers.
MAX_DEPTH: Final = 100

TOO_DEEP: Final = f"nested too deep: a message may have up to {MAX_DEPTH} levels"
_EXAMPLE: Final = 'such as {"type":"ping"}'
_encode: Final = msgspec.json.Encoder().encode
_AT_FIELD: Final = re.compile(r" - at `\$\.(\w+)`")
# msgspec's word for what it found, and the words for the sender.
_JSON_WORDS: Final = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number with a fraction",
    "int": "an integer",
    "object": "an object",
    "str": "a string",
}
_GOT: Final = re.compile(r"got `(\w+)`")
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|\\u[dD][c-fC-F]"
)


def explain(error: Exception, payload: bytes) -> str:
    """Return what is wrong with JSON that could not be read, in words for its sender."""
    text = str(error)
    match error:
        case RecursionError():
            return TOO_DEEP
        case UnicodeDecodeError():
            return "a message must be text in UTF-8"
        case msgspec.ValidationError():
            return _explain_misfit(text)
        case _ if "surrogate" in text or ("truncated" in text and _LONE_SURROGATE.search(payload)):
            return r"the JSON has half of a surrogate pair: \ud800 to \udfff only stand in pairs"
        case _ if not payload.strip():
            return f"the message is empty: it must be one JSON object, {_EXAMPLE}"
        case _ if "truncated" in text:
            return "the JSON ends before it is complete"
        case _:
            return f"this is not JSON: {text.removeprefix('JSON is malformed: ')}"


def _explain_misfit(text: str) -> str:
    """Reword msgspec's complaint about valid JSON that is no message."""
    if "missing required" in text:
        return f"`type` is missing: a message has one, {_EXAMPLE}"
    got = _GOT.search(text)
    instead = f", not {_JSON_WORDS.get(got[1], got[1])}" if got else ""
    if field := _AT_FIELD.search(text):
        return f"`{field[1]}` must be {FIELD_RULES[field[1]]}{instead}"
    if "out of range" in text:
        return "a number is too large to be read"
    return f"a message must be one JSON object, {_EXAMPLE}{instead}"


DATA_TOO_DEEP: Final = f"it has more than {MAX_DEPTH - 1} levels, or holds itself"
SURROGATE: Final = "half of a surrogate pair has no bytes in UTF-8"


def find_fault(value: Any, place: str = "data", level: int = 2) -> tuple[str, str] | None:
    """Return the place of the first value that JSON cannot hold, and what is wrong with it.

    The search is depth first. None: JSON can hold all of it.
    """
    if level > MAX_DEPTH + 1:
        return "`data`", DATA_TOO_DEEP
    items: Iterable[tuple[str, Any]]
    if isinstance(value, Enum):
        value = value.value
    mapping = _fields(value)
    if mapping is not None:
        for key in mapping:
            if fault := _key_fault(key):
                return f"`{place}`", fault
        items = ((f"{place}.{key}", item) for key, item in mapping.items())
    elif isinstance(value, list | tuple | set | frozenset):
        sequence = cast("Iterable[Any]", value)
        items = ((f"{place}[{index}]", item) for index, item in enumerate(sequence))
    else:
        fault = _scalar_fault(value)
        return (f"`{place}`", fault) if fault else None
    for item_place, item in items:
        if found := find_fault(item, item_place, level + 1):
            return found
    return None


def holds_nonfinite(value: object) -> bool:
    """Tell whether a value that msgspec has encoded holds an infinity or NaN.

    `find_fault` also finds the place, but costs thirty times as much.
    """
    if isinstance(value, Enum):
        return holds_nonfinite(value.value)
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(holds_nonfinite, cast("dict[Any, Any]", value).values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_nonfinite, cast("Iterable[Any]", value)))
    return False


def _fields(value: object) -> dict[Any, Any] | None:
    """Return the fields of a value that becomes a JSON object; None for any other value."""
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value)
    if attrs.has(type(value)):
        return {name: getattr(value, name) for name in attrs.fields_dict(type(value))}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _key_fault(key: object) -> str | None:
    try:
        _encode({key: 0})
    except UnicodeEncodeError:
        return f"in the key {shorten(str(key))}, {SURROGATE}"
    except (TypeError, ValueError):
        return f"it has the key {shorten(str(key))}, and keys must be strings or numbers"
    return None


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"it is {value}, which JSON cannot express"
    try:
        _encode(value)
    except UnicodeEncodeError:
        return SURROGATE
    except TypeError:
        return f"JSON has no form for a {type(value).__name__}"
    except (ValueError, OverflowError) as error:
        return str(error)
    except RecursionError:
        return DATA_TOO_DEEP
    return None
