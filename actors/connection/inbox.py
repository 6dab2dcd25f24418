"""The inbox: what a peer has asked for and the program has not come to yet.

Bounded in bytes. `put` never refuses and never waits; it says when it is time to stop reading, and
`wait_for_room` then waits until half of the room is free again, so that reading and working do not
take turns over every single message. What may come in after the word to stop is one chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Final, Generic, TypeVar

import trio

ITEM_OVERHEAD: Final = 64
"""Bytes that an item is charged beside its own."""

ItemT = TypeVar("ItemT")


class Inbox(Generic[ItemT]):
    """Items in the order in which they came, for one worker."""

    __slots__ = ("_arrived", "_items", "_limit", "_room", "size")

    def __init__(self, limit: int) -> None:
        """Take the bytes that may wait before the reading is to stop."""
        self._items: deque[tuple[ItemT | Awaitable[None], int]] = deque()
        self._limit = limit
        self._room: trio.Event | None = None
        self._arrived: trio.Event | None = None
        self.size = 0  # bytes waiting; shown to operators

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: ItemT, size: int) -> bool:
        """Add an item of so many bytes; False means that reading should stop."""
        size += ITEM_OVERHEAD
        self._items.append((item, size))
        self.size += size
        self.wake()
        return self.size <= self._limit

    def first(self, unfinished: Awaitable[None]) -> None:
        """Add what is to be awaited before everything else."""
        self._items.appendleft((unfinished, 0))

    def next(self) -> ItemT | Awaitable[None] | None:
        """Take the first item out; None if there is none."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self.size -= size
        if self._room is not None and self.size <= self._limit // 2:
            self._room.set()
            self._room = None
        return item

    def wake(self) -> None:
        """Let `wait_for_item` return, be there an item or not."""
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    async def wait_for_item(self) -> None:
        """Wait until there is an item, or until `wake`. Cancelling is safe."""
        if not self._items:
            if self._arrived is None:
                self._arrived = trio.Event()
            await self._arrived.wait()

    async def wait_for_room(self) -> None:
        """Wait until half of the room is free. Cancelling is safe."""
        if self.size > self._limit // 2:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()
