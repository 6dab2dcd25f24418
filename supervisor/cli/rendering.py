"""How a message looks to a person: one line, or a progress bar."""

import json
import re
from typing import Any, TypeGuard, cast

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.topics import TopicPattern, parse_pattern
from ...protocol.messages.types import MessageType

# Topics whose messages carry `done` and `total`.
_PROGRESS: TopicPattern = parse_pattern("batch_progress_*")
_CLOCK = re.compile(r"T(\d\d:\d\d:\d\d)")


def readable(message: Envelope) -> str:
    """Return a message as one line: when, where, what.

    What the other side wrote cannot steer the terminal: control characters come out escaped.
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
    r"""Return the text with whatever is no visible character written out, as in `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@attrs.define
class Display:
    """Shows messages on a terminal: lines above, and below them a bar for each batch under way."""

    console: Console = attrs.field(factory=lambda: Console(highlight=False, soft_wrap=True))
    # Present while a batch is under way.
    _progress: Progress | None = attrs.field(default=None, init=False)
    _bars: dict[str, TaskID] = attrs.field(factory=dict[str, TaskID], init=False)

    def show(self, message: Envelope) -> None:
        """Show one message."""
        if message.topic is not None and is_progress(message):
            self._advance(message.topic, cast("dict[str, Any]", message.data))
            return
        line = Text(readable(message))
        line.stylize("dim", 0, 8)  # the time of day
        if message.type == MessageType.ERROR:
            line.stylize("red", 8)
        elif message.topic is not None:
            line.stylize("cyan", 9, 9 + len(printable(message.topic)))
        self.console.print(line)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._bars.clear()

    def _advance(self, topic: str, data: dict[str, Any]) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("[cyan]{task.fields[topic]}", markup=True),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
                console=self.console,
                auto_refresh=False,  # a thread would; each message does
            )
            self._progress.start()
        if topic not in self._bars:
            self._bars[topic] = self._progress.add_task(
                "", completed=data["done"], total=data["total"], topic=printable(topic)
            )
        note = next((data[key] for key in ("message", "status", "step") if key in data), "")
        self._progress.update(
            self._bars[topic],
            completed=data["done"],
            total=data["total"],
            description=printable(str(note)),
            refresh=True,
        )
        if self._progress.finished:
            self.close()


def is_progress(message: Envelope) -> bool:
    """Whether a message tells how far a batch is."""
    if message.type != MessageType.DATA or not _PROGRESS.matches(message.topic or ""):
        return False
    return _is_number(_field(message.data, "done")) and _is_number(_field(message.data, "total"))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(data: Any, name: str) -> Any:
    return cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
