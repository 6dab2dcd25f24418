"""What has arrived and waits to be read: bounded, and honest about what it lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import trio
from attrs import define, field

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType


@define(eq=False)
class MessageBuffer:
    """Keeps messages between the connection, which never waits, and a program that may be slow.

    When it is full the *oldest* messages go, since in a stream of news the newest matter most, and
    because waiting instead would stop every other subscription of the same connection. The reader
    is told: the next message that it gets is a `gap`, with `data` `{"dropped": count, "cause":
    "overflow"}`.
    """

    # Most messages to keep.
    max_messages: int
    # Most bytes to keep, counted as they came over the wire; one message always fits.
    max_bytes: int
    # For the `topic` of a gap; None when the buffer is not about one topic.
    topic: str | None = None
    # All that were lost to overflow so far; for statistics.
    dropped: int = field(default=0, init=False)
    # Size on the wire, and message.
    _waiting: deque[tuple[int, Envelope]] = field(factory=deque[tuple[int, Envelope]], init=False)
    # Sum of the sizes of what waits.
    _size: int = field(default=0, init=False)
    # Lost since the reader was last told.
    _untold: int = field(default=0, init=False)
    # True once no further message will come; what waits can still be read.
    _ended: bool = field(default=False, init=False)
    # Makes the exception that readers then get; None: the stream of messages just stops.
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

        Cannot block. After the end it does nothing: what arrives then is for nobody.
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
        """Say that nothing will follow; readers get what waits, then `error()` or a plain stop."""
        if not self._ended:
            self._ended = True
            self.error = error
            self._readers.unpark_all()

    async def get(self) -> Envelope:
        """Return the oldest message, waiting for one if need be.

        Raises StopAsyncIteration or the error given to `end` once all has been read. Several tasks
        may wait: each message goes to one of them. Cancelling loses no message.
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
            # Several messages may have come for one wake-up.
            self._readers.unpark()
        return message


@define(eq=False)
class Subscription:
    """The messages of one topic, as an async iterator; made by `Client.subscribe`.

    Iterating it subscribes. As an async context manager it subscribes on the way in (raising
    `RequestError` if the server refuses) and unsubscribes on the way out:

    ```python
    async with client.subscribe("orders") as orders:
        async for message in orders:
            ...
    ```

    It outlives reconnections. Besides the messages of the topic it yields envelopes of type `gap`
    wherever some are missing: `data["cause"]` is `overflow` when the loop was too slow for this
    subscription's buffer, `reconnected` when the connection was lost and has come back (the number
    is then unknown, None); a gap that the server announces comes through as the server sent it.

    The iterator raises `ClientClosed` when the server ends the client, and stops when the client's
    own context is left or the subscription is closed. Cancelling an iteration loses no message.
    """

    topic: str
    # The client's connection puts messages in; iterating takes them out.
    buffer: MessageBuffer
    # Two verbs of the client: have the server subscribe, and stop it.
    _join: Callable[[Subscription], Awaitable[None]]
    _leave: Callable[[Subscription], Awaitable[None]]
    # Set by the first use; later ones go straight to the buffer.
    _joined: bool = field(default=False, init=False)

    @property
    def dropped(self) -> int:
        """How many messages this subscription's buffer has had to drop."""
        return self.buffer.dropped

    async def __aenter__(self) -> Self:
        await self._ensure_joined()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope:
        await self._ensure_joined()
        return await self.buffer.get()

    async def aclose(self) -> None:
        """Unsubscribe, if nobody else in this client reads the topic, and end the iteration.

        Waits until the server has confirmed, or the connection is gone. When cancelled it does not
        wait, but the topic is left all the same. May be called twice.
        """
        self.buffer.end()
        await self._leave(self)

    async def _ensure_joined(self) -> None:
        if not self._joined and not self.buffer.ended:
            await self._join(self)
            self._joined = True
