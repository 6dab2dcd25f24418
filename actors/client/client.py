"""The other end: a client that keeps one connection, and comes back when it is lost.

`open_client` makes a `Client`. What goes on behind it is in the files beside this one:
`client_keeper.py` (connecting and coming back), `client_link.py` (one connection), `dialing.py`
(the opening handshake), `client_topics.py` and `subscription.py` (who reads what),
`token_source.py`, `backoff.py`. Everything lives in one nursery and is gone when the context has
been left.
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
from .client_state import ClientSettings, ClientState, ClientStatistics
from .client_subscription import MessageBuffer, Subscription
from .dialing import Dial, dial, parse_address
from .keeper import ConnectionKeeper
from .token_source import Token, TokenSource
from .topic_table import TopicTable


@define(eq=False)
class Client:
    """A connection that is kept; made by `open_client`, and usable until its context is left.

    All async methods raise `ClientClosed` once the client has ended. Cancelling them is safe.
    """

    _keeper: ConnectionKeeper

    @property
    def state(self) -> ClientState:
        """Where the client is in its life."""
        return self._keeper.state

    @property
    def connection_id(self) -> str | None:
        """The server's name for the present connection; None while there is none."""
        return self._keeper.connection_id

    @property
    def user_id(self) -> str | None:
        """Who the server says this is; None without a token."""
        return self._keeper.user_id

    def statistics(self) -> ClientStatistics:
        """Return what the client has done so far."""
        keeper, tally, link = self._keeper, self._keeper.tally, self._keeper.link
        return ClientStatistics(
            state=keeper.state,
            connections=tally.connections,
            failed_attempts=tally.failed_attempts,
            messages_sent=tally.sent,
            messages_received=tally.received,
            messages_malformed=tally.malformed,
            messages_dropped=keeper.topics.dropped,
            requests_pending=link.pending if link else 0,
            topics=len(link.subscribed) if link else 0,
            renewals=tally.renewals,
        )

    async def wait_connected(self) -> None:
        """Wait until the client is connected and subscribed to all that it should be."""
        await trio.lowlevel.checkpoint()
        await self._keeper.connected_link()

    # --- what is said ----------------------------------------------------------------------------

    async def send(self, type: str, data: Any = None, *, topic: str | None = None) -> None:
        """Send a message and do not ask what becomes of it.

        Waits while there is no connection, or while the server takes no more. Returns when the
        message is queued: if the connection then breaks, it may be lost. Raises
        `LocalProtocolError` for what JSON cannot say. Cancelled, it has not been queued.
        """
        message = Envelope(type=type, topic=topic, data=data)
        while True:
            link = await self._keeper.connected_link()
            try:
                await link.send(message)
            except ConnectionLost:
                continue
            return

    def send_nowait(self, type: str, data: Any = None, *, topic: str | None = None) -> None:
        """Do as `send` does, at once; raise `trio.WouldBlock` if that would have to wait."""
        self._keeper.check_alive()
        if self._keeper.link is None:
            raise trio.WouldBlock
        self._keeper.link.send_nowait(Envelope(type=type, topic=topic, data=data))

    async def request(
        self,
        type: str,
        data: Any = None,
        topic: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - its end is an answer: RequestError
    ) -> Envelope:
        """Send a message with an id and return the server's answer to it.

        Waits for a connection first if there is none. `timeout` is in seconds, over all, and
        `request_timeout` if not given. Raises `RequestError` when the answer is an error or does
        not come in time (code `timeout`), and `ConnectionLost` when the connection goes before the
        answer has come: the request may or may not have been done. Cancelled, it may be done too.
        """
        with trio.move_on_after(
            self._keeper.settings.request_timeout if timeout is None else timeout
        ):
            link = await self._keeper.connected_link()
            return await link.ask(type, data, topic)
        raise RequestError(f"no answer to `{type}` in time", ErrorCode.TIMEOUT, retryable=True)

    async def publish(self, topic: str, data: Any = None) -> Envelope:
        """Publish to a topic and return the server's `published`; raises as `request` does."""
        return await self.request(MessageType.DATA, data, topic)

    # --- what is heard ---------------------------------------------------------------------------

    def subscribe(
        self, topic: str, *, max_messages: int | None = None, max_bytes: int | None = None
    ) -> Subscription:
        """Return the messages of a topic, to be iterated over; see `Subscription`.

        Cannot block: the first iteration, or entering it as a context manager, subscribes. The two
        limits are of its buffer, and those of the client if not given.
        """
        settings = self._keeper.settings
        buffer = MessageBuffer(
            max_messages=settings.max_buffered_messages if max_messages is None else max_messages,
            max_bytes=settings.max_buffered_bytes if max_bytes is None else max_bytes,
            topic=topic,
        )
        return Subscription(topic, buffer, self._join, self._leave_topic)

    def messages(self) -> AsyncIterator[Envelope]:
        """Return all that no subscription and no request consumes, to be iterated over.

        That is: notifications, publications of `topics`, errors that answer nothing, goodbyes; not
        welcomes and heartbeats. There is one buffer of it per client: two iterators share what
        arrives between them. It tells of gaps, and ends, as a `Subscription` does.
        """
        return self._keeper.topics.rest

    # --- subscriptions ---------------------------------------------------------------------------

    async def _join(self, subscription: Subscription) -> None:
        """Have the server subscribe, for a subscription's first use."""
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

    async def _subscribe(self, subscription: Subscription) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            link = await self._keeper.connected_link()
            if subscription.buffer.ended or subscription.topic in link.subscribed:
                break
            try:
                await link.subscribe(subscription.topic)
            except ConnectionLost:
                continue
            break
        if subscription.buffer.error is not None:
            raise subscription.buffer.error()

    async def _leave_topic(self, subscription: Subscription) -> None:
        """Have the server unsubscribe if this was the last subscription of its topic."""
        done = self._drop(subscription)
        if done is None:
            await trio.lowlevel.checkpoint()
        else:
            await done.wait()

    def _drop(self, subscription: Subscription) -> trio.Event | None:
        """Take a subscription out; return what is set once the server knows, if it must know."""
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

    `url` is `ws://`, `wss://` (certificates are checked; `ssl_context` to say how) or
    `ws+unix:///path/to.sock:/ws`; `unix_socket` takes another URL there. `token` is a bearer token
    or a function, sync or async, that returns one; it is asked at first and whenever the last one
    has expired. `topics` are subscribed all the time, and come out of `client.messages()` where no
    subscription reads them.

    Returns connected, or raises: `ConnectionRefused` for an HTTP answer that would not change (400,
    401, 403, 404, ...), `ConnectError` for a certificate that is not trusted, a `token` function
    that raised, or no connection within `connect_deadline`; `RequestError` for a topic of `topics`
    that the server refuses; `ClientClosed` when it was closed with a code that means "stay away".
    What may change (nobody listens, 503, no answer) is tried again, with full-jitter back-off.

    Seconds: `connect_deadline` for all attempts of the first connection together; for each attempt
    from the token to the last subscription `connect_timeout`; for an answer `request_timeout`; for
    the network to take one message `write_timeout`; for the answer to a ping, sent when the server
    has missed its heartbeat, `pong_timeout`; for the closing handshake `close_timeout`.

    `max_message_size` is in characters, for each message that arrives. The two `max_buffered_`
    limits hold for each subscription and for `messages()`; past them the oldest messages are
    dropped, and a `gap` says how many.

    *Resource handling:* leaving the context sends what is queued, closes with 1000 and waits for
    the server's answer within `close_timeout`; cancelled, it closes the socket at once. No task and
    no socket is left. An exception of the body comes out as it is, not in a group.
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
            keeper.leave()
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
            keeper.finish()
    if failure is not None:
        raise failure


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("ascii") if isinstance(text, str) else text
