"""Events: what happens in the server, for operators who watch.

An event is a log line's twin: the same name, the same fields. Those whom nobody watches cost one
look at an empty dict. For those who watch, each set of patterns is a *stream*, and a stream is a
topic of a router of its own: so what happens in one turn of the event loop reaches each watcher in
one write, and one who reads too slowly loses the oldest events and is told so by a `gap`, exactly
as a subscriber is. No watcher can slow the server down, or make it hold more than one mailbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...actors.connection.connection import Connection
from ...actors.connection.mailbox import OverloadPolicy
from ...actors.ports import Traffic
from ...actors.tick import Tick
from ...protocol.admin.commands import AnswerType
from ...protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from ...protocol.messages.codec import encode_value
from ...protocol.messages.topics import PatternSet
from ..topics.routing import Router

STREAM: Final = "$events"
"""The topic of the stream of all events; other streams' names add their patterns."""

_MAX_PATTERNS: Final = 20


class Events:
    """Passes what happens on to those who watch it. All but `deliver` is synchronous."""

    def __init__(self, tick: Tick) -> None:
        self._router = Router(tick, Traffic(), lambda _: OverloadPolicy.DROP_OLDEST)
        # The streams that are watched, by topic; empty while nobody watches anything.
        self.streams: dict[str, PatternSet] = {}

    def emit(self, event: str, fields: Mapping[str, Any]) -> None:
        """Pass an event on; for callers that have seen that `streams` is not empty."""
        data: bytes | None = None
        for topic, patterns in self.streams.items():
            if patterns.matches(event):
                if data is None:
                    data = _encode(event, fields)
                self._router.publish(topic, AnswerType.EVENT, data)

    def watch(self, watcher: Connection, patterns: Iterable[str]) -> str | None:
        """Let a connection watch these events, and no longer those before; return the topic.

        None: no patterns, so that nothing is watched any more. RemoteProtocolError: a pattern is
        wrong.
        """
        wanted = tuple(sorted(set(patterns)))
        if len(wanted) > _MAX_PATTERNS:
            text = f"`data.events`: at most {_MAX_PATTERNS} patterns, not {len(wanted)}"
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
        return topic

    def unwatch(self, watcher: Connection) -> None:
        """Let a connection watch nothing any more."""
        topics = tuple(watcher.topics)
        for topic in topics:
            self._router.unsubscribe(topic, watcher)  # what it is owed is delivered
        self._forget(topics)

    def forget(self, watcher: Connection) -> None:
        """Take out a connection that is over."""
        topics = tuple(watcher.topics)
        self._router.remove(watcher)
        self._forget(topics)

    def _forget(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic not in self._router.topics:
                del self.streams[topic]

    async def deliver(self) -> None:
        """Deliver what happens, once per tick, until cancelled."""
        await self._router.deliver()


def _encode(event: str, fields: Mapping[str, Any]) -> bytes:
    """Write an event as JSON; an exception among the fields becomes a line of text."""
    data: dict[str, Any] = {"event": event}
    for name, value in fields.items():
        if isinstance(value, BaseException):
            data["error"] = f"{type(value).__name__}: {value}"
        else:
            data[name] = value
    try:
        return encode_value(data)
    except LocalProtocolError:  # half of a surrogate pair in an exception's text, for example
        return encode_value({name: ascii(value) for name, value in data.items()})
