"""The message protocol, for the Python contestants: decode, stamp, encode.

They share it so that they differ only in their servers. It is the fastest way known: msgspec
fills a Struct, `data` stays raw JSON, and the date of the timestamp is computed once a second.
Every contestant is started as `<file> [options] <port>` and listens on 127.0.0.1.
"""

import time

import msgspec


class Envelope(msgspec.Struct, omit_defaults=True, gc=False):
    """One message, in either direction."""

    type: str
    topic: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: str | int | None = None
    timestamp: str | None = None
    error: str | None = None


class Topics(msgspec.Struct):
    """The `data` of a `subscribe` to several topics."""

    topics: list[str]


decode = msgspec.json.Decoder(Envelope).decode
_encode = msgspec.json.Encoder().encode
_topics = msgspec.json.Decoder(Topics).decode
_second, _prefix = 0, ""


def timestamp() -> str:
    """The present time, as RFC 3339 with milliseconds."""
    global _second, _prefix
    now = time.time()
    second = int(now)
    if second != _second:
        _second, _prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_prefix}.{int((now - second) * 1000):03d}Z"


def message(kind: str, request: Envelope, topic: str | None = None) -> bytes:
    """A direct reply, with the request's `id` and `data`."""
    return _encode(
        Envelope(type=kind, topic=topic, data=request.data, id=request.id, timestamp=timestamp())
    )


def subscribed(request: Envelope, topic: str) -> bytes:
    """The reply to one topic of a `subscribe`."""
    return _encode(Envelope(type="subscribed", topic=topic, id=request.id, timestamp=timestamp()))


def publication(request: Envelope) -> bytes:
    """The message that every subscriber gets."""
    return _encode(
        Envelope(type="data", topic=request.topic, data=request.data, timestamp=timestamp())
    )


def welcome() -> bytes:
    """The first message of a connection."""
    return _encode(Envelope(type="welcome", timestamp=timestamp()))


def topics_of(request: Envelope) -> list[str]:
    """The topic of a `subscribe`, or the topics in its `data`."""
    return [request.topic] if request.topic else _topics(request.data).topics
