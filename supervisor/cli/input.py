"""Lines from standard input, whatever it is: a terminal, a pipe, a file.

No thread reads it: one that is still in `readline` when the command ends holds the lock of
`sys.stdin`, and Python aborts over that on its way out.
"""

import os
import sys
from collections.abc import AsyncGenerator

import trio

_CHUNK = 65_536


async def lines(fd: int | None = None) -> AsyncGenerator[str, None]:
    """Yield the lines of standard input, or of a file descriptor, without their line ends.

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
    except PermissionError:  # epoll's answer for a regular file, which is always readable
        await trio.lowlevel.checkpoint()
    return os.read(fd, _CHUNK)
