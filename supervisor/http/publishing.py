"""`POST /api/publish`: one message or many, for back ends that need no connection otherwise.

A token may publish here what it may publish over WebSocket, and an administrator to every topic.
All messages of a request are checked before the first is published: either all are, or none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import attrs
from starlette.requests import Request
from starlette.responses import Response

from ...protocol.admin.commands import read_request
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import encode_value, head
from ...protocol.messages.topics import check_topic
from ...protocol.messages.types import MessageType
from ..parts import Parts
from .authorization import Authorizer
from .idempotency import IdempotencyMemory
from .request_data import read_body, read_json
from .responses import RequestRefused

MAX_MESSAGES: Final = 1000
"""Messages that one request may publish."""


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
        # From here on nothing waits: of two requests with one key, the second finds the first.
        if key is not None and (before := memory.recall(user_id, key, body)) is not None:
            return _answer(before, {"Idempotency-Replayed": "true"})
        messages = _read(read_json(request, body))
        for place, message in messages:
            _check(parts, identity, place, message)
        recipients = [
            parts.hub.broadcast_to_topic(message.topic, message.message_type, message.data)
            for _, message in messages
        ]
        answer = encode_value(attrs.asdict(Published(len(recipients), tuple(recipients))))
        if key is not None:
            memory.remember(user_id, key, body, answer)
        return _answer(answer)

    return publish


def _answer(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


def _read(body: Any) -> list[tuple[str, PublishRequest]]:
    """Return the messages of a request, each with its place in the body."""
    if not isinstance(body, dict):
        text = 'the body must be an object: {"topic": …, "data": …} or {"messages": […]}'
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    fields = cast("dict[str, Any]", body)
    if "messages" not in fields:
        return [("the body", read_request(fields, PublishRequest))]
    if len(fields) > 1:
        other = next(name for name in fields if name != "messages")
        text = f"beside `messages` there can be nothing, so not `{other[:100]}`"
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    entries = fields["messages"]
    if not isinstance(entries, list) or not entries:
        text = "`messages` must be a list of at least one message"
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
    given = cast("list[Any]", entries)
    if len(given) > MAX_MESSAGES:
        text = f"one request may publish {MAX_MESSAGES} messages, not {len(given)}"
        raise RequestRefused(413, ErrorCode.TOO_LARGE, text)
    return [_read_entry(f"messages[{number}]", entry) for number, entry in enumerate(given)]


def _read_entry(place: str, entry: Any) -> tuple[str, PublishRequest]:
    try:
        return place, read_request({} if entry is None else entry, PublishRequest)
    except ProtocolError as error:
        raise RemoteProtocolError(error.message.replace("`data", f"`{place}"), error.code) from None


def _check(parts: Parts, identity: Identity, place: str, message: PublishRequest) -> None:
    """Refuse a message that cannot be published, or that this token may not publish."""
    try:
        check_topic(message.topic)
        head(message.message_type)
        size = len(encode_value(message.data))
    except ProtocolError as error:  # a local one, too, is the mistake of the client here
        raise RemoteProtocolError(f"{place}: {error.message}", error.code) from None
    most = parts.settings.max_message_size
    if size > most:
        text = f"{place}: a message may have {most} bytes, not {size}"
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
