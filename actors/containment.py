"""Containment: the boundary that a failure does not cross.

Whatever a program's code raises ends the call, or the connection, that it was called for, and
nothing else. The same holds for each background task of the server. Every such place hands what it
has caught to `contain`, or is a block of `Boundary`, which is the same for a block. Both decide
alike which exceptions go on:

    KeyboardInterrupt   always: somebody wants the process to end
    trio.Cancelled      if a scope around the boundary really was cancelled, and will catch it
    GeneratorExit       if somebody closes the task's coroutine, which must not go on then

Everything else ends at the boundary: `SystemExit`, the `CancelledError` of another library, a
`trio.Cancelled` that was kept from another scope. If such a thing went on, the nurseries above
would take it for a reason to end the whole server. Of a group, the part that may go on does so.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, TypeVar, cast

import trio

Report = Callable[[BaseException], object]
"""A function that takes what ends at a boundary, and writes the one log line about it."""

ResultT = TypeVar("ResultT")

_ALWAYS: Final = (KeyboardInterrupt,)
_CANCELLED: Final = (KeyboardInterrupt, trio.Cancelled)
_CLOSED: Final = (KeyboardInterrupt, GeneratorExit)


def contain(error: BaseException, report: Report, task: trio.lowlevel.Task | None = None) -> None:
    """Report an exception that ends here; raise it, or the part of it that has to go on.

    `task` is the task in which the boundary was entered. Synchronous code gives None: it can be
    neither cancelled nor closed, so only KeyboardInterrupt goes on.
    """
    try:
        onward, contained = _split(error, task)
        try:
            if contained is not None:
                report(contained)
        finally:
            if onward is not None:
                raise onward
    finally:
        # An exception refers to the frames that it has passed: with these names it is a cycle.
        onward = contained = None
        del error


class Boundary:
    """A block of asynchronous code whose failures end with it; `report` is told of each."""

    __slots__ = ("_report", "_task")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._task: trio.lowlevel.Task | None = None

    def __enter__(self) -> None:
        self._task = trio.lowlevel.current_task()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            return False
        try:
            contain(error, self._report, self._task)
        finally:
            del error, traceback
        return True


async def apart(awaitable: Awaitable[ResultT]) -> ResultT:
    """Await something of a program in a task of its own; return its result, or raise its error.

    Code that leaves a nursery or a cancel scope open (a loop over an asynchronous generator that is
    left by `break` does) corrupts the stack of its task: Trio raises RuntimeError out of the task
    itself, where no boundary in the task can catch it. Here that error comes out of this call.
    Cancelling is safe.
    """
    results: list[ResultT] = []
    errors: list[BaseException] = []

    async def run() -> None:
        try:
            results.append(await awaitable)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, name=trio.lowlevel.current_task().name)
        if errors:
            raise errors[0]
        return results[0]
    finally:
        errors.clear()  # a frame and an exception that refer to each other would be a cycle


def _split(
    error: BaseException, task: trio.lowlevel.Task | None
) -> tuple[BaseException | None, BaseException | None]:
    """Return the part of an exception that has to go on, and the part that ends here."""
    if isinstance(error, Exception):  # so is a group of such
        return None, error
    may_pass = _may_pass(task)
    if not isinstance(error, BaseExceptionGroup):
        return (error, None) if isinstance(error, may_pass) else (None, error)
    group = cast("BaseExceptionGroup[BaseException]", error)
    try:
        onward, contained = group.split(may_pass)
    except Exception:  # noqa: BLE001 - nested too deeply, or of a class that cannot be split
        return None, group
    return (None, group) if onward is None else (onward, contained)


def _may_pass(task: trio.lowlevel.Task | None) -> tuple[type[BaseException], ...]:
    """Return the exceptions that may leave a boundary that was entered in this task."""
    if task is None:
        return _ALWAYS
    try:
        current = trio.lowlevel.current_task()
    except RuntimeError:  # Trio's loop has ended: Python closes the coroutines that are left
        current = None
    if current is not task:  # it does not run: its coroutine is being closed by somebody else
        return _CLOSED
    # Trio's word for "cancelled already", in which shields are taken into account.
    return _CANCELLED if trio.current_effective_deadline() == -math.inf else _ALWAYS
