"""The entry point of the `moorage` command: it prints the version, or runs the command line.

The libraries of the command line are imported only when they are needed. So the version is printed
at once, and an installation without these libraries gets a sentence that says what to install.
"""

import sys
from collections.abc import Sequence

from ...protocol.version import VERSION


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `moorage` command and return its exit code, one of `Exit`.

    `arguments` are those of the process where None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) == ["--version"]:
        print(f"moorage {VERSION}")
        return 0
    try:
        from .command_line import run  # noqa: PLC0415 - the version does not need it
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        print(
            "moorage: the command needs cyclopts, which is not installed: "
            "pip install 'moorage[server]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments)
