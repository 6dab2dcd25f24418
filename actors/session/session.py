"""A session: the connection actor that speaks the message protocol.

One chunk of bytes holds any number of messages. They are decoded and acted on in one loop, here, in
the connection's own task; what they are answered with leaves in one write at the loop's end.

What a message asks for is done at once where it cannot block. Where it can (an async handler or
authorizer of the program), the message goes to the inbox, and a worker task runs through it; until
the inbox is empty again every further message but `ping` lines up behind, so that a client's
messages are always acted on in the order in which it sent them. A full inbox stops the reading:
the client is held back by its own socket, and nothing is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar, Final

import attrs
import trio

from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, LocalProtocolError, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import Incoming, decode, encode_value, head, splice
from ...protocol.messages.topics import require_topic
from ...protocol.messages.types import ErrorData, Goodbye, MessageType
from ...protocol.websocket.frames import Opcode, encode_text
from ..connection.connection import Connection
from ..connection.inbox import Inbox
from ..connection.lifecycle import State, move
from ..connection.limits import Strikes
from ..entrance.handshake import Accepted
from ..ports import ActorPort
from .handlers import finish, on_handler_error, run_handler
from .requests import REQUESTS, Request, drop_forbidden_topics, say_welcome

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_AUTHENTICATING: Final = State.AUTHENTICATING

_HEARTBEAT_HEAD: Final = head(MessageType.HEARTBEAT)


class Session(Connection):
    """A connection of the message protocol. Its methods are synchronous, and safe in handlers."""

    __slots__ = (
        "_authenticate_by",
        "_bad_strikes",
        "_expires_at",
        "_expiry_announced",
        "_goodbye",
        "_inbox",
        "_replies",
        "checked_topics",
    )

    # What a client may always ask for, by message type; an admin session has others.
    requests: ClassVar[Mapping[str, Request]] = REQUESTS

    def __init__(self, port: ActorPort, accepted: Accepted) -> None:
        super().__init__(port, accepted)
        # Replies to the chunk at hand, joined and written at its end; None between chunks.
        self._replies: list[bytes] | None = None
        self._inbox: Inbox[Incoming] | None = None  # None while there is no worker
        self.checked_topics: set[str] | None = None
        self._bad_strikes: Strikes | None = None
        self._goodbye: bytes | None = None  # the data of a `goodbye` to be said
        self._authenticate_by: float | None = None
        self._expires_at: float | None = None  # of the token, in trio's time
        self._expiry_announced = False

    # For the program: everything that it may do to a connection

    def send(self, message_type: str, data: Any = None, *, topic: str | None = None) -> bool:
        """Send one message to this peer; returns False if the connection is over.

        LocalProtocolError: the type, the topic or the data cannot be sent.
        """
        return self.say(head(message_type, topic), encode_value(data))

    def subscribe(self, topic: str) -> bool:
        """Subscribe this connection from the server's side; returns False if it was already.

        The peer is told with `subscribed`. Its permissions are not asked for: this is the program's
        own decision. A connection that is over is not subscribed any more, and False is returned.
        RemoteProtocolError: a limit. LocalProtocolError: that is no topic's name.
        """
        require_topic(topic)
        if not self.is_open or not self.port.supervisor.subscribe(self, topic):
            return False
        self.say(head(MessageType.SUBSCRIBED, topic), None)
        return True

    def unsubscribe(self, topic: str) -> bool:
        """Undo a subscription from the server's side; returns False if there was none."""
        if not self.port.supervisor.unsubscribe(self, topic):
            return False
        self.say(head(MessageType.UNSUBSCRIBED, topic), None)
        return True

    def disconnect(
        self,
        reason: str = "",
        *,
        cause: CloseCause = CloseCause.DISCONNECTED,
        reconnect_after: float | None = None,
    ) -> bool:
        """Close this connection; returns at once, and False if it was ending already.

        With `reconnect_after`, in seconds, the peer is told by a `goodbye` before the close.
        ValueError or LocalProtocolError: the reason or the time cannot be sent; nothing happens.
        """
        goodbye = None
        if reconnect_after is not None:
            goodbye = encode_value(Goodbye(reason or cause.reason, reconnect_after))
        if not self.end(cause, reason=reason or None):
            return False
        self._goodbye = goodbye
        return True

    # Hello, time and goodbye

    def _arrive(self) -> None:
        limits = self.port.limits
        endpoint = self.endpoint
        must_authenticate = self.identity.is_anonymous and endpoint.require_auth is True
        if must_authenticate and endpoint.authenticate_by_message:
            self.state = move(self.state, State.AUTHENTICATING)
            self._authenticate_by = self.last_heard + limits.authentication_timeout
        else:
            self.state = move(self.state, State.OPEN)
        self._set_expiry()
        early = self._replies = []  # what the program says to newcomers comes after the welcome
        self.port.supervisor.arrived(self)
        self._replies = None
        if not self.is_open:
            return
        topics: tuple[str, ...] = ()
        if self.state is State.OPEN:
            topics = self._subscribe_on_arrival()
        say_welcome(self, topics)
        if early:
            self.owe(early)
        if self.state is State.OPEN:
            self._start_endpoint()

    def _subscribe_on_arrival(self) -> tuple[str, ...]:
        """Enter the endpoint's subscriptions; a full topic is left out, and logged."""
        user_id = self.identity.user_id
        for name in self.endpoint.topics:
            if user_id is None and "{user_id}" in name:
                continue  # there is no such topic
            topic = name.replace("{user_id}", user_id or "")
            try:
                self.port.supervisor.subscribe(self, topic)
            except ProtocolError as error:
                self.log("warning", "subscription_refused", topic=topic, error=error.message)
        return tuple(self.topics)

    def _start_endpoint(self) -> None:
        if self.endpoint.handler is not None and self.nursery is not None:
            self.nursery.start_soon(self._run_endpoint, name=f"endpoint of {self.id}")

    async def _run_endpoint(self) -> None:
        assert self.endpoint.handler is not None  # noqa: S101 - see above
        try:
            await self.endpoint.handler(self)
        except Exception as error:  # noqa: BLE001 - containment
            self.port.traffic.handler_errors += 1
            self.log("error", "endpoint_failed", path=self.endpoint.path, exc_info=error)
            self.end(CloseCause.INTERNAL_ERROR)

    def _heartbeat(self) -> bytes:
        return encode_text(splice(_HEARTBEAT_HEAD, None, self.port.tick.stamp()))

    def _farewell(self) -> bytes:
        if self._goodbye is None:
            return b""
        stamp = self.port.tick.stamp()
        return encode_text(splice(head(MessageType.GOODBYE), self._goodbye, stamp))

    def next_deadline(self) -> float:
        """Return when time itself will end or change something, in trio's time."""
        deadline = super().next_deadline()
        if self._authenticate_by is not None:
            deadline = min(deadline, self._authenticate_by)
        if self._expires_at is not None:
            grace = self.port.limits.token_grace if self._expiry_announced else 0.0
            deadline = min(deadline, self._expires_at + grace)
        return deadline

    def _on_deadline(self, now: float) -> None:
        if self._authenticate_by is not None and now >= self._authenticate_by:
            self.end(CloseCause.UNAUTHORIZED, reason="no token came in time")
            return
        if self._expires_at is not None and now >= self._expires_at:
            grace = self.port.limits.token_grace
            if now >= self._expires_at + grace:
                self.end(CloseCause.TOKEN_EXPIRED)
                return
            if not self._expiry_announced:
                self._expiry_announced = True
                text = f"your token has expired; renew it with `authenticate` within {grace:g} s"
                self.answer_error(None, RemoteProtocolError(text, ErrorCode.TOKEN_EXPIRED))
        super()._on_deadline(now)

    def set_identity(self, identity: Identity) -> None:
        """Take on the identity of a token that has been verified.

        ProtocolError: a limit forbids it; the connection stays what it was.
        """
        before, self.identity = self.identity, identity
        try:
            self.port.supervisor.authenticated(self, before)
        except ProtocolError:
            self.identity = before
            raise
        if identity.info is not None:
            self.metadata["info"] = identity.info
        self.checked_topics = None
        self._authenticate_by = None
        self._set_expiry()
        drop_forbidden_topics(self)
        self._reschedule()

    def open_for_user(self) -> tuple[str, ...]:
        """Open a connection whose token came by message; return what it is subscribed to now."""
        self.state = move(self.state, State.OPEN)
        topics = self._subscribe_on_arrival()
        self._start_endpoint()
        return topics

    def _set_expiry(self) -> None:
        """Make the token's wall-clock expiry a deadline in trio's time."""
        self._expiry_announced = False
        self._expires_at = None
        if self.identity.expires_at is not None:
            left = self.identity.expires_at - self.port.tick.wall_time()
            left += self.port.limits.jwt_leeway  # as long as the token would be let in
            self._expires_at = trio.current_time() + max(0.0, left)

    # Messages

    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        replies = self._replies = []
        for opcode, payload in messages:
            if self.cause is not None:
                break  # nothing is acted on after the cause of closing
            if opcode == _TEXT:
                try:
                    message = decode(payload)
                except RemoteProtocolError as error:
                    self._on_bad_message(error)
                else:
                    if self._inbox is None or message.type == "ping":
                        self._act(message)
                    else:
                        self._paused = not self._inbox.put(message, len(payload))
            elif opcode == _BINARY:
                self.end(CloseCause.UNSUPPORTED_DATA)
            elif answer := self._on_control(opcode, payload):
                replies.append(answer)
        self._replies = None
        if replies:
            self.owe(replies)

    def _act(self, message: Incoming) -> None:
        """Do what one message asks for, or start doing it."""
        request = self.requests.get(message.type)
        if self.state is _AUTHENTICATING and message.type not in _BEFORE_AUTHENTICATION:
            text = "authenticate first: send `authenticate` with the token in `data.token`"
            self.answer_error(message, RemoteProtocolError(text, ErrorCode.UNAUTHORIZED))
            return
        try:
            unfinished = self._run_other(message) if request is None else request(self, message)
        except ProtocolError as error:
            self.refuse(message, error)
        except Exception as error:  # noqa: BLE001 - containment: a handler of the program
            on_handler_error(self, message, error)
        else:
            if unfinished is not None:
                self._start_worker(finish(self, message, unfinished))

    def _run_other(self, message: Incoming) -> Awaitable[None] | None:
        """Let the program's handler of the message's type do it; return what is left to await."""
        return run_handler(self, message)

    # What cannot be done at once

    def _start_worker(self, first: Awaitable[None]) -> None:
        if self._inbox is not None:  # the worker itself has come upon something to wait for
            self._inbox.first(first)
            return
        self._inbox = Inbox(self.port.limits.max_inbox_size)
        self._inbox.first(first)
        assert self.nursery is not None  # noqa: S101 - messages come only while it is open
        self.nursery.start_soon(self._work, name=f"handlers of {self.id}")

    async def _work(self) -> None:
        """Work the inbox off, one message after the other; exists only while it is not empty."""
        inbox = self._inbox
        assert inbox is not None  # noqa: S101 - `_start_worker` has made it
        while (item := inbox.next()) is not None:
            if not isinstance(item, Incoming):
                await item
            elif self.cause is None:  # nothing is acted on after the cause of closing
                self._act(item)
        self._inbox = None
        if self._peer_closed:
            self.end(CloseCause.PEER_CLOSED)

    def _on_peer_closed(self) -> None:
        """End the connection once what came before the Close frame is worked off."""
        if self._inbox is None:
            self.end(CloseCause.PEER_CLOSED)
        else:
            self._end_for_peer_soon()

    async def _wait_for_room(self) -> None:
        if self._inbox is not None:
            await self._inbox.wait_for_room()
        self._paused = False

    # Answers

    def say(self, message_head: bytes, data: Any) -> bool:
        """Owe the peer one message: with the replies to a chunk at hand, or at once."""
        frame = encode_text(splice(message_head, data, self.port.tick.stamp()))
        replies = self._replies
        if replies is None:
            return super().owe([frame])
        replies.append(frame)
        return self.cause is None

    def owe(self, frames: list[bytes]) -> bool:
        """Owe the peer whole frames, in order with the replies to the chunk at hand."""
        if self._replies is None:
            return super().owe(frames)
        self._replies += frames
        return self.is_open

    def answer_error(self, message: Incoming | None, error: ProtocolError) -> None:
        """Tell the peer what went wrong, in answer to a message of its own where there is one."""
        self.errors += 1
        data = attrs.asdict(ErrorData(str(error.code), error.code.retryable))
        topic = error.topic
        request_id = None
        if message is not None:
            request_id = message.id
            topic = topic if topic is not None else message.topic
        self.say(head(MessageType.ERROR, topic, request_id, error.message), encode_value(data))

    def refuse(self, message: Incoming, error: ProtocolError) -> None:
        """Answer a message that cannot be done as asked."""
        if error.code is ErrorCode.BAD_MESSAGE and isinstance(error, RemoteProtocolError):
            self._on_bad_message(error, message)
        elif isinstance(error, LocalProtocolError):
            on_handler_error(self, message, error)
        else:
            self.answer_error(message, error)
            if error.close is not None:
                self.end(error.close)

    def _on_bad_message(self, error: RemoteProtocolError, message: Incoming | None = None) -> None:
        """Answer a bad message; a peer that goes on sending them is closed."""
        self.port.traffic.bad_messages += 1
        self.log("info", "bad_message", error=error.message)
        self.answer_error(message, error)
        if self._bad_strikes is None:
            self._bad_strikes = Strikes()
        if self._bad_strikes.strike(self.port.tick.now()):
            self.end(CloseCause.BAD_MESSAGES)

    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:
        message = None
        if opcode == _TEXT:
            with contextlib.suppress(RemoteProtocolError):
                message = decode(payload)  # for its `id`; there are a few, and then the end
        text = "you are sending too fast; this message was not acted on"
        self.answer_error(message, RemoteProtocolError(text, ErrorCode.RATE_LIMITED))


_BEFORE_AUTHENTICATION: Final = frozenset({"ping", "authenticate"})
