"""Events: the log lines of the server, for operators who watch them.

An event has the name and the fields of a log line. While nobody watches, an event costs nearly
nothing. Each set of patterns that an operator watches is a *stream*, and a stream is a topic of the
events' own router. So the events of one turn of the event loop reach each watcher in one write. A
watcher that reads too slowly loses the oldest events, and a `gap` tells it so, as with subscribers.
No watcher can slow the server down, or make it keep more than one mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import OverloadPolicy
from ...actors.connection.traffic import Traffic
from ...actors.containment import contain
from ...actors.tick import Tick
from ...protocol.admin.commands import AnswerType
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ...protocol.messages.codec import encode_value
from ...protocol.messages.topics import PatternSet
from ..topics.routing import Router
from ..topics.topic_options import TopicOptions

STREAM: Final = "$events"
"""The topic of the stream of all events; topics of other streams have their patterns added."""

_MAX_PATTERNS: Final = 20


_OPTIONS: Final = TopicOptions(OverloadPolicy.DROP_OLDEST)


class EventSource(Protocol):
    """A source of events: the log or the topics."""

    # Is called with the name and the fields of each event; None while nobody watches.
    on_event: Callable[[str, Mapping[str, Any]], None] | None


class Events:
    """The streams of events to operators. All methods but `deliver` are synchronous."""

    def __init__(
        self,
        tick: Tick,
        sources: Iterable[EventSource],
        on_defect: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Take the tick, and the sources, which are listened to while an operator watches.

        `on_defect` is called with an error that has cost all watchers of a stream some events.
        """
        self._router = Router(tick, Traffic(), lambda _: _OPTIONS, on_defect=on_defect)
        self._sources = tuple(sources)
        # The patterns of the streams that are watched, by topic; empty while nobody watches.
        self.streams: dict[str, PatternSet] = {}

    def emit(self, event: str, fields: Mapping[str, Any]) -> None:
        """Pass an event on to the streams whose patterns match its name."""
        data: bytes | None = None
        for topic, patterns in self.streams.items():
            if patterns.matches(event):
                if data is None:
                    data = _encode(event, fields)
                self._router.publish(topic, AnswerType.EVENT, data)

    def watch(self, watcher: Connection, patterns: Iterable[str]) -> str | None:
        """Let a connection watch these events and no others; return the stream's topic.

        Without patterns the connection watches nothing, and None is returned. RemoteProtocolError:
        a pattern is illegal, or there are too many.
        """
        wanted = tuple(sorted(set(patterns)))
        if len(wanted) > _MAX_PATTERNS:
            text = f"`data.events`: at most {_MAX_PATTERNS} patterns, not {len(wanted)}"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        if any("," in pattern for pattern in wanted):  # it joins them in the stream's topic
            text = "`data.events`: no event has a comma in its name, so a pattern has none either"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        try:
            pattern_set = PatternSet(wanted)
        except LocalProtocolError as error:
            text = f"`data.events`: {error.message}"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE) from error
        self.unwatch(watcher)
        if not wanted:
            return None
        topic = STREAM if wanted == ("**",) else f"{STREAM}:{','.join(wanted)}"
        self._router.subscribe(topic, watcher)
        self.streams[topic] = pattern_set
        self._listen()
        return topic

    def unwatch(self, watcher: Connection) -> None:
        """End a connection's stream, and deliver what is owed of it."""
        topics = tuple(self._router.subscriptions_of(watcher))
        for topic in topics:
            self._router.unsubscribe(topic, watcher)  # what it is owed is delivered
        self._forget(topics)

    def forget(self, watcher: Connection) -> None:
        """Take out a connection that is over."""
        topics = tuple(self._router.subscriptions_of(watcher))
        self._router.remove(watcher)
        self._forget(topics)

    def _forget(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic not in self._router.topics:
                del self.streams[topic]
        self._listen()

    def _listen(self) -> None:
        """Listen to the sources while an operator watches; else an event costs one comparison."""
        on_event = self.emit if self.streams else None
        for source in self._sources:
            source.on_event = on_event

    async def deliver(self) -> None:
        """Deliver the events of each tick, until cancelled: a task of the server."""
        await self._router.deliver()


def _text(error: BaseException) -> str:
    """Return what an exception says; a program's own may fail even in that."""
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - `contain` raises what has to go on
        names: list[str] = []
        contain(failure, lambda contained: names.append(type(contained).__name__))
        return f"its text cannot be had: {names[0]}"


def _encode(event: str, fields: Mapping[str, Any]) -> bytes:
    """Return an event as JSON; an exception among the fields becomes the text `error`."""
    data: dict[str, Any] = {"event": event}
    for name, value in fields.items():
        if isinstance(value, BaseException):
            data["error"] = f"{type(value).__name__}: {_text(value)}"
        else:
            data[name] = value
    try:
        return encode_value(data)
    except LocalProtocolError:  # half of a surrogate pair in an exception's text, for example
        return encode_value({name: ascii(value) for name, value in data.items()})
