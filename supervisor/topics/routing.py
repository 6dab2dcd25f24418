"""The topic routing tables, and the task that delivers what was published.

    publish: the frame joins its topic's batch of this tick         (sync, no task switch)
    deliver: once per tick, each batch is joined and written once to every subscriber

A publication is encoded once, and a batch is joined once, however many subscribers there are. What
a hundred connections publish in the same turn of the event loop leaves in one write for each
subscriber, because the delivery task is woken once per tick.

Subscribers whose share of a batch differs from the others' (they came during the tick, or a message
of it excludes them) get a list of their own: `Topic.views`. A subscriber that leaves is given what
it is owed on the way out, also from a delivery that is under way; so what a topic's subscribers see
is the same order for all, and nothing of it follows the reply to `unsubscribe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs
import msgspec
import trio

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import OverloadPolicy, Verdict
from ...actors.ports import Traffic
from ...actors.tick import Tick
from ...protocol.closing import CloseCause
from ...protocol.messages.codec import head, splice
from ...protocol.messages.types import MessageType
from ...protocol.websocket.frames import encode_text
from ..telemetry.statistics import PUBLISH_BOUNDS, Histogram

MAX_WRITES: Final = 500
"""Writes after which the delivery task lets others have a turn, and ..."""

MAX_SECONDS: Final = 0.005
"""... the time after which it does; a write to a socket takes about 5 µs."""

PIECE: Final = 262_144
"""Bytes of a batch that are put into a mailbox at once. What the socket took a part of can neither
be dropped nor refused, so this is by how much a mailbox may exceed its limit."""

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_SENT: Final = Verdict.SENT

_STRIDE: Final = 64
"""Writes between two looks at the clock."""


_Piece = tuple[bytes, int, bytes]
"""Some frames joined, how many they are, and the last of them alone."""


@attrs.define(eq=False)
class Topic:
    """One topic's subscribers, and what was published to it in this tick."""

    name: str
    policy: OverloadPolicy
    data_head: bytes  # of its `data` messages, encoded once for all
    subscribers: dict[Connection, None] = attrs.field(factory=dict[Connection, None])
    batch: list[bytes] = attrs.field(factory=list[bytes])
    # Of subscribers that are owed something else than `batch`; empty in nearly every tick.
    views: dict[Connection, list[bytes]] = attrs.field(factory=dict[Connection, list[bytes]])
    published: int = 0  # since the topic got its first subscriber


@attrs.define(eq=False)
class _Delivery:
    """One topic's batch on its way to those who were subscribed when it set out."""

    topic: Topic
    recipients: list[Connection | None]
    batch: list[bytes]
    data: bytes
    views: dict[Connection, list[bytes]]
    # The same in pieces, where something may be dropped or the data are too big for one write.
    pieces: list[_Piece] | None
    position: int = 0  # how far down the recipients it has come


def _durations() -> Histogram:
    return Histogram(PUBLISH_BOUNDS)


@attrs.define(eq=False)
class Router:
    """Knows who is subscribed to what. Everything but `deliver` is synchronous."""

    tick: Tick
    traffic: Traffic
    policy_of: Callable[[str], OverloadPolicy]  # a topic's name -> its overload policy
    topics: dict[str, Topic] = attrs.field(factory=dict[str, Topic])
    subscriptions: int = 0  # of all topics; read by the statistics
    # Told of a subscriber, a topic, and how many messages an overload policy has dropped.
    on_dropped: Callable[[Connection, str, int], None] | None = None
    # Of each tick, from its first publication to the last write; read by the metrics.
    durations: Histogram = attrs.field(factory=_durations)
    _dirty: list[Topic] = attrs.field(factory=list[Topic])  # with a batch, in order
    _dirty_since: float = 0.0  # when the first of them was published to, in trio's time
    _delivery: _Delivery | None = None  # under way, while others have a turn
    _task: trio.lowlevel.Task | None = None
    _sleeping: bool = False

    def subscribe(self, name: str, connection: Connection) -> bool:
        """Enter a subscription; False if there was one already. Limits are the caller's."""
        topic = self.topics.get(name)
        if topic is None:
            topic = Topic(name, self.policy_of(name), head(MessageType.DATA, name))
            self.topics[name] = topic
        elif connection in topic.subscribers:
            return False
        topic.subscribers[connection] = None
        connection.topics[name] = False
        self.subscriptions += 1
        if topic.batch:
            topic.views[connection] = []  # what was published before it came is not for it
        return True

    def unsubscribe(self, name: str, connection: Connection) -> bool:
        """Take a subscription out, and deliver what is owed of it; False if there was none."""
        topic = self.topics.get(name)
        if topic is None or connection not in topic.subscribers:
            return False
        delivery = self._delivery
        if delivery is not None and delivery.topic is topic:
            for place in range(delivery.position, len(delivery.recipients)):
                if delivery.recipients[place] is connection:
                    delivery.recipients[place] = None
                    owed = delivery.views.get(connection, delivery.batch)
                    if owed:
                        connection.owe(owed)
        owed = topic.views.pop(connection, topic.batch)
        if owed:
            connection.owe(owed)
        self._forget(topic, connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Take out all subscriptions of a connection that is over."""
        for name in tuple(connection.topics):
            topic = self.topics[name]
            topic.views.pop(connection, None)
            self._forget(topic, connection)

    def publish_raw(self, name: str, data: msgspec.Raw) -> int:
        """Publish JSON as it came, as `data`; return how many are addressed."""
        topic = self.topics.get(name)
        if topic is None:
            self.traffic.published += 1
            return 0
        self._publish(topic, encode_text(splice(topic.data_head, data, self.tick.stamp())))
        return len(topic.subscribers)

    def publish(
        self, name: str, message_type: str, data: bytes, exclude: Iterable[Connection] = ()
    ) -> int:
        """Publish a message with JSON data; return how many are addressed.

        LocalProtocolError: there can be no such type or topic.
        """
        message_head = head(message_type, name)
        topic = self.topics.get(name)
        if topic is None:
            self.traffic.published += 1
            return 0
        excluded = 0
        for connection in exclude:
            if connection in topic.subscribers:
                excluded += 1
                if connection not in topic.views:
                    topic.views[connection] = topic.batch.copy()
        frame = encode_text(splice(message_head, data, self.tick.stamp()))
        self._publish(topic, frame, frozenset(exclude) if excluded else frozenset())
        return len(topic.subscribers) - excluded

    def _publish(
        self, topic: Topic, frame: bytes, exclude: frozenset[Connection] = frozenset()
    ) -> None:
        self.traffic.published += 1
        topic.published += 1
        if topic.views:
            for connection, view in topic.views.items():
                if connection not in exclude:
                    view.append(frame)
        topic.batch.append(frame)
        if len(topic.batch) == 1:
            if not self._dirty:
                self._dirty_since = self.tick.now()
            self._dirty.append(topic)
            if self._sleeping:
                self._sleeping = False
                assert self._task is not None  # noqa: S101 - it sleeps
                trio.lowlevel.reschedule(self._task)

    def _forget(self, topic: Topic, connection: Connection) -> None:
        del topic.subscribers[connection]
        del connection.topics[topic.name]
        self.subscriptions -= 1
        if not topic.subscribers:
            del self.topics[topic.name]
            if topic.batch:
                topic.batch = []  # nobody is left to have it; the delivery task passes over it

    # Delivering

    async def deliver(self) -> None:
        """Deliver what is published, once per tick, until cancelled: the delivery task."""
        self._task = trio.lowlevel.current_task()
        try:
            while True:
                if not self._dirty:
                    self._sleeping = True
                    await trio.lowlevel.wait_task_rescheduled(self._abort_sleep)
                await self._deliver_tick()
        finally:
            self._task = None
            self._sleeping = False

    def _abort_sleep(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._sleeping = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _deliver_tick(self) -> None:
        """Deliver every batch that is there, with turns for others in between."""
        dirty, self._dirty = self._dirty, []
        published_at = self._dirty_since
        started = trio.current_time()
        writes = 0
        for topic in dirty:
            batch, topic.batch = topic.batch, []
            views, topic.views = topic.views, {}
            if not batch:
                continue
            data = b"".join(batch)
            in_pieces = len(data) > PIECE or topic.policy is not OverloadPolicy.DISCONNECT
            pieces = list(_pieces(batch)) if in_pieces else None
            delivery = _Delivery(topic, list(topic.subscribers), batch, data, views, pieces)
            while delivery.position < len(delivery.recipients):
                writes += self._write_stride(delivery)
                if writes >= MAX_WRITES or trio.current_time() - started > MAX_SECONDS:
                    self._delivery = delivery
                    await trio.lowlevel.checkpoint()
                    self._delivery = None
                    started = trio.current_time()
                    writes = 0
        self.durations.observe(trio.current_time() - published_at)
        if self._dirty:
            await trio.lowlevel.checkpoint()  # published during the turns of others: a new tick

    def _write_stride(self, delivery: _Delivery) -> int:
        """Write to the next few recipients; return how many those are."""
        topic, batch, data, views = delivery.topic, delivery.batch, delivery.data, delivery.views
        count = len(batch)
        pieces = delivery.pieces
        sent = 0
        recipients = delivery.recipients[delivery.position : delivery.position + _STRIDE]
        for connection in recipients:
            if connection is None:  # it left, and took its share along
                continue
            try:
                if views and connection in views:
                    self._write_pieces(connection, topic, _pieces(views[connection]))
                    continue
                if pieces is not None:
                    self._write_pieces(connection, topic, pieces)
                    continue
                verdict = connection.mailbox.put(data, count)
                if verdict is _SENT or connection.act_on(verdict):
                    sent += 1
                else:
                    self.traffic.deliveries_failed += count
            except Exception as error:  # noqa: BLE001 - containment: this task serves everybody
                self.traffic.deliveries_failed += count
                connection.log("error", "delivery_failed", topic=topic.name, exc_info=error)
                connection.end(CloseCause.INTERNAL_ERROR)
        self.traffic.messages_out += sent * count
        self.traffic.bytes_out += sent * len(data)
        delivery.position += len(recipients)
        return len(recipients)

    def _write_pieces(self, connection: Connection, topic: Topic, pieces: Iterable[_Piece]) -> None:
        """Write to one subscriber, piece by piece, and count to the message what is dropped."""
        mailbox = connection.mailbox
        for data, count, latest in pieces:
            dropped = -mailbox.dropped
            verdict = mailbox.put(data, count, topic.name, topic.policy, latest)
            dropped += mailbox.dropped
            if connection.act_on(verdict) or verdict is Verdict.DROPPED:
                if dropped and self.on_dropped is not None:
                    self.on_dropped(connection, topic.name, dropped)
                self.traffic.deliveries_dropped += dropped
                self.traffic.messages_out += count - dropped
                self.traffic.bytes_out += len(data)
            else:
                self.traffic.deliveries_failed += count


def _pieces(frames: list[bytes]) -> Iterator[_Piece]:
    """Cut a batch so that what may be in flight at one time, and so cannot be dropped, is small."""
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        if piece and size + len(frame) > PIECE:
            yield b"".join(piece), len(piece), piece[-1]
            piece, size = [], 0
        piece.append(frame)
        size += len(frame)
    if piece:
        yield b"".join(piece), len(piece), piece[-1]
