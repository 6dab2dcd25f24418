"""Asks before something happens to everyone."""

import sys
from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter

from ....actors.client.client import Client
from ....protocol.admin import answers
from ....protocol.admin.commands import Command
from ..exits import CommandError
from ..input import lines
from .quantities import counted
from .target_server import ask, understood

Yes = Annotated[
    bool,
    Parameter(name="--yes", negative=(), show_default=False, help="Do not ask for confirmation."),
]


async def confirm(client: Client, effect: str) -> None:
    """Ask the person at the terminal; without one, whoever wrote the script has decided.

    The `{}` in `effect` becomes the number of connections. Raises CommandError unless the answer is
    yes. Cancelling is safe.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    stats = understood(Command.STATS, await ask(client, Command.STATS), answers.Stats)
    connections = counted(stats.active_connections, "connection")
    question = f"{effect.format(f'all {connections}')} Go on? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    async with aclosing(lines()) as typed:
        async for answer in typed:
            if answer.strip().lower() in ("y", "yes"):
                return
            raise CommandError("nothing was done")
    raise CommandError("nothing was done")
