"""A raw connection: messages go to the program as they come, `str` or `bytes`.

For echo, for other protocols, and for conformance suites. The connection still is an actor with a
mailbox, deadlines and limits; only what its messages mean is the handler's own business.
"""

from __future__ import annotations

from typing import Final

import trio

from ...protocol.closing import CloseCause
from ...protocol.websocket.frames import Opcode, encode_binary, encode_text
from ..entrance.handshake import Accepted
from ..ports import ActorPort
from .connection import Connection
from .inbox import Inbox
from .lifecycle import State, move
from .mailbox import OverloadPolicy, Verdict

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)


class RawConnection(Connection):
    """A connection for a raw endpoint's handler, which iterates over it and sends to it.

    `async for message in connection` ends when the peer has closed.
    """

    __slots__ = ("_inbox", "subprotocol")

    def __init__(self, port: ActorPort, accepted: Accepted) -> None:
        super().__init__(port, accepted)
        self.subprotocol = accepted.subprotocol  # the one agreed on, of the endpoint's
        self._inbox: Inbox[str | bytes] = Inbox(port.limits.max_inbox_size)

    def __aiter__(self) -> RawConnection:
        return self

    async def __anext__(self) -> str | bytes:
        message = self._inbox.next()
        while message is None:
            if self._peer_closed or not self.is_open:
                raise StopAsyncIteration
            await self._inbox.wait_for_item()
            message = self._inbox.next()
        assert isinstance(message, str | bytes)  # noqa: S101 - nothing else is put here
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message, and wait until the peer's socket has room for more.

        trio.BrokenResourceError: the connection is over. Cancelling is safe: the message has been
        handed over before the wait begins.
        """
        await trio.lowlevel.checkpoint()
        payload = message.encode() if isinstance(message, str) else message
        frame = encode_text(payload) if isinstance(message, str) else encode_binary(payload)
        traffic = self.port.traffic
        verdict = self.put(frame, policy=OverloadPolicy.BACKPRESSURE)
        if verdict is Verdict.CLOSED:
            raise trio.BrokenResourceError("the connection is over")
        traffic.messages_out += 1
        traffic.bytes_out += len(frame)
        if verdict is Verdict.QUEUED:
            await self.wait_written()

    def disconnect(self, code: int = 1000, reason: str = "") -> bool:
        """Close the connection with a code and a reason; False if it was ending already.

        ValueError: no Close frame can carry them (RFC 6455, section 7.4); nothing happens.
        """
        return self.end(CloseCause.ENDPOINT_FINISHED, code=code, reason=reason)

    def _arrive(self) -> None:
        self.state = move(self.state, State.OPEN)
        self.port.supervisor.arrived(self)
        if self.nursery is not None and self.is_open:
            self.nursery.start_soon(self._run_endpoint, name=f"endpoint of {self.id}")

    async def _run_endpoint(self) -> None:
        handler = self.endpoint.raw_handler
        assert handler is not None  # noqa: S101 - that is what makes an endpoint raw
        try:
            await handler(self)
        except Exception as error:  # noqa: BLE001 - containment
            if isinstance(error, trio.BrokenResourceError) and not self.is_open:
                return  # the handler was told by `send` that it is over, and let it pass
            self.port.traffic.handler_errors += 1
            self.log("error", "endpoint_failed", path=self.endpoint.path, exc_info=error)
            self.end(CloseCause.INTERNAL_ERROR)
        else:  # a raw endpoint's end is its connection's
            peer_closed = self._peer_closed
            self.end(CloseCause.PEER_CLOSED if peer_closed else CloseCause.ENDPOINT_FINISHED)

    def _on_peer_closed(self) -> None:
        """Let the handler work off what came before the Close frame, within `close_timeout`."""
        self._inbox.wake()
        self._end_for_peer_soon()

    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        answers: list[bytes] = []
        room = True
        for opcode, payload in messages:
            if opcode == _TEXT:
                room = self._inbox.put(payload.decode(), len(payload))
            elif opcode == _BINARY:
                room = self._inbox.put(payload, len(payload))
            elif answer := self._on_control(opcode, payload):
                answers.append(answer)
        self._paused = not room
        if answers:
            self.put(b"".join(answers), len(answers), policy=OverloadPolicy.BACKPRESSURE)
            # Who does not take the answers is not asked for more.
            self._paused |= self.mailbox.size > self.port.mailbox.limit

    async def _wait_for_room(self) -> None:
        await self._inbox.wait_for_room()
        if self.mailbox.size > self.port.mailbox.limit:
            await self.wait_written()
        self._paused = False

    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:  # noqa: ARG002 - not needed here
        return  # a raw protocol's words are not known here; the message is dropped, and counted

    def _heartbeat(self) -> bytes:
        return b""
