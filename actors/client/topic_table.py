"""Which topics a client wants, and who in the program reads each."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .client_errors import RequestError
from .client_subscription import MessageBuffer, Subscription
from .link import Link


@define(eq=False)
class TopicTable:
    """What stays the same while connections come and go: the wanted topics and their readers.

    All of it is sync: the client asks the server, this only remembers and hands over.
    """

    # Topics wanted all the time, whether or not anybody reads them; `open_client(topics=...)`.
    always: set[str]
    # Gets what no subscription reads; `Client.messages()`.
    rest: MessageBuffer
    # Messages that buffers of former subscriptions had to drop; for statistics.
    _dropped_before: int = field(default=0, init=False)
    _readers: dict[str, set[Subscription]] = field(factory=dict[str, set[Subscription]], init=False)
    # Topics that were subscribed when the last connection was lost: their readers are owed a gap.
    _interrupted: set[str] = field(factory=set[str], init=False)

    @property
    def wanted(self) -> set[str]:
        """The topics that a connection must have."""
        return self.always | self._readers.keys()

    @property
    def dropped(self) -> int:
        """How many messages have been dropped because a reader was too slow."""
        present = sum(one.dropped for readers in self._readers.values() for one in readers)
        return self._dropped_before + self.rest.dropped + present

    def add(self, subscription: Subscription) -> None:
        """Let a subscription read its topic from now on."""
        self._readers.setdefault(subscription.topic, set()).add(subscription)

    def remove(self, subscription: Subscription) -> bool:
        """Take a subscription out; return whether its topic is wanted no longer."""
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

    def confirm(self, link: Link, topic: str) -> None:
        """Note that the server has subscribed a topic: its messages follow.

        Readers who had it on an earlier connection are told, here in the stream of messages, that
        they may have missed some.
        """
        link.subscribed.add(topic)
        if topic in self._interrupted:
            self._interrupted.remove(topic)
            gap = Envelope(
                type=MessageType.GAP, topic=topic, data={"dropped": None, "cause": "reconnected"}
            )
            self._hand_over(topic, gap, 0)

    def interrupt(self, link: Link) -> None:
        """Note that a connection is lost, and with it what its topics say meanwhile."""
        self._interrupted |= link.subscribed & self.wanted

    def deliver(self, link: Link, message: Envelope, size: int) -> None:
        """Give a message of `size` bytes to the readers of its topic, else to the rest."""
        if message.topic is None or message.type == MessageType.ERROR:
            self.rest.put(message, size)
        elif message.topic not in link.leaving:
            self._hand_over(message.topic, message, size)

    def refuse(self, topic: str, error: RequestError) -> None:
        """End the subscriptions to a topic that the server will not have; they raise `error`."""
        self.always.discard(topic)
        self._interrupted.discard(topic)

        def refusal() -> RequestError:
            return RequestError(error.text, error.code, retryable=error.retryable, topic=topic)

        for subscription in self._readers.pop(topic, set()):
            self._dropped_before += subscription.dropped
            subscription.buffer.end(refusal)

    def end(self, error: Callable[[], Exception] | None) -> None:
        """Say to all readers that nothing will follow."""
        self.rest.end(error)
        for readers in self._readers.values():
            for subscription in readers:
                subscription.buffer.end(error)

    def _hand_over(self, topic: str, message: Envelope, size: int) -> None:
        readers = self._readers.get(topic)
        if not readers:
            self.rest.put(message, size)
            return
        for subscription in readers:
            subscription.buffer.put(message, size)
