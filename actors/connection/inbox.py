"""The inbox: messages that a peer has sent and that have not been worked off yet.

It is bounded in bytes. `put` never refuses and never waits; it tells when reading should stop.
`wait_for_room` then waits until half of the room is free again, so that reading and working do not
alternate for every single message. The inbox exceeds its limit by the rest of one chunk at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Final, Generic, TypeVar

import trio

ITEM_OVERHEAD: Final = 64
"""Bytes that an item counts besides its own: its place in the queue, as tracemalloc counts it."""

ItemT = TypeVar("ItemT")


class Inbox(Generic[ItemT]):
    """Items in the order in which they came, for one worker."""

    __slots__ = ("_arrived", "_items", "_limit", "_room", "size")

    def __init__(self, limit: int) -> None:
        """Take the number of bytes that may wait before reading should stop."""
        self._items: deque[tuple[ItemT | Awaitable[None], int]] = deque()
        self._limit = limit
        self._room: trio.Event | None = None
        self._arrived: trio.Event | None = None
        self.size = 0  # bytes waiting; shown to operators

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: ItemT, size: int) -> bool:
        """Add an item that holds `size` bytes of memory; return False if reading should stop."""
        size += ITEM_OVERHEAD
        self._items.append((item, size))
        self.size += size
        self.wake()
        return self.size <= self._limit

    def put_first(self, unfinished: Awaitable[None]) -> None:
        """Add something that is to be awaited before all items."""
        self._items.appendleft((unfinished, 0))

    def take(self) -> ItemT | Awaitable[None] | None:
        """Take the first item out and return it; None if there is none."""
        if not self._items:
            return None
        item, size = self._items.popleft()
        self.size -= size
        if self._room is not None and self.size <= self._limit // 2:
            self._room.set()
            self._room = None
        return item

    def wake(self) -> None:
        """Let `wait_for_item` return, even if there is no item."""
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def clear(self) -> None:
        """Discard all items, and let `wait_for_item` and `wait_for_room` return."""
        self._items.clear()
        self.size = 0
        self.wake()
        if self._room is not None:
            self._room.set()
            self._room = None

    async def wait_for_item(self) -> None:
        """Wait until there is an item, or until `wake` is called. Cancelling is safe."""
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
