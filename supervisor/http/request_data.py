"""The data of a request: its body and its query, read within limits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import trio
from starlette.requests import ClientDisconnect, Request

from ...protocol.errors import ErrorCode
from .responses import RequestRefused

MAX_BODY: Final = 1_048_576
"""Bytes that a request's body may have."""

_BODY_TIMEOUT: Final = 10.0
"""Seconds for a body to arrive."""


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    RequestRefused: 413 before more than `MAX_BODY` is taken, 408 for one that is late, 400 for one
    that is cut off.
    Cancelling is safe.
    """
    body = bytearray()
    try:
        with trio.fail_after(_BODY_TIMEOUT):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_BODY:
                        text = f"a body may have {MAX_BODY} bytes"
                        headers = {"Connection": "close"}  # what follows of it is not read
                        raise RequestRefused(413, ErrorCode.TOO_LARGE, text, headers)
    except trio.TooSlowError:
        text = f"the body did not arrive within {_BODY_TIMEOUT:g} s"
        raise RequestRefused(408, ErrorCode.TIMEOUT, text, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, "the body was cut off") from None
    return bytes(body)


def check_json_text(request: Request, body: bytes) -> None:
    """Check that a body claims to be JSON, and is text; it is not parsed.

    RequestRefused: 415 for another type of content, 400 for what is no UTF-8.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if body and kind.lower() != "application/json":
        text = f"a body is application/json here, not {kind[:100]!r}"
        raise RequestRefused(415, "unsupported_media_type", text)
    try:
        # JSON that is passed on unparsed would carry wrong bytes to every subscriber.
        body.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, f"the body is not JSON: {error}") from None


def read_query(request: Request, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the query's parameters, without those that are empty.

    `known` are the types of those that there may be: `int` is read as a whole number, all others as
    text. RequestRefused: 400 for one that is unknown, given twice, or no number.
    """
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            text = f"there is no parameter {name[:100]!r}; known are: {', '.join(known) or 'none'}"
            raise RequestRefused(400, ErrorCode.BAD_MESSAGE, text)
        if name in found:
            raise RequestRefused(400, ErrorCode.BAD_MESSAGE, f"`{name}` may be given once")
        if value:
            found[name] = _whole_number(name, value) if known[name] is int else value
    return found


def _whole_number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise RequestRefused(400, ErrorCode.BAD_MESSAGE, f"`{name}` must be a whole number")
    return int(value)
