"""How a command ends: its exit codes, and the errors that lead to them."""

from collections.abc import Iterator
from enum import IntEnum
from typing import cast

from ...protocol.errors import MoorageError


class Exit(IntEnum):
    """The exit codes of every command; scripts rely on them."""

    OK = 0
    # It was asked for correctly, and did not work: refused by the server, not reachable, …
    FAILURE = 1
    # It was asked for wrongly: usage, settings, keys.
    USAGE = 2
    # By Ctrl-C: 128 + SIGINT, as a shell reports it.
    INTERRUPTED = 130
    # Whoever read the output has closed it, as `head` does: 128 + SIGPIPE.
    OUTPUT_CLOSED = 141


class CommandError(MoorageError):
    """What a command could not do, in one sentence for whoever called it."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a group holds, at any depth; an error by itself, where it is none."""
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(part)
    else:
        yield error
