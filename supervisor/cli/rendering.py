"""The text of a message for a person: one line, or JSON as people write it."""

import json
import re
from typing import Any, cast

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType

_CLOCK = re.compile(r"T(\d\d:\d\d:\d\d)")


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
    return json.dumps(data, ensure_ascii=False)


def printable(text: str) -> str:
    r"""Return the text with every character that is not printable escaped, as in `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _field(data: Any, name: str) -> Any:
    return cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
