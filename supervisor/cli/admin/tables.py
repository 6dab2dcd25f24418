"""The layout of the answers: lists that fit the terminal, and pairs of label and value.

Texts of clients (names, topics, reasons) are never markup. They are escaped here, before the layout
is made, so that their columns have the right width.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from attrs import frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..terminal.console import PIPE_WIDTH
from ..terminal.rendering import printable

RowT = TypeVar("RowT")

GOOD, WORRY, BAD, FAINT, TITLE = "green", "yellow", "bold red", "bright_black", "bold"


def plain(text: object, style: str = "") -> Text:
    """Return a foreign text, with its control characters escaped."""
    return Text(printable(str(text)), style=style)


@frozen
class Column(Generic[RowT]):
    """One column of a list."""

    title: str
    cell: Callable[[RowT], Text | str]
    # Whether the cells are aligned to the right, as numbers are.
    right: bool = False
    # On a narrow terminal the column with the highest is left out first; one with 0 always stays.
    spare: int = 0


def listing(
    console: Console,
    columns: Sequence[Column[RowT]],
    rows: Sequence[RowT],
    title: str | None = None,
    *,
    explained: bool = True,
) -> RenderableType:
    """Return a list, without the columns for which the terminal has no room.

    With `explained`, a line below names those.
    """
    shown, left_out = list(columns), list[str]()
    while True:
        table = _table(shown, rows)
        most_spare = max(shown, key=lambda column: column.spare)
        if _width(table) <= console.width or most_spare.spare == 0:
            break
        shown.remove(most_spare)
        left_out.append(most_spare.title)
    parts: list[RenderableType] = [table]
    if title is not None:
        parts.insert(0, plain(title, TITLE))
    if left_out and explained:
        names = ", ".join(reversed(left_out))
        parts.append(Text(f"No room for: {names}.", style=FAINT))
    return Group(*parts)


def _table(columns: Sequence[Column[RowT]], rows: Iterable[RowT]) -> Table:
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style=TITLE, collapse_padding=True
    )
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold")
    for row in rows:
        cells = (column.cell(row) for column in columns)
        table.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _width(table: Table) -> int:
    """Return the width of a table in characters, with room for all of it."""
    ample = Console(width=PIPE_WIDTH)
    return Measurement.get(ample, ample.options, table).maximum


def pairs(*rows: tuple[str, Text | str], title: str | None = None) -> RenderableType:
    """Return labels and values, one pair a line, under a title."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=FAINT, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, plain(value) if isinstance(value, str) else value)
    if title is None:
        return grid
    return Group(plain(title, TITLE), Padding(grid, (0, 0, 0, 2)))


def gauge(part: float, whole: float, width: int = 20) -> Text:
    """Return a bar that shows how much of a limit is used."""
    used = min(1.0, part / whole) if whole > 0 else 0.0
    filled = round(used * width)
    if part > 0:
        filled = max(1, filled)
    style = GOOD if used < 0.75 else WORRY if used < 0.95 else BAD
    return Text.assemble(("█" * filled, style), ("░" * (width - filled), FAINT))


def said(number: int, text: str, style: str = WORRY) -> Text:
    """Return a text, in colour unless its number is zero."""
    return Text(text, style=style if number else "")
