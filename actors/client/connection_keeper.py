"""The keeper of a client's connection: it makes one, runs it to its end, and makes the next.

```
run: dial -> upgrade -> welcome -> subscribe again -> connected -> ... -> the end
  │    ^                                                                 │
  │    └─── wait: back-off, Retry-After, reconnect_after <- yes <- reconnect?
  └─ tasks of a connection: reader (trio-websocket's), receiver, writer, watch for silence, token
```

Messages that arrive are handed over without waiting (`TopicTable`), so a slow reader of one
subscription delays neither the others nor the answer to a ping.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from functools import partial
from typing import Final, cast

import attrs
import trio
from attrs import define, field, frozen
from trio_websocket import ConnectionClosed

from ...protocol.closing import CloseCode, should_reconnect
from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.messages.codec import decode_envelope
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType, fields_of
from ...protocol.moves import checked_move
from .backoff import Backoff, bounded_wait
from .client_connection import ClientConnection
from .client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from .client_handshake import WatchedStream, run_websocket
from .client_state import MOVES, ClientState
from .client_statistics import ClientCounts
from .dialing import NO_TLS_PERHAPS, Address, Dial, why_not_dialed
from .token_source import TokenSource, keep_fresh
from .topic_table import TopicTable

# Seconds that the server has, after the closing handshake, to close the TCP connection first. RFC
# 6455, section 7.1.1, asks for it, since the side that closes first keeps the port in TIME_WAIT.
LINGER: Final = 1.0

_log: Final = logging.getLogger("moorage.client")


@frozen
class ClientSettings:
    """The deadlines (in seconds) and the limits of a client; `open_client` explains each."""

    connect_timeout: float
    request_timeout: float
    write_timeout: float
    pong_timeout: float
    close_timeout: float
    max_message_size: int
    max_buffered_messages: int
    max_buffered_bytes: int


@define(eq=False)
class ConnectionKeeper:
    """The inner part of a client, which connects and reconnects.

    `open_client` owns it, and `Client` is what programs hold.
    """

    _address: Address
    _dial: Dial
    _tokens: TokenSource
    # Headers of the upgrade request, besides the token's.
    _headers: list[tuple[bytes, bytes]]
    settings: ClientSettings
    _backoff: Backoff
    # The topics that are wanted on every connection, and their readers.
    topics: TopicTable
    # All tasks of the client run in it; `open_client` owns it.
    _nursery: trio.Nursery
    state: ClientState = field(default=ClientState.WAITING, init=False)
    # The present connection in the state CONNECTED and, if it was open then, in CLOSING; else None.
    connection: ClientConnection | None = field(default=None, init=False)
    # What the present connection's welcome said; None without a connection.
    connection_id: str | None = field(default=None, init=False)
    # What the last welcome said.
    user_id: str | None = field(default=None, init=False)
    counts: ClientCounts = field(factory=ClientCounts, init=False)
    # Set and replaced at every change of state; `connected` and `first_connection` wait for it.
    _changed: trio.Event = field(factory=trio.Event, init=False)
    # Why the last attempt or the last connection ended.
    _last_failure: Exception | None = field(default=None, init=False)
    # Whether the stream of the present attempt, with its TLS, is not open yet.
    _dialing: bool = field(default=False, init=False)
    # The ids of requests, over all connections.
    _ids: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)

    async def run(self) -> None:
        """Connect, and connect again after each loss, until the client has to end."""
        while True:
            self._move(ClientState.CONNECTING)
            failure, connection = await self._connect_and_run()
            if self.state is ClientState.CLOSING:
                break
            self._last_failure = failure
            if connection is None or connection.connected_at is None:
                self.counts.failed_attempts += 1
            wait = self._delay_before_next(failure, connection)
            if wait is None:
                break
            _log.info("%s: %s; next attempt in %.1f s", self._address, failure, wait)
            self._move(ClientState.WAITING)
            await trio.sleep(wait)
        self.topics.end(None if self.state is ClientState.CLOSING else self._closed)
        self._move(ClientState.CLOSED)

    async def first_connection(self, deadline: float) -> None:
        """Wait for the first connection, at most `deadline` seconds.

        Raises what kept the client from connecting; cancelling is safe.
        """
        with trio.move_on_after(deadline):
            while self.counts.connections == 0 and self.state is not ClientState.CLOSED:
                await self._changed.wait()
        if self.counts.connections:
            return
        failure = self._last_failure
        if self.state is not ClientState.CLOSED:
            reason = failure or f"no answer{self._hint()}"
            raise ConnectError(
                f"no connection to {self._address} within {deadline:g} s: {reason}"
            ) from failure
        raise self._closed() if isinstance(failure, ConnectionLost) or not failure else failure

    def begin_closing(self) -> None:
        """Begin to close: the queued messages are written, then the connection closes with 1000.

        After `close_timeout` seconds all tasks are cancelled.
        """
        if self.state is ClientState.CLOSED:
            return
        self._move(ClientState.CLOSING)
        self._last_failure = None
        self.topics.end(None)
        if self.connection is None:
            self._nursery.cancel_scope.cancel()
        else:
            self.connection.close_when_written()
            self._nursery.cancel_scope.deadline = trio.current_time() + self.settings.close_timeout

    def mark_closed(self) -> None:
        """Note that all tasks have ended, for whatever reason."""
        if self.state is not ClientState.CLOSED:
            if self.state is not ClientState.CLOSING:
                self._move(ClientState.CLOSING)
                self._last_failure = None
            self.topics.end(None)
            self._move(ClientState.CLOSED)

    def _delay_before_next(
        self, failure: Exception, connection: ClientConnection | None
    ) -> float | None:
        """Return the seconds to wait before the next attempt, or None to make no other attempt."""
        since = connection.connected_at if connection is not None else None
        lasted = since is not None and trio.current_time() - since >= self._backoff.forget_after
        if lasted:
            self._backoff.reset()
        match failure:
            case ConnectionRefused(status=401) if self._tokens.refused():
                return 0.0
            case ConnectError(permanent=False):
                return (failure.retry_after or 0.0) + self._backoff.next()
            case ConnectionLost() if should_reconnect(failure.code):
                if failure.code == CloseCode.TOKEN_EXPIRED:
                    self._tokens.forget()
                if connection is None or connection.reconnect_after is None:
                    return self._backoff.next()
                # The server has given each client a time of its own, so no jitter is needed. After
                # a short connection there is some, against a server that sends clients away at
                # once.
                return connection.reconnect_after + (0.0 if lasted else self._backoff.next())
            case _:
                return None

    def _move(self, state: ClientState) -> None:
        self.state = checked_move(self.state, state, MOVES)
        self._changed.set()
        self._changed = trio.Event()

    async def connected(self) -> ClientConnection:
        """Return the present connection, and wait for one if there is none.

        Raises `ClientClosed`; cancelling is safe.
        """
        while True:
            self.check_alive()
            if self.connection is not None:
                return self.connection
            await self._changed.wait()

    def check_alive(self) -> None:
        """Raise `ClientClosed` if the client has ended or is ending."""
        if self.state in {ClientState.CLOSING, ClientState.CLOSED}:
            raise self._closed()

    def _closed(self) -> ClientClosed:
        failure = self._last_failure
        match failure:
            case None:
                error = ClientClosed(CloseCode.NORMAL, "its context was left")
            case ConnectionLost():
                error = ClientClosed(failure.code, failure.reason)
            case _:
                error = ClientClosed(None, str(failure))
        error.__cause__ = failure
        return error

    # --- one connection --------------------------------------------------------------------------

    async def _connect_and_run(self) -> tuple[Exception, ClientConnection | None]:
        """Make a connection and run it; return why it ended, and the connection if it was made."""
        deadline = trio.current_time() + self.settings.connect_timeout
        result: tuple[Exception, ClientConnection | None]
        async with trio.open_nursery() as nursery:
            stream: WatchedStream | None = None
            self._dialing = True
            try:
                with trio.fail_at(deadline):
                    headers = await self._request_headers()
                    dialed = await self._dial(self._address)
                    stream = WatchedStream(
                        dialed,
                        self.settings.write_timeout,
                        is_plain=self._address.ssl_context is None,
                    )
                    self._dialing = False
                    websocket = await nursery.start(
                        partial(
                            run_websocket,
                            stream,
                            self._address,
                            headers,
                            self.settings.max_message_size,
                        )
                    )
                connection = ClientConnection(websocket, stream, self._ids, self.counts)
                await self._run_connection(connection, deadline)
                result = connection.failure or ConnectionLost(), connection
            except trio.TooSlowError:
                text = f"no answer within {self.settings.connect_timeout:g} s{self._hint()}"
                result = ConnectError(text), None
            except OSError as error:
                result = ConnectError(why_not_dialed(error)), None
            except ConnectError as error:
                result = error, None
            finally:
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
        return result

    def _hint(self) -> str:
        """Return what may have been wrong with an attempt that got no answer."""
        return NO_TLS_PERHAPS if self._dialing and self._address.ssl_context is not None else ""

    async def _request_headers(self) -> list[tuple[bytes, bytes]]:
        try:
            token = await self._tokens.current()
        except Exception as error:
            raise ConnectError(
                f"`token` raised {type(error).__name__}", permanent=self.counts.connections == 0
            ) from error
        if token is None:
            return self._headers
        return [*self._headers, (b"Authorization", b"Bearer " + token.encode())]

    async def _run_connection(self, connection: ClientConnection, deadline: float) -> None:
        """Run an upgraded connection until it ends; `connection.failure` then says why."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write)
                nursery.start_soon(self._set_up, connection, deadline, nursery)
                with connection.receiving as given_up:
                    await self._receive(connection)
                if self.state is ClientState.CLOSING:
                    await connection.writer_done.wait()
                self._detach(connection)
                if not given_up.cancelled_caught:
                    with trio.move_on_after(LINGER):
                        await connection.stream.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._detach(connection)

    def _detach(self, connection: ClientConnection) -> None:
        self.connection = self.connection_id = None
        connection.finish()
        self.topics.interrupt(connection)

    async def _set_up(
        self, connection: ClientConnection, deadline: float, nursery: trio.Nursery
    ) -> None:
        """Wait for the welcome and subscribe to all wanted topics; then the client is connected."""
        with trio.move_on_at(deadline) as scope:
            await connection.welcomed.wait()
            # A connection that has failed takes no more requests: each would raise at once.
            while connection.failure is None and (
                missing := self.topics.wanted - connection.subscribed
            ):
                async with trio.open_nursery() as asking:
                    for topic in missing:
                        asking.start_soon(self._subscribe_again, connection, topic)
        if scope.cancelled_caught:
            seconds = self.settings.connect_timeout
            connection.give_up(
                ConnectionLost(None, f"no welcome and subscriptions within {seconds} s")
            )
        if connection.failure is not None:
            return
        self.connection = connection
        connection.connected_at = trio.current_time()
        self.counts.connections += 1
        self._move(ClientState.CONNECTED)
        for topic in connection.asked - self.topics.wanted:
            self.unsubscribe(topic)
        nursery.start_soon(connection.watch_silence, self.settings.pong_timeout)
        if connection.welcome is not None:
            backoff, seconds = attrs.evolve(self._backoff), self.settings.request_timeout
            nursery.start_soon(
                keep_fresh, self._tokens, connection, connection.welcome, backoff, seconds
            )

    async def _receive(self, connection: ClientConnection) -> None:
        try:
            while True:
                message = await connection.websocket.get_message()
                is_text = isinstance(message, str)
                payload = message.encode() if isinstance(message, str) else message
                if len(payload) > self.settings.max_message_size:
                    await self._close_for_size(connection)
                    return
                self._dispatch(connection, payload, is_text=is_text)
        except ConnectionClosed as closed:
            if connection.failure is None:
                code = closed.reason.code if closed.reason is not None else None
                # 1005 and 1006 stand for a close code that never came (RFC 6455, section 7.1.5).
                connection.failure = ConnectionLost(
                    None if code in {1005, 1006} else code,
                    (closed.reason.reason if closed.reason is not None else None) or "",
                )

    async def _close_for_size(self, connection: ClientConnection) -> None:
        """Close a connection on which too large a message came."""
        reason = f"a message had more than {self.settings.max_message_size} bytes"
        connection.failure = ConnectionLost(CloseCode.MESSAGE_TOO_BIG, reason)
        with trio.move_on_after(self.settings.close_timeout):
            await connection.websocket.aclose(CloseCode.MESSAGE_TOO_BIG, reason)

    def _dispatch(self, connection: ClientConnection, payload: bytes, *, is_text: bool) -> None:
        """Hand one message to the request or the subscriptions that it is for. Cannot block."""
        self.counts.received += 1
        try:
            if not is_text:
                raise RemoteProtocolError("it is a binary message", ErrorCode.BAD_MESSAGE)
            message = decode_envelope(payload)
        except RemoteProtocolError as error:
            # One bad message is no reason to end a connection that carries much else.
            self.counts.malformed += 1
            _log.warning(
                "%s: skipped a message that does not follow the protocol: %s", self._address, error
            )
            return
        match message.type:
            case MessageType.WELCOME:
                self._take_welcome(connection, message)
                return
            case MessageType.HEARTBEAT:
                return
            case MessageType.SUBSCRIBED if message.topic is not None:
                self.topics.confirm(connection, message.topic)
            case MessageType.UNSUBSCRIBED if message.topic is not None:
                connection.subscribed.discard(message.topic)
                connection.leaving.discard(message.topic)
            case MessageType.GOODBYE:
                connection.reconnect_after = bounded_wait(
                    fields_of(message.data).get("reconnect_after")
                )
            case MessageType.ERROR if message.id is None and self._is_expiry(message):
                connection.token_expired.set()
                return
            case _:
                pass
        if not connection.answer(message):
            self.topics.deliver(connection, message, len(payload))

    def _is_expiry(self, message: Envelope) -> bool:
        code = fields_of(message.data).get("code")
        return code == ErrorCode.TOKEN_EXPIRED and self._tokens.renewable

    def _take_welcome(self, connection: ClientConnection, welcome: Envelope) -> None:
        data = fields_of(welcome.data)
        connection_id, user_id, topics = map(data.get, ("connection_id", "user_id", "topics"))
        self.connection_id = connection_id if isinstance(connection_id, str) else None
        self.user_id = user_id if isinstance(user_id, str) else None
        for topic in cast("list[object]", topics) if isinstance(topics, list) else ():
            if isinstance(topic, str):
                self.topics.confirm(connection, topic)
        self._tokens.accepted()
        connection.welcome = welcome
        connection.welcomed.set()

    async def _subscribe_again(self, connection: ClientConnection, topic: str) -> None:
        try:
            await connection.subscribe(topic)
        except ConnectionLost:
            return
        except RequestError as error:
            if error.retryable:
                connection.give_up(ConnectionLost(None, f"subscribing to {topic} again: {error}"))
            elif topic in self.topics.always and self.counts.connections == 0:
                connection.give_up(error)
            else:
                _log.warning("%s: %s is no longer subscribed: %s", self._address, topic, error)
                self.topics.refuse(topic, error)

    def unsubscribe(self, topic: str) -> trio.Event | None:
        """Unsubscribe from a topic that nothing wants any more.

        Returns an event that is set once the server has confirmed it, or None when there is nothing
        to do. A task of the client does it, since the task that leaves a subscription is often
        cancelled.
        """
        connection = self.connection
        if (
            self.state is not ClientState.CONNECTED
            or connection is None
            or topic not in connection.asked
        ):
            return None
        done = trio.Event()
        self._nursery.start_soon(self._unsubscribe, connection, topic, done)
        return done

    async def _unsubscribe(
        self, connection: ClientConnection, topic: str, done: trio.Event
    ) -> None:
        try:
            # The program may have subscribed again since this task was started.
            if topic not in self.topics.wanted:
                with trio.move_on_after(self.settings.request_timeout):
                    await connection.unsubscribe(topic)
        except (ConnectionLost, RequestError) as error:
            # Without a connection there is no subscription, and no task waits for this error.
            _log.debug("%s: unsubscribing from %s: %s", self._address, topic, error)
        finally:
            done.set()
