"""The end of the process, if the server does not end in the time that it has promised.

A program's code can keep a server from ending: a handler that shields itself or swallows its
cancellation, or synchronous code that does not return, so that the event loop does not turn. A
thread of its own waits for the promised time, then writes one log line that says in which function
the event loop's thread is, and ends the process.
"""

import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

import structlog

from ..config.settings import Settings
from ..signals import ENDING
from ..telemetry.line_writer import CLOSING_TIME, standard_error
from .exits import Exit

GRACE: Final = 3.0
"""Seconds that a server has beyond what it promises: a busy machine may be late by so much."""

AT_ONCE: Final = 1.0
"""Seconds in which a server has promised to end after a second signal."""

_PATIENCE: Final = CLOSING_TIME + 0.5
"""Seconds for the last log line: nobody may read what the process writes."""

_FRAMES: Final = 10
"""Frames of the stack in the log line, innermost last."""


class ExitTimer:
    """A timer that ends the process. Its methods may be called in a signal's handler."""

    def __init__(self, exit_process: Callable[[int], object] = os._exit) -> None:
        """Take the function that ends the process with a status, whatever its threads do."""
        self._exit = exit_process
        self._main = threading.get_ident()
        # Takes points in time at which the process has to have ended; None: the timer is not needed
        # any more. `put` of this queue, unlike an Event's `set`, may interrupt itself.
        self._deadlines: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="exit timer", daemon=True).start()

    def end_within(self, seconds: float) -> None:
        """End the process after so many seconds, unless it was to end earlier anyway."""
        self._deadlines.put(time.monotonic() + seconds)

    def cancel(self) -> None:
        """End the timer, since the server has ended."""
        self._deadlines.put(None)

    def _run(self) -> None:
        deadline, armed = math.inf, 0.0
        while True:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                earlier = self._deadlines.get(timeout=left)
            except queue.Empty:
                break
            if earlier is None:
                return
            armed = armed or time.monotonic()
            deadline = min(deadline, earlier)
        seconds = round(time.monotonic() - armed, 3)
        last = threading.Thread(target=self._write_last_line, args=(seconds,), daemon=True)
        last.start()
        last.join(_PATIENCE)
        self._exit(Exit.CUT_OFF)

    def _write_last_line(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._main)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented nevertheless
        stack = [] if frame is None else traceback.extract_stack(frame)[-_FRAMES:]
        structlog.get_logger("moorage").error(
            "cut_off",
            seconds=seconds,
            stack=[f"{place.filename}:{place.lineno} {place.name}" for place in stack],
        )
        standard_error().close()


class SignalledEnd:
    """The times in which a server has to have ended, as its end goes on."""

    def __init__(self, timer: ExitTimer, settings: Settings, *, has_callbacks: bool) -> None:
        """Take the timer, and what the promises depend on."""
        self._timer = timer
        # As `Supervisor.stop` promises; and a server that stops waits for async callbacks.
        self._stopping = 2 * (settings.close_timeout + 1) + GRACE
        if has_callbacks:
            self._stopping += settings.handler_timeout
        self._draining = settings.drain_timeout + self._stopping
        self._signals = 0

    def observe(self, number: signal.Signals) -> None:
        """Take note of a signal; safe in its handler."""
        if number in ENDING:
            self._signals += 1
            self._timer.end_within(self._draining if self._signals == 1 else AT_ONCE + GRACE)

    def begin_stop(self) -> None:
        """Take note that the draining is over, and that the server stops."""
        self._timer.end_within(self._stopping)
