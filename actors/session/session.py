"""Clients' sessions: the actor, its handle for programs, and the context of a message.

`SessionActor` is the connection itself. A program holds a `Session`, which offers what a program
may do and nothing else; its message handlers get a `Context` with each message.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from sys import getsizeof
from types import MappingProxyType
from typing import Any, Final

import attrs
import trio

from ...protocol.access import USER_ID, Action, topic_of_user
from ...protocol.closing import CloseCause
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import Incoming, encode_value, head, splice
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.topics import check_topic, require_topic, user_of
from ...protocol.messages.types import Goodbye, MessageType
from ...protocol.websocket.frames import encode_text
from ..connection.handle import ConnectionHandle
from ..connection.lifecycle import ConnectionState
from ..connection.shared import Shared
from ..containment import contain
from ..entrance.handshake import Accepted
from ..ports import SendingPort, TopicsPort
from ..subscription import Subscription
from .message_connection import MessageConnection, Request, expect_nothing

Handler = Callable[["Context", Envelope], Awaitable[None] | None]
"""A program's handler of one message type."""

Authorizer = Callable[["Session", str], "Awaitable[bool | None] | bool | None"]
"""A program's hook that decides whether a session may use a topic; only False refuses."""


_MAX_CHECKED: Final = 49_152
"""Bytes of topics of one session for which its access is remembered: about 270 usual topics."""

_TOPIC_OVERHEAD: Final = 112
"""Bytes of a topic's place in the set, just after the set has grown; 27 just before."""


@attrs.frozen
class SessionServices:
    """The parts that all client sessions of a server use; made once."""

    requests: Mapping[str, Request]  # of the protocol's own message types
    handlers: Mapping[str, Handler]  # of the program's
    authorizers: Mapping[Action, Authorizer]
    topics: TopicsPort[Any]
    sending: SendingPort
    # The program's callbacks about connections that are over. The actor only looks whether there
    # are any: for them it remembers its subscriptions.
    departures: Collection[object] = ()


class CheckedTopics(set[str]):
    """The topics to which a session has been found to have access, as many as there is room for."""

    __slots__ = ("_size",)

    def __init__(self) -> None:
        super().__init__()
        self._size = 0  # bytes

    def remember(self, topic: str) -> None:
        """Add a topic, and forget all others if there is no more room."""
        size = getsizeof(topic) + _TOPIC_OVERHEAD
        if self._size + size > _MAX_CHECKED:
            self.clear()
            self._size = 0
        self._size += size
        self.add(topic)


class SessionActor(MessageConnection):
    """The actor of a client that speaks the message protocol."""

    __slots__ = ("_at_end", "_goodbye", "checked_topics", "services")

    def __init__(self, shared: Shared, accepted: Accepted, services: SessionServices) -> None:
        super().__init__(shared, accepted, services.requests)
        self.services = services
        # The topics that it may publish to, as far as checked; filled by `requests.py`.
        self.checked_topics: CheckedTopics | None = None
        self._goodbye: bytes | None = None  # the data of the `goodbye` to send before the Close
        # The subscriptions that it had when its goodbye began, until `last_handle` takes them.
        self._at_end: Mapping[str, Subscription] | None = None

    @property
    def handle(self) -> Session:
        """A new handle of this connection, for the program."""
        return Session(self)

    def last_handle(self) -> Session:
        """Return a handle for callbacks about the end, which still shows all subscriptions.

        It is to be called once, before the supervisor takes the connection out of the tables.
        """
        at_end, self._at_end = self._at_end, None
        return Session(self, dict(self.subscriptions) if at_end is None else at_end)

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """The connection's subscriptions by topic: a read-only view of the routing tables."""
        return self.services.topics.subscriptions_of(self)

    # For the program

    def subscribe(self, topic: str) -> bool:
        """Do what `Session.subscribe` says."""
        require_topic(topic)
        if not self.is_open or not self.services.topics.subscribe(self, topic):
            return False
        self.say(head(MessageType.SUBSCRIBED, topic), None)
        return True

    def unsubscribe(self, topic: str) -> bool:
        """Do what `Session.unsubscribe` says."""
        if not self.services.topics.unsubscribe(self, topic):
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
        """Do what `Session.disconnect` says."""
        goodbye = None
        if reconnect_after is not None:
            goodbye = encode_value(Goodbye(reason or cause.reason, reconnect_after))
        if not self.end(cause, reason=reason or None):
            return False
        self._goodbye = goodbye
        return True

    # Welcome and goodbye

    def _arrive(self) -> None:
        early = self._announce()
        if not self.is_open:  # a callback has ended it: what it has said before is sent
            if early:
                self.owe(early)
            return
        is_known = self.state is ConnectionState.OPEN
        self._say_welcome(self._subscribe_on_arrival() if is_known else ())
        if early:
            self.owe(early)
        if is_known:
            self._start_endpoint()

    def welcome_user(self) -> None:
        """Follow the first token, which has come by message: tell what it is subscribed to now."""
        had_to_wait = self.state is ConnectionState.AUTHENTICATING
        super().welcome_user()
        for name in self.endpoint.topics:
            # A client that had not to wait got the others when it came, and may have left them.
            if had_to_wait or USER_ID in name:
                topic = self._enter(name)
                if topic is not None:
                    self.say(head(MessageType.SUBSCRIBED, topic), None)
        if had_to_wait:
            self._start_endpoint()

    def _subscribe_on_arrival(self) -> tuple[str, ...]:
        """Enter the endpoint's subscriptions that are possible now; return all that there are."""
        for name in self.endpoint.topics:
            if USER_ID not in name or not self.identity.is_anonymous:
                self._enter(name)
        return tuple(self.subscriptions)

    def _enter(self, name: str) -> str | None:
        """Enter one of the endpoint's subscriptions; return its topic, or None if there is none.

        One that must not be, or that a limit forbids, is left out and logged.
        """
        topic = name
        try:
            if USER_ID in name:
                topic = topic_of_user(name, self.identity)
                if topic.count(".") != name.count(".") and user_of(topic) is None:
                    self._check_as_if_asked(topic)
            return topic if self.services.topics.subscribe(self, topic) else None
        except ProtocolError as error:
            self.log("warning", "subscription_refused", topic=topic, error=error.message)
            return None

    def _check_as_if_asked(self, topic: str) -> None:
        """Raise RemoteProtocolError unless the client could subscribe to this topic by itself.

        That is asked of a topic in which the user's id has made segments of its own, by a dot: it
        has another form than the program's template, so patterns and rules that the program wrote
        for that form do not cover it, and it may be a topic of another kind.
        """
        self.services.topics.check_access("subscribe", self.identity, topic)
        if "subscribe" in self.services.authorizers:
            text = (
                f"the dot in the user's id makes {topic!r} of it, about which "
                "`authorize_subscribe` cannot be asked here; subscribe in a `connected` callback"
            )
            raise RemoteProtocolError(text, ErrorCode.FORBIDDEN, topic=topic)

    def _start_endpoint(self) -> None:
        if self.endpoint.handler is not None and self.nursery is not None:
            self.nursery.start_soon(self._run_endpoint, name=f"endpoint of {self.id}")

    async def _run_endpoint(self) -> None:
        assert self.endpoint.handler is not None  # noqa: S101 - see above
        task = trio.lowlevel.current_task()
        try:
            await self.endpoint.handler(self.handle)
        except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
            contain(error, self._on_endpoint_error, task)

    def _release(self) -> None:
        super()._release()
        self.checked_topics = None

    def _deliver_owed(self) -> None:
        if self.services.departures:
            self._at_end = dict(self.subscriptions)
        for topic in tuple(self.subscriptions):
            self.services.topics.unsubscribe(self, topic)

    def _farewell(self) -> bytes:
        if self._goodbye is None:
            return b""
        stamp = self.shared.tick.stamp()
        return encode_text(splice(head(MessageType.GOODBYE), self._goodbye, stamp))

    # Messages

    def _run_other(self, message: Incoming) -> Awaitable[None] | None:
        """Call the program's handler for the type; return its awaitable if it is async."""
        handler = self.services.handlers.get(message.type)
        if handler is None:
            text = f"this server has no handler for messages of type {message.type!r}"
            raise RemoteProtocolError(text, ErrorCode.UNKNOWN_TYPE)
        if message.topic is not None:
            check_topic(message.topic)
        result: object = handler(Context(self, message), message.envelope())
        if inspect.isawaitable(result):
            return result
        expect_nothing(message, result)
        return None

    def _on_identity(self) -> None:
        """End subscriptions that the client asked for and its new token does not allow."""
        self.checked_topics = None
        for topic, subscription in tuple(self.subscriptions.items()):
            try:
                if subscription.by_client:
                    self.services.topics.check_access("subscribe", self.identity, topic)
            except ProtocolError as error:
                self.unsubscribe(topic)
                self.answer_error(None, error)


class _Subscriptions(Mapping[str, Subscription]):
    """A session's subscriptions; every look at it reads the routing tables.

    The tables' own view does not follow all changes: it is a view of one dict, and a connection
    without subscriptions has none.
    """

    __slots__ = ("_actor",)

    def __init__(self, actor: SessionActor) -> None:
        self._actor = actor

    def __getitem__(self, topic: str) -> Subscription:
        return self._actor.subscriptions[topic]

    def __iter__(self) -> Iterator[str]:
        return iter(self._actor.subscriptions)

    def __len__(self) -> int:
        return len(self._actor.subscriptions)

    def __repr__(self) -> str:
        return repr(dict(self))


class Session(ConnectionHandle[SessionActor]):
    """A client's connection, as a program holds it.

    Every method is synchronous, since none of them can block. After the connection's end the
    methods return False, and the properties can still be read.
    """

    __slots__ = ("_at_end",)

    def __init__(
        self, actor: SessionActor, at_end: Mapping[str, Subscription] | None = None
    ) -> None:
        """Take the actor and, if it is over, its last subscriptions; Moorage makes the handles."""
        super().__init__(actor)
        self._at_end = at_end

    @property
    def topics(self) -> AbstractSet[str]:
        """The topics that the connection is subscribed to, as a live, read-only view.

        In a `disconnected` callback: those that it was subscribed to when it ended.
        """
        return self.subscriptions.keys()

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """The connection's subscriptions by topic, as a live, read-only view.

        In a `disconnected` callback: those that it had when it ended.
        """
        if self._at_end is not None:
            return MappingProxyType(self._at_end)
        return _Subscriptions(self._actor)

    def send(self, message_type: str, data: Any = None, *, topic: str | None = None) -> bool:
        """Send one message to this client; return False if the connection is over.

        LocalProtocolError: the type, the topic or the data cannot be sent.
        """
        return self._actor.say(head(message_type, topic), encode_value(data))

    def subscribe(self, topic: str) -> bool:
        """Subscribe the client to a topic; return False if it was subscribed, or is gone.

        The client is told by a `subscribed` message. Its permissions do not matter here: this is
        the program's own decision. RemoteProtocolError: a limit forbids it. LocalProtocolError:
        the topic's name is illegal.
        """
        return self._actor.subscribe(topic)

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription of the client, and tell it; return False if there was none."""
        return self._actor.unsubscribe(topic)

    def disconnect(
        self,
        reason: str = "",
        *,
        cause: CloseCause = CloseCause.DISCONNECTED,
        reconnect_after: float | None = None,
    ) -> bool:
        """Close the connection; return at once, with False if it was ending already.

        The cause decides the close code, and so whether the client comes back: after `DISCONNECTED`
        it stays away, after `RECONNECT` it comes back. If `reconnect_after` is given, in seconds, a
        `goodbye` before the close tells the client when to come back. ValueError or
        LocalProtocolError: the reason (of which 123 bytes are sent) or the time cannot be sent, or
        nothing can be sent after the cause, as after `PEER_VANISHED`; nothing happens then.
        """
        if cause.code is None:
            raise ValueError(f"nothing can be sent to a peer after {cause.value}")
        return self._actor.disconnect(reason, cause=cause, reconnect_after=reconnect_after)


class Context:
    """The context in which a message is handled: its sender, and what the handler may do.

    Every method is synchronous, since none of them can block.
    """

    __slots__ = ("_actor", "_message_id")

    def __init__(self, actor: SessionActor, message: Incoming) -> None:
        """Take the actor and the message; the actor makes a context for each call of a handler."""
        self._actor = actor
        self._message_id = message.id

    @property
    def connection(self) -> Session:
        """The connection that sent the message."""
        return self._actor.handle

    @property
    def identity(self) -> Identity:
        """The identity of the sender, as the verified token gives it."""
        return self._actor.identity

    @property
    def user_id(self) -> str | None:
        """The id of the user who sent the message; None for an anonymous connection."""
        return self._actor.identity.user_id

    @property
    def metadata(self) -> dict[str, Any]:
        """The program's own notes about the connection, a dict."""
        return self._actor.metadata

    def reply(self, message_type: str, data: Any = None, *, topic: str | None = None) -> bool:
        """Send the sender a reply with the message's `id`; return False if it is gone.

        LocalProtocolError: the type, the topic or the data cannot be sent.
        """
        return self._actor.say(head(message_type, topic, self._message_id), encode_value(data))

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish to a topic's subscribers, except the connections whose ids are in `exclude`.

        Returns how many connections are addressed. LocalProtocolError: the topic, the type or the
        data cannot be sent.
        """
        sending = self._actor.services.sending
        return sending.broadcast_to_topic(topic, message_type, data, exclude=exclude)

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send a message to all sessions of a user; return how many there are.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self._actor.services.sending.send_to_user(user_id, message_type, data)

    def subscribe(self, topic: str) -> bool:
        """Subscribe the sender to a topic, as `Session.subscribe` does."""
        return self._actor.subscribe(topic)

    def unsubscribe(self, topic: str) -> bool:
        """End a subscription of the sender, as `Session.unsubscribe` does."""
        return self._actor.unsubscribe(topic)
