"""The messages on a terminal: lines, and a bar for each topic whose progress is told.

The text of a line is made in `rendering.py`, apart from this, so that commands which show nothing
on a terminal do not import rich's progress bars.
"""

from typing import Any, Final, TypeGuard, cast

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ....protocol.messages.envelope import Envelope
from ....protocol.messages.types import MessageType
from .console import SafeConsole
from .rendering import printable, readable

# The type of the messages that are shown as a bar. It is a convention of this command and not of
# the protocol; the help of `moorage connect` tells of it.
PROGRESS: Final = "progress"


@attrs.define
class Display:
    """Shows messages on a terminal: lines above, and below them a bar for each topic under way."""

    console: Console = attrs.field(factory=lambda: SafeConsole(highlight=False, soft_wrap=True))
    # Present while something is under way.
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
                TextColumn("{task.fields[topic]}", style="cyan", markup=False),
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
        self._progress.update(
            self._bars[topic],
            completed=data["done"],
            total=data["total"],
            description=printable(str(data.get("message", ""))),
            refresh=True,
        )
        if self._progress.finished:
            self.close()


def is_progress(message: Envelope) -> bool:
    """Whether a message tells how far something is, by the numbers `done` and `total`."""
    if message.type != PROGRESS:
        return False
    return _is_number(_field(message.data, "done")) and _is_number(_field(message.data, "total"))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(data: Any, name: str) -> Any:
    return cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else None
