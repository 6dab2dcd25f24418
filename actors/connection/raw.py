"""Raw connections: the program gets the messages as they come, as `str` or `bytes`.

They serve other protocols, echo servers, and conformance suites. The connection still is an actor
with a mailbox, deadlines and limits; only the endpoint's function knows what its messages mean.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Final

import trio

from ...protocol.closing import CloseCause
from ...protocol.websocket.frames import Opcode, encode_binary, encode_text
from ..containment import contain
from ..entrance.handshake import Accepted
from .connection import Connection
from .handle import ConnectionHandle
from .inbox import Inbox
from .lifecycle import ConnectionState, move
from .mailbox import OverloadPolicy
from .shared import Shared

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)


class RawActor(Connection):
    """The actor of a raw endpoint's connection."""

    __slots__ = ("_inbox", "subprotocol")

    def __init__(self, shared: Shared, accepted: Accepted) -> None:
        super().__init__(shared, accepted)
        self.subprotocol = accepted.subprotocol  # shown by the handle
        self._inbox: Inbox[str | bytes] = Inbox(shared.limits.max_inbox_size)

    @property
    def handle(self) -> RawConnection:
        """A new handle of this connection, for the program."""
        return RawConnection(self)

    async def receive(self) -> str | bytes | None:
        """Wait for the next message and return it; None when no more will come.

        Cancelling is safe: no message is lost.
        """
        if len(self._inbox) or self._receives_nothing:
            await trio.lowlevel.checkpoint()
        while (message := self._inbox.take()) is None:
            if self._receives_nothing:
                return None
            await self._inbox.wait_for_item()
        assert isinstance(message, str | bytes)  # noqa: S101 - nothing else is put here
        return message

    async def send(self, message: str | bytes) -> None:
        """Do what `RawConnection.send` says."""
        await trio.lowlevel.checkpoint()
        match message:
            case str():
                frame = encode_text(message.encode())
            case bytes():
                frame = encode_binary(message)
            case _:  # not every program is type-checked
                text = f"a message is `str` or `bytes`, not {type(message).__name__}"
                raise TypeError(text)
        # It waits for room before it puts: a call that is cancelled while it waits for the socket
        # has put its message already, and a program may cancel one call after the other.
        while self.mailbox.size and not self.mailbox.has_room(frame):
            if not self.is_open:
                raise trio.BrokenResourceError("the connection is over")
            await self.wait_written()
        if not self.owe([frame], OverloadPolicy.BACKPRESSURE):
            raise trio.BrokenResourceError("the connection is over")
        if self.mailbox.size:
            await self.wait_written()

    @property
    def _receives_nothing(self) -> bool:
        """Whether no more messages come."""
        return self._ending is not None or not self.is_open

    def _arrive(self) -> None:
        self.state = move(self.state, ConnectionState.OPEN)
        self.shared.life.arrived(self)
        if self.nursery is not None and self.is_open:
            self.nursery.start_soon(self._run_endpoint, name=f"endpoint of {self.id}")

    async def _run_endpoint(self) -> None:
        function = self.endpoint.raw_handler
        assert function is not None  # noqa: S101 - that is what makes an endpoint raw
        task = trio.lowlevel.current_task()
        try:
            await function(self.handle)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, self._on_endpoint_error, task)
        else:  # the function's return ends the connection
            self._end_with_function()

    def _on_endpoint_error(self, error: BaseException) -> None:
        if isinstance(error, trio.BrokenResourceError) and (
            self.mailbox.closed or not self.is_open
        ):
            self._end_with_function()
            return  # `send` has raised it to tell the function of the end: no failure
        super()._on_endpoint_error(error)

    def _end_with_function(self) -> None:
        if self._ending is None:
            self.end(CloseCause.ENDPOINT_FINISHED)
        else:
            self._finish()

    def _has_work(self) -> bool:
        self._inbox.wake()  # the function takes what is there, and learns that nothing follows
        return True

    def _vanishes_at_once(self) -> bool:
        """Let the endpoint work off what came before the end, which it may still answer."""
        self.end_soon(CloseCause.PEER_VANISHED)
        return False

    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        answers: list[bytes] = []
        room = True
        for opcode, payload in messages:
            if opcode == _TEXT:
                text = payload.decode()  # one character beyond U+FFFF makes it four times as large
                room = self._inbox.put(text, getsizeof(text))
            elif opcode == _BINARY:
                room = self._inbox.put(payload, getsizeof(payload))
            elif answer := self._on_control(opcode, payload):
                answers.append(answer)
        if answers:
            self.owe(answers, OverloadPolicy.BACKPRESSURE)
            # While the peer does not take the answers, nothing more is read from it.
            room &= self.mailbox.size <= self.shared.mailbox.limit
        if not room:
            self._paused = self._is_full = True

    async def _wait_for_room(self) -> None:
        await self._inbox.wait_for_room()
        if self.mailbox.size > self.shared.mailbox.limit:
            await self.wait_written()

    def _release(self) -> None:
        super()._release()
        self._inbox.clear()

    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:  # noqa: ARG002 - not needed here
        return  # Moorage does not know the raw protocol; the message is dropped, and counted

    def _heartbeat(self) -> list[bytes]:
        return []


class RawConnection(ConnectionHandle[RawActor]):
    """A raw endpoint's connection, as the endpoint's function holds it.

    `async for message in connection` yields `str` and `bytes`, and ends when the peer has closed.
    Cancelling it is safe: no message is lost. Each step is a checkpoint.
    """

    __slots__ = ()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, one of the endpoint's; None if there is none."""
        return self._actor.subprotocol

    def __aiter__(self) -> RawConnection:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self._actor.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message, and wait until the socket has taken all that waits for the peer.

        While `max_mailbox_size` bytes wait already, it first waits for those to be written. It is
        always a checkpoint.
        trio.BrokenResourceError: the connection is over. TypeError or UnicodeEncodeError: that can
        be no message. Cancelling is safe: the message is sent whole or not at all, and the
        connection stays usable.
        """
        await self._actor.send(message)

    def disconnect(self, code: int = 1000, reason: str = "") -> bool:
        """Close the connection with a code and a reason; return False if it was ending already.

        Returns at once. ValueError: no Close frame can carry the code or the reason (RFC 6455,
        section 7.4); nothing happens then.
        """
        return self._actor.end(CloseCause.ENDPOINT_FINISHED, code=code, reason=reason)
