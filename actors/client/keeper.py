"""Keeps one connection: makes it, lives it, judges its end, and makes the next.

```
run: dial -> upgrade -> welcome -> subscribe again -> connected -> ... -> why did it end?
  │    ^                                                                      │
  │    └──────────── wait: back-off, Retry-After, reconnect_after ◄── come back
  └─ per connection: reader (trio-websocket's), receiver, writer, silence watch, token renewal
```

What arrives is handed over without waiting (`TopicTable`), so a slow reader of one subscription
holds up neither the others nor the answer to a ping.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from functools import partial
from typing import Final, cast

import attrs
import trio
from attrs import define, field
from trio_websocket import ConnectionClosed

from ...protocol.closing import CloseCode, should_reconnect
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ...protocol.messages.codec import decode_envelope
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .backoff import Backoff, bounded_wait
from .client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from .client_state import MOVES, ClientSettings, ClientState
from .dialing import Address, Dial, WatchedStream, fields_of, run_websocket
from .link import Link, Tally
from .token_source import TokenSource, keep_fresh
from .topic_table import TopicTable

# Seconds left to the server, after the closing handshake, to close the TCP connection first (RFC
# 6455 section 7.1.1 asks for it: the side that closes first keeps the port in TIME_WAIT).
LINGER: Final = 1.0

_log: Final = logging.getLogger("moorage.client")


@define(eq=False)
class ConnectionKeeper:
    """The part of a client that nobody sees; `Client` is its face, `open_client` its owner."""

    _address: Address
    _dial: Dial
    _tokens: TokenSource
    # Headers of the upgrade request, besides the token's.
    _headers: list[tuple[bytes, bytes]]
    settings: ClientSettings
    _backoff: Backoff
    # What is wanted, whichever connection it comes over.
    topics: TopicTable
    # Runs everything; `open_client` owns it.
    _nursery: trio.Nursery
    state: ClientState = field(default=ClientState.WAITING, init=False)
    # The present connection while the state is CONNECTED (or was, and is CLOSING); None otherwise.
    link: Link | None = field(default=None, init=False)
    # Out of the present connection's welcome.
    connection_id: str | None = field(default=None, init=False)
    # Out of the last welcome.
    user_id: str | None = field(default=None, init=False)
    tally: Tally = field(factory=Tally, init=False)
    # Set, and replaced, at every change of state.
    _changed: trio.Event = field(factory=trio.Event, init=False)
    # Why the last attempt or the last connection ended.
    _last_failure: Exception | None = field(default=None, init=False)
    # Request ids, over all connections.
    _ids: Iterator[int] = field(factory=lambda: itertools.count(1), init=False)

    async def run(self) -> None:
        """Connect, stay connected, come back, until there is no coming back."""
        while True:
            self._move(ClientState.CONNECTING)
            failure, link = await self._live_once()
            if self.state is ClientState.CLOSING:
                break
            self._last_failure = failure
            if link is None or link.connected_at is None:
                self.tally.failed_attempts += 1
            wait = self._judge(failure, link)
            if wait is None:
                break
            _log.info("%s: %s; next attempt in %.1f s", self._address, failure, wait)
            self._move(ClientState.WAITING)
            await trio.sleep(wait)
        self.topics.end(None if self.state is ClientState.CLOSING else self._closed)
        self._move(ClientState.CLOSED)

    async def first_connection(self, deadline: float) -> None:
        """Wait for the first connection, at most `deadline` seconds; raise why there is none."""
        with trio.move_on_after(deadline):
            while self.tally.connections == 0 and self.state is not ClientState.CLOSED:
                await self._changed.wait()
        if self.tally.connections:
            return
        failure = self._last_failure
        if self.state is not ClientState.CLOSED:
            raise ConnectError(
                f"no connection to {self._address} within {deadline} s: {failure or 'no answer'}"
            ) from failure
        raise self._closed() if isinstance(failure, ConnectionLost) or not failure else failure

    def leave(self) -> None:
        """Begin the end: say what is queued, then close with 1000, within `close_timeout`."""
        if self.state is ClientState.CLOSED:
            return
        self._move(ClientState.CLOSING)
        self._last_failure = None
        self.topics.end(None)
        if self.link is None:
            self._nursery.cancel_scope.cancel()
        else:
            self.link.say_no_more()
            self._nursery.cancel_scope.deadline = trio.current_time() + self.settings.close_timeout

    def finish(self) -> None:
        """Note that all tasks are gone, however that came about."""
        if self.state is not ClientState.CLOSED:
            if self.state is not ClientState.CLOSING:
                self._move(ClientState.CLOSING)
                self._last_failure = None
            self.topics.end(None)
            self._move(ClientState.CLOSED)

    def _judge(self, failure: Exception, link: Link | None) -> float | None:
        """Return the seconds to wait before coming back, None to stay away."""
        since = link.connected_at if link is not None else None
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
                if link is None or link.reconnect_after is None:
                    return self._backoff.next()
                # The server has spread its clients already; a second spread is against one that
                # sends everybody away at once, again and again.
                return link.reconnect_after + (0.0 if lasted else self._backoff.next())
            case _:
                return None

    def _move(self, state: ClientState) -> None:
        if state not in MOVES[self.state]:
            raise LocalProtocolError(
                f"a client that is {self.state.value} cannot become {state.value}",
                ErrorCode.INTERNAL,
            )
        self.state = state
        self._changed.set()
        self._changed = trio.Event()

    async def connected_link(self) -> Link:
        """Return the present connection, waiting for one if need be. Raises `ClientClosed`."""
        while True:
            self.check_alive()
            if self.link is not None:
                return self.link
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

    async def _live_once(self) -> tuple[Exception, Link | None]:
        """Try for a connection and live it to its end; return why it ended."""
        deadline = trio.current_time() + self.settings.connect_timeout
        result: tuple[Exception, Link | None]
        async with trio.open_nursery() as nursery:
            stream: WatchedStream | None = None
            try:
                with trio.fail_at(deadline):
                    headers = await self._request_headers()
                    stream = WatchedStream(
                        await self._dial(self._address), self.settings.write_timeout
                    )
                    websocket = await nursery.start(
                        partial(
                            run_websocket,
                            stream,
                            self._address,
                            headers,
                            self.settings.max_message_size,
                        )
                    )
                link = Link(websocket, stream, self._ids, self.tally)
                await self._converse(link, deadline)
                result = link.failure or ConnectionLost(), link
            except trio.TooSlowError:
                seconds = self.settings.connect_timeout
                result = ConnectError(f"{self._address}: no answer within {seconds} s"), None
            except OSError as error:
                result = ConnectError(f"{self._address}: {error}"), None
            except ConnectError as error:
                result = error, None
            finally:
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
        return result

    async def _request_headers(self) -> list[tuple[bytes, bytes]]:
        try:
            token = await self._tokens.current()
        except Exception as error:
            raise ConnectError(
                f"`token` raised {type(error).__name__}", permanent=self.tally.connections == 0
            ) from error
        if token is None:
            return self._headers
        return [*self._headers, (b"Authorization", b"Bearer " + token.encode())]

    async def _converse(self, link: Link, deadline: float) -> None:
        """Run an upgraded connection until it ends; `link.failure` then says why."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.write)
                nursery.start_soon(self._set_up, link, deadline, nursery)
                with link.receiving as given_up:
                    await self._receive(link)
                if self.state is ClientState.CLOSING:
                    await link.farewell.wait()
                self._part_from(link)
                if not given_up.cancelled_caught:
                    with trio.move_on_after(LINGER):
                        await link.stream.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._part_from(link)

    def _part_from(self, link: Link) -> None:
        self.link = self.connection_id = None
        link.finish()
        self.topics.interrupt(link)

    async def _set_up(self, link: Link, deadline: float, nursery: trio.Nursery) -> None:
        """Wait for the welcome and subscribe; then the client is connected."""
        with trio.move_on_at(deadline) as scope:
            await link.welcomed.wait()
            while missing := self.topics.wanted - link.subscribed:
                async with trio.open_nursery() as asking:
                    for topic in missing:
                        asking.start_soon(self._subscribe_again, link, topic)
        if scope.cancelled_caught:
            seconds = self.settings.connect_timeout
            link.give_up(ConnectionLost(None, f"no welcome and subscriptions within {seconds} s"))
        if link.failure is not None:
            return
        self.link = link
        link.connected_at = trio.current_time()
        self.tally.connections += 1
        self._move(ClientState.CONNECTED)
        for topic in link.asked - self.topics.wanted:
            self.unsubscribe(topic)
        nursery.start_soon(link.watch_silence, self.settings.pong_timeout)
        if link.welcome is not None:
            backoff, seconds = attrs.evolve(self._backoff), self.settings.request_timeout
            nursery.start_soon(keep_fresh, self._tokens, link, link.welcome, backoff, seconds)

    async def _receive(self, link: Link) -> None:
        try:
            while True:
                self._take(link, await link.websocket.get_message())
        except ConnectionClosed as closed:
            if link.failure is None:
                code = closed.reason.code if closed.reason is not None else None
                # RFC 6455 section 7.1.5: 1005 and 1006 stand for a close code that never came.
                link.failure = ConnectionLost(
                    None if code in {1005, 1006} else code,
                    (closed.reason.reason if closed.reason is not None else None) or "",
                )

    def _take(self, link: Link, text: str | bytes) -> None:
        """Hand one message over to whoever it is for. Cannot block."""
        self.tally.received += 1
        try:
            if isinstance(text, bytes):
                raise RemoteProtocolError("a binary message", ErrorCode.BAD_MESSAGE)
            message = decode_envelope(text)
        except RemoteProtocolError as error:
            # No reason to lose a connection that may carry much else.
            self.tally.malformed += 1
            _log.warning("%s: skipped what is no message: %s", self._address, error)
            return
        match message.type:
            case MessageType.WELCOME:
                self._greet(link, message)
                return
            case MessageType.HEARTBEAT:
                return
            case MessageType.SUBSCRIBED if message.topic is not None:
                self.topics.confirm(link, message.topic)
            case MessageType.UNSUBSCRIBED if message.topic is not None:
                link.subscribed.discard(message.topic)
                link.leaving.discard(message.topic)
            case MessageType.GOODBYE:
                link.reconnect_after = bounded_wait(fields_of(message.data).get("reconnect_after"))
            case MessageType.ERROR if message.id is None and self._is_expiry(message):
                link.token_expired.set()
                return
            case _:
                pass
        if not link.answer(message):
            self.topics.deliver(link, message, len(text))

    def _is_expiry(self, message: Envelope) -> bool:
        code = fields_of(message.data).get("code")
        return code == ErrorCode.TOKEN_EXPIRED and self._tokens.renewable

    def _greet(self, link: Link, welcome: Envelope) -> None:
        data = fields_of(welcome.data)
        connection_id, user_id, topics = map(data.get, ("connection_id", "user_id", "topics"))
        self.connection_id = connection_id if isinstance(connection_id, str) else None
        self.user_id = user_id if isinstance(user_id, str) else None
        for topic in cast("list[object]", topics) if isinstance(topics, list) else ():
            if isinstance(topic, str):
                self.topics.confirm(link, topic)
        self._tokens.accepted()
        link.welcome = welcome
        link.welcomed.set()

    async def _subscribe_again(self, link: Link, topic: str) -> None:
        try:
            await link.subscribe(topic)
        except ConnectionLost:
            return
        except RequestError as error:
            if error.retryable:
                link.give_up(ConnectionLost(None, f"subscribing to {topic} again: {error}"))
            elif topic in self.topics.always and self.tally.connections == 0:
                link.give_up(error)
            else:
                _log.warning("%s: %s is no longer subscribed: %s", self._address, topic, error)
                self.topics.refuse(topic, error)

    def unsubscribe(self, topic: str) -> trio.Event | None:
        """Have the server unsubscribe a topic that nobody wants; return what is set when it has.

        Returns None when there is nothing to be done. It is done in a task of the client's own:
        whoever leaves a subscription is often cancelled.
        """
        link = self.link
        if self.state is not ClientState.CONNECTED or link is None or topic not in link.asked:
            return None
        done = trio.Event()
        self._nursery.start_soon(self._unsubscribe, link, topic, done)
        return done

    async def _unsubscribe(self, link: Link, topic: str, done: trio.Event) -> None:
        try:
            # Since this was decided somebody may have subscribed again.
            if topic not in self.topics.wanted:
                with trio.move_on_after(self.settings.request_timeout):
                    await link.unsubscribe(topic)
        except (ConnectionLost, RequestError) as error:
            # Without the connection there is no subscription; and there is nobody left to tell.
            _log.debug("%s: unsubscribing from %s: %s", self._address, topic, error)
        finally:
            done.set()
