"""`POST /api/publish`: for back ends that only want to say something, one message or many.

What a token may publish here is what it may publish over WebSocket, and an administrator may
publish to every topic. All messages of a request are checked before the first is published: either
all of them are, or none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
from starlette.requests import Request
from starlette.responses import Response

from ...protocol.admin.commands import read_command
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.identity import Identity
from ...protocol.messages.codec import encode_value, head
from ...protocol.messages.topics import check_topic
from ...protocol.messages.types import MessageType
from .bearer import Access
from .idempotency import IdempotencyMemory
from .inputs import read_body, read_json
from .refusals import Refused

if TYPE_CHECKING:
    from ..supervisor import Supervisor

MAX_MESSAGES: Final = 1000
"""Messages that one request may publish."""


@attrs.frozen
class Publication:
    """One message."""

    topic: str
    data: Any = None
    # Other types than `data` are for clients that look for them.
    message_type: str = str(MessageType.DATA)


@attrs.frozen
class Publications:
    """Several messages, published in this order."""

    messages: tuple[Publication, ...]


@attrs.frozen
class Published:
    """The answer: how many connections each message is addressed to, in the order given."""

    published: int
    recipients: tuple[int, ...]


def publish_endpoint(
    supervisor: Supervisor, access: Access, memory: IdempotencyMemory
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers `POST /api/publish`."""

    async def publish(request: Request) -> Response:
        identity = access.identify(request)
        body = await read_body(request)
        key = request.headers.get("idempotency-key")
        user_id = identity.user_id or ""
        # From here on nothing waits: of two requests with one key, the second finds the first.
        if key is not None and (before := memory.recall(user_id, key, body)) is not None:
            return _answer(before, {"Idempotency-Replayed": "true"})
        messages = _read(read_json(request, body))
        for place, message in messages:
            _check(supervisor, identity, place, message)
        recipients = [
            supervisor.broadcast_to_topic(message.topic, message.message_type, message.data)
            for _, message in messages
        ]
        answer = encode_value(attrs.asdict(Published(len(recipients), tuple(recipients))))
        if key is not None:
            memory.remember(user_id, key, body, answer)
        return _answer(answer)

    return publish


def _answer(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


def _read(body: Any) -> list[tuple[str, Publication]]:
    """Return the messages of a request, each with its place in the body."""
    if not isinstance(body, dict):
        text = 'the body must be an object: {"topic": …, "data": …} or {"messages": […]}'
        raise Refused(400, ErrorCode.BAD_MESSAGE, text)
    fields = cast("dict[str, Any]", body)
    if "messages" not in fields:
        return [("the body", read_command(fields, Publication))]
    if len(fields) > 1:
        other = next(name for name in fields if name != "messages")
        text = f"beside `messages` there can be nothing, so not `{other[:100]}`"
        raise Refused(400, ErrorCode.BAD_MESSAGE, text)
    entries = fields["messages"]
    if not isinstance(entries, list) or not entries:
        text = "`messages` must be a list of at least one message"
        raise Refused(400, ErrorCode.BAD_MESSAGE, text)
    given = cast("list[Any]", entries)
    if len(given) > MAX_MESSAGES:
        text = f"one request may publish {MAX_MESSAGES} messages, not {len(given)}"
        raise Refused(413, ErrorCode.TOO_LARGE, text)
    return [_read_entry(f"messages[{number}]", entry) for number, entry in enumerate(given)]


def _read_entry(place: str, entry: Any) -> tuple[str, Publication]:
    try:
        return place, read_command({} if entry is None else entry, Publication)
    except ProtocolError as error:
        raise RemoteProtocolError(error.message.replace("`data", f"`{place}"), error.code) from None


def _check(supervisor: Supervisor, identity: Identity, place: str, message: Publication) -> None:
    """Refuse a message that cannot be published, or that this token may not publish."""
    try:
        check_topic(message.topic)
        head(message.message_type)
        size = len(encode_value(message.data))
    except ProtocolError as error:  # whoever is to blame here, it is the client
        raise RemoteProtocolError(f"{place}: {error.message}", error.code) from None
    most = supervisor.settings.max_message_size
    if size > most:
        text = f"{place}: a message may have {most} bytes, not {size}"
        raise Refused(413, ErrorCode.TOO_LARGE, text)
    if identity.is_admin:
        return
    supervisor.harbor.check_access("publish", identity, message.topic)
    if supervisor.harbor.app.authorizers.get("publish") is not None:
        # It decides about connections, and here is none.
        text = "this server asks its own program about every publication; come over WebSocket"
        raise Refused(403, ErrorCode.FORBIDDEN, text)
    if message.message_type != MessageType.DATA:
        # Over WebSocket a client's publications are `data`, so that it cannot speak as the server.
        text = f"{place}: only administrators may publish other types than `data`"
        raise Refused(403, ErrorCode.FORBIDDEN, text)
