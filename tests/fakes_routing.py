"""A connection as the routing knows one, and the frames that it gets."""

from __future__ import annotations

import json
from typing import Any

import attrs

from moorage.actors.connection.mailbox import Verdict


@attrs.define(eq=False)
class Subscriber:
    """A connection, as far as the routing knows one; writes down all that it is owed."""

    name: str
    said: list[bytes] = attrs.field(factory=list)
    over: bool = False

    @property
    def mailbox(self) -> Subscriber:
        return self

    def put(self, data, messages=1, topic=None, policy=None, latest=None) -> Verdict:
        if self.over:
            return Verdict.CLOSED
        self.said.append(data)
        return Verdict.SENT

    def act_on(self, verdict: Verdict) -> bool:
        return verdict is Verdict.SENT

    def owe(self, frames: list[bytes]) -> bool:
        return self.put(b"".join(frames)) is Verdict.SENT

    def note(self, event: str, topic: str) -> None:
        """Say what a session says when a subscription changes."""
        self.said.append(frame({"type": event, "topic": topic}))

    def write_replies(self) -> bool:
        return True

    def log(self, topic: str) -> list[Any]:
        """All that was said about a topic, in order."""
        messages = (json.loads(text) for text in texts(b"".join(self.said)))
        return [
            message["data"] if message["type"] == "data" else message["type"]
            for message in messages
            if message["topic"] == topic
        ]


def frame(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode()
    return bytes([0x81, 126]) + len(text).to_bytes(2) + text


def texts(data: bytes) -> list[bytes]:
    """The payloads of a server's text frames."""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10]), 10
        found.append(data[start : start + size])
        data = data[start + size :]
    return found
