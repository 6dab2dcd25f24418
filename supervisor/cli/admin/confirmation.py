"""The confirmation of commands that concern everyone."""

import sys
from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter

from ....actors.client.client import Client
from ....protocol.admin import commands
from ..exits import CommandError
from ..terminal.input import lines
from ..terminal.rendering import out
from .control_client import ask, read_answer
from .quantities import counted

Yes = Annotated[
    bool,
    Parameter(name="--yes", negative=(), show_default=False, help="Do not ask for confirmation."),
]


async def confirm(client: Client, effect: str) -> None:
    """Ask the person at the terminal; where there is no terminal, go on without asking.

    The `{}` in `effect` becomes the number of connections. CommandError: the answer is not yes.
    Cancelling is safe.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    stats = read_answer(commands.STATS, await ask(client, commands.STATS))
    connections = counted(stats.active_connections, "connection")
    question = f"{effect.format(f'all {connections}')} Go on? [y/N] "
    out(question, end="", file=sys.stderr)
    async with aclosing(lines()) as typed:
        async for answer in typed:
            if answer.strip().lower() in ("y", "yes"):
                return
            raise CommandError("nothing was done")
    raise CommandError("nothing was done")
