"""The connection actor: one task that reads a peer, keeps time, and says goodbye.

    accepted -> receive, under a scope whose deadline is the next thing that time brings
             -> the first cause of closing wins -> goodbye (shielded, bounded) -> closed

Everything that a connection starts lives in its nursery and dies with it: the writer, which exists
only while the kernel's buffer is full, an endpoint's handler, the worker that runs async message
handlers. There is no other clean-up, and no other place where a connection ends.

The deadline of the receive loop is moved lazily. An active connection never touches it: when it
expires, the actor looks at when the peer was last heard, and waits on from there.

This class knows frames and time, and its base, `Writing`, what the peer is owed. What the messages
mean is the business of its two kinds: `Session` speaks the message protocol, `RawConnection` hands
messages over as they are.
"""

from __future__ import annotations

import abc
import math
from typing import Any

import trio

from ...protocol.closing import CloseCause
from ...protocol.websocket.frames import (
    FrameReader,
    Opcode,
    encode_close,
    encode_ping,
    encode_pong,
    parse_close,
)
from ..entrance.handshake import Accepted
from ..ports import ActorPort
from ..transports.transport import CHUNK
from .goodbye import finish_closing
from .lifecycle import State, move
from .limits import RateLimit
from .mailbox import OverloadPolicy
from .writing import Writing

_CLOSE = int(Opcode.CLOSE)
_PING = int(Opcode.PING)


class Connection(Writing):
    """One peer's connection. `run` is its task; everything else is synchronous."""

    __slots__ = (
        "_close_code",
        "_close_frame",
        "_paused",
        "_peer_close_code",
        "_peer_closed",
        "_ping_sent_at",
        "_pings",
        "_rate",
        "_reader",
        "_rest",
        "_scope",
        "address",
        "bytes_in",
        "connected_at",
        "endpoint",
        "errors",
        "identity",
        "last_heard",
        "messages_in",
        "metadata",
        "rtt",
        "state",
        "topics",
    )

    def __init__(self, port: ActorPort, accepted: Accepted) -> None:
        super().__init__(port, accepted.transport)
        self.endpoint = accepted.endpoint
        self.identity = accepted.identity
        self.address = accepted.address
        self.metadata: dict[str, Any] = accepted.metadata
        self.topics: dict[str, bool] = {}  # subscribed to -> whether the client asked for it
        self.state = State.OPENING
        self.connected_at = port.tick.wall_time()
        self.last_heard = port.tick.now()
        self.rtt: float | None = None  # seconds between a Ping of ours and its Pong
        self.messages_in = 0
        self.bytes_in = 0
        self.errors = 0  # `error` messages sent to this peer
        limits = port.limits
        self._reader = FrameReader(accepted.endpoint.max_message_size or limits.max_message_size)
        self._rest = accepted.rest
        self._scope: trio.CancelScope | None = None  # the receive loop's, for its deadline
        self._paused = False  # whether there is enough to do before more is read
        self._ping_sent_at = -math.inf  # unanswered while nothing was heard since
        self._pings = 0
        self._peer_closed = False
        self._peer_close_code: int | None = None
        self._close_code: int | None = None
        self._close_frame = b""  # what says so to the peer; empty: nothing can be sent
        self._rate: RateLimit | None = None  # made with the first chunk: the idle need none

    @property
    def user_id(self) -> str | None:
        """The user that the token names; None for an anonymous connection."""
        return self.identity.user_id

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line about this connection."""
        self.port.supervisor.log_event(
            level, event, connection_id=self.id, user_id=self.user_id, **fields
        )

    # What the two kinds of connection do, each in its own way.

    @abc.abstractmethod
    def _arrive(self) -> None:
        """Say hello, and start what runs beside the connection."""

    @abc.abstractmethod
    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        """Do what a chunk's data messages ask for. Control frames are among them."""

    @abc.abstractmethod
    def _heartbeat(self) -> bytes:
        """Return what is written beside the Ping, as whole frames; b"" for nothing."""

    @abc.abstractmethod
    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:
        """Tell the peer that a message was refused, where its protocol has words for that."""

    @abc.abstractmethod
    def _on_peer_closed(self) -> None:
        """End the connection as its peer wants, be it after what came before the Close frame."""

    @abc.abstractmethod
    async def _wait_for_room(self) -> None:
        """Wait, while `_paused`, for what was received to be worked off before more is read."""

    def next_deadline(self) -> float:
        """Return when time itself will end or change something, in trio's time."""
        limits = self.port.limits
        if self.is_probed:
            quiet = self._ping_sent_at + limits.pong_timeout
        else:
            quiet = self.last_heard + limits.heartbeat_interval
        return min(quiet, self.last_heard + limits.connection_timeout)

    def _on_deadline(self, now: float) -> None:
        """Do what is due at this time: a heartbeat, or the end."""
        limits = self.port.limits
        if self._paused:  # nobody is listening, so silence says nothing; but the peer may wonder
            if now >= self.last_heard + limits.heartbeat_interval:
                self.probe()
            self.last_heard = max(now, self.port.tick.now())
        elif now >= self.last_heard + limits.connection_timeout:
            self.end(CloseCause.CONNECTION_TIMEOUT)
        elif self.is_probed:
            if now >= self._ping_sent_at + limits.pong_timeout:
                self.end(CloseCause.HEARTBEAT_TIMEOUT)
        elif now >= self.last_heard + limits.heartbeat_interval:
            self.probe()

    @property
    def is_probed(self) -> bool:
        """Whether a heartbeat is unanswered: nothing at all was heard since."""
        return self._ping_sent_at > self.last_heard

    def probe(self) -> None:
        """Ask the peer for a sign of life; without one it is closed after `pong_timeout`."""
        if self.is_probed:
            return  # asking again would only put the end off
        self._ping_sent_at = self.port.tick.now()
        self._pings += 1
        self.port.traffic.heartbeats += 1
        ping = encode_ping(self._pings.to_bytes(4)) + self._heartbeat()
        self.put(ping, policy=OverloadPolicy.BACKPRESSURE)  # so little is nobody's overload
        self._reschedule()

    # The end

    @property
    def close_code(self) -> int | None:
        """What our Close frame carries or carried; None if there is none."""
        return self._close_code

    @property
    def is_open(self) -> bool:
        """Whether the connection has no cause of closing yet."""
        return self.cause is None

    def end(self, cause: CloseCause, *, code: int | None = None, reason: str | None = None) -> bool:
        """Begin the end of this connection; returns at once. The first cause wins.

        `code` and `reason` go into the Close frame instead of the cause's own. Returns False if the
        connection was ending already. ValueError: no Close frame can carry them; nothing happens.
        """
        if self.cause is not None:
            return False
        close_frame = b""
        if cause is CloseCause.PEER_CLOSED:
            code = self._peer_close_code
            close_frame = encode_close(code)
        elif cause.code is not None:
            code = cause.code if code is None else code
            close_frame = encode_close(code, cause.reason if reason is None else reason)
        self.cause = cause
        self._close_code, self._close_frame = code, close_frame
        self.state = move(self.state, State.CLOSING)
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()
        return True

    async def run(self) -> None:
        """Live: receive until there is a cause to close, then say goodbye.

        Raises nothing of its own. Cancelling is safe: the goodbye is shielded, and bounded by
        `close_timeout`.
        """
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as self.nursery:
                self._arrive()
                await self._receive()
                self.nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # a nursery raises nothing else
            error, others = group.split(Exception)
            if error is not None:
                self.end(CloseCause.INTERNAL_ERROR)  # containment: it goes no further
            if others is not None:
                raise others from None
        finally:
            self.nursery = None
            self.end(CloseCause.STOPPED)  # unless there is a cause, this was cancelled from outside
            assert self.cause is not None  # noqa: S101 - `end` has seen to it
            try:
                deadline = trio.current_time() + self.port.limits.close_timeout
                with trio.CancelScope(deadline=deadline, shield=True):
                    await self._say_goodbye()
            except Exception as failure:  # noqa: BLE001 - containment
                error = error or failure
            finally:
                self.transport.close()
                self.mailbox.close()
                self.state = move(self.state, State.CLOSED)
                self.port.supervisor.ended(self, self.cause, error)

    async def _receive(self) -> None:
        """Read until there is a cause to close."""
        read = self.transport.read_some
        if self._rest:
            self._on_chunk(self._rest)
            self._rest = b""
        while self.cause is None:
            with trio.CancelScope(deadline=self.next_deadline()) as self._scope:
                while self.cause is None:
                    if self._paused:
                        await self._wait_for_room()
                        self.last_heard = trio.current_time()  # nobody was listening meanwhile
                    try:
                        chunk = read(CHUNK)
                    except BlockingIOError:
                        chunk = None
                    except OSError:
                        self.end(CloseCause.PEER_VANISHED)
                        return
                    if chunk is None:
                        # Not in the handler above: the exception would be kept for as long as the
                        # connection is idle, 0.8 KB of it with its traceback.
                        await self.transport.wait_readable()
                        continue
                    if not chunk:
                        if self._peer_closed:  # `_on_peer_closed` has seen to the end
                            await trio.sleep_forever()
                        self.end(CloseCause.PEER_VANISHED)
                        return
                    self._on_chunk(chunk)
                    if self._paused:
                        continue
                    if len(chunk) == CHUNK:
                        await trio.lowlevel.checkpoint()  # there is more, but others wait too
                    elif self.cause is None:
                        await self.transport.wait_readable()
            if self._scope.cancelled_caught:
                self._on_deadline(trio.current_time())

    def _on_chunk(self, chunk: bytes) -> None:
        """Do all that one chunk asks for, and write all that it is answered with at once."""
        now = self.last_heard = self.port.tick.now()  # any bytes count as life
        messages = self._reader.feed(chunk)
        count = len(messages)
        traffic = self.port.traffic
        traffic.messages_in += count
        traffic.bytes_in += len(chunk)
        self.messages_in += count
        self.bytes_in += len(chunk)
        if self._rate is None:
            self._rate = RateLimit(self.port.limits, now)
        allowed, exceeded = self._rate.allow(count, len(chunk), now)
        if exceeded:
            self._on_messages(messages[:allowed])
            self._on_rate_exceeded(messages[allowed:], now)
        elif messages:
            self._on_messages(messages)
        failure = self._reader.failure
        if failure is not None:
            self.end(failure.close or CloseCause.PROTOCOL_ERROR, reason=failure.message)

    def _on_rate_exceeded(self, refused: list[tuple[int, bytes]], now: float) -> None:
        """Refuse messages beyond the rate; a peer that goes on is closed."""
        assert self._rate is not None  # noqa: S101 - it has refused them
        self.port.traffic.rate_limited += len(refused)
        if not refused and self._rate.strike(now):  # bytes that complete no message
            self.end(CloseCause.RATE_LIMITED)
        for opcode, payload in refused:
            if self.cause is not None:
                return
            if opcode == _CLOSE:
                self._on_control(opcode, payload)
            elif self._rate.strike(now):
                self.end(CloseCause.RATE_LIMITED)
            else:
                self._refuse_for_rate(opcode, payload)

    def _on_control(self, opcode: int, payload: bytes) -> bytes:
        """Do what a control frame asks for; return the answer's frame, or b""."""
        if opcode == _PING:
            return encode_pong(payload)
        if opcode == _CLOSE:
            self._peer_closed = True
            # "the endpoint typically echos the status code it received" (RFC 6455, 5.5.1)
            self._peer_close_code, _ = parse_close(payload)
            self._on_peer_closed()
        elif self._pings and payload == self._pings.to_bytes(4):
            self.rtt = self.port.tick.now() - self._ping_sent_at
            self._reschedule()  # the next heartbeat may be due before `pong_timeout` was
        return b""

    def _end_for_peer_soon(self) -> None:
        """Give what the peer asked for before its Close frame `close_timeout` to be done."""
        assert self.nursery is not None  # noqa: S101 - messages come only while it is open
        self.nursery.start_soon(self._end_for_peer, name=f"end of {self.id}")

    async def _end_for_peer(self) -> None:
        await trio.sleep(self.port.limits.close_timeout)  # being done comes first, mostly
        self.end(CloseCause.PEER_CLOSED)

    # The goodbye

    def _farewell(self) -> bytes:
        """Return what is said before the Close frame, as whole frames; b"" for nothing."""
        return b""

    async def _say_goodbye(self) -> None:
        """Send a Close frame behind what is still owed, and wait for the peer's."""
        if not self._close_frame:
            return  # nothing can be sent any more
        for topic in tuple(self.topics):  # what was published before the end comes before it
            self.port.supervisor.unsubscribe(self, topic)
        if self.cause is CloseCause.SLOW_CONSUMER:
            self.mailbox.discard_waiting()
        self.mailbox.put_last(self._farewell() + self._close_frame)
        try:
            await finish_closing(
                self.transport, self.mailbox, self._reader, peer_closed=self._peer_closed
            )
        except OSError:
            return  # the peer is gone, which is where this was leading

    def _reschedule(self) -> None:
        """Let the receive loop wait for a deadline that has come nearer."""
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self.next_deadline())
