"""The command line: it runs one command, and turns errors into sentences and exit codes.

Only a defect of Moorage shows a traceback. Everything else that can go wrong, from a misspelt flag
to a server that is away, ends with a line or two on standard error and a code of `Exit`.

Each command is registered by the name of its module, which is imported when the command is called:
so `publish` does not import the server. A help page that lists commands imports all of those, since
the summary of each command is the first line of its docstring.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from ...protocol.errors import MoorageError
from ...protocol.version import VERSION
from .exits import Exit, leaves
from .rendering import say

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

# The place of each command: its module in this folder, and its name in that module.
_COMMANDS = {
    "serve": "serve:serve",
    "connect": "connect:connect",
    "publish": "publish:publish",
    "token": "token:token",
    "admin": "admin.admin_command:admin_app",
    "top": "admin.top:top",
    "config": "config:config_app",
}


def _app() -> App:
    app = App(
        name="moorage",
        help=_HELP,
        help_format="plaintext",
        version=f"moorage {VERSION}",
        group_parameters=Group("Command", sort_key=1),
        default_parameter=Parameter(negative_none=(), negative_iterable=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, place in _COMMANDS.items():
        app.command(f"{__package__}.{place}", name=name)
    return app


def _import_listed(app: App, arguments: Sequence[str]) -> None:
    """Import the commands below the one that `arguments` name, since its help lists them.

    Cyclopts lists a command that is not imported yet, but without its summary.
    """
    named = app
    for word in arguments:
        if word.startswith("-") or word not in named:
            break
        named = named[word]
    for name in named:
        _ = named[name]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code, one of `Exit`."""
    try:
        app = _app()
        _import_listed(app, arguments)
        code = app(list(arguments))
        sys.stdout.flush()
    except BaseException as error:
        ending = _ending(error)
        if ending is None:
            raise
        code, lines = ending
        for line in lines:
            say(line)
        if code is Exit.OUTPUT_CLOSED:
            # What is still buffered would fail once more when Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK if code is None else code


def _ending(error: BaseException) -> tuple[Exit, list[str]] | None:
    """Return how to end for an error, or None for a defect, which gets its traceback.

    Of a group, the worst ending counts, and a defect in it is a defect.
    """
    # Imported here, since a command that succeeds does not need the settings.
    from ..config.sources import InvalidConfigurationError  # noqa: PLC0415
    from ..config.validators import ConfigurationError  # noqa: PLC0415

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
