"""The topic routing tables, and the task that delivers what was published.

    publish: the publication joins its topic's batch of this tick   (sync, no task switch)
    deliver: once per tick, each batch is joined and written once to every subscriber

A publication is encoded once, and a batch is joined once, for any number of subscribers. Messages
that a hundred connections publish in the same turn of the event loop leave in one write for each
subscriber, because the delivery task is woken once per tick.

A subscriber that must not get the whole batch (it came during the tick, or a publication leaves it
out) has a list of its own: a *view*. A subscriber that leaves gets what it is owed at once, also
from a delivery that is under way. So all subscribers of a topic see the same order, and no message
of it follows the reply to `unsubscribe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

import attrs
import msgspec
import trio

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import OverloadPolicy, Verdict
from ...actors.connection.traffic import Traffic
from ...actors.containment import contain
from ...actors.subscription import Subscription
from ...actors.tick import Tick
from ...protocol.closing import CloseCause
from ...protocol.messages.codec import head
from ...protocol.messages.types import MessageType
from ..telemetry.statistics import PUBLISH_BOUNDS, Histogram
from .publication import Publication
from .topic import Topic
from .topic_options import TopicOptions

MAX_WRITES: Final = 500
"""Writes after which the delivery task lets other tasks have a turn."""

MAX_SECONDS: Final = 0.005
"""Seconds after which it does so, too; a write to a socket takes about 5 µs."""

PIECE: Final = 262_144
"""Bytes of a batch that are put into a mailbox at once. A piece of which the socket took a part can
be neither dropped nor refused, so a mailbox may exceed its limit by as many bytes."""

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_SENT: Final = Verdict.SENT

_STRIDE: Final = 64
"""Writes between two readings of the clock."""


_Piece = tuple[bytes, int, bytes]
"""Some frames joined, their number, and the last of them alone."""


_NO_SUBSCRIPTIONS: Final[Mapping[str, Subscription]] = MappingProxyType({})
_NOBODY: Final[frozenset[Connection]] = frozenset()

_DATA: Final = str(MessageType.DATA)


class _Batch:
    """The frames of what was published to one topic in this tick."""

    __slots__ = ("frames", "views")

    # Written by hand, since attrs would call `dict[…]` and `list[…]`, which is slower: one batch is
    # made for each topic and tick.
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        # The frames for each subscriber that gets others than those; nearly always empty.
        self.views: dict[Connection, list[bytes]] = {}


@attrs.define(eq=False)
class _Delivery:
    """A topic's batch on its way to the subscribers that the topic had when delivery began."""

    topic: Topic
    recipients: list[Connection | None]  # None: it has left, and has got its share
    frames: list[bytes]
    data: bytes
    views: dict[Connection, list[bytes]]
    # The data in pieces, if some may be dropped or they are too big for one `put`; else None.
    pieces: list[_Piece] | None
    position: int = 0  # of the next recipient


def _durations() -> Histogram:
    return Histogram(PUBLISH_BOUNDS)


@attrs.define(eq=False)
class Router:
    """The routing tables: topics and their subscribers. Everything but `deliver` is synchronous.

    The callers check limits and permissions.
    """

    tick: Tick
    traffic: Traffic
    options_of: Callable[[str], TopicOptions]  # a topic's name -> its options
    # The two tables hold the same subscriptions: by topic, and by connection.
    topics: dict[str, Topic] = attrs.field(factory=dict[str, Topic])
    _subscribed: dict[Connection, dict[str, Subscription]] = attrs.field(
        factory=dict[Connection, dict[str, Subscription]]
    )
    subscriptions: int = 0  # of all topics; read by the statistics
    # Is called with an error that has cost all subscribers of a topic some of its messages.
    on_defect: Callable[[BaseException], None] | None = None
    # The duration of each tick, from its first publication to its last write; read by the metrics.
    durations: Histogram = attrs.field(factory=_durations)
    # The batches that wait to be delivered, in the order of their first publications.
    _batches: dict[Topic, _Batch] = attrs.field(factory=dict[Topic, _Batch])
    _published_at: float | None = None  # time of the tick's first publication, in trio's time
    _delivery: _Delivery | None = None  # the one under way, while other tasks have a turn
    _task: trio.lowlevel.Task | None = None  # the delivery task
    _sleeping: bool = False  # whether that task waits for a publication

    def subscriptions_of(self, connection: Connection) -> Mapping[str, Subscription]:
        """Return a connection's subscriptions by topic, as a read-only view."""
        subscriptions = self._subscribed.get(connection)
        return _NO_SUBSCRIPTIONS if subscriptions is None else MappingProxyType(subscriptions)

    def subscribe(self, name: str, connection: Connection, *, by_client: bool = False) -> bool:
        """Enter a subscription; return False if there was one already."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, self.options_of(name))
        elif connection in topic.subscribers:
            if not by_client and topic.subscribers[connection].by_client:
                # From now on it is the program's: it outlives what a newer token allows.
                self._subscribed[connection][name] = topic.enter(connection, by_client=False)
            return False
        subscription = topic.enter(connection, by_client=by_client)
        self._subscribed.setdefault(connection, {})[name] = subscription
        self.subscriptions += 1
        batch = self._batches.get(topic)
        if batch is not None:
            batch.views[connection] = []  # it does not get what was published before it came
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
                    owed = delivery.views.get(connection, delivery.frames)
                    self._settle(connection, topic, owed)
        batch = self._batches.get(topic)
        if batch is not None:
            owed = batch.views.pop(connection, batch.frames)
            self._settle(connection, topic, owed)
        self._forget(topic, connection)
        return True

    def _settle(self, connection: Connection, topic: Topic, owed: list[bytes]) -> None:
        """Give a subscriber that leaves what it is owed, under the topic's overload policy."""
        if connection.write_replies():
            self._write_pieces(connection, topic, _pieces(owed))
        elif owed:
            connection.owe(owed)

    def remove(self, connection: Connection) -> None:
        """Take out all subscriptions of a connection that is over."""
        for name in tuple(self._subscribed.get(connection, ())):
            topic = self.topics[name]
            batch = self._batches.get(topic)
            if batch is not None:
                batch.views.pop(connection, None)
            self._forget(topic, connection)

    def publish_raw(self, name: str, data: msgspec.Raw) -> int:
        """Publish unparsed JSON as a `data` message; return how many connections are addressed."""
        topic = self.topics.get(name)
        if topic is None:
            self.traffic.published += 1
            return 0
        self._publish(topic, Publication(name, _DATA, topic.data_head, data, self.tick.stamp()))
        return len(topic.subscribers)

    def publish(
        self, name: str, message_type: str, data: bytes, exclude: Iterable[Connection] = ()
    ) -> int:
        """Publish a message with JSON data; return how many connections are addressed.

        LocalProtocolError: the type or the topic is illegal.
        """
        message_head = head(message_type, name)
        topic = self.topics.get(name)
        if topic is None:
            self.traffic.published += 1
            return 0
        left_out = _NOBODY
        if exclude:
            left_out = frozenset(one for one in exclude if one in topic.subscribers)
        self._publish(
            topic,
            Publication(name, message_type, message_head, data, self.tick.stamp(), left_out),
        )
        return len(topic.subscribers) - len(left_out)

    def _publish(self, topic: Topic, publication: Publication) -> None:
        self.traffic.published += 1
        topic.published += 1
        batch = self._batches.get(topic)
        if batch is None:
            batch = self._begin_batch(topic)
        views = batch.views
        # It is encoded now, not when it is delivered: what it came in is free for the next message
        # then. Kept until the end of the tick, these bytes cost 8 % where many publish at once.
        frame = publication.frame()
        left_out = publication.left_out
        if left_out:
            for connection in left_out:
                if connection not in views:
                    views[connection] = batch.frames.copy()
        if views:
            for connection, view in views.items():
                if connection not in left_out:
                    view.append(frame)
        batch.frames.append(frame)

    def _begin_batch(self, topic: Topic) -> _Batch:
        """Begin a topic's batch of this tick, and wake the delivery task if it sleeps."""
        if self._published_at is None:
            self._published_at = self.tick.now()
        batch = self._batches[topic] = _Batch()
        if self._sleeping:
            self._sleeping = False
            assert self._task is not None  # noqa: S101 - since it sleeps
            trio.lowlevel.reschedule(self._task)
        return batch

    def _forget(self, topic: Topic, connection: Connection) -> None:
        del topic.subscribers[connection]
        subscriptions = self._subscribed[connection]
        del subscriptions[topic.name]
        if not subscriptions:
            del self._subscribed[connection]
        self.subscriptions -= 1
        if not topic.subscribers:
            del self.topics[topic.name]
            self._batches.pop(topic, None)  # nobody is left to get it
            if not self._batches:
                self._published_at = None

    # Delivering

    async def deliver(self) -> None:
        """Deliver publications once per tick, until cancelled: the delivery task."""
        self._task = task = trio.lowlevel.current_task()
        try:
            while True:
                try:
                    if not self._batches:
                        self._sleeping = True
                        await trio.lowlevel.wait_task_rescheduled(self._abort_sleep)
                    await self._deliver_tick()
                    continue
                except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                    contain(error, self._on_defect, task)
                # The batch that has failed is lost; those behind it are delivered.
                self._delivery = None
                await trio.lowlevel.checkpoint()
        finally:
            self._task = None
            self._sleeping = False

    def _on_defect(self, error: BaseException) -> None:
        if self.on_defect is not None:
            self.on_defect(error)

    def _abort_sleep(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._sleeping = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _deliver_tick(self) -> None:
        """Deliver every batch that is there, with turns for other tasks in between."""
        published_at, self._published_at = self._published_at, None
        started = trio.current_time()
        writes = 0
        # A batch whose delivery has not begun stays in the table: during the turns of other tasks
        # its subscribers may come and leave, and more may be published to it.
        for topic in tuple(self._batches):
            batch = self._batches.pop(topic, None)
            if batch is None:  # all of its subscribers have left
                continue
            delivery = _begin_delivery(topic, batch)
            while delivery.position < len(delivery.recipients):
                writes += self._write_stride(delivery)
                if writes >= MAX_WRITES or trio.current_time() - started > MAX_SECONDS:
                    self._delivery = delivery
                    await trio.lowlevel.checkpoint()
                    self._delivery = None
                    started = trio.current_time()
                    writes = 0
        if published_at is not None:
            self.durations.observe(trio.current_time() - published_at)
        if self._batches:
            await trio.lowlevel.checkpoint()  # published during those turns: they are a new tick

    def _write_stride(self, delivery: _Delivery) -> int:
        """Write to the next recipients, `_STRIDE` at most; return how many there were."""
        topic, data, views = delivery.topic, delivery.data, delivery.views
        count = len(delivery.frames)
        pieces = delivery.pieces
        sent = 0
        recipients = delivery.recipients[delivery.position : delivery.position + _STRIDE]
        for connection in recipients:
            if connection is None:  # it has left, and has got its share
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
            except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                self.traffic.deliveries_failed += count
                contain(error, partial(_end_for_defect, connection, topic))
        self.traffic.messages_out += sent * count
        self.traffic.bytes_out += sent * len(data)
        delivery.position += len(recipients)
        return len(recipients)

    def _write_pieces(self, connection: Connection, topic: Topic, pieces: Iterable[_Piece]) -> None:
        """Write to one subscriber, piece by piece."""
        for data, count, latest in pieces:
            verdict = connection.mailbox.put(
                data, count, topic.name, topic.options.overload, latest
            )
            if verdict is _SENT or connection.act_on(verdict):
                self.traffic.messages_out += count
                self.traffic.bytes_out += len(data)
            else:
                self.traffic.deliveries_failed += count


def _end_for_defect(connection: Connection, topic: Topic, error: BaseException) -> None:
    """End a connection to which a topic's messages cannot be delivered."""
    connection.log("error", "delivery_failed", topic=topic.name, exc_info=error)
    connection.end(CloseCause.INTERNAL_ERROR)


def _begin_delivery(topic: Topic, batch: _Batch) -> _Delivery:
    """Join a topic's batch, for the subscribers that the topic has now."""
    frames = batch.frames
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    in_pieces = len(data) > PIECE or topic.options.overload is not OverloadPolicy.DISCONNECT
    pieces = list(_pieces(frames)) if in_pieces else None
    return _Delivery(topic, list(topic.subscribers), frames, data, batch.views, pieces)


def _pieces(frames: list[bytes]) -> Iterator[_Piece]:
    """Cut a batch into pieces, since bytes in flight cannot be dropped and should be few."""
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
