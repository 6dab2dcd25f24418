"""The connection actor: one task that reads from a peer, keeps time, and closes the connection.

    accepted -> receive, under a scope whose deadline is the connection's next one
             -> the first cause of closing wins -> goodbye (shielded, bounded) -> closed

Everything that a connection starts is in its nursery and ends with it: the writer, which exists
only while the kernel's buffer is full, an endpoint's function, the worker that runs async message
handlers. There is no other clean-up, and no other place where a connection ends.

The deadline of the receive loop is moved lazily. An active connection never moves it: when it
expires, the actor looks at the time at which the peer was last heard, and waits on from there.

This class knows frames, time, and what the peer is owed. Its subclasses know what messages mean:
`MessageConnection` speaks the message protocol, for clients and for operators, and `RawActor` hands
messages over as they are.
"""

from __future__ import annotations

import abc
import math
import secrets
from typing import Any, Final
from zlib import crc32

import trio

from ...protocol.closing import CloseCause
from ...protocol.websocket.frames import (
    FrameReader,
    Opcode,
    encode_ping,
    encode_pong,
    parse_close,
)
from ..containment import contain
from ..entrance.handshake import Accepted
from ..transports.transport import CHUNK
from .closable import Closable
from .goodbye import finish_closing
from .lifecycle import ConnectionState, move
from .limits import RateLimit, sort_turn
from .mailbox import Mailbox, OverloadPolicy, Verdict
from .shared import Shared

_READS_NOTHING: Final = FrameReader(0)
"""The reader of every connection that is over."""

_CLOSE: Final = int(Opcode.CLOSE)
_PING: Final = int(Opcode.PING)

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_SENT: Final = Verdict.SENT
_LOST: Final = (Verdict.OVERFLOWED, Verdict.CLOSED)


class Connection(Closable):
    """The connection of one peer. `run` is its task; what others call is synchronous."""

    __slots__ = (
        "_begun",
        "_begun_at",
        "_end_by",
        "_is_full",
        "_paused",
        "_peer_closed",
        "_ping_sent_at",
        "_pings",
        "_rate",
        "_read_again_at",
        "_reader",
        "_rest",
        "_scope",
        "_writing",
        "_written",
        "address",
        "began",
        "bytes_in",
        "connected_at",
        "endpoint",
        "errors",
        "last_heard",
        "mailbox",
        "messages_in",
        "metadata",
        "rtt",
        "transport",
    )

    def __init__(self, shared: Shared, accepted: Accepted) -> None:
        super().__init__(shared, secrets.token_urlsafe(12), accepted.identity)
        self.transport = accepted.transport
        self.mailbox = Mailbox(accepted.transport.write_some, shared.mailbox)
        self._writing = False  # whether there is a writer task
        self._written: trio.Event | None = None  # set when all is written; `wait_written` waits
        self.endpoint = accepted.endpoint
        self.address = accepted.address
        self.metadata: dict[str, Any] = accepted.metadata
        self.connected_at = shared.tick.wall_time()
        # In trio's time: the wall clock may jump, and so measures no durations.
        self.began = self.last_heard = shared.tick.now()
        self.rtt: float | None = None  # seconds between our latest answered Ping and its Pong
        self.messages_in = 0
        self.bytes_in = 0
        self.errors = 0  # `error` messages sent to this peer; shown to operators
        limits = shared.limits
        self._reader = FrameReader(accepted.endpoint.max_message_size or limits.max_message_size)
        self._rest = accepted.rest
        self._scope: trio.CancelScope | None = None  # the receive loop's, for its deadline
        self._paused = False  # whether something stands before the next read: see `_wait_to_read`
        self._is_full = False  # whether it is that earlier messages must be worked off
        self._read_again_at = -math.inf  # trio's time; later than now for a peer that is too fast
        self._begun: int = 0  # the reader's number of the unfinished message,
        self._begun_at = 0.0  # and when its first bytes came, in trio's time
        self._ping_sent_at = -math.inf  # trio's time; unanswered while nothing was heard since
        self._pings = 0
        self._peer_closed = False
        self._end_by = math.inf  # trio's time at which the goodbye ends at the latest
        self._rate: RateLimit | None = None  # made with the first chunk: idle peers need none

    # What each kind of connection does in its own way

    @abc.abstractmethod
    def _arrive(self) -> None:
        """Enter the first state, tell the supervisor, and start what runs beside the connection."""

    @abc.abstractmethod
    def _on_messages(self, messages: list[tuple[int, bytes]]) -> None:
        """Do what the messages of one chunk ask for: data messages and control frames."""

    @abc.abstractmethod
    def _heartbeat(self) -> list[bytes]:
        """Return the frames that a heartbeat has besides the Ping."""

    @abc.abstractmethod
    def _refuse_for_rate(self, opcode: int, payload: bytes) -> None:
        """Tell the peer that a message was refused, where its protocol has words for that."""

    @abc.abstractmethod
    async def _wait_for_room(self) -> None:
        """Wait until more may be read, since what was received has been worked off."""

    def next_deadline(self) -> float:
        """Return the time of the next deadline, in trio's time."""
        if self._paused:  # see `_on_deadline`; what else is due is found when it reads again
            return self._heartbeat_due()
        limits = self.shared.limits
        if self.is_probed:
            quiet = self._ping_sent_at + limits.pong_timeout
        else:
            quiet = self._heartbeat_due()
        deadline = min(quiet, self.last_heard + limits.connection_timeout)
        if self._reader.unfinished:
            deadline = min(deadline, self._begun_at + limits.message_timeout)
        return deadline

    def _heartbeat_due(self) -> float:
        """Return the time of the next heartbeat, in trio's time, unless the peer is heard before.

        Each connection has its own, up to a tenth of the interval early: peers that were all heard
        at the same time, such as the subscribers of a topic, must not all be probed in one turn.
        """
        early = crc32(self.id.encode()) % 256 / 2560
        return self.last_heard + self.shared.limits.heartbeat_interval * (1.0 - early)

    def _on_deadline(self, now: float) -> None:
        """Do what is due at this time: send a heartbeat, or end the connection."""
        limits = self.shared.limits
        if self._paused:  # nothing is read, so silence proves nothing; the peer still needs a sign
            if now >= self._heartbeat_due():
                self.probe()
            self._pass_over(max(now, self.shared.tick.now()))
        elif now >= self.last_heard + limits.connection_timeout:
            self.end(CloseCause.CONNECTION_TIMEOUT)
        elif self._reader.unfinished and now >= self._begun_at + limits.message_timeout:
            self.end(CloseCause.MESSAGE_TIMEOUT)
        elif self.is_probed:
            if now >= self._ping_sent_at + limits.pong_timeout:
                self.end(CloseCause.HEARTBEAT_TIMEOUT)
        elif now >= self._heartbeat_due():
            self.probe()

    def _pass_over(self, now: float) -> None:
        """Count the time since the last bytes neither as silence nor as a message's: it was ours.

        Nothing was read in it.
        """
        self._begun_at += now - self.last_heard
        self.last_heard = now

    @property
    def is_probed(self) -> bool:
        """Whether a heartbeat is unanswered: nothing at all was heard since it was sent."""
        return self._ping_sent_at > self.last_heard

    def probe(self) -> None:
        """Ask the peer for a sign of life; without one it is closed after `pong_timeout`."""
        if self.is_probed:
            return  # a second Ping would only put the deadline off
        self._ping_sent_at = self.shared.tick.now()
        self._pings += 1
        self.shared.traffic.heartbeats += 1
        frames = [encode_ping(self._pings.to_bytes(4)), *self._heartbeat()]
        self.owe(frames, OverloadPolicy.BACKPRESSURE)  # too small to count as overload
        self._reschedule()

    # What the peer is owed

    def owe(self, frames: list[bytes], policy: OverloadPolicy = OverloadPolicy.DISCONNECT) -> bool:
        """Put whole frames into the mailbox, behind all that the peer is owed already. Never waits.

        With the policy BACKPRESSURE nothing is refused for lack of room; the caller must then put
        nothing more until there is room. Returns False when the peer will not get the frames: the
        connection is over, or ends now.
        """
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        verdict = self.mailbox.put(data, len(frames), None, policy)
        if verdict is not _SENT and not self.act_on(verdict):
            return False
        traffic = self.shared.traffic
        traffic.messages_out += len(frames)
        traffic.bytes_out += len(data)
        return True

    def act_on(self, verdict: Verdict) -> bool:
        """Do what the mailbox's verdict demands; it must be called for every one but SENT.

        Returns True if the peer will get what was put, or a gap in its place.
        """
        if verdict is Verdict.OVERFLOWED:
            self.end(CloseCause.SLOW_CONSUMER)
        elif verdict is Verdict.CLOSED:
            self._on_broken()
        elif not self._writing and self.nursery is not None and self.cause is None:
            self._writing = True
            self.nursery.start_soon(self._write_waiting, name=f"writer of {self.id}")
        if self.mailbox.losses:
            self._account_for_losses()
        return verdict not in _LOST

    def _account_for_losses(self) -> None:
        """Count and report what an overload policy has dropped; `owe` has counted it as sent."""
        losses, size = self.mailbox.take_losses()
        traffic = self.shared.traffic
        traffic.bytes_out -= size
        for topic, messages in losses.items():
            traffic.messages_out -= messages
            traffic.deliveries_dropped += messages
            self._report_dropped(topic, messages)

    def _report_dropped(self, topic: str, messages: int) -> None:
        self.log("warning", "dropped", topic=topic, messages=messages)

    async def wait_written(self) -> None:
        """Wait until nothing is owed to the peer any more, or the connection ends.

        Cancelling is safe.
        """
        while self.mailbox.size and self.cause is None:
            if self._written is None:
                self._written = trio.Event()
            await self._written.wait()

    async def _write_waiting(self) -> None:
        """Write what waits, as the socket takes it; end if it takes nothing for `write_timeout`.

        This task exists only while the kernel's buffer is full.
        """
        try:
            while not self.mailbox.flush():
                with trio.move_on_after(self.shared.limits.write_timeout) as scope:
                    await self.transport.wait_writable()
                if scope.cancelled_caught:
                    self.end(CloseCause.WRITE_TIMEOUT)
                    return
        except OSError:
            self._on_broken()
        finally:  # also when the connection is over: `wait_written` must return then
            self._writing = False
            if self._written is not None:
                self._written.set()
                self._written = None

    # The end

    def end_soon(self, cause: CloseCause, *, reason: str | None = None) -> None:
        """End this connection for what was read last, after all that was read before."""
        self._paused = True  # nothing more is read
        super().end_soon(cause, reason=reason)

    async def run(self) -> None:
        """Receive until there is a cause of closing, then say goodbye: the connection's task.

        Raises nothing of its own. Cancelling is safe: the goodbye is shielded, and bounded by
        `close_timeout`.
        """
        task = trio.lowlevel.current_task()
        in_turn = False
        try:
            async with trio.open_nursery() as self.nursery:
                try:
                    self._arrive()
                    in_turn = await self._receive()
                # If it left the block, Trio would make a cycle of this task's frames and those of
                # its child tasks.
                except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                    contain(error, self.fail, task)
                finally:
                    self.nursery.cancel_scope.cancel()
                    if self.nursery.child_tasks:
                        self.shared.life.lingers(self)
        except BaseException as error:  # noqa: BLE001 - as above
            contain(error, self.fail, task)
        finally:
            self.nursery = None
            self.end(CloseCause.STOPPED)  # without a cause so far, it was cancelled from outside
            try:
                await self._end_in_turn(in_turn=in_turn)
            except BaseException as error:  # noqa: BLE001 - as above
                contain(error, self.fail, task)
            finally:
                self._leave()

    async def _end_in_turn(self, *, in_turn: bool) -> None:
        """Say goodbye, within `close_timeout`, and return when a turn has room for the end.

        `in_turn` tells that the present one has room for the goodbye.
        """
        wait_for_turn = self.shared.pacer.wait
        with trio.CancelScope(shield=True) as scope:
            if not in_turn:
                await wait_for_turn()
            # Where nothing can be sent there is nothing to wait for: one deadline less, of which
            # Trio keeps those that are over, and prunes all of them in one turn.
            if self._close_frame:
                deadline = trio.current_time() + self.shared.limits.close_timeout
                scope.deadline = min(deadline, self._end_by)
                self._scope = scope
                await self._say_goodbye()
        # What follows is the most expensive part, and many may have come to it in the same turn,
        # such as those whose peers have just answered a goodbye.
        with trio.CancelScope(shield=True):
            await wait_for_turn()

    def _leave(self) -> None:
        """Close the transport, and tell the supervisor of the end, whatever fails meanwhile."""
        try:
            self.transport.close()
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, self.fail)
        finally:
            self._release()
            self.state = move(self.state, ConnectionState.CLOSED)
            assert self.cause is not None  # noqa: S101 - `run` has ended it
            self.shared.life.ended(self, self.cause)

    def _release(self) -> None:
        """Let go of all that was buffered: a program may keep a handle for as long as it likes."""
        self.mailbox.close()
        self._reader = _READS_NOTHING
        self._rest = b""

    def fail(self, error: BaseException) -> None:
        """End the connection for a failure that no other boundary has contained.

        What has failed once may fail again in the goodbye; one log line tells of it.
        """
        if self.cause is not CloseCause.INTERNAL_ERROR:
            self.log("error", "connection_failed", exc_info=error)
        self.end(CloseCause.INTERNAL_ERROR)

    def _on_endpoint_error(self, error: BaseException) -> None:
        """End the connection, since the endpoint's function has failed."""
        self.shared.traffic.handler_errors += 1
        self.log("error", "endpoint_failed", path=self.endpoint.path, exc_info=error)
        self.end(CloseCause.INTERNAL_ERROR)

    def hurry(self, deadline: float) -> None:
        """Let the goodbye end by that time, in trio's time, whatever the peer does until then."""
        self._end_by = deadline
        if self.cause is not None and self.nursery is None and self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)

    async def _receive(self) -> bool:
        """Read until there is a cause of closing.

        Returns whether it has asked the pacer already, and may end in this turn of the loop.
        """
        read = self.transport.read_some
        if self._rest:
            self._on_chunk(self._rest, len(self._rest))
            self._rest = b""
        while self.cause is None:
            if self._ending is not None:  # what is worked off ends the connection
                await trio.sleep_forever()
            with trio.CancelScope(deadline=self.next_deadline()) as self._scope:
                while self.cause is None:
                    if self._paused:
                        if self._ending is not None:
                            break
                        await self._wait_to_read()
                        continue
                    try:
                        chunk = read(CHUNK)
                    except BlockingIOError:
                        chunk = None
                    except OSError:
                        return await self._vanish()
                    if chunk is None:
                        # Inside the `except` clause above, the exception and its traceback, 0.8 KB,
                        # would be kept for as long as the connection is idle.
                        await self.transport.wait_readable()
                        continue
                    if not chunk:
                        if self._vanishes_at_once():
                            return await self._vanish()
                        break
                    self._on_chunk(chunk, len(chunk))
                    is_full = len(chunk) == CHUNK
                    del chunk  # an idle connection would hold it until the next one comes
                    if self._paused:
                        continue
                    if is_full:
                        await trio.lowlevel.checkpoint()  # there is more, but other tasks wait too
                    elif self.cause is None:
                        await self.transport.wait_readable()
            if self._scope.cancelled_caught:
                await self.shared.pacer.wait()  # the deadlines of many may have come at once
                self._on_deadline(trio.current_time())
        return False

    async def _vanish(self) -> bool:
        """End, in a turn that has room for it, since the peer has gone; return True."""
        await self.shared.pacer.wait()  # many peers may have gone in the same turn
        self.end(CloseCause.PEER_VANISHED)
        return True

    async def _wait_to_read(self) -> None:
        """Wait for what stands before the next read, and read what the last one has left."""
        if trio.current_time() < self._read_again_at:
            await trio.sleep_until(self._read_again_at)
        else:
            await trio.lowlevel.checkpoint()  # between two turns of one chunk
        if self._is_full:
            await self._wait_for_room()
            self._is_full = False
        self._pass_over(trio.current_time())
        self._paused = False
        if self._reader.has_more:
            self._on_chunk(b"", self._reader.unread)
            if not self._reader.has_more:
                await trio.lowlevel.checkpoint()  # the next read is another turn
        if not self._paused:
            self._reschedule()  # the deadlines that did not count meanwhile

    def _vanishes_at_once(self) -> bool:
        """Tell whether the end of the stream, without a Close frame, ends the connection now."""
        return True

    def _on_chunk(self, chunk: bytes, size: int) -> None:
        """Act on the messages of one turn, and write all answers to them at once.

        A turn is a chunk of bytes, or as much of it as can be acted on without holding up others;
        then there is another turn, with an empty chunk. `size` is the number of bytes that have not
        had their turn.
        """
        now = self.last_heard = self.shared.tick.now()  # any bytes are a sign of life
        reader = self._reader
        messages = reader.feed(chunk)
        count = len(messages)
        frames = count
        if not reader.settled:
            frames += reader.fragments
            if reader.has_more:
                size -= reader.unread
        traffic = self.shared.traffic
        traffic.messages_in += count
        traffic.bytes_in += len(chunk)
        self.messages_in += count
        self.bytes_in += len(chunk)
        if self._rate is None:
            self._rate = RateLimit(self.shared.limits, reader.max_message_size, now)
        allowed, missing = self._rate.allow(frames, size, now)
        if missing or allowed < frames:
            self._on_rate_exceeded(messages, frames - count, allowed, missing)
        elif messages:
            self._on_messages(messages)
        if not reader.settled:
            self._on_unsettled(now)

    def _on_unsettled(self, now: float) -> None:
        """Note what a turn has left: a violation, more frames, or a message that goes on."""
        reader = self._reader
        if reader.failure is not None:
            cause = reader.failure.close or CloseCause.PROTOCOL_ERROR
            self.end_soon(cause, reason=reader.failure.message)
        elif reader.has_more:
            self._paused = True
        elif reader.begun != self._begun:
            self._begun, self._begun_at = reader.begun, now
            due = now + self.shared.limits.message_timeout
            if self._scope is not None and due < self._scope.deadline:
                self._scope.deadline = due  # it is later already where silence is noticed earlier

    def _on_rate_exceeded(
        self, messages: list[tuple[int, bytes]], fragments: int, allowed: int, missing: int
    ) -> None:
        """Act on a turn of which so many frames are within the rate, or so many bytes beyond it.

        What cannot be refused makes us read more slowly.
        """
        assert self._rate is not None  # noqa: S101 - it has refused them
        now = self.last_heard
        turn = sort_turn(messages, allowed)
        self._on_messages(turn.kept)
        self.shared.traffic.rate_limited += len(turn.refused)
        for opcode, payload in turn.refused:
            if self.cause is not None or self._ending is not None:
                return
            if self._rate.strike(now):
                self.end(CloseCause.RATE_LIMITED)
            else:
                self._refuse_for_rate(opcode, payload)
        pause = self._rate.owe(turn, fragments, missing)
        if pause:
            self._read_again_at = now + pause
            self._paused = True
        self._on_messages(turn.close)

    def _on_control(self, opcode: int, payload: bytes) -> bytes:
        """Do what a control frame asks for; return the frame that answers it, or b""."""
        if opcode == _PING:
            return encode_pong(payload)
        if opcode == _CLOSE:
            self._peer_closed = True
            # "the endpoint typically echos the status code it received" (RFC 6455, 5.5.1)
            self._peer_close_code, _ = parse_close(payload)
            self.end_soon(CloseCause.PEER_CLOSED)
        elif self._pings and payload == self._pings.to_bytes(4):
            self.rtt = self.shared.tick.now() - self._ping_sent_at
            self._reschedule()  # the next heartbeat may be due before `pong_timeout` was over
        return b""

    # The goodbye

    def write_replies(self) -> bool:
        """Write what is collected for the peer, so that what is put into the mailbox comes behind.

        Returns False if nothing may be put now: the peer gets it only by `owe`.
        """
        return True

    def _deliver_owed(self) -> None:
        """Deliver what was published to the peer so far: it stands before the Close frame."""

    def _farewell(self) -> bytes:
        """Return the frames that go before the Close frame; b"" for none."""
        return b""

    async def _say_goodbye(self) -> None:
        """Send a Close frame behind what is still owed, and wait for the peer's."""
        self._deliver_owed()
        if self.cause is CloseCause.SLOW_CONSUMER:
            self.mailbox.discard_waiting()
        self.mailbox.put_last(self._farewell() + self._close_frame)
        if self.cause is CloseCause.GAVE_WAY:
            return  # its place is taken already: the peer's Close frame cannot be waited for
        try:
            await finish_closing(
                self.transport, self.mailbox, self._reader, peer_closed=self._peer_closed
            )
        except (OSError, trio.ClosedResourceError):
            return  # the peer is gone, or the connection gave way: there is nothing left to close

    def _reschedule(self) -> None:
        """Let the receive loop wake earlier, for a deadline that has come nearer."""
        if self._scope is not None and self.cause is None:
            self._scope.deadline = min(self._scope.deadline, self.next_deadline())
