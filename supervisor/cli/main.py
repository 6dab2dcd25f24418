"""Runs a command: usage in, exit code out, and errors as sentences on the way.

A traceback is for defects of Moorage. Everything that can go wrong outside of it, from a misspelt
flag to a server that is away, ends with a line or two on standard error and a code of `Exit`.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group, Parameter

from ...protocol.errors import MoorageError
from ..config.sources import InvalidConfigurationError
from ..config.validators import ConfigurationError
from .admin import admin_app, top
from .config import config_app
from .connect import connect
from .exits import Exit, leaves
from .publish import publish
from .serve import serve
from .token import token

_HELP = """Keep WebSocket connections: serve them, mint tokens for them, talk to a server.

Try it, in three terminals:
  $ moorage serve
  $ moorage connect ws://127.0.0.1:8765/ws --topic news
  $ moorage publish ws://127.0.0.1:8765/ws --topic news --data '{"n": 1}'

Exit codes:
  0    it worked
  1    it did not: refused, not reachable, lost
  2    it was asked for wrongly: usage, settings, keys
  130  interrupted by Ctrl-C
  141  whoever read the output has closed it
"""


def _app() -> App:
    app = App(
        name="moorage",
        help=_HELP,
        help_format="plaintext",
        version=lambda: f"moorage {version('moorage')}",
        group_parameters=Group("Command", sort_key=1),
        default_parameter=Parameter(negative_none=(), negative_iterable=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for command in (serve, connect, publish, token, admin_app, top, config_app):
        app.command(command)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `moorage` command and return its exit code, one of `Exit`.

    `arguments` are those of the process where None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _app()(list(arguments))
        sys.stdout.flush()
    except BaseException as error:
        ending = _ending(error)
        if ending is None:
            raise
        code, lines = ending
        for line in lines:
            print(f"moorage: {line}", file=sys.stderr)
        if code is Exit.OUTPUT_CLOSED:
            # What is still buffered would fail once more when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK if code is None else code


def _ending(error: BaseException) -> tuple[Exit, list[str]] | None:
    """Return how to end for an error, or None for a defect, which gets its traceback.

    Of a group, the worst ending counts, and a defect in it is a defect.
    """
    found: list[tuple[Exit, list[str]]] = []
    for leaf in leaves(error):
        match leaf:
            case CycloptsError():
                found.append((Exit.USAGE, [*_text(leaf), "try: moorage --help"]))
            case InvalidConfigurationError():
                found.append((Exit.USAGE, [str(e) for e in leaf.errors]))
            case ConfigurationError():
                found.append((Exit.USAGE, [str(leaf)]))
            case KeyboardInterrupt():
                found.append((Exit.INTERRUPTED, []))
            case BrokenPipeError():
                found.append((Exit.OUTPUT_CLOSED, []))
            case MoorageError():
                found.append((Exit.FAILURE, [str(leaf)]))
            case OSError():
                found.append((Exit.FAILURE, [_reason(leaf)]))
            case _:
                return None
    return max(found, key=lambda ending: ending[0])


def _text(error: CycloptsError) -> list[str]:
    return [line for line in str(error).splitlines() if line.strip()]


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return where + (error.strerror or str(error) or type(error).__name__)
