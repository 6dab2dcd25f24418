"""Connections that speak the message protocol: the common part of clients' and operators' sessions.

A chunk of bytes holds any number of messages. They are decoded and acted on in one loop, in the
connection's own task; the answers to them leave in one write at the end of the loop.

A message is acted on at once if that cannot block. If it can (the program has an async handler or
authorizer for it), a worker task awaits it. Until the worker has finished, every further message
but `ping` waits in an inbox, so that a client's messages are always acted on in the order in which
it sent them. When the inbox is full, the connection stops reading: the client's own socket holds
the client back, and nothing is lost.

A message about several topics counts as so many messages. The worker acts on them one by one, with
turns for other tasks in between, as if the client had sent each in a message of its own.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from sys import getsizeof
from typing import Any, Final

import attrs
import trio

from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, LocalProtocolError, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import Incoming, decode, encode_value, head, splice, timestamp
from ...protocol.messages.types import PROTOCOL_NAME, ErrorData, MessageType, Welcome
from ...protocol.websocket.frames import Opcode, encode_text
from ..connection.connection import Connection
from ..connection.inbox import Inbox
from ..connection.lifecycle import ConnectionState, move
from ..connection.limits import Strikes
from ..connection.mailbox import OverloadPolicy
from ..connection.shared import Shared
from ..containment import contain
from ..entrance.handshake import Accepted, awaits_token

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_AUTHENTICATING: Final = ConnectionState.AUTHENTICATING

_HEARTBEAT_HEAD: Final = head(MessageType.HEARTBEAT)

_PER_TURN: Final = 40
"""Topics of one message, and messages out of the inbox, that the worker acts on before other tasks
have a turn: 0.4 ms, without code of the program."""

_REFUSALS: Final = frozenset({ErrorCode.FORBIDDEN, ErrorCode.BAD_TOPIC, ErrorCode.NOT_SUBSCRIBED})
"""The errors of requests about topics that cost a client points (docs/protocol.md)."""

_ABOUT_TOPICS: Final = frozenset({"subscribe", "unsubscribe", "data"})

_MESSAGE_OVERHEAD: Final = 140
"""Bytes of an `Incoming` and of its `data` besides the fields and the payload, as tracemalloc
counts them (Python 3.11, msgspec 0.22)."""

_BEFORE_AUTHENTICATION: Final = frozenset({"ping", "authenticate"})

Request = Callable[[Any, Incoming], Awaitable[None] | None]
"""A function that does what a message asks for, given the connection and the message.

It replies, or raises the ProtocolError that becomes the answer. If something has to wait, it
returns an awaitable that does the rest.
"""


class MessageConnection(Connection):
    """The base of `SessionActor` and `AdminSession`: a connection of the message protocol."""

    __slots__ = (
        "_authenticate_by",
        "_expires_at",
        "_expiry_announced",
        "_inbox",
        "_replies",
        "_requests",
        "_several_refused",
        "_strikes",
    )

    def __init__(self, shared: Shared, accepted: Accepted, requests: Mapping[str, Request]) -> None:
        super().__init__(shared, accepted)
        self._requests = requests  # of the protocol itself, by message type
        # The replies to the present chunk, written together at its end; None between chunks.
        self._replies: list[bytes] | None = None
        self._inbox: Inbox[Incoming] | None = None  # None while there is no worker
        self._strikes: Strikes | None = None  # made with the first mistake
        # Whether one of the topics has been refused of the message whose topics are being worked
        # off; None while there is no such message.
        self._several_refused: bool | None = None
        self._authenticate_by: float | None = None  # in trio's time
        self._expires_at: float | None = None  # of the token and its leeway, in trio's time
        self._expiry_announced = False

    @abc.abstractmethod
    def _run_other(self, message: Incoming) -> Awaitable[None] | None:
        """Act as a `Request` on a message whose type is not one of `requests`."""

    def welcome_user(self) -> None:
        """Follow the first token, which has come by message: the connection is a user's now."""
        if self.state is _AUTHENTICATING:
            self.state = move(self.state, ConnectionState.OPEN)

    def _on_identity(self) -> None:
        """Follow a change of identity, which the supervisor has allowed."""

    # Welcome, and deadlines

    def _announce(self) -> list[bytes]:
        """Enter the first state, and tell the supervisor.

        Returns the frames that the program has sent to the connection meanwhile: they go after the
        welcome. The connection may be over afterwards.
        """
        if awaits_token(self.endpoint, self.identity):
            self.state = move(self.state, ConnectionState.AUTHENTICATING)
            self._authenticate_by = self.last_heard + self.shared.limits.authentication_timeout
        else:
            self.state = move(self.state, ConnectionState.OPEN)
        self._set_expiry()
        early = self._replies = []
        self.shared.life.arrived(self)
        self._replies = None
        return early

    def _say_welcome(self, topics: tuple[str, ...]) -> None:
        """Send the first message: who the peer is, and which topics it is subscribed to."""
        data = Welcome(
            self.id,
            PROTOCOL_NAME,
            self.shared.limits.heartbeat_interval,
            self.user_id,
            topics,
            expiry_text(self.identity),
        )
        self.say(head(MessageType.WELCOME), encode_value(data))

    def _heartbeat(self) -> list[bytes]:
        return [encode_text(splice(_HEARTBEAT_HEAD, None, self.shared.tick.stamp()))]

    def next_deadline(self) -> float:
        """Return the time of the next deadline, in trio's time."""
        deadline = super().next_deadline()
        if self._authenticate_by is not None:
            deadline = min(deadline, self._authenticate_by)
        if self._expires_at is not None:
            grace = self.shared.limits.token_grace if self._expiry_announced else 0.0
            deadline = min(deadline, self._expires_at + grace)
        return deadline

    def _on_deadline(self, now: float) -> None:
        if self._authenticate_by is not None and now >= self._authenticate_by:
            self.end(CloseCause.UNAUTHORIZED, reason="no token came in time")
            return
        if self._expires_at is not None and now >= self._expires_at:
            grace = self.shared.limits.token_grace
            if now >= self._expires_at + grace:
                self.end(CloseCause.TOKEN_EXPIRED)
                return
            if not self._expiry_announced:
                self._expiry_announced = True
                text = f"your token has expired; renew it with `authenticate` within {grace:g} s"
                self.answer_error(None, RemoteProtocolError(text, ErrorCode.TOKEN_EXPIRED))
        super()._on_deadline(now)

    def set_identity(self, identity: Identity) -> None:
        """Give the connection the identity of a token that has been verified.

        ProtocolError: a limit or a missing role forbids it; the connection stays as it was.
        """
        before, self.identity = self.identity, identity
        try:
            self.shared.life.authenticated(self, before)
        except ProtocolError:
            self.identity = before
            raise
        if identity.info is not None:
            self.metadata["info"] = identity.info
        self._authenticate_by = None
        self._set_expiry()
        self._on_identity()
        self._reschedule()

    def _set_expiry(self) -> None:
        """Make the token's wall-clock expiry a deadline in trio's time."""
        self._expiry_announced = False
        self._expires_at = None
        if self.identity.expires_at is not None:
            left = self.identity.expires_at - self.shared.tick.wall_time()
            left += self.shared.limits.jwt_leeway  # for as long as `verify` would accept the token
            self._expires_at = trio.current_time() + max(0.0, left)

    # Messages

    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        replies = self._replies = []
        for opcode, payload in messages:
            if self.cause is not None or self._ending is not None:
                break  # nothing is acted on after the cause of closing
            if opcode == _TEXT:
                try:
                    message = decode(payload)
                except RemoteProtocolError as error:
                    self._on_bad_message(error)
                else:
                    if self._inbox is None or message.type == "ping":
                        unfinished = self._begin(message)
                        if unfinished is not None:
                            self._start_worker(unfinished)
                    elif not self._inbox.put(message, _held_by(message, payload)):
                        self._paused = self._is_full = True
            elif opcode == _BINARY:
                self.end_soon(CloseCause.UNSUPPORTED_DATA)
            elif answer := self._on_control(opcode, payload):
                replies.append(answer)
        self._replies = None
        if replies:
            self.owe(replies)

    def _begin(self, message: Incoming) -> Awaitable[None] | None:
        """Do what one message asks for; return what must be awaited, if something has to wait."""
        request = self._requests.get(message.type)
        if self.state is _AUTHENTICATING and message.type not in _BEFORE_AUTHENTICATION:
            text = "authenticate first: send `authenticate` with the token in `data.token`"
            self.answer_error(message, RemoteProtocolError(text, ErrorCode.UNAUTHORIZED))
            return None
        try:
            unfinished = self._run_other(message) if request is None else request(self, message)
        except ProtocolError as error:
            self.refuse(message, error)
        except BaseException as error:  # noqa: BLE001 - a handler of the program may raise any
            contain(error, partial(self.on_handler_error, message))
        else:
            if unfinished is not None:
                return self.finish(message, unfinished)
        return None

    # Messages that have to wait

    async def finish(self, message: Incoming, unfinished: Awaitable[Any]) -> None:
        """Await the rest of a message, within `handler_timeout`; answer an error if it fails."""
        scope = trio.move_on_after(self.shared.limits.handler_timeout)
        task = trio.lowlevel.current_task()
        try:
            with scope:
                expect_nothing(message, await unfinished)
        except ProtocolError as error:
            self.refuse(message, error)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, partial(self.on_handler_error, message), task)
        if scope.cancelled_caught:
            self.shared.traffic.handler_timeouts += 1
            self.log("error", "handler_timed_out", message_type=message.type)
            self.answer_error(message, _too_late(message))

    def _start_worker(self, first: Awaitable[None]) -> None:
        if self._inbox is not None:  # called by the worker, whose next message has to wait, too
            self._inbox.put_first(first)
            return
        self._inbox = Inbox(self.shared.limits.max_inbox_size)
        self._inbox.put_first(first)
        assert self.nursery is not None  # noqa: S101 - messages come only while it is open
        self.nursery.start_soon(self._work, name=f"handlers of {self.id}")

    def act_on_each(self, message: Incoming, topics: Sequence[str]) -> None:
        """Act on a message about several topics as on so many messages, in the worker.

        Each counts for the rate limit. Those beyond it are refused, and the others acted on.
        """
        paid = len(topics)
        if self._rate is not None and paid > 1:
            paid = 1 + self._rate.pay(paid - 1, self.shared.tick.now())  # the first one has paid
        self._start_worker(self._work_on_each(message, topics, paid))

    async def _work_on_each(self, message: Incoming, topics: Sequence[str], paid: int) -> None:
        """Act on a message for each of its topics; all are answered, in order.

        Those for which `handler_timeout` leaves no time are refused. Only the first `paid` are
        within the rate limit.
        """
        give_up_at = trio.current_time() + self.shared.limits.handler_timeout
        self._several_refused = False
        replies = self._replies = []  # leave in one write before other tasks have a turn
        for count, topic in enumerate(topics):
            if self.cause is not None:
                break
            part = Incoming(message.type, topic, id=message.id)
            unfinished = None
            if count >= paid:
                self.answer_error(part, _too_fast())
            elif trio.current_time() >= give_up_at:
                self.answer_error(part, _too_late(part))
            else:
                unfinished = self._begin(part)
            if unfinished is None and (count + 1) % _PER_TURN:
                continue
            replies = await self._end_turn(replies, unfinished)
        self._send_replies(replies)
        refused, self._several_refused = self._several_refused, None
        if refused:
            self._on_refusal()
        if paid < len(topics):
            self._on_unpaid(len(topics) - paid)
        await trio.lowlevel.checkpoint()  # many short lists must not make one long turn

    def _on_unpaid(self, topics: int) -> None:
        """Count the topics of a message that were beyond the rate limit: one strike for all."""
        self.shared.traffic.rate_limited += topics
        assert self._rate is not None  # noqa: S101 - it has refused them
        if self._rate.strike(self.shared.tick.now()):
            self.end(CloseCause.RATE_LIMITED)

    def _send_replies(self, replies: list[bytes]) -> None:
        """Write the replies that the worker has collected; from now on each leaves at once."""
        self._replies = None
        if replies:
            self.owe(replies)

    async def _end_turn(
        self, replies: list[bytes], unfinished: Awaitable[None] | None
    ) -> list[bytes]:
        """Write the worker's replies, and let other tasks have a turn; return its next replies.

        If a message has to wait, that is awaited.
        """
        self._send_replies(replies)
        if unfinished is None:
            await trio.lowlevel.checkpoint()
        else:
            await unfinished
        self._replies = replies = []
        return replies

    async def _work(self) -> None:
        """Work the inbox off, one message after the other; the task ends when it is empty."""
        inbox = self._inbox
        assert inbox is not None  # noqa: S101 - `_start_worker` has made it
        replies = self._replies = []  # leave in one write before other tasks have a turn
        acted_on = 0
        while (item := inbox.take()) is not None:
            if isinstance(item, Incoming):
                if self.cause is not None:
                    continue  # nothing is acted on after the cause of closing
                unfinished = self._begin(item)
                acted_on += 1
            else:
                unfinished = item
            if unfinished is None and acted_on % _PER_TURN:
                continue
            replies = await self._end_turn(replies, unfinished)
        self._send_replies(replies)
        self._inbox = None
        if self._ending is not None and not self._has_work():
            self._finish()

    def _has_work(self) -> bool:
        return self._inbox is not None

    async def _wait_for_room(self) -> None:
        if self._inbox is not None:
            await self._inbox.wait_for_room()

    # Answers

    def say(self, message_head: bytes, data: Any) -> bool:
        """Send the peer one message: with the replies to the present chunk, or else at once.

        Returns False if the connection is over.
        """
        frame = encode_text(splice(message_head, data, self.shared.tick.stamp()))
        replies = self._replies
        if replies is None:
            return super().owe([frame])
        replies.append(frame)
        return self.cause is None

    def owe(self, frames: list[bytes], policy: OverloadPolicy = OverloadPolicy.DISCONNECT) -> bool:
        """Send the peer whole frames, behind the replies to the present chunk."""
        if self._replies is None:
            return super().owe(frames, policy)
        self._replies += frames
        return self.is_open

    def write_replies(self) -> bool:
        """Write the replies to the present chunk; False while the welcome has not been said."""
        if self._replies is not None:
            if not self.mailbox.bytes_out:
                return False
            if self._replies:
                super().owe(self._replies)
                self._replies.clear()
        return True

    def _release(self) -> None:
        super()._release()
        self._inbox = None

    def answer_error(self, message: Incoming | None, error: ProtocolError) -> None:
        """Send the peer an `error`, in answer to its message if there is one."""
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
            self.on_handler_error(message, error)
        else:
            self.answer_error(message, error)
            if error.close is not None:
                self.end(error.close)
            elif error.code in _REFUSALS and message.type in _ABOUT_TOPICS:
                if self._several_refused is None:
                    self._on_refusal()
                else:
                    self._several_refused = True

    def on_handler_error(self, message: Incoming, error: BaseException) -> None:
        """Log a handler's failure, and tell the peer only that there was one."""
        self.shared.traffic.handler_errors += 1
        self.log("error", "handler_failed", message_type=message.type, exc_info=error)
        text = f"`{message.type}` failed on the server"
        self.answer_error(message, RemoteProtocolError(text, ErrorCode.INTERNAL))

    def _on_bad_message(self, error: RemoteProtocolError, message: Incoming | None = None) -> None:
        """Answer a bad message; close a peer that goes on sending them."""
        self.shared.traffic.bad_messages += 1
        self.log("info", "bad_message", error=error.message)
        self.answer_error(message, error)
        self.strike()

    def strike(self) -> None:
        """Count a mistake of the peer; close a peer that goes on making them."""
        if self._mistakes().strike(self.shared.tick.now()):
            self.end(CloseCause.BAD_MESSAGES)

    def _on_refusal(self) -> None:
        """Count a request that the peer may not make; close a peer that goes on making them."""
        if self._mistakes().refusal(self.shared.tick.now()):
            self.end(CloseCause.BAD_MESSAGES)

    def _mistakes(self) -> Strikes:
        if self._strikes is None:
            self._strikes = Strikes()
        return self._strikes

    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:
        message = None
        if opcode == _TEXT:
            with contextlib.suppress(RemoteProtocolError):
                message = decode(payload)  # for its `id`; few are decoded before the peer is closed
        self.answer_error(message, _too_fast())


def _too_fast() -> RemoteProtocolError:
    text = "you are sending too fast; this message was not acted on"
    return RemoteProtocolError(text, ErrorCode.RATE_LIMITED)


def _too_late(message: Incoming) -> RemoteProtocolError:
    text = f"`{message.type}` was not done in time, and was given up"
    return RemoteProtocolError(text, ErrorCode.TIMEOUT)


def _held_by(message: Incoming, payload: bytes) -> int:
    """Return how many bytes a message holds in memory while it waits.

    `data` is a part of the payload; the other fields are values of their own.
    """
    fields = (message.type, message.topic, message.id, message.error, message.timestamp)
    size = _MESSAGE_OVERHEAD + getsizeof(payload) + getsizeof(message.epoch)
    return size + sum(map(getsizeof, fields))


def expect_nothing(message: Incoming, result: object) -> None:
    """Raise TypeError for a value that a handler returned, since it would be lost."""
    if result is not None:
        text = (
            f"the handler of {message.type!r} returned a {type(result).__name__}, which goes "
            "nowhere; to answer a message, call `context.reply(type, data)`"
        )
        raise TypeError(text)


def expiry_text(identity: Identity) -> str | None:
    """Return the time at which a token expires, as messages have it; None if it never does."""
    return None if identity.expires_at is None else timestamp(identity.expires_at).decode()
