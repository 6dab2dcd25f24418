"""The mailbox of a connection: bytes that are owed to the peer and that its socket has not taken.

A mailbox is bounded in bytes, and `put` never waits: it returns a verdict, on which the caller acts
at once. While nothing waits, `put` writes straight to the socket, which nearly always takes all of
it; the mailbox then holds no memory at all. Only what the kernel's buffer refuses is kept, in
order, for the connection's writer task.

Every byte that leaves a connection goes through its mailbox. Bytes of which the socket may have
taken a part are *in flight*: they are never dropped and never reordered, since half a frame cannot
be taken back. Behind them wait parcels; a parcel holds the bytes of one topic in one tick. When the
parcels are too many, the topic's overload policy decides what happens. Dropped messages are
announced to the peer by a `gap` message, which stands in the stream where they would have stood.
What may be dropped also makes room for what may not, such as a reply, of whatever topic it is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

import attrs

from ...protocol.websocket.frames import frame_end
from ..transports.transport import COMMITTED

PARCEL_OVERHEAD: Final = 256
"""Bytes that a waiting parcel counts besides its own: the memory that its bookkeeping takes.

Measured with tracemalloc over 20,000 parcels (Python 3.11): 204 bytes each, and 239 where the
parcel may be dropped; the head of its `bytes` object is among them.
"""

_WRITE_SIZE: Final = 65_536
"""Bytes of waiting parcels that are joined for one write, and the most that is offered to the
socket at once; more would not make it cheaper."""


class Verdict(Enum):
    """The result of putting something into a mailbox."""

    SENT = "sent"  # the socket took all of it
    QUEUED = "queued"  # it waits, whole or in part
    DROPPED = "dropped"  # the topic's overload policy dropped this or something older
    OVERFLOWED = "overflowed"  # no room, and the policy is to disconnect; the caller does so
    CLOSED = "closed"  # the connection is over, or has just broken


# Looking a member up in its Enum takes as long as a fifth of all that `put` does (Python 3.11).
_SENT: Final = Verdict.SENT


class OverloadPolicy(Enum):
    """The policy for a topic's messages when a subscriber's mailbox is full."""

    DISCONNECT = "disconnect"  # the subscriber is closed, and may connect again
    DROP_OLDEST = "drop_oldest"  # the oldest messages of this topic make room
    LATEST = "latest"  # only the newest message of this topic ever waits
    BACKPRESSURE = "backpressure"  # nothing is refused: the sender itself waits for room


# Shared by every mailbox in which nothing may be dropped, or was; never written to.
_NONE_LIVE: Final[dict[str, deque[Parcel]]] = {}
_NO_GAPS: Final[dict[str, Parcel]] = {}
_NO_LOSSES: Final[dict[str, int]] = {}


_KEEPS_ALL: Final = (OverloadPolicy.DISCONNECT, OverloadPolicy.BACKPRESSURE)


@attrs.define(eq=False)
class Parcel:
    """Bytes that wait in a mailbox: whole frames of one topic, or of no topic."""

    data: bytes  # empty once dropped: it is a gap then, and its frame is made when it is written
    topic: str | None
    messages: int  # the number of its frames, or of the messages dropped here
    since: float  # when it was put, in trio's time; operators see the age of the oldest

    @property
    def cost(self) -> int:
        """The bytes that count towards the mailbox's limit."""
        return PARCEL_OVERHEAD + len(self.data)


@attrs.frozen
class MailboxShared:
    """The values that all mailboxes of a server share; made once."""

    limit: int  # bytes that may wait
    now: Callable[[], float]
    gap_frame: Callable[[str, int], bytes]  # topic, number of messages dropped -> a frame


class Mailbox:
    """The bytes on their way to one peer.

    `write` is the transport's `write_some`. When bytes wait, which the verdict QUEUED or DROPPED
    says, somebody has to call `flush` until it returns True. The mailbox does not know who: a
    reference to the connection would make the two a cycle, which stays in memory after the
    connection's end until Python's collector happens to run.
    """

    __slots__ = (
        "_begun",
        "_gaps",
        "_in_flight",
        "_live",
        "_lost_bytes",
        "_parcels",
        "_shared",
        "_taken",
        "_write",
        "bytes_out",
        "closed",
        "dropped",
        "losses",
        "messages_out",
        "since",
        "size",
    )

    def __init__(self, write: Callable[[bytes], int], shared: MailboxShared) -> None:
        self._write = write
        self._shared = shared
        # The bytes in flight, and how many of them the socket has taken. To slice them off with
        # every write would copy the rest of a huge message again and again.
        self._in_flight = b""
        self._taken = 0
        self._begun = 0  # how many of them end a frame whose beginning has been cut off
        # The parcels that wait, in order. The dict is made when it is first needed: most
        # connections never have anything waiting. It removes from the middle in O(1), so dropped
        # parcels leave only one gap for each topic, and the mailbox of a peer that does not read
        # does not grow by what is dropped.
        self._parcels: OrderedDict[Parcel, None] | None = None
        # The parcels that may still be dropped, by topic, oldest first; and each topic's gap.
        self._live: dict[str, deque[Parcel]] = _NONE_LIVE
        self._gaps: dict[str, Parcel] = _NO_GAPS
        self.closed = False
        self.size = 0  # bytes waiting or in flight, each parcel's overhead included
        self.since = 0.0  # when the bytes in flight began to wait, in trio's time
        self.messages_out = 0  # accepted for this peer; read by statistics and the admin commands
        self.bytes_out = 0
        self.dropped = 0  # messages; read as the two above
        # The messages dropped since `take_losses` was called, by topic; and their bytes.
        self.losses: dict[str, int] = _NO_LOSSES
        self._lost_bytes = 0

    def put(
        self,
        data: bytes,
        messages: int = 1,
        topic: str | None = None,
        policy: OverloadPolicy = OverloadPolicy.DISCONNECT,
        latest: bytes | None = None,
    ) -> Verdict:
        """Send the peer some whole frames, now or later. Never waits, passes no checkpoint.

        `messages` is the number of the frames. `topic` and `policy` say what may be dropped under
        overload; `latest` is the last of the frames alone, for the policy of that name.
        """
        if not self.size and not self.closed:
            try:
                sent = self._write(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return Verdict.CLOSED
            length = len(data)
            self.messages_out += messages
            self.bytes_out += length
            if sent == length:
                return _SENT
            self._in_flight, self._taken = data, sent
            self.since = self._shared.now()
            self.size = length - sent
            if self.size > self._shared.limit and policy is OverloadPolicy.DISCONNECT:
                return Verdict.OVERFLOWED
            return Verdict.QUEUED
        if self.closed:
            return Verdict.CLOSED
        return self._wait(data, messages, topic, policy, latest)

    def put_last(self, data: bytes) -> None:
        """Put some last frames: `flush` still writes them, but every further `put` is refused.

        "The application MUST NOT send any more data frames after sending a Close frame"
        (RFC 6455, section 5.5.1).
        """
        self.put(data, 0, policy=OverloadPolicy.BACKPRESSURE)
        self.closed = True

    def flush(self) -> bool:
        """Write what waits until the socket takes no more; return True when nothing is left.

        OSError: the connection is broken; the mailbox is closed then.
        """
        while self.size:
            if not self._in_flight:
                self._load()
            offered = self._in_flight[self._taken : self._taken + _WRITE_SIZE]
            try:
                sent = self._write(offered)
            except BlockingIOError:
                return False
            except OSError:
                self.close()
                raise
            self.size -= sent
            self._taken += sent
            if self._taken == len(self._in_flight):
                self._fly(b"")
            elif self._taken >= _WRITE_SIZE and 2 * self._taken >= len(self._in_flight):
                # What the socket has taken is held no longer. Cut only now, each byte is copied
                # once, and at most twice the bytes that count are held.
                self._begun = self._next_frame(self._taken) - self._taken
                self._in_flight, self._taken = self._in_flight[self._taken :], 0
            if sent < len(offered):
                return False
        return True

    def discard_waiting(self) -> None:
        """Discard what waits; only a frame that has begun, and cannot be taken back, is kept.

        TLS may have encrypted bytes that it has not counted yet, so frames that begin among the
        next `COMMITTED` bytes are kept, too.
        """
        end = self._next_frame(self._taken + COMMITTED)
        self._in_flight = self._in_flight[:end]
        self.size = len(self._in_flight) - self._taken
        self._parcels = None
        self._live, self._gaps = _NONE_LIVE, _NO_GAPS

    def close(self) -> None:
        """Discard everything that waits; every further `put` returns CLOSED."""
        self.closed = True
        self._fly(b"")
        self.discard_waiting()

    def take_losses(self) -> tuple[Mapping[str, int], int]:
        """Return how many messages were dropped since the last call, by topic; and their bytes."""
        taken = self.losses, self._lost_bytes
        self.losses, self._lost_bytes = _NO_LOSSES, 0
        return taken

    def has_room(self, data: bytes) -> bool:
        """Tell whether some frames fit in behind what waits already."""
        return self.size + PARCEL_OVERHEAD + len(data) <= self._shared.limit

    @property
    def oldest(self) -> float | None:
        """The time at which the oldest waiting bytes were put, in trio's time, or None."""
        return self.since if self.size else None  # while anything waits, something is in flight

    def _wait(
        self,
        data: bytes,
        messages: int,
        topic: str | None,
        policy: OverloadPolicy,
        latest: bytes | None,
    ) -> Verdict:
        """Queue a parcel behind what waits already, or do what the overload policy says."""
        parcel = Parcel(data, topic, messages, self._shared.now())
        if topic is None or policy in _KEEPS_ALL:
            if policy is not OverloadPolicy.BACKPRESSURE and not self._make_room(parcel.cost):
                return Verdict.OVERFLOWED
            self._append(parcel)
            return Verdict.QUEUED
        if self._live is _NONE_LIVE:
            self._live, self._gaps = {}, {}
        same_topic = self._live.setdefault(topic, deque())
        dropped_before = self.dropped
        if policy is OverloadPolicy.LATEST:
            while same_topic:
                self._drop(same_topic.popleft())
            if messages > 1 and latest is not None:
                self._announce(topic, messages - 1, len(data) - len(latest))
                parcel.data, parcel.messages = latest, 1
        else:
            while same_topic and self.size + parcel.cost > self._shared.limit:
                self._drop(same_topic.popleft())
        if self.size + parcel.cost > self._shared.limit:
            self._announce(topic, parcel.messages, len(parcel.data))
            return Verdict.DROPPED
        self._append(parcel)
        same_topic.append(parcel)
        return Verdict.QUEUED if self.dropped == dropped_before else Verdict.DROPPED

    def _make_room(self, cost: int) -> bool:
        """Drop the oldest of what may be dropped until there is room; False if there is too little.

        It is dropped one parcel after the other, of whichever topic, in one pass: to look for the
        oldest anew for each would take 20 ms where 1,000 topics have messages that wait.
        """
        if self.size + cost <= self._shared.limit:
            return True
        for parcel in tuple(self._parcels or ()):
            same_topic = self._live.get(parcel.topic) if parcel.topic is not None else None
            if same_topic and same_topic[0] is parcel:  # it is dropped before all of its topic
                self._drop(same_topic.popleft())
                if self.size + cost <= self._shared.limit:
                    return True
        return False

    def _append(self, parcel: Parcel) -> None:
        if self._parcels is None:
            self._parcels = OrderedDict()
        self._parcels[parcel] = None
        self.size += parcel.cost
        self.messages_out += parcel.messages
        self.bytes_out += len(parcel.data)

    def _drop(self, parcel: Parcel) -> None:
        """Drop a waiting parcel, and leave its topic's gap in its place."""
        topic, size = parcel.topic, len(parcel.data)
        assert topic is not None  # noqa: S101 - only a topic's parcels may be dropped
        self.bytes_out -= size
        self.messages_out -= parcel.messages
        self.size -= size
        parcel.data = b""
        self._lose(topic, parcel.messages, size)
        gap = self._gaps.get(topic)
        if gap is None:
            self._gaps[topic] = parcel
        else:
            del self._parcels[parcel]  # pyright: ignore[reportOptionalSubscript] - it holds it
            self.size -= PARCEL_OVERHEAD
            gap.messages += parcel.messages

    def _announce(self, topic: str, messages: int, size: int) -> None:
        """Add messages that are not even kept to their topic's gap, before its live parcels."""
        self._lose(topic, messages, size)
        gap = self._gaps.get(topic)
        if gap is None:
            gap = self._gaps[topic] = Parcel(b"", topic, 0, self._shared.now())
            self._append(gap)
        gap.messages += messages

    def _lose(self, topic: str, messages: int, size: int) -> None:
        """Count what is dropped, for `take_losses`."""
        if self.losses is _NO_LOSSES:
            self.losses = {}
        self.losses[topic] = self.losses.get(topic, 0) + messages
        self._lost_bytes += size
        self.dropped += messages

    def _load(self) -> None:
        """Make the next parcels the bytes in flight, as many as are joined for one write."""
        parcels = self._parcels
        assert parcels  # noqa: S101 - `size` is not zero, and nothing is in flight
        self.since = next(iter(parcels)).since
        data: list[bytes] = []
        length = 0
        while parcels and length < _WRITE_SIZE:
            parcel, _ = parcels.popitem(last=False)
            self.size -= parcel.cost
            topic = parcel.topic
            if topic is not None and self._gaps.get(topic) is parcel:
                del self._gaps[topic]
                parcel.data = self._shared.gap_frame(topic, parcel.messages)
            elif topic is not None and topic in self._live:
                self._live[topic].popleft()
            if topic is not None and not self._live.get(topic, True):
                del self._live[topic]  # a slow peer's mailbox may outlive many topics
            data.append(parcel.data)
            length += len(parcel.data)
        if not parcels:
            self._live, self._gaps = _NONE_LIVE, _NO_GAPS
        self._fly(b"".join(data))
        self.size += length

    def _fly(self, data: bytes) -> None:
        """Make whole frames the bytes in flight, of which the socket has taken none."""
        self._in_flight = data
        self._taken = self._begun = 0

    def _next_frame(self, position: int) -> int:
        """Return where the first frame begins at or behind a position of the bytes in flight."""
        data, start = self._in_flight, self._begun
        while start < position and start < len(data):
            start = frame_end(data, start)
        return min(start, len(data))
