"""One connection of a client, from the upgrade to its end.

A client that reconnects makes a new one. It owns what ends with the connection: the requests under
way, the topics that the server has confirmed, and the messages that wait to be written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection

from ...protocol.closing import CloseCode
from ...protocol.messages.codec import encode_envelope
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType, fields_of
from .client_errors import ConnectionLost, RequestError
from .client_handshake import WatchedStream
from .client_statistics import ClientCounts

# How many messages may wait for the writer before senders wait. They are enough to keep the writer
# busy between two turns of a sender, and so few that a broken connection loses little.
OUTGOING_MESSAGES = 64

# Seconds that the server's heartbeat may be late before the client sends a ping. A slow network or
# a busy server may need them; their price is that the client notices a dead server later.
SILENCE_MARGIN = 5.0

# Seconds between heartbeats of a server whose welcome does not give the interval.
USUAL_HEARTBEAT = 30.0


@define(eq=False)
class _Pending:
    """A request whose answer has not come."""

    answered: trio.Event = field(factory=trio.Event)
    # The answer; None although `answered` is set: the connection broke.
    reply: Envelope | None = None


@define(eq=False)
class ClientConnection:
    """The state of one open connection, and the tasks that write to it and watch over it."""

    websocket: WebSocketConnection
    # Tells when the server was last heard.
    stream: WatchedStream
    # The ids of requests. They go on from one connection to the next, so that no late answer can be
    # taken for the answer to another request.
    ids: Iterator[int]
    counts: ClientCounts
    # The keeper receives under this scope; `give_up` cancels it.
    receiving: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    # Why the connection ended: the first cause wins.
    failure: Exception | None = field(default=None, init=False)
    # Set when `welcome` has arrived; the keeper waits for it before it subscribes.
    welcomed: trio.Event = field(factory=trio.Event, init=False)
    welcome: Envelope | None = field(default=None, init=False)
    # Topics for which `subscribe` has been sent and `unsubscribe` has not.
    asked: set[str] = field(factory=set[str], init=False)
    # Topics that the server has confirmed.
    subscribed: set[str] = field(factory=set[str], init=False)
    # Topics whose `unsubscribe` is on its way: messages of them that still arrive are dropped.
    leaving: set[str] = field(factory=set[str], init=False)
    # Set when the server says that the token has expired; the task that renews tokens waits for it.
    token_expired: trio.Event = field(factory=trio.Event, init=False)
    # How many seconds the goodbye told the client to stay away; None: it did not say.
    reconnect_after: float | None = field(default=None, init=False)
    # When the client became connected, on Trio's clock; None: it did not get so far.
    connected_at: float | None = field(default=None, init=False)
    # Set when the writer has ended, with the closing handshake that it began.
    writer_done: trio.Event = field(factory=trio.Event, init=False)
    # Requests under way, by id.
    _pending: dict[str | int, _Pending] = field(factory=dict[str | int, _Pending], init=False)
    # The queue between all senders and the one writer. A sender that is cancelled has queued its
    # message or has not; it never leaves half a frame on the wire.
    _outgoing: trio.MemorySendChannel[str] = field(init=False)
    _to_write: trio.MemoryReceiveChannel[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._outgoing, self._to_write = trio.open_memory_channel[str](OUTGOING_MESSAGES)

    @property
    def pending(self) -> int:
        """How many requests wait for their answer."""
        return len(self._pending)

    def send_nowait(self, message: Envelope) -> None:
        """Queue a message for the writer.

        Raises `trio.WouldBlock` if the queue is full, and `ConnectionLost`.
        """
        try:
            self._outgoing.send_nowait(encode_envelope(message).decode())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._loss() from error

    async def send(self, message: Envelope) -> None:
        """Queue a message for the writer, waiting for room. Raises `ConnectionLost`.

        Messages are written in the order of the calls. If the call is cancelled, the message has
        not been queued.
        """
        await self._queue(encode_envelope(message).decode())

    async def ask(self, type: str, data: Any = None, topic: str | None = None) -> Envelope:
        """Send a request and return the answer.

        Raises `RequestError` for an answer of type `error`, and `ConnectionLost` when the
        connection breaks first. Cancelling is safe, but the server may still do the request.
        """
        number = next(self.ids)
        text = encode_envelope(Envelope(type=type, topic=topic, data=data, id=number)).decode()
        pending = self._pending[number] = _Pending()
        try:
            await self._queue(text)
            await pending.answered.wait()
        finally:
            del self._pending[number]
        if pending.reply is None:
            raise self._loss()
        if pending.reply.type == MessageType.ERROR:
            raise _request_error(pending.reply)
        return pending.reply

    def answer(self, message: Envelope) -> bool:
        """Give a message to the request that it answers; return False if it answers none."""
        if message.id is None or (pending := self._pending.get(message.id)) is None:
            return False
        pending.reply = message
        pending.answered.set()
        return True

    async def subscribe(self, topic: str) -> None:
        """Subscribe to a topic; return when the server has confirmed it. Raises what `ask` does."""
        self.asked.add(topic)
        self.leaving.discard(topic)
        try:
            reply = await self.ask(MessageType.SUBSCRIBE, topic=topic)
        except RequestError:
            self.asked.discard(topic)
            raise
        if reply.type != MessageType.SUBSCRIBED or reply.topic != topic:
            # An unusual answer that is no error counts as a yes. The usual answer was noted when it
            # arrived; noting it here again could undo the effect of a later message.
            self.subscribed.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        """Unsubscribe from a topic, if the client has subscribed to it. Raises what `ask` does.

        There is no checkpoint before the queue, so a `subscribe` that is called later is sent
        later.
        """
        if topic in self.asked:
            self.asked.discard(topic)
            self.subscribed.discard(topic)
            self.leaving.add(topic)
            await self.ask(MessageType.UNSUBSCRIBE, topic=topic)

    async def write(self) -> None:
        """Write the queued messages in order; do the closing handshake when the queue has ended."""
        try:
            async for text in self._to_write:
                await self.websocket.send_message(text)
                self.counts.sent += 1
            await self.websocket.aclose(CloseCode.NORMAL)
        except (ConnectionClosed, trio.ClosedResourceError):
            # The task that receives from the connection learns why it has ended.
            return
        finally:
            self.writer_done.set()

    async def watch_silence(self, pong_timeout: float) -> None:
        """Give the connection up when the server is silent and leaves a ping unanswered.

        Any bytes from the server show that it lives. The deadline moves only when it has passed, so
        that messages cost nothing here. `pong_timeout` is in seconds. Cancelling is safe.
        """
        quiet = self._heartbeat_interval() + SILENCE_MARGIN
        while True:
            due = self.stream.heard_at + quiet
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            asked_at = trio.current_time()
            with trio.move_on_after(pong_timeout):
                try:
                    await self.websocket.ping()
                except ConnectionClosed:
                    return
            if self.stream.heard_at < asked_at:
                silent_for = round(trio.current_time() - self.stream.heard_at, 1)
                self.give_up(ConnectionLost(None, f"the server was silent for {silent_for} s"))
                return

    def give_up(self, failure: Exception) -> None:
        """End the connection from this side, without a closing handshake."""
        if self.failure is None:
            self.failure = failure
        self.receiving.cancel()

    def close_when_written(self) -> None:
        """Let the writer write what is queued and then close with 1000."""
        self._outgoing.close()

    def finish(self) -> None:
        """Wake all tasks that wait for this connection, now that it has ended."""
        self._outgoing.close()
        self._to_write.close()
        for pending in self._pending.values():
            pending.answered.set()

    async def _queue(self, text: str) -> None:
        try:
            await self._outgoing.send(text)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._loss() from error

    def _loss(self) -> ConnectionLost:
        if isinstance(self.failure, ConnectionLost):
            return ConnectionLost(self.failure.code, self.failure.reason)
        return ConnectionLost(None, str(self.failure or ""))

    def _heartbeat_interval(self) -> float:
        interval = fields_of(self.welcome.data if self.welcome else None).get("heartbeat_interval")
        if isinstance(interval, int | float) and 0 < interval < float("inf"):
            return float(interval)
        return USUAL_HEARTBEAT


def _request_error(reply: Envelope) -> RequestError:
    data = fields_of(reply.data)
    code = data.get("code")
    return RequestError(
        reply.error or "",
        code if isinstance(code, str) else "unknown",
        retryable=data.get("retryable") is True,
        topic=reply.topic,
    )
