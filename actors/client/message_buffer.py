"""The buffer of messages that have arrived and wait for the program to read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Self

import trio
from attrs import define, field

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType


@define(eq=False)
class MessageBuffer:
    """A bounded buffer between the connection, which never waits, and a program that may be slow.

    A full buffer drops its *oldest* messages, because the newest ones matter most, and because
    waiting instead would stop every other subscription of the same connection. The next message
    that the reader then gets is a `gap` with `data` `{"dropped": count, "cause": "overflow"}`.
    """

    # How many messages to keep at most.
    max_messages: int
    # How many bytes to keep at most, in the size that messages had when they arrived; one message
    # always fits.
    max_bytes: int
    # The `topic` of a gap; None when the buffer takes messages of several topics.
    topic: str | None = None
    # How many messages overflow has cost so far; statistics show it.
    dropped: int = field(default=0, init=False)
    # The messages that wait to be read, each with its size.
    _waiting: deque[tuple[int, Envelope]] = field(factory=deque[tuple[int, Envelope]], init=False)
    # The sum of those sizes.
    _size: int = field(default=0, init=False)
    # How many messages were dropped since the reader last got a gap.
    _untold: int = field(default=0, init=False)
    # True once no further message will come; the messages that wait can still be read.
    _ended: bool = field(default=False, init=False)
    # Makes the exception that readers then get; None: their iteration stops.
    error: Callable[[], Exception] | None = field(default=None, init=False)
    # The tasks that wait for a message.
    _readers: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope:
        return await self.get()

    @property
    def ended(self) -> bool:
        """Whether no further message will come."""
        return self._ended

    def put(self, message: Envelope, size: int) -> None:
        """Add a message of `size` bytes, dropping the oldest ones if there is no room.

        Cannot block. After `end` it does nothing, since nobody reads any more.
        """
        if self._ended:
            return
        self._waiting.append((size, message))
        self._size += size
        while len(self._waiting) > 1 and (
            len(self._waiting) > self.max_messages or self._size > self.max_bytes
        ):
            lost_size, _ = self._waiting.popleft()
            self._size -= lost_size
            self._untold += 1
            self.dropped += 1
        self._readers.unpark()

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Add no more messages: readers get those that wait, then `error()` or an end."""
        if not self._ended:
            self._ended = True
            self.error = error
            self._readers.unpark_all()

    async def get(self) -> Envelope:
        """Return the oldest message, and wait for one if there is none.

        After `end`, when all messages have been read, it raises the error that `end` was given, or
        StopAsyncIteration. Several tasks may wait; each message goes to one of them. Cancelling
        loses no message.
        """
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._untold:
            if self._ended:
                raise StopAsyncIteration if self.error is None else self.error()
            await self._readers.park()
        if self._untold:
            count, self._untold = self._untold, 0
            message = Envelope(
                type=MessageType.GAP,
                topic=self.topic,
                data={"dropped": count, "cause": "overflow"},
            )
        else:
            size, message = self._waiting.popleft()
            self._size -= size
        if self._waiting:
            # Several messages may have come while one reader was woken.
            self._readers.unpark()
        return message
