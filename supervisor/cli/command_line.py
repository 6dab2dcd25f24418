"""The command line: it runs one command, and turns errors into sentences and exit codes.

Only a defect of Moorage shows a traceback. Everything else that can go wrong, from a misspelt flag
to a server that is away, ends with a line or two on standard error and a code of `Exit`.

Each command is registered by the name of its module, which is imported when the command is called:
so `publish` does not import the server. A help page that lists commands imports all of those, since
the summary of each command is the first line of its docstring.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from ...protocol.errors import MoorageError
from ...protocol.version import VERSION
from .exits import Exit, leaves
from .terminal.rendering import say

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


def _named(app: App, arguments: Sequence[str]) -> tuple[App, list[str]]:
    """Return the command that `arguments` name, and its words: `admin stats` and what it is."""
    words: list[str] = []
    for word in arguments:
        if word.startswith("-") or word not in app:
            break
        app = app[word]
        words.append(word)
    return app, words


def _import_listed(app: App, arguments: Sequence[str]) -> None:
    """Import the commands below the one that `arguments` name, since its help lists them.

    Cyclopts lists a command that is not imported yet, but without its summary.
    """
    named, _ = _named(app, arguments)
    for name in named:
        _ = named[name]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code, one of `Exit`."""
    app = _app()
    try:
        _import_listed(app, arguments)
        try:
            code = app(list(arguments))
        except CycloptsError as error:
            raise _usage_error(app, arguments, error) from error
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
            case UsageError():
                found.append((Exit.USAGE, [str(leaf), f"try: {leaf.command} --help"]))
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


class UsageError(MoorageError):
    """A command was typed wrongly; `command` is the one whose help tells how it is right."""

    def __init__(self, command: str, problem: str) -> None:
        super().__init__(problem)
        self.command = command


# What a flag takes, by the type that Cyclopts found no value of.
_NOUNS: Final[dict[Any, str]] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
}


def _usage_error(app: App, arguments: Sequence[str], error: CycloptsError) -> UsageError:
    """Say in our words what Cyclopts found."""
    named, words = _named(app, arguments)
    command = " ".join(("moorage", *words))
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]):
            known = [name for name in named if not name.startswith("-")]
            what = "flag" if word.startswith("-") else "command"
            guess = _guess(word, known) or f"; its commands are {', '.join(known)}"
            problem = f"`{command}` has no {what} {word!r}{guess}"
        case UnknownOptionError():
            flag = (error.token.keyword or error.token.value).partition("=")[0]
            known = [name for one in error.argument_collection for name in one.names]
            problem = f"`{command}` has no flag {flag}{_guess(flag, known)}"
        case UnusedCliTokensError(unused_tokens=[_, *_] as unused):
            problem = f"`{command}` does not take {', '.join(map(repr, unused))}"
            if any(word.startswith("-") for word in arguments[len(words) :]):
                problem += " here; a text with a space in it needs quotes"
        case MissingArgumentError(argument=argument) if argument is not None:
            value = argument.parameter.metavar or "a value"
            flag = argument.name if argument.name.startswith("-") else ""
            if error.keyword is not None:
                problem = f"{error.keyword} needs a value: {error.keyword} {value}"
            else:
                problem = f"`{command}` needs {f'{flag} {value}'.strip()}"
        case CoercionError(token=token, argument=argument) if token is not None:
            name = token.keyword or (argument.name if argument is not None else command)
            kinds = getattr(error.target_type, "__args__", (error.target_type,))  # of a union
            noun = next((_NOUNS[kind] for kind in kinds if kind in _NOUNS), "a value that it takes")
            problem = f"{name}: {token.value!r} is not {noun}"
        case RepeatArgumentError():
            problem = f"{error.token.keyword} was given twice"
        case _:
            problem = " ".join(str(error).split())
    return UsageError(command, problem)


def _guess(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return where + (error.strerror or str(error) or type(error).__name__)
