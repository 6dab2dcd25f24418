"""What tasks wait for, and the log of those that end later than was promised.

A program's code can keep a connection, and so the server, from ending: it shields itself, or it
swallows the cancellation. Nothing can end such a task. So that it is not a riddle, whatever is
ending is noted here, and when the promised time has passed, a log line names the tasks that have
not ended, and the functions in which they wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs
import trio

REPEAT_AFTER: Final = 10.0
"""Seconds between two lines about the same ending."""

_LINES_AT_ONCE: Final = 10
"""Lines that are written at once; those who are left out have theirs a moment later."""

_PAUSE: Final = 1.0
"""Seconds between two looks at what is ending, at least."""

_TASKS_PER_LINE: Final = 5


def waits_for(task: trio.lowlevel.Task) -> str | None:
    """Return the function in which a task is suspended, and what it waits for in Trio's words.

    The calling task is not suspended: for it, its own functions are the innermost.
    """
    ours = None
    for frame, _ in task.iter_await_frames():
        module = frame.f_globals.get("__name__", "")
        name = frame.f_code.co_qualname
        if ".transports." in module:  # they wait for what Trio calls so, too: `wait_readable`
            return f"{ours}: {frame.f_code.co_name}" if ours else name
        if module.partition(".")[0] in ("trio", "outcome"):
            return f"{ours}: {name}" if ours else name
        ours = name
    return ours


def innermost(tasks: Iterable[trio.lowlevel.Task]) -> Iterator[trio.lowlevel.Task]:
    """Yield, of these tasks and all tasks below them, those that wait for no other task."""
    waiting = list(tasks)
    while waiting:
        task = waiting.pop()
        below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        if below:
            waiting += below
        else:
            yield task


def describe(tasks: Iterable[trio.lowlevel.Task]) -> list[str]:
    """Return the names of tasks, and what each waits for; of very many tasks, the first few."""
    found: list[str] = []
    for task in innermost(tasks):
        if len(found) == _TASKS_PER_LINE:
            found.append("and more")
            break
        found.append(f"{task.name}, in {waits_for(task)}")
    return found


@attrs.define(eq=False)
class _Ending:
    """Something that is ending, and the time at which it is overdue, in trio's time."""

    began: float
    due: float
    tasks: Callable[[], Iterable[trio.lowlevel.Task]]  # those that have not ended
    connection_id: str
    user_id: str | None


@attrs.define(eq=False)
class Endings:
    """What is ending, each with the time that was promised for it."""

    log: Callable[..., None]  # level, event, and fields by name
    _endings: dict[object, _Ending] = attrs.field(factory=dict[object, _Ending], init=False)
    _begun: trio.Event | None = attrs.field(default=None, init=False)

    def expect(
        self,
        key: object,
        within: float,
        tasks: Callable[[], Iterable[trio.lowlevel.Task]],
        connection_id: str,
        user_id: str | None,
    ) -> None:
        """Note that something is ending, and should have ended within so many seconds.

        `tasks` returns those for which it waits; the ids are those of the connection that it is
        about.
        """
        now = trio.current_time()
        self._endings[key] = _Ending(now, now + within, tasks, connection_id, user_id)
        if self._begun is not None:
            self._begun.set()
            self._begun = None

    def ended(self, key: object) -> None:
        """Note that it has ended; for something that was not expected, do nothing."""
        self._endings.pop(key, None)

    async def watch(self) -> None:
        """Log what is overdue, again and again until it has ended: a task of the server."""
        while True:
            if not self._endings:
                self._begun = trio.Event()
                await self._begun.wait()
            due = min((ending.due for ending in self._endings.values()), default=math.inf)
            now = trio.current_time()
            # It looks once a second at most, however many connections end.
            await trio.sleep(max(min(due, now + REPEAT_AFTER) - now, _PAUSE))
            self._report(trio.current_time())

    def _report(self, now: float) -> None:
        overdue = [ending for ending in self._endings.values() if ending.due <= now]
        for ending in overdue[:_LINES_AT_ONCE]:
            ending.due = now + REPEAT_AFTER
            self.log(
                "warning",
                "overdue",
                seconds=round(now - ending.began, 3),
                tasks=describe(ending.tasks()),
                connection_id=ending.connection_id,
                user_id=ending.user_id,
            )
