"""`POST /api/publish`: one message or many, for back ends that need no connection otherwise.

A token may publish here what it may publish over WebSocket, and an administrator to every topic.
All messages of a request are checked before the first is published: either all are, or none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from ...protocol.admin.commands import read_raw_request
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import (
    check_raw,
    encode_value,
    head,
    read_fields,
    read_items,
    splice,
    timestamp,
)
from ...protocol.messages.topics import check_topic
from ...protocol.messages.types import MessageType
from ..parts import Parts
from .authorization import Authorizer
from .idempotency import IdempotencyMemory
from .request_data import check_json_text, read_body
from .responses import RequestRefused

MAX_MESSAGES: Final = 1000
"""Messages that one request may publish."""

_NULL: Final = msgspec.Raw(b"null")

_AROUND: Final = len(splice(b"", b"0", timestamp(0.0))) - 1
"""Bytes of a message beside its `head` and its data."""

_BYTES_PER_TURN: Final = 65_536
"""Bytes of messages that are checked before others have a turn: up to 5 ms, if all of it nests."""

_WORTH: Final = 700
"""Bytes that a message counts more: so many are checked in the time that it takes by itself."""


@attrs.frozen
class PublishRequest:
    """One message to publish."""

    topic: str
    data: Any = None
    # Clients need a handler of their own for other types than `data`.
    message_type: str = str(MessageType.DATA)


@attrs.frozen
class PublishBatch:
    """Several messages, which are published in this order."""

    messages: tuple[PublishRequest, ...]


@attrs.frozen
class Published:
    """The answer to a request that has published its message, or all of its messages."""

    published: int  # messages
    recipients: tuple[int, ...]  # connections that each message is addressed to


def publish_endpoint(
    parts: Parts, authorizer: Authorizer, memory: IdempotencyMemory
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of `/api/publish`."""

    async def publish(request: Request) -> Response:
        identity = authorizer.identify(request)
        body = await read_body(request)
        key = request.headers.get("idempotency-key")
        user_id = identity.user_id or ""

        def before() -> Response | None:
            answer = None if key is None else memory.recall(user_id, key, body)
            return None if answer is None else _answer(answer, {"Idempotency-Replayed": "true"})

        if (repeated := before()) is not None:
            return repeated
        check_json_text(request, body)
        messages = await _checked(parts, identity, body)
        # From here on nothing waits, so that all are published or none. While they were checked,
        # another request with this key may have been done.
        if (repeated := before()) is not None:
            return repeated
        recipients = [
            parts.hub.broadcast_to_topic(message.topic, message.message_type, message.data)
            for message in messages
        ]
        answer = encode_value(attrs.asdict(Published(len(recipients), tuple(recipients))))
        if key is not None:
            memory.remember(user_id, key, body, answer)
        return _answer(answer)

    return publish


def _answer(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


async def _checked(parts: Parts, identity: Identity, body: bytes) -> list[PublishRequest]:
    """Return the messages of a request, with `data` as JSON, after all of them were checked.

    What a token may do, and every limit, comes first; only what passes is looked at closely. Others
    have turns in between.
    """
    messages: list[PublishRequest] = []
    looked_at = 0  # bytes since others had a turn
    for place, raw in _entries(body):
        message = _read_entry(place, raw)
        _check(parts, identity, place, message)
        try:
            check_raw(message.data)
        except ProtocolError as error:
            raise RemoteProtocolError(f"{place}: {error.message}", error.code) from None
        messages.append(message)
        looked_at += len(bytes(raw)) + _WORTH
        if looked_at > _BYTES_PER_TURN:
            looked_at = 0
            await trio.lowlevel.checkpoint()
    return messages


def _entries(body: bytes) -> list[tuple[str, msgspec.Raw]]:
    """Return the messages of a body, unparsed, each with its place in it."""
    fields = read_fields(body or b"null")
    if fields is None:
        text = 'the body must be an object: {"topic": …, "data": …} or {"messages": […]}'
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    if "messages" not in fields:
        return [("the body", msgspec.Raw(body))]
    if len(fields) > 1:
        other = next(name for name in fields if name != "messages")
        text = f"beside `messages` there can be nothing, so not `{other[:100]}`"
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    given = read_items(fields["messages"])
    if not given:
        text = "`messages` must be a list of at least one message"
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    if len(given) > MAX_MESSAGES:
        text = f"one request may publish {MAX_MESSAGES} messages, not {len(given)}"
        raise RequestRefused(413, ErrorCode.TOO_LARGE, text)
    return [(f"messages[{number}]", entry) for number, entry in enumerate(given)]


def _read_entry(place: str, entry: msgspec.Raw) -> PublishRequest:
    try:
        message = read_raw_request(entry, PublishRequest)
    except ProtocolError as error:
        if place == "the body":
            raise
        raise RemoteProtocolError(error.message.replace("`data", f"`{place}"), error.code) from None
    return message if message.data is not None else attrs.evolve(message, data=_NULL)


def _check(parts: Parts, identity: Identity, place: str, message: PublishRequest) -> None:
    """Refuse a message that cannot be published, or that this token may not publish."""
    try:
        check_topic(message.topic)
        size = len(head(message.message_type, message.topic)) + len(bytes(message.data)) + _AROUND
    except ProtocolError as error:  # a local one, too, is the mistake of the client here
        raise RemoteProtocolError(f"{place}: {error.message}", error.code) from None
    most = parts.settings.max_message_size
    if size > most:
        text = f"{place}: a message may have {most} bytes as its subscribers get it, not {size}"
        raise RequestRefused(413, ErrorCode.TOO_LARGE, text)
    if identity.is_admin:
        return
    parts.pubsub.check_access("publish", identity, message.topic)
    if parts.app.authorizers.get("publish") is not None:
        # That rule decides about connections, and there is none here.
        text = "this server asks its own program about every publication; come over WebSocket"
        raise RequestRefused(403, ErrorCode.FORBIDDEN, text)
    if message.message_type != MessageType.DATA:
        # Over WebSocket a client's publications are `data`, so that it cannot speak as the server.
        text = f"{place}: only administrators may publish other types than `data`"
        raise RequestRefused(403, ErrorCode.FORBIDDEN, text)
