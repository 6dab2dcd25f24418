"""The exit codes of the commands, and the error of a command that could not do its work."""

from collections.abc import Iterator
from enum import IntEnum
from typing import cast

from ...protocol.errors import MoorageError


class Exit(IntEnum):
    """The exit codes of all commands; scripts rely on them."""

    OK = 0
    # The command was right and did not succeed: the server refused it, was not reachable, …
    FAILURE = 1
    # The command was wrong: its usage, its settings, its keys.
    USAGE = 2
    # `serve` was cut off: a program's code, for example, kept the server from ending in time.
    CUT_OFF = 3
    # Ctrl-C ended it: 128 + SIGINT, as shells report it.
    INTERRUPTED = 130
    # The reader of the output has closed it, as `head` does: 128 + SIGPIPE.
    OUTPUT_CLOSED = 141


class CommandError(MoorageError):
    """A command could not do its work; the message is one sentence for its caller."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group, at any depth; an error that is no group is yielded itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(part)
    else:
        yield error
