"""`moorage admin drain`: the command, and the display of its progress."""

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Annotated, Any, Self

import attrs
import trio
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ....actors.client.client import Client
from ....actors.client.client_errors import RequestError
from ....protocol.admin import answers, commands
from ....protocol.admin.commands import AnswerType, DrainRequest
from ....protocol.errors import MoorageError
from ....protocol.messages.types import MessageType
from ..exits import CommandError, Exit
from ..terminal.console import make_console
from ..terminal.rendering import out, say
from .confirmation import Yes, confirm
from .control_client import (
    THIS_MACHINES,
    AsJson,
    ServerFlags,
    TargetServer,
    print_json,
    reach,
    read_answer,
    refused,
)
from .quantities import count, counted, span


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
    this command, and not the drain. On a terminal it asks for confirmation.

    Exits with 0 when all have left, and with 1 if some have not.

    For example:
      $ moorage admin drain
      $ moorage admin drain --timeout 120 --yes --json
    """
    return trio.run(_drain, server, DrainRequest(timeout), yes, json_)


async def _drain(server: TargetServer, request: DrainRequest, yes: bool, as_json: bool) -> int:  # noqa: FBT001 - trio.run passes no keywords
    data: Any = None
    with _Display(visible=not as_json) as display:
        async with reach(server) as client:
            if not yes:
                await confirm(client, "This sends away {}.")
            async with aclosing(_answers(client, request)) as reports:
                async for data in reports:
                    display.show(read_answer(commands.DRAIN, data))
    end = read_answer(commands.DRAIN, data)
    if as_json:
        print_json(data)
    if end.done and not end.left:
        if not as_json:
            out(f"drained: {counted(end.total, 'connection')} left within {span(end.seconds)}")
            out("`moorage admin resume` lets new ones in")
        return Exit.OK
    why = "in time" if end.done else "when the drain was ended by `resume`"
    say(f"{count(end.left)} of {counted(end.total, 'connection')} had not left {why}")
    return Exit.FAILURE


async def _answers(client: Client, request: DrainRequest) -> AsyncGenerator[Any, None]:
    """Yield the `data` of every progress report, and at last that of the result.

    The first comes as the answer to the request, the others have its id, among all other messages.
    """
    try:
        answer = await client.request(commands.DRAIN.name, request)
    except RequestError as error:
        raise refused(commands.DRAIN, error) from error
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
    """Shows the progress of a drain: a bar on a terminal, a line at every change elsewhere."""

    visible: bool
    _bar: Progress | None = attrs.field(default=None, init=False)
    _task: TaskID | None = attrs.field(default=None, init=False)
    # The number of connections left, as shown last.
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
                out(f"{count(progress.left)} of {count(progress.total)} left")
            return
        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("draining"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("have left  {task.fields[clock]}"),
                console=make_console(),
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
