"""The client that programs hold: one connection to a server, made again whenever it is lost.

`open_client` makes a `Client`. The files beside this one do the work: `connection_keeper.py`
connects and reconnects, `client_connection.py` is one connection, `dialing.py` and
`client_handshake.py` open it, `topic_table.py` knows which subscription reads which topic,
`client_subscription.py` and `message_buffer.py` are what programs read from, and `token_source.py`
and `backoff.py` provide the tokens and the waits. All tasks run in one nursery and have ended when
the context has been left.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import trio
from attrs import define

from ...protocol.errors import ErrorCode
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .backoff import Backoff
from .client_errors import ConnectionLost, RequestError
from .client_state import ClientState
from .client_statistics import ClientStatistics
from .client_subscription import ClientSubscription
from .connection_keeper import ClientSettings, ConnectionKeeper
from .dialing import Dial, dial, parse_address
from .message_buffer import MessageBuffer
from .token_source import Token, TokenSource
from .topic_table import TopicTable


@define(eq=False)
class Client:
    """A connection to a server that is made again whenever it is lost.

    `open_client` makes it, and it is usable until that context is left. All async methods raise
    `ClientClosed` once the client has ended. Cancelling them is safe.
    """

    _keeper: ConnectionKeeper

    @property
    def state(self) -> ClientState:
        """The stage of its life that the client is in."""
        return self._keeper.state

    @property
    def connection_id(self) -> str | None:
        """The server's name for the present connection; None while there is no connection."""
        return self._keeper.connection_id

    @property
    def user_id(self) -> str | None:
        """The user that the server takes this client for; None without a token."""
        return self._keeper.user_id

    def statistics(self) -> ClientStatistics:
        """Return a snapshot of what the client has done so far."""
        keeper, counts, connection = self._keeper, self._keeper.counts, self._keeper.connection
        return ClientStatistics(
            state=keeper.state,
            connections=counts.connections,
            failed_attempts=counts.failed_attempts,
            messages_sent=counts.sent,
            messages_received=counts.received,
            messages_malformed=counts.malformed,
            messages_dropped=keeper.topics.dropped,
            requests_pending=connection.pending if connection else 0,
            topics=len(connection.subscribed) if connection else 0,
            renewals=counts.renewals,
        )

    async def wait_connected(self) -> None:
        """Wait until the client is connected, and subscribed to all topics that it wants."""
        await trio.lowlevel.checkpoint()
        await self._keeper.connected()

    # --- sending ---------------------------------------------------------------------------------

    async def send(
        self,
        type: str,
        data: Any = None,
        *,
        topic: str | None = None,
        id: str | None = None,
    ) -> None:
        """Send a message that needs no answer.

        If it has an `id`, the answers to it come out of `messages()` with that id. Waits while
        there is no connection, and while the queue of the connection is full. Returns when the
        message is queued; if the connection then breaks, the message may be lost. Raises
        `LocalProtocolError` for data that JSON cannot hold. If the call is cancelled, the message
        has not been queued.
        """
        message = Envelope(type=type, topic=topic, data=data, id=id)
        while True:
            connection = await self._keeper.connected()
            try:
                await connection.send(message)
            except ConnectionLost:
                continue
            return

    def send_nowait(
        self,
        type: str,
        data: Any = None,
        *,
        topic: str | None = None,
        id: str | None = None,
    ) -> None:
        """Do as `send` does without waiting; raise `trio.WouldBlock` where `send` would wait."""
        self._keeper.check_alive()
        if self._keeper.connection is None:
            raise trio.WouldBlock
        self._keeper.connection.send_nowait(Envelope(type=type, topic=topic, data=data, id=id))

    async def request(
        self,
        type: str,
        data: Any = None,
        topic: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends in an answer, a RequestError
    ) -> Envelope:
        """Send a message with an id and return the server's answer to it.

        Waits for a connection first if there is none. `timeout`, in seconds, covers both waits; by
        default it is the client's `request_timeout`. Raises `RequestError` when the answer is an
        error or does not come in time (code `timeout`), and `ConnectionLost` when the connection
        breaks before the answer has come. After a timeout, a lost connection or a cancelled call
        the server may have done the request or not.
        """
        with trio.move_on_after(
            self._keeper.settings.request_timeout if timeout is None else timeout
        ):
            connection = await self._keeper.connected()
            return await connection.ask(type, data, topic)
        raise RequestError(f"no answer to `{type}` in time", ErrorCode.TIMEOUT, retryable=True)

    async def publish(self, topic: str, data: Any = None) -> Envelope:
        """Publish to a topic and return the server's `published`. Raises what `request` does."""
        return await self.request(MessageType.DATA, data, topic)

    # --- receiving -------------------------------------------------------------------------------

    def subscribe(
        self, topic: str, *, max_messages: int | None = None, max_bytes: int | None = None
    ) -> ClientSubscription:
        """Return an iterator over the messages of a topic; see `ClientSubscription`.

        Cannot block: the first iteration, or entering it as a context manager, subscribes. The two
        arguments limit its buffer, in messages and in bytes; by default they are the client's.
        """
        settings = self._keeper.settings
        buffer = MessageBuffer(
            max_messages=settings.max_buffered_messages if max_messages is None else max_messages,
            max_bytes=settings.max_buffered_bytes if max_bytes is None else max_bytes,
            topic=topic,
        )
        return ClientSubscription(topic, buffer, self._join, self._leave_topic)

    def messages(self) -> AsyncIterator[Envelope]:
        """Return an iterator over the messages that no subscription and no request takes.

        They are notifications, publications of `topics`, errors that answer no request, and
        goodbyes; welcomes and heartbeats are not among them. A client has one buffer for them, so
        two iterators share the messages between them. It yields gaps, and ends, as a
        `ClientSubscription` does. Cancelling an iteration loses no message.
        """
        return self._keeper.topics.unclaimed

    # --- subscriptions ---------------------------------------------------------------------------

    async def _join(self, subscription: ClientSubscription) -> None:
        """Subscribe at the server, for the first use of a subscription."""
        self._keeper.topics.add(subscription)
        try:
            with trio.move_on_after(self._keeper.settings.request_timeout):
                await self._subscribe(subscription)
                return
            raise RequestError(
                "not subscribed in time",
                ErrorCode.TIMEOUT,
                retryable=True,
                topic=subscription.topic,
            )
        except BaseException:
            self._drop(subscription)
            raise

    async def _subscribe(self, subscription: ClientSubscription) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            connection = await self._keeper.connected()
            if subscription.buffer.ended or subscription.topic in connection.subscribed:
                break
            try:
                await connection.subscribe(subscription.topic)
            except ConnectionLost:
                continue
            break
        if subscription.buffer.error is not None:
            raise subscription.buffer.error()

    async def _leave_topic(self, subscription: ClientSubscription) -> None:
        """Unsubscribe at the server if this was the last subscription of its topic."""
        done = self._drop(subscription)
        if done is None:
            await trio.lowlevel.checkpoint()
        else:
            await done.wait()

    def _drop(self, subscription: ClientSubscription) -> trio.Event | None:
        """Take a subscription out; return the event of its unsubscribing, if there is one."""
        last = self._keeper.topics.remove(subscription)
        return self._keeper.unsubscribe(subscription.topic) if last else None


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: Token = None,
    topics: Iterable[str] = (),
    ssl_context: SSLContext | None = None,
    unix_socket: Path | None = None,
    extra_headers: Iterable[tuple[str | bytes, str | bytes]] = (),
    backoff: Backoff | None = None,
    connect_deadline: float = math.inf,
    connect_timeout: float = 10.0,
    request_timeout: float = 30.0,
    write_timeout: float = 10.0,
    pong_timeout: float = 10.0,
    close_timeout: float = 5.0,
    max_message_size: int = 1_048_576,
    max_buffered_messages: int = 1_000,
    max_buffered_bytes: int = 8_388_608,
    dial: Dial = dial,
) -> AsyncGenerator[Client, None]:
    """Connect to a Moorage server, and stay connected until the context is left.

    ```python
    async with open_client("ws://127.0.0.1:8765/ws", token=fetch_token) as client:
        await client.publish("orders", {"id": 7})
        async for message in client.subscribe("orders"):
            print(message.data)
    ```

    `url` is `ws://`, `wss://` (it checks certificates; `ssl_context` says how) or
    `ws+unix:///path/to.sock:/ws`; `unix_socket` is the socket to connect to for another URL.
    `token` is a bearer token, or a sync or async function that returns one; the function is called
    for the first connection and whenever the last token has expired. `topics` are subscribed all
    the time, and `client.messages()` yields their messages where no subscription reads them.
    `extra_headers` are added to the upgrade request. `backoff` sets the waits between attempts.
    `dial` opens the stream to the server, for example through a proxy.

    The context is entered once the client is connected. Otherwise it raises `ConnectionRefused` for
    an HTTP answer that would not change (400, 401, 403, 404, ...); `ConnectError` for a certificate
    that is not trusted, for a `token` function that raised, or when there is no connection within
    `connect_deadline`; `RequestError` when the server refuses one of `topics`; `ClientClosed` when
    the server closed with a code that means "stay away"; `ValueError` for a bad URL. After a
    failure that may pass (nothing listens, 503, no answer) the client tries again, with full-jitter
    back-off.

    The deadlines are in seconds. `connect_deadline` is for all attempts of the first connection
    together, `connect_timeout` for each attempt, from fetching the token to the last subscription.
    `request_timeout` is for an answer, `write_timeout` for the network to take one message, and
    `pong_timeout` for the answer to the ping that the client sends when the server has missed its
    heartbeat. `close_timeout` is for the closing handshake.

    `max_message_size` is in bytes, for each message that arrives; a larger one ends the connection
    with 1009. The two `max_buffered_` limits, in messages and bytes, hold for each subscription and
    for `messages()`; beyond them the oldest messages are dropped, and a `gap` says how many.

    *Resource handling:* leaving the context sends the queued messages, closes with 1000 and waits
    up to `close_timeout` for the server's answer. Cancelling closes the socket at once. No task and
    no socket is left. An exception of the body comes out unchanged, not in a group.
    """
    address = parse_address(url, ssl_context=ssl_context, unix_socket=unix_socket)
    settings = ClientSettings(
        connect_timeout=connect_timeout,
        request_timeout=request_timeout,
        write_timeout=write_timeout,
        pong_timeout=pong_timeout,
        close_timeout=close_timeout,
        max_message_size=max_message_size,
        max_buffered_messages=max_buffered_messages,
        max_buffered_bytes=max_buffered_bytes,
    )
    failure: Exception | None = None
    keeper: ConnectionKeeper | None = None
    try:
        async with trio.open_nursery() as nursery:
            keeper = ConnectionKeeper(
                address,
                dial,
                TokenSource(token),
                [(_as_bytes(name), _as_bytes(value)) for name, value in extra_headers],
                settings,
                backoff or Backoff(),
                TopicTable(set(topics), MessageBuffer(max_buffered_messages, max_buffered_bytes)),
                nursery,
            )
            nursery.start_soon(keeper.run)
            try:
                await keeper.first_connection(connect_deadline)
                yield Client(keeper)
            except Exception as error:  # noqa: BLE001 - raised again below, after the goodbye
                failure = error
            keeper.begin_closing()
    except BaseExceptionGroup as group:
        # The nursery wraps even a single exception; the caller has not asked for a nursery.
        if len(group.exceptions) != 1:
            raise
        single = group.exceptions[0]
        context = single.__context__
        try:
            raise single
        finally:
            single.__context__ = context
    finally:
        if keeper is not None:
            keeper.mark_closed()
    if failure is not None:
        raise failure


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("ascii") if isinstance(text, str) else text
