"""One connection of a client, from the upgrade to its end; the client makes a new one each time.

What belongs to a connection lives here and dies with it: the requests under way, the topics that
the server has confirmed, the messages that wait to be written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError as WebSocketMisuse

from ...protocol.closing import CloseCode
from ...protocol.messages.codec import encode_envelope
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .client_errors import ConnectionLost, RequestError
from .dialing import WatchedStream, fields_of

# Messages that may wait for the writer; then senders wait. Enough that the writer never runs dry
# between two turns of a sender, and little enough that a broken connection loses little.
OUTGOING_MESSAGES = 64

# Seconds that the server's heartbeat may be late before the client asks. It covers a slow network
# and a busy server, and costs nothing but a later discovery.
SILENCE_MARGIN = 5.0

# Seconds between heartbeats for a server whose welcome does not say.
USUAL_HEARTBEAT = 30.0


@define(eq=False)
class Tally:
    """What one client has done so far, over all its connections: plain integers."""

    # Attempts that came to nothing.
    failed_attempts: int = 0
    # Connections that were welcomed.
    connections: int = 0
    # Messages written, and messages that arrived.
    sent: int = 0
    received: int = 0
    # Messages from the server that were none of the protocol's; they are skipped.
    malformed: int = 0
    # Renewals of the token in place.
    renewals: int = 0


@define(eq=False)
class _Pending:
    """A request whose answer has not come."""

    answered: trio.Event = field(factory=trio.Event)
    # None once answered is set: the connection went.
    reply: Envelope | None = None


@define(eq=False)
class Link:
    """The state of one open connection, and the tasks that write to it and watch over it."""

    websocket: WebSocketConnection
    # For when the server was last heard.
    stream: WatchedStream
    # Ids of requests: they go on from one connection to the next, so that no late answer is ever
    # taken for another one's.
    ids: Iterator[int]
    tally: Tally
    # The client receives under this scope; cancelled to give the connection up.
    receiving: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    # Why the connection ended: the first cause wins.
    failure: Exception | None = field(default=None, init=False)
    # Set by the welcome, with its `data`; the client's set-up waits for it.
    welcomed: trio.Event = field(factory=trio.Event, init=False)
    welcome: Envelope | None = field(default=None, init=False)
    # Topics for which `subscribe` has been sent and `unsubscribe` has not.
    asked: set[str] = field(factory=set[str], init=False)
    # Topics that the server has confirmed.
    subscribed: set[str] = field(factory=set[str], init=False)
    # Topics whose `unsubscribe` is on its way: what still arrives of them is for nobody.
    leaving: set[str] = field(factory=set[str], init=False)
    # Set when the server says that the token has expired; the renewal waits for it, and renews it.
    token_expired: trio.Event = field(factory=trio.Event, init=False)
    # Seconds, from a goodbye.
    reconnect_after: float | None = field(default=None, init=False)
    # When the client was connected, on Trio's clock; None: it never came to that.
    connected_at: float | None = field(default=None, init=False)
    # Set when the closing handshake that this side began is over.
    farewell: trio.Event = field(factory=trio.Event, init=False)
    # Requests under way, by id.
    _pending: dict[str | int, _Pending] = field(factory=dict[str | int, _Pending], init=False)
    # Between all the senders and the one writer: a sender that is cancelled has queued its message
    # or has not, but never leaves half a frame on the wire.
    _outgoing: trio.MemorySendChannel[str] = field(init=False)
    _to_write: trio.MemoryReceiveChannel[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._outgoing, self._to_write = trio.open_memory_channel[str](OUTGOING_MESSAGES)

    @property
    def pending(self) -> int:
        """How many requests wait for their answer."""
        return len(self._pending)

    def send_nowait(self, message: Envelope) -> None:
        """Queue a message for the writer. Raises `trio.WouldBlock` if too many wait already."""
        try:
            self._outgoing.send_nowait(encode_envelope(message).decode())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._loss() from error

    async def send(self, message: Envelope) -> None:
        """Queue a message for the writer, waiting for room. Raises `ConnectionLost`.

        The message's place in the order is that of the call. Cancelled, it has not been queued.
        """
        await self._queue(encode_envelope(message).decode())

    async def ask(self, type: str, data: Any = None, topic: str | None = None) -> Envelope:
        """Send a request and return the answer.

        Raises `RequestError` for an answer of type `error` and `ConnectionLost` when the connection
        goes first. Cancelled, it no longer waits; the request may still be done.
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
        """Give a message to the request that it answers; return False if there is none."""
        if message.id is None or (pending := self._pending.get(message.id)) is None:
            return False
        pending.reply = message
        pending.answered.set()
        return True

    async def subscribe(self, topic: str) -> None:
        """Ask for a topic; return when the server has confirmed it. Raises as `ask` does."""
        self.asked.add(topic)
        self.leaving.discard(topic)
        try:
            reply = await self.ask(MessageType.SUBSCRIBE, topic=topic)
        except RequestError:
            self.asked.discard(topic)
            raise
        if reply.type != MessageType.SUBSCRIBED or reply.topic != topic:
            # An odd way to say yes. The usual one was noted when it arrived, in the order of
            # arrival; noting it here again could undo what came after it.
            self.subscribed.add(topic)

    async def unsubscribe(self, topic: str) -> None:
        """Leave a topic that was asked for, if it was. Raises as `ask` does.

        Up to the queue there is no checkpoint: a `subscribe` that is called later is sent later.
        """
        if topic in self.asked:
            self.asked.discard(topic)
            self.subscribed.discard(topic)
            self.leaving.add(topic)
            await self.ask(MessageType.UNSUBSCRIBE, topic=topic)

    async def write(self) -> None:
        """Write what is queued, in order, and say goodbye when no more will be queued."""
        try:
            async for text in self._to_write:
                await self.websocket.send_message(text)
                self.tally.sent += 1
            await self.websocket.aclose(CloseCode.NORMAL)
        except (ConnectionClosed, WebSocketMisuse, trio.ClosedResourceError):
            # The connection is gone or going, and whoever receives from it learns why. (Misuse is
            # what wsproto calls a message sent after a broken frame has arrived.)
            return
        finally:
            self.farewell.set()

    async def watch_silence(self, pong_timeout: float) -> None:
        """Give the connection up when the server stays silent and does not even answer a ping.

        Any bytes of the server count as life. The deadline is moved only when it has passed, so
        that messages, however many, cost nothing here.
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
                except (ConnectionClosed, WebSocketMisuse):
                    return
            if self.stream.heard_at < asked_at:
                silent_for = round(trio.current_time() - self.stream.heard_at, 1)
                self.give_up(ConnectionLost(None, f"the server was silent for {silent_for} s"))
                return

    def give_up(self, failure: Exception) -> None:
        """End the connection from this side, for a cause that makes a closing handshake vain."""
        if self.failure is None:
            self.failure = failure
        self.receiving.cancel()

    def say_no_more(self) -> None:
        """Let the writer finish what is queued, then close with 1000."""
        self._outgoing.close()

    def finish(self) -> None:
        """Tell all who still wait for something from this connection that it is gone."""
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
