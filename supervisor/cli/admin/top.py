"""`moorage top`: the state of the server, all the time."""

import math
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from ....actors.client.client import Client
from ....actors.client.client_errors import ClientClosed, ConnectionLost, RequestError
from ....protocol.admin import answers, commands
from ...config.validators import ConfigurationError
from ..exits import CommandError, Exit
from ..terminal.console import make_console, show
from .control_client import THIS_MACHINES, ServerFlags, TargetServer, ask, reach, read_answer
from .quantities import count, counted, rate, share, size, span, trend
from .tables import BAD, FAINT, TITLE, Column, listing, plain, said
from .views import readiness, slowest_view

_REMEMBERED: Final = 30
"""Frames that a trend shows."""

_SHORTEST: Final = 0.1
"""Seconds between two frames, at the least."""

_LATE: Final = 1.5
"""Seconds after a question; without an answer until then, the frame says so."""

_NUMBERS_WIDTH: Final = 46
"""Characters of a line beside its trend."""

_OTHER_LINES: Final = 16
"""Lines of a frame that are in neither of its two lists."""

_ENDED_BY_KEYS: Final = (b"q", b"Q", b"\x04", b"\x1b")
"""The keys that end it: q, Ctrl-D, Escape."""


def top(
    *,
    interval: Annotated[
        float, Parameter(metavar="SECONDS", help="Between two looks at the server.")
    ] = 1.0,
    once: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Look once, print it, and end.")
    ] = False,
    server: ServerFlags = THIS_MACHINES,
) -> int:
    """Show the state of a running server, all the time: q or Ctrl-C ends it.

    It shows connections, messages and bytes a second, event loop lag, the bytes
    that wait in mailboxes, the slowest consumers, and why connections ended,
    with the trend of the last 30 frames. When the server goes or does not answer,
    it says for how long, and waits for it to come back. Into a pipe it prints one
    frame after the other, as text.

    For example:
      $ moorage top
      $ moorage top --interval 5 --control-socket /run/moorage/control.sock
      $ moorage top --once
    """
    if not interval >= _SHORTEST or math.isinf(interval):
        problem = f"{interval:g} is not allowed"
        raise ConfigurationError("interval", problem, allowed=f"seconds, {_SHORTEST:g} or more")
    trio.run(_top, server, interval, once)
    return Exit.OK


async def _top(server: TargetServer, interval: float, once: bool) -> None:  # noqa: FBT001 - trio.run passes no keywords
    console = make_console()
    async with reach(server, comes_back=not once) as client:
        if once:
            show(console, Frames(console, lives=False).frame(*await _look(client)))
            return
        with _screen(console) as paint:
            failure: Exception | None = None  # which the nursery must not wrap in a group
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_signals, nursery.cancel_scope)
                if sys.stdin.isatty() and console.is_terminal:
                    nursery.start_soon(_watch_keys, nursery.cancel_scope)
                try:
                    await repeat(client, nursery, Frames(console, lives=True), paint, interval)
                except (ClientClosed, CommandError) as error:
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure


async def repeat(
    client: Client,
    nursery: trio.Nursery,
    frames: "Frames",
    paint: Callable[[RenderableType], None],
    interval: float,
) -> None:
    """Ask and paint until cancelled; where no answer comes, say so, and go on asking.

    ClientClosed, CommandError: the server has ended the session for good.
    """
    answered = trio.current_time()
    problem = ""
    while True:
        began = trio.current_time()
        waiting = trio.CancelScope()
        nursery.start_soon(_tell_silence, waiting, frames, paint, answered, problem)
        try:
            looked = await _look(client)
        except (ConnectionLost, RequestError) as error:
            problem = str(error)
            paint(frames.interrupted(trio.current_time() - answered, problem))
        else:
            answered, problem = trio.current_time(), ""
            paint(frames.frame(*looked))
        finally:
            waiting.cancel()
        await trio.sleep_until(began + interval)


async def _tell_silence(
    scope: trio.CancelScope,
    frames: "Frames",
    paint: Callable[[RenderableType], None],
    answered: float,
    problem: str,
) -> None:
    """Say that a question is not answered, a moment after it was asked, and then every second."""
    with scope:
        await trio.sleep(_LATE)
        while True:
            paint(frames.interrupted(trio.current_time() - answered, problem))
            await trio.sleep(1.0)


async def _look(client: Client) -> tuple[answers.Stats, answers.Health]:
    stats = read_answer(commands.STATS, await ask(client, commands.STATS))
    health = read_answer(commands.HEALTH, await ask(client, commands.HEALTH))
    return stats, health


@contextmanager
def _screen(console: Console) -> Generator[Callable[[RenderableType], None], None, None]:
    """Take the whole terminal, and give it back; where there is none, print frame after frame."""
    if not console.is_terminal:
        yield lambda frame: show(console, frame, "")
        return
    # No thread of rich's repaints it: every frame does.
    live = Live(console=console, screen=True, auto_refresh=False)
    with _single_keys() if sys.stdin.isatty() else nullcontext(), live:
        yield lambda frame: live.update(frame, refresh=True)


@contextmanager
def _single_keys() -> Generator[None, None, None]:
    """Let keys arrive as they are pressed, without being shown, instead of by lines."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _watch_keys(ended: trio.CancelScope) -> None:
    terminal = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(terminal)
        keys = os.read(terminal, 64)
        # No bytes: the terminal has gone. Arrow keys are an Escape with more bytes behind it.
        if keys in (b"", *_ENDED_BY_KEYS):
            ended.cancel()
            return


async def _watch_signals(ended: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            ended.cancel()
            return


def _trend() -> deque[float]:
    return deque(maxlen=_REMEMBERED)


@attrs.define
class Frames:
    """Makes frames, and remembers the numbers that have a trend."""

    console: Console
    # Whether further frames will follow.
    lives: bool
    _connections: deque[float] = attrs.field(factory=_trend, init=False)
    _in: deque[float] = attrs.field(factory=_trend, init=False)
    _out: deque[float] = attrs.field(factory=_trend, init=False)
    _lag: deque[float] = attrs.field(factory=_trend, init=False)
    _waiting: deque[float] = attrs.field(factory=_trend, init=False)
    # The latest frame without its header, which is shown while the server is away.
    _latest: RenderableType | None = attrs.field(default=None, init=False)

    def frame(self, stats: answers.Stats, health: answers.Health) -> RenderableType:
        """Return the frame for the latest answers of the server."""
        title = plain(f"Moorage {stats.version}", TITLE)
        up = f"  up {span(round(stats.uptime))}  "
        header = self._header(Text.assemble(title, up, readiness(health)))
        parts: list[RenderableType] = [self._numbers(stats, health), Text("")]
        if stats.slowest_consumers:
            slowest = stats.slowest_consumers[: self._room(10)]
            parts.append(slowest_view(self.console, slowest, explained=False))
        else:
            parts.append(Text("no slow consumers: all mailboxes are empty", style=FAINT))
        parts += [Text(""), self._side_by_side(stats)]
        self._latest = Group(*parts)
        return Group(header, Text(""), self._latest)

    def interrupted(self, silent_for: float, problem: str = "") -> RenderableType:
        """Return a frame for a server that does not answer: for how long, why, the last numbers.

        `silent_for` are the seconds since it last answered. Nothing in the frame says that the
        server is ready.
        """
        seconds = round(silent_for)
        long = f"{seconds} s" if seconds < 60 else span(seconds)
        silence = Text(f"no answer for {long}", style=BAD)
        why = plain(f"{problem}; " if problem else "", BAD)
        notice = Text.assemble(why, ("waiting for the server to come back", BAD))
        if self._latest is None or not self.console.is_terminal:
            return Text.assemble(silence, "; ", notice)
        header = self._header(Text.assemble(("Moorage", TITLE), "  ", silence))
        return Group(header, Text(""), notice, Text(""), Styled(self._latest, FAINT))

    def _header(self, header: Text) -> Text:
        if self.lives and self.console.is_terminal:
            header.append("  q ends", style=FAINT)
        return header

    def _numbers(self, stats: answers.Stats, health: answers.Health) -> RenderableType:
        rates, room = stats.rates, health.connections
        lost = stats.messages_failed + stats.messages_dropped
        topics = f"{counted(stats.topics, 'topic')}, {counted(stats.subscriptions, 'subscription')}"
        looks = max(3, min(_REMEMBERED, self.console.width - _NUMBERS_WIDTH))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style=FAINT, no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        if self.lives:
            grid.add_column(min_width=looks, no_wrap=True)
        grid.add_column(no_wrap=True)
        rows: list[tuple[str, Text | str, deque[float], float, Text | str]] = [
            (
                "connections",
                count(stats.active_connections),
                self._connections,
                stats.active_connections,
                f"{share(room.used, room.limit)} of {count(room.limit)}",
            ),
            ("in", rate(rates.messages_in), self._in, rates.messages_in, rate(rates.bytes_in, "B")),
            (
                "out",
                rate(rates.messages_out),
                self._out,
                rates.messages_out,
                rate(rates.bytes_out, "B"),
            ),
            (
                "loop lag",
                span(stats.loop_lag),
                self._lag,
                stats.loop_lag,
                f"at most {span(stats.loop_lag_max)}",
            ),
            (
                "mailboxes",
                size(stats.mailbox_bytes),
                self._waiting,
                stats.mailbox_bytes,
                said(lost, f"{count(lost)} lost"),
            ),
        ]
        for label, value, history, number, note in rows:
            history.append(number)
            trends = [Text(trend([*history][-looks:]), style="cyan")] if self.lives else []
            grid.add_row(label, value, *trends, note)
        come_and_go = f"{rate(rates.connected)} come, {rate(rates.disconnected)} go"
        return Group(grid, Text(f"{topics}; {come_and_go}", style=FAINT))

    def _side_by_side(self, stats: answers.Stats) -> RenderableType:
        """Return why connections ended, and the largest topics."""
        columns: list[RenderableType] = []
        for title, counts in (
            ("closed by cause", stats.closed_by_cause),
            ("largest topics", stats.connections_by_topic),
        ):
            found = sorted(counts.items(), key=lambda item: -item[1])
            rows = [(name, number) for name, number in found if number][: self._room(20)]
            lines = (
                Column[tuple[str, int]](title, lambda row: plain(row[0])),
                Column[tuple[str, int]]("", lambda row: count(row[1]), right=True),
            )
            if rows:
                columns.append(listing(self.console, lines, rows))
        grid = Table.grid(padding=(0, 6))
        grid.add_row(*columns)
        return grid

    def _room(self, enough: int) -> int:
        """Return how many lines each of the lists may have: half of what the rest leaves."""
        if not self.console.is_terminal:
            return enough
        return min(enough, max(3, (self.console.height - _OTHER_LINES) // 2))
