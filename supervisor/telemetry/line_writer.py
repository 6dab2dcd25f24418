"""Writing lines to standard error without waiting for whoever reads them.

A pipe that nobody reads is full after 64 KiB, and a write to it then waits: in the event loop, that
would stop the server for everybody, signals included. So lines go into a queue, which has a bound
in bytes, and a daemon thread writes them. What does not fit into the queue is lost, counted, and
reported by a line of its own as soon as lines flow again.

A stream without a file descriptor, such as one in memory, never waits, and is written to directly.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

MAX_WAITING: Final = 8_388_608
"""Bytes of lines that may wait: 30,000 lines, three times as many as 10,000 clients that leave."""

_AT_ONCE: Final = 4096
"""Bytes of lines that are written together. Linux writes so many to a pipe in one piece (pipe(7),
PIPE_BUF), so that lines of several processes that share a pipe do not mix."""

CLOSING_TIME: Final = 1.0
"""Seconds for which the end of the process waits until the last lines are written."""

_REPORT_INTERVAL: Final = 10.0
"""Seconds between two reports of lost lines, while a reader is slower than what is logged."""

_WRITABLE_TIME: Final = 1.0
"""Seconds to wait, at a time, until a file that never blocks takes more."""


class LineWriter:
    """A queue of lines, and the thread that writes them to one stream.

    All methods can be called in any thread. structlog's `WriteLogger` takes it for a file.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        limit: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the stream, the bytes that may wait for it, and a clock in seconds.

        Without a stream, as `sys.stderr` can be None, all lines are lost.
        """
        self.stream = stream
        self._limit = limit
        self._clock = clock
        self._is_direct = descriptor_of(stream) is None
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # lines wait, or the writer is to end
        self._emptied = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._told = 0  # of the lost lines, those that `on_lost` has been told of
        self._told_at = -math.inf  # by the clock
        self.waiting = 0  # bytes in the queue, and in a write that has not returned
        self.lost = 0  # lines that found no room, or that the stream did not take
        # Is called in the writer's thread when there is room again, with how many were lost.
        self.on_lost: Callable[[int], object] | None = None

    def write(self, text: str) -> None:
        """Take one or more lines, each with its line feed. Never waits."""
        if self.stream is None:
            self.lost += 1
            return
        if self._is_direct:
            self.stream.write(text)
            return
        line = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self.waiting + len(line) > self._limit:
                self.lost += 1
                return
            self._lines.append(line)
            self.waiting += len(line)
            if self._thread is None or not self._thread.is_alive():  # after a fork it is not
                self._start()
            self._filled.notify()

    def flush(self) -> None:
        """Do nothing but flush a stream in memory: the queue is emptied as fast as it can be."""
        if self.stream is not None and self._is_direct:
            self.stream.flush()

    def close(self, timeout: float = CLOSING_TIME) -> bool:
        """Wait until all lines are written, for `timeout` seconds at most; False if some are not.

        Lines can be written afterwards as before. It blocks, so it is for the end of a process.
        """
        with self._lock:
            return self._emptied.wait_for(lambda: not self.waiting, timeout)

    def end(self) -> None:
        """Let the thread end when it has written what waits; another line starts another."""
        with self._lock:
            self._closing = True
            self._filled.notify()

    def _start(self) -> None:
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Write lines for as long as the process lives."""
        while (lines := self._take()) is not None:
            data = b"".join(lines)
            written = self._write(data)
            with self._lock:
                if not written:
                    self.lost += len(lines)
                self.waiting -= len(data)
                # A stream that is broken is not asked to report each line that it loses.
                lost = self._untold() if written else 0
                if not self.waiting:
                    self._emptied.notify_all()
            if lost and self.on_lost is not None:
                self.on_lost(lost)

    def _untold(self) -> int:
        """Return how many lost lines are to be reported now; they count as reported then."""
        lost = self.lost - self._told
        now = self._clock()
        is_slow = self.waiting > self._limit // 2
        if not lost or (is_slow and now - self._told_at < _REPORT_INTERVAL):
            return 0
        self._told, self._told_at = self.lost, now
        return lost

    def _take(self) -> list[bytes] | None:
        """Wait for lines, and return some of them; None at the end."""
        with self._lock:
            while not self._lines:
                if self._closing:
                    return None
                self._filled.wait()
            lines = [self._lines.popleft()]
            size = len(lines[0])
            while self._lines and size + len(self._lines[0]) <= _AT_ONCE:
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            return lines

    def _write(self, data: bytes) -> bool:
        """Write to the descriptor, for as long as that takes; False if that failed."""
        rest = memoryview(data)
        while rest:
            descriptor = descriptor_of(self.stream)
            if descriptor is None:  # it was closed
                return False
            try:
                rest = rest[os.write(descriptor, rest) :]
                continue
            except BlockingIOError:  # somebody has made the file non-blocking
                waiting = select.poll()
            except OSError:  # nobody reads any more, the disk is full
                return False
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll(_WRITABLE_TIME * 1000)  # also returns if the descriptor is closed
        return True


_WRITERS: Final[dict[int, LineWriter]] = {}
"""The writers by descriptor."""


def standard_error() -> LineWriter:
    """Return the writer of what is `sys.stderr` now; it is closed at the end of the process."""
    stream = sys.stderr
    descriptor = descriptor_of(stream)
    if descriptor is None:
        return LineWriter(stream)
    before = _WRITERS.get(descriptor)
    if before is not None and before.stream is stream:
        return before
    if before is not None:
        before.end()
    writer = _WRITERS[descriptor] = LineWriter(stream)
    atexit.register(writer.close)
    return writer


def descriptor_of(stream: TextIO | None) -> int | None:
    """Return a stream's file descriptor; None if it has none, or is closed."""
    if stream is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation is both
        return stream.fileno()
    return None
