"""`moorage admin drain`: how it goes, to its end."""

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Annotated, Any, Self

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ....actors.client.client import Client
from ....actors.client.client_errors import RequestError
from ....protocol.admin import answers, commands
from ....protocol.admin.commands import AnswerType, Command
from ....protocol.errors import MoorageError
from ....protocol.messages.types import MessageType
from ..exits import CommandError, Exit
from .confirmation import Yes, confirm
from .quantities import count, counted, span
from .target_server import (
    THIS_MACHINES,
    AsJson,
    Server,
    ServerFlags,
    print_json,
    reach,
    refused,
    say,
    understood,
)


def drain(
    *,
    timeout: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            help="How long the clients may take to leave. Without it: the setting `drain_timeout`.",
        ),
    ] = None,
    yes: Yes = False,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> int:
    """Tell every client to come back elsewhere, and wait until they have left.

    No new ones are let in meanwhile, nor afterwards: `moorage admin resume`
    lets them in again, and also ends a drain that is under way. Ctrl-C ends
    only the looking on. On a terminal it asks for confirmation.

    Exits with 0 when all have left, and with 1 if some have not.

    For example:
      $ moorage admin drain
      $ moorage admin drain --timeout 120 --yes --json
    """
    return trio.run(_drain, server, commands.Drain(timeout), yes, json_)


async def _drain(server: Server, asked: commands.Drain, yes: bool, as_json: bool) -> int:  # noqa: FBT001 - trio.run passes no keywords
    data: Any = None
    with _Display(visible=not as_json) as display:
        async with reach(server) as client:
            if not yes:
                await confirm(client, "This sends away {}.")
            async with aclosing(_answers(client, asked)) as reports:
                async for data in reports:
                    display.show(understood(Command.DRAIN, data, answers.DrainProgress))
    end = understood(Command.DRAIN, data, answers.DrainProgress)
    if as_json:
        print_json(data)
    if end.done and not end.left:
        if not as_json:
            print(f"drained: {counted(end.total, 'connection')} left within {span(end.seconds)}")
            print("`moorage admin resume` lets new ones in")
        return Exit.OK
    why = "in time" if end.done else "when the drain was ended by `resume`"
    say(f"{count(end.left)} of {counted(end.total, 'connection')} had not left {why}")
    return Exit.FAILURE


async def _answers(client: Client, asked: commands.Drain) -> AsyncGenerator[Any, None]:
    """Yield the `data` of every progress report, and of the result at last.

    The first answer is the request's; those that follow carry its id, and come with the rest.
    """
    try:
        answer = await client.request(Command.DRAIN, asked)
    except RequestError as error:
        raise refused(Command.DRAIN, error) from error
    yield answer.data
    if answer.type == AnswerType.RESULT:
        return
    async for message in client.messages():
        if message.type == MessageType.GOODBYE:
            break
        if message.id == answer.id:
            if message.type == MessageType.ERROR:
                raise CommandError(message.error or "the server could not finish the drain")
            yield message.data
            if message.type == AnswerType.RESULT:
                return
    raise CommandError("the server has ended before the drain was over")


@attrs.define
class _Display:
    """Shows how a drain goes: a bar on a terminal, a line at every change elsewhere."""

    visible: bool
    _bar: Progress | None = attrs.field(default=None, init=False)
    _task: TaskID | None = attrs.field(default=None, init=False)
    # What the last line said.
    _left: int | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._left and exc is not None and not isinstance(exc, MoorageError):
            say("the drain goes on; `moorage admin resume` ends it")

    def show(self, progress: answers.DrainProgress) -> None:
        """Show one report."""
        before, self._left = self._left, progress.left
        if not self.visible:
            return
        if not sys.stdout.isatty():
            if progress.left != before:
                print(f"{count(progress.left)} of {count(progress.total)} left", flush=True)
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("draining"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("have left  {task.fields[clock]}"),
                console=Console(highlight=False),
                auto_refresh=False,  # a thread would; each report does
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=progress.total, clock="")
        self._bar.update(
            self._task,
            completed=progress.total - progress.left,
            clock=f"{span(progress.seconds)} of {span(progress.timeout)}",
            refresh=True,
        )
