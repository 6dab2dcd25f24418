"""The pacer: it rations over turns of the event loop what many connections do at the same time.

When a network fails, thousands of connections end in one turn: Trio wakes every task whose socket
can be read, and runs all of them before it looks at sockets again. The end of a connection is
expensive: tables, a log line, callbacks, system calls. So a connection asks the pacer before that,
and goes on in one of the next turns if the present one has had enough. In between, others are
served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import trio

from ..containment import contain
from ..tick import Tick

ItemT = TypeVar("ItemT")

_TURN: Final = 0.003
"""Seconds after which a turn has room for nothing more that can wait."""

_AT_LEAST: Final = 16
"""Tasks that pass in every turn, however long it has taken: about 1 ms."""

_AT_MOST: Final = 200
"""Tasks that are woken for one turn; about as many pass in `_TURN`."""

PER_TURN: Final = 100
"""Connections that are told to end, probed or written to in one turn: 1 to 5 ms. Tasks that end
take as much again when they wake."""


class Pacer:
    """Lets tasks pass while a turn of the loop is short, and the others in the following turns."""

    __slots__ = ("_lot", "_passed", "_pumping", "_tick", "_turn")

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._turn = -1  # the turn that `_passed` is about
        self._passed = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._pumping = False  # whether one of the tasks that wait wakes the others

    async def wait(self) -> None:
        """Wait until a turn has room for one more. Cancelling is safe.

        While the present one has room, this returns at once, and passes no checkpoint.
        """
        while not self._may_pass():
            if self._pumping:
                await self._lot.park()
            else:
                await self._pump()

    def _may_pass(self) -> bool:
        tick = self._tick
        if tick.turns != self._turn:
            self._turn, self._passed = tick.turns, 0
        if self._passed >= _AT_LEAST:
            began = tick.turn_began
            if began is not None and tick.clock() - began > _TURN:
                return False
        self._passed += 1
        return True

    async def _pump(self) -> None:
        """Wake as many of the tasks that wait as the next turn has room for, turn by turn."""
        self._pumping = True
        try:
            await trio.lowlevel.checkpoint()
            while self._lot:
                # As many as had room in this turn, and some more. If there is less room in the next
                # one, the others wait again.
                self._lot.unpark(count=min(self._passed + _AT_LEAST, _AT_MOST))
                await trio.lowlevel.checkpoint()
        finally:
            self._pumping = False
            self._lot.unpark()  # if this was cancelled, another takes over


async def in_turns(
    items: Iterable[ItemT],
    do: Callable[[ItemT], object],
    on_failure: Callable[[ItemT, BaseException], object] | None = None,
) -> None:
    """Do something to many connections, with turns for other tasks in between.

    If it fails with one, `on_failure` is called for that one, and the others have it done all the
    same. Without `on_failure`, the error is raised.
    Cancelling is safe: what was done is done, and the rest is not.
    """
    for count, item in enumerate(items, 1):
        try:
            do(item)
        except BaseException as error:
            if on_failure is None:
                raise
            contain(error, partial(on_failure, item))
        if count % PER_TURN == 0:
            await trio.lowlevel.checkpoint()
