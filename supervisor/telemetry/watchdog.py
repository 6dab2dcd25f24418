"""The watchdog: it logs what holds the event loop, with its stack, while the loop is still held.

Nothing that runs in the loop can tell of a handler that blocks: it has to wait for the handler's
end, which may never come. So a thread looks on. Twice per `slow_turn` it reads when the loop's
present turn began (`actors/tick.py`); the loop does nothing for that. While the loop waits for
events, the thread sleeps until the next turn wakes it, so an idle server has no periodic wake-up.

A thread can look only when it gets Python's interpreter lock. Code that keeps the lock (a regular
expression that backtracks, a compression of many bytes, a full collection of Python's garbage) is
logged when it has ended, mostly without a stack. A collection is measured apart: the stack shows
the code that happened to allocate an object then, and not the cause.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, Final

import trio

from ...actors.connection.connection import Connection
from ...actors.connection.limits import TokenBucket
from ...actors.tick import Tick
from .logs import EventLog

_LINES_PER_SECOND: Final = 1.0
_LINES_AT_ONCE: Final = 10.0
"""The limits for slow turns that are logged; a server that is overloaded has many, much alike."""

_AGAIN: Final = 10.0
"""A turn that goes on is logged again, with its stack, when it is so many times as old."""

_FULL: Final = 2
"""The generation of a full collection; the others take less than a millisecond."""

_END: Final = 0.1
"""Seconds that the end of the thread is waited for; the loop waits, too. It takes a fraction of a
millisecond, unless the log takes no line; the thread does not outlive the process in any case."""


class TurnWatchdog:
    """The watchdog of one event loop, for one server: a thread, between `start` and `end`."""

    def __init__(
        self,
        tick: Tick,
        slow_turn: float,
        log: EventLog,
        connections: Callable[[], Iterable[Connection]],
    ) -> None:
        """Take what it looks at, and the seconds from which on a turn is slow; 0: it does nothing.

        `connections` returns those in which the culprit is looked for; it is called in the thread.
        """
        self._tick = tick
        self._slow_turn = slow_turn
        self._log = log
        self._connections = connections
        self._bucket = TokenBucket(_LINES_PER_SECOND, _LINES_AT_ONCE, tick.clock())
        self._suppressed = 0  # slow turns that were not logged since the last one that was
        self._bell = threading.Event()  # ends the thread's sleep
        self._over = False
        self._turns = tick.turns  # of the loop, at the latest look
        self._slow_turns = tick.slow_turns  # of those, how many had been slow
        # The turn at the latest look, or the slow one that ended since: when it began, whether it
        # is logged (None: that is not decided), at which age it is logged again, and who holds it.
        self._began: float | None = None
        self._logged: bool | None = None
        self._next_age = slow_turn
        self._culprit: Mapping[str, Any] = {}
        # The latest full collections: when each ended, and the seconds that it took.
        self._collections: deque[tuple[float, float]] = deque(maxlen=8)
        self._collection_began = 0.0
        # What `start` finds: the loop's thread, its outermost task, and the way back into it.
        self._loop = 0
        self._root: trio.lowlevel.Task | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the running loop, in a thread of its own."""
        if not self._slow_turn:
            return
        self._loop = threading.get_ident()
        self._root = trio.lowlevel.current_root_task()
        self._token = trio.lowlevel.current_trio_token()
        gc.callbacks.append(self._on_collection)
        # A daemon: a log that takes no line must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="moorage watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the thread, if there is one."""
        if self._thread is None:
            return
        self._over = True
        self._tick.on_turn = None
        self._bell.set()
        self._thread.join(_END)
        gc.callbacks.remove(self._on_collection)

    def _run(self) -> None:
        """Look, and sleep, until the end: the thread."""
        try:
            while not self._over:
                pause = self.look()
                if pause is None:
                    self._tick.on_turn = self._bell.set
                    if self._tick.turns != self._turns:
                        continue  # a turn has begun meanwhile, and may have rung no bell
                self._bell.wait(pause)
                self._bell.clear()
        except Exception as error:  # noqa: BLE001 - containment: the server goes on without it
            self._log.write_from_thread("error", "watchdog_failed", exc_info=error)

    def look(self) -> float | None:
        """Look at the loop once, and log what is to be logged.

        Returns the seconds until the next look; None: none is needed before another turn begins.
        """
        tick = self._tick
        turns, began = tick.turns, tick.turn_began
        if tick.slow_turns != self._slow_turns:
            self._note_end()
        if began is None:
            idle = turns == self._turns
            self._turns = turns
            return None if idle else self._slow_turn / 2
        self._turns = turns
        if began != self._began:
            self._turn(began)
        age = tick.clock() - began
        if age > self._next_age:
            self._note_held(began, age)
        return self._slow_turn / 2

    def _turn(self, began: float) -> None:
        """Forget the turn before this one."""
        self._began, self._logged = began, None
        self._next_age, self._culprit = self._slow_turn, {}

    def _note_held(self, began: float, age: float) -> None:
        """Log a turn that is still under way, with the stack of what holds the loop."""
        self._next_age *= _AGAIN
        if self._logged is None:
            self._logged = self._may_log()
        if not self._logged:
            return
        # Documented, and the only way; its underscore says that it is for special purposes.
        innermost = sys._current_frames().get(self._loop)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        frames = [
            frame
            for frame, _ in (traceback.walk_stack(innermost) if innermost is not None else ())
            if frame.f_code.co_filename != __file__  # a collection is told by `collecting`
        ]
        culprit, frames = self._who(frames)
        stack = traceback.StackSummary.extract((each, each.f_lineno) for each in reversed(frames))
        if self._tick.turn_began == began:  # else it has ended, and the stack may be another's
            self._culprit = culprit
            self._write("slow_turn", began, age, stack="".join(stack.format()))

    def _note_end(self) -> None:
        """Log that a slow turn is over, and how long it took."""
        slow_turns = self._tick.slow_turns
        began, took = self._tick.latest_slow_turn
        # Of several that have ended since the latest look, the last is logged.
        self._suppressed += slow_turns - self._slow_turns - 1
        self._slow_turns = slow_turns
        if began != self._began:
            self._turn(began)
        if self._logged is None:
            self._logged = self._may_log()
        if self._logged:
            self._write("slow_turn_over", began, took)

    def _may_log(self) -> bool:
        """Return whether a slow turn may be logged now; else count it as suppressed."""
        if self._bucket.take(1, self._tick.clock()):
            return True
        self._suppressed += 1
        return False

    def _write(self, event: str, began: float, seconds: float, **stack: str) -> None:
        collecting = sum(took for ended, took in self._collections if ended >= began)
        fields: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "collecting": round(collecting, 3),
            "task": None,
            "connection_id": None,
            "user_id": None,
            **self._culprit,
            **stack,
        }
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        self._log.write_from_thread("warning", event, **fields)
        if self._token is None:
            return
        try:
            self._token.run_sync_soon(self._log.show, event, fields)
        except trio.RunFinishedError:
            return  # nobody is left who could watch

    def _who(self, frames: Sequence[FrameType]) -> tuple[Mapping[str, Any], list[FrameType]]:
        """Return what is known of the task whose frames these are, and the frames of the task.

        The frames come innermost first. Without a task, all of them are returned.
        """
        places = {frame: place for place, frame in enumerate(frames)}
        unseen = [] if self._root is None else [self._root]
        while unseen:
            task = unseen.pop()
            # Only the frames of running code are on a stack, so at most one task is found.
            place = places.get(getattr(task.coro, "cr_frame", None))  # pyright: ignore[reportArgumentType] - None is not there
            if place is not None:
                return {"task": task.name, **self._connection_of(task)}, list(frames[: place + 1])
            for nursery in task.child_nurseries:
                unseen += nursery.child_tasks
        return {}, list(frames)

    def _connection_of(self, task: trio.lowlevel.Task) -> Mapping[str, Any]:
        """Return the id and the user of the connection whose task this is, or that started it."""
        for connection in self._connections():
            nursery = connection.nursery
            if nursery is not None and (
                nursery is task.parent_nursery or nursery.parent_task is task
            ):
                return {"connection_id": connection.id, "user_id": connection.user_id}
        return {}

    def _on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        """Measure a full collection; Python calls this before and after every collection."""
        if info["generation"] != _FULL:
            return
        now = self._tick.clock()
        if phase == "start":
            self._collection_began = now
        else:
            self._collections.append((now, now - self._collection_began))
