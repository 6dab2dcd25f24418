"""Newcomers: sockets that are no connections yet, and which of them gives way when there are many.

A socket costs its peer nothing, so a peer can open as many as it likes and say nothing. Newcomers
are therefore bounded apart from connections. Below the bound nobody is counted by address: behind a
proxy or a NAT router many clients share one. Only when the bound is reached, the newcomer gives way
that has waited longest among the silent ones of the source that has most of them. So a source that
fills the server pushes out its own sockets, and those of others get in.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class Newcomer:
    """A socket that waits: for the end of its handshake, or of its refusal."""

    source: str  # of its address; see `source_of`
    give_way: Callable[[], object]  # ends it at once; is called when its place is given up already
    gave_way: bool = attrs.field(default=False, init=False)
    # Both are kept by `Newcomers`: whether it is counted, and whether it can give way.
    entered: bool = attrs.field(default=False, init=False)
    silent: bool = attrs.field(default=False, init=False)


@attrs.define(eq=False)
class Newcomers:
    """The newcomers of one kind, at most `limit` at the same time. All of it is synchronous."""

    limit: int
    gave_way: int = 0  # newcomers that have given way since the start
    # By source, the longest wait first: only who is silent can give way.
    _silent: dict[str, dict[Newcomer, None]] = attrs.field(
        factory=dict[str, dict[Newcomer, None]], init=False
    )
    _count: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return self._count

    def enter(self, newcomer: Newcomer) -> bool:
        """Enter a silent newcomer; another one gives way if the limit is reached.

        Returns False if nobody can: all others are busy.
        """
        if self._count >= self.limit and not self.make_room():
            return False
        self._count += 1
        newcomer.entered = True
        self.note_silent(newcomer)
        return True

    def note_busy(self, newcomer: Newcomer) -> None:
        """Note that a newcomer has done its part: it is counted, and cannot give way."""
        if newcomer.silent:
            newcomer.silent = False
            silent = self._silent[newcomer.source]
            del silent[newcomer]
            if not silent:
                del self._silent[newcomer.source]

    def note_silent(self, newcomer: Newcomer) -> None:
        """Note that the next step is the newcomer's, from now on."""
        if newcomer.entered:
            newcomer.silent = True
            self._silent.setdefault(newcomer.source, {})[newcomer] = None

    def leave(self, newcomer: Newcomer) -> None:
        """Take a newcomer out; nothing happens if it is out, since it gave way."""
        if newcomer.entered:
            self.note_busy(newcomer)
            newcomer.entered = False
            self._count -= 1

    def make_room(self) -> bool:
        """Let the newcomer give way whose turn it is; return False if there is none.

        Its socket is closed a turn of the event loop later.
        """
        if not self._silent:
            return False
        most = max(self._silent.values(), key=len)
        oldest = next(iter(most))
        self.leave(oldest)
        oldest.gave_way = True
        self.gave_way += 1
        oldest.give_way()
        return True
