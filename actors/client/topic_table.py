"""The topics that a client wants, and the subscriptions that read each of them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .client_connection import ClientConnection
from .client_errors import RequestError
from .client_subscription import ClientSubscription
from .message_buffer import MessageBuffer


@define(eq=False)
class TopicTable:
    """The wanted topics and their readers, which stay while connections come and go.

    All methods are synchronous. The table remembers and hands messages over; asking the server is
    the task of the keeper.
    """

    # Topics that are wanted all the time, read or not: those of `open_client(topics=...)`.
    always: set[str]
    # The messages that no subscription reads; `Client.messages()` yields them.
    unclaimed: MessageBuffer
    # How many messages the buffers of former subscriptions dropped; statistics show it.
    _dropped_before: int = field(default=0, init=False)
    _readers: dict[str, set[ClientSubscription]] = field(
        factory=dict[str, set[ClientSubscription]], init=False
    )
    # Topics that were subscribed when the last connection was lost: their readers must get a gap.
    _interrupted: set[str] = field(factory=set[str], init=False)

    @property
    def wanted(self) -> set[str]:
        """The topics that a connection must be subscribed to."""
        return self.always | self._readers.keys()

    @property
    def dropped(self) -> int:
        """How many messages have been dropped because a reader was too slow."""
        present = sum(one.dropped for readers in self._readers.values() for one in readers)
        return self._dropped_before + self.unclaimed.dropped + present

    def add(self, subscription: ClientSubscription) -> None:
        """Let a subscription read its topic from now on."""
        self._readers.setdefault(subscription.topic, set()).add(subscription)

    def remove(self, subscription: ClientSubscription) -> bool:
        """Take a subscription out; return whether nothing wants its topic any more."""
        topic = subscription.topic
        readers = self._readers.get(topic, set())
        if subscription in readers:
            readers.remove(subscription)
            self._dropped_before += subscription.dropped
        if not readers:
            self._readers.pop(topic, None)
        if topic in self.wanted:
            return False
        self._interrupted.discard(topic)
        return True

    def confirm(self, connection: ClientConnection, topic: str) -> None:
        """Note that the server has confirmed a topic, whose messages follow.

        Readers that had the topic on an earlier connection get a gap at this place of the stream,
        since they may have missed messages.
        """
        connection.subscribed.add(topic)
        if topic in self._interrupted:
            self._interrupted.remove(topic)
            gap = Envelope(
                type=MessageType.GAP, topic=topic, data={"dropped": None, "cause": "reconnected"}
            )
            self._hand_over(topic, gap, 0)

    def interrupt(self, connection: ClientConnection) -> None:
        """Note that a connection is lost, so that its topics miss messages until the next one."""
        self._interrupted |= connection.subscribed & self.wanted

    def deliver(self, connection: ClientConnection, message: Envelope, size: int) -> None:
        """Give a message of `size` bytes to the readers of its topic, or to `unclaimed`."""
        if message.topic is None or message.type == MessageType.ERROR:
            self.unclaimed.put(message, size)
        elif message.topic not in connection.leaving:
            self._hand_over(message.topic, message, size)

    def refuse(self, topic: str, error: RequestError) -> None:
        """End the subscriptions to a topic that the server refuses; they raise `error`."""
        self.always.discard(topic)
        self._interrupted.discard(topic)

        def refusal() -> RequestError:
            return RequestError(error.text, error.code, retryable=error.retryable, topic=topic)

        for subscription in self._readers.pop(topic, set()):
            self._dropped_before += subscription.dropped
            subscription.buffer.end(refusal)

    def end(self, error: Callable[[], Exception] | None) -> None:
        """End all buffers: readers then get `error()`, or their iteration stops."""
        self.unclaimed.end(error)
        for readers in self._readers.values():
            for subscription in readers:
                subscription.buffer.end(error)

    def _hand_over(self, topic: str, message: Envelope, size: int) -> None:
        readers = self._readers.get(topic)
        if not readers:
            self.unclaimed.put(message, size)
            return
        for subscription in readers:
            subscription.buffer.put(message, size)
