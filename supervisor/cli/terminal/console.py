"""The console of the command: what rich draws, from which nothing foreign can steer the terminal.

A pipe gets plain text without colours, as wide as it needs to be: nothing is cut off there.
"""

import os
import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .rendering import printable

PIPE_WIDTH: Final = 1000
"""Characters that a line may have where no terminal limits it."""


class SafeConsole(Console):
    """A console that escapes all characters that are not printable, wherever they come from.

    Colours and the movements of bars are rich's own segments, not characters of a text. So whatever
    a text holds, a view that forgot to escape it cannot let it through.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object into segments; rich calls this for each object within another too."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                lines = segment.text.split("\n")
                yield Segment("\n".join(map(printable, lines)), segment.style)


def make_console() -> Console:
    """Return the console that writes to standard output, with its width and its colours."""
    unlimited = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return SafeConsole(
        width=PIPE_WIDTH if unlimited else None, highlight=False, markup=False, emoji=False
    )


def show(console: Console, *parts: RenderableType) -> None:
    """Print by Python's own means: rich's end the process when a pipe is closed."""
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    print(_without_padding(captured.get()), flush=True)


def _without_padding(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))
