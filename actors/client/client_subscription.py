"""The messages of one topic, as a program reads them from a client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from attrs import define, field

from ...protocol.messages.envelope import Envelope
from .message_buffer import MessageBuffer


@define(eq=False)
class ClientSubscription:
    """The messages of one topic, as an async iterator; made by `Client.subscribe`.

    Iterating it subscribes. As an async context manager it subscribes on the way in (raising
    `RequestError` if the server refuses) and unsubscribes on the way out:

    ```python
    async with client.subscribe("orders") as orders:
        async for message in orders:
            ...
    ```

    It goes on when the client reconnects. Where messages of the topic are missing, it yields an
    envelope of type `gap`. Its `data["cause"]` is `overflow` when the program read too slowly for
    this subscription's buffer, and `reconnected` when the connection was lost and made again
    (`data["dropped"]` is then None, since nobody knows the number). A gap that the server announces
    is passed on as the server sent it.

    The iteration raises `ClientClosed` when the server ends the client, and `RequestError` when the
    server refuses the topic. It stops when the program leaves the client's context or closes the
    subscription. Cancelling it loses no message.
    """

    # The name of the topic.
    topic: str
    # The client's connection puts messages in, and iterating takes them out.
    buffer: MessageBuffer
    # What the client does for a subscription: subscribe at the server, and unsubscribe.
    _join: Callable[[ClientSubscription], Awaitable[None]]
    _leave: Callable[[ClientSubscription], Awaitable[None]]
    # True after the first use; later uses go straight to the buffer.
    _joined: bool = field(default=False, init=False)

    @property
    def dropped(self) -> int:
        """How many messages this subscription's buffer has dropped."""
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
        """End the iteration, and unsubscribe if nothing else in this client reads the topic.

        Waits until the server has confirmed it or the connection is gone. Cancelling is safe: the
        client then unsubscribes without this call waiting for it. May be called twice.
        """
        self.buffer.end()
        await self._leave(self)

    async def _ensure_joined(self) -> None:
        if not self._joined and not self.buffer.ended:
            await self._join(self)
            self._joined = True
