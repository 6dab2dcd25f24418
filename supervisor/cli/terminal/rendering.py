"""Texts for a person, and the one way by which the command prints lines.

What comes from a server, from its clients or from a file may hold characters that steer a terminal:
they clear the screen, move the cursor, reverse the direction of writing. So all output goes through
`out`, `say` or `json_text`, or through the console of `console.py`. Each escapes such characters.
"""

import json
import re
import sys
from typing import Any, Final, TextIO, cast

from ....protocol.messages.envelope import Envelope
from ....protocol.messages.types import MessageType

_CLOCK: Final = re.compile(r"T(\d\d:\d\d:\d\d)")


def out(*lines: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print lines to standard output, or to a file, with what steers a terminal escaped."""
    for line in lines:
        print(printable(line), file=file, end=end, flush=True)


def say(text: str) -> None:
    """Print a remark on standard error, since standard output holds answers only."""
    out(f"moorage: {text}", file=sys.stderr)


def out_json(text: str) -> None:
    """Print a JSON document, of one line or several."""
    print(_json_escaped(text), flush=True)


def readable(message: Envelope) -> str:
    """Return a message as one line: its time, its topic, its data.

    Control characters are escaped, so that no message can steer the terminal.
    """
    clock = _CLOCK.search(message.timestamp or "")
    parts = [clock[1] if clock else "--:--:--"]
    if message.topic is not None:
        parts.append(message.topic)
    match message.type:
        case MessageType.DATA:
            parts.append(compact(message.data))
        case MessageType.ERROR:
            parts.append(f"error: {message.error} ({_field(message.data, 'code')})")
        case MessageType.GAP:
            dropped = _field(message.data, "dropped")
            parts.append(f"gap: {'some' if dropped is None else dropped} messages are missing")
        case MessageType.GOODBYE:
            parts.append(f"goodbye: {_field(message.data, 'reason')}")
            if (seconds := _field(message.data, "reconnect_after")) is not None:
                parts.append(f"(coming back in {seconds} s)")
        case _:
            parts.append(message.type)
            if message.data is not None:
                parts.append(compact(message.data))
    return printable(" ".join(parts))


def compact(data: Any) -> str:
    """Return JSON as people write it, on one line."""
    return json_text(data)


def json_text(data: Any, indent: int | None = None) -> str:
    r"""Return JSON in which every character that is not printable is escaped, as in `\u001b`."""
    return _json_escaped(json.dumps(data, indent=indent, ensure_ascii=False))


def printable(text: str) -> str:
    r"""Return the text with every character that is not printable escaped, as in `\x1b`.

    Those are the control characters C0 and C1 (so all of the ANSI sequences), line ends, the
    overrides of the direction of writing, and spaces of another width.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _json_escaped(text: str) -> str:
    """Escape what is not printable within the texts of a JSON document, and keep its line ends."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _utf_16_escape(c) for c in text)


def _utf_16_escape(character: str) -> str:
    pairs = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pairs[n : n + 4]}" for n in range(0, len(pairs), 4))


def _field(data: Any, name: str) -> Any:
    return cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
