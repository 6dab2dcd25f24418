"""The lines of standard input, which may be a terminal, a pipe or a file.

No thread reads it. A thread that is still in `readline` when the command ends would hold the lock
of `sys.stdin`, and Python aborts at its exit because of that.
"""

import os
import sys
from collections.abc import AsyncGenerator

import trio

_CHUNK = 65_536


async def lines(fd: int | None = None) -> AsyncGenerator[str, None]:
    """Yield the lines of standard input, or of the file descriptor `fd`, without their ends.

    Cancelling loses at most the line that is being read.
    """
    descriptor = sys.stdin.fileno() if fd is None else fd
    pending = b""
    while chunk := await _read(descriptor):
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if pending:
        yield pending.decode("utf-8", "replace")


async def _read(fd: int) -> bytes:
    try:
        await trio.lowlevel.wait_readable(fd)
    except PermissionError:  # epoll refuses a regular file, which is always readable
        await trio.lowlevel.checkpoint()
    return os.read(fd, _CHUNK)
