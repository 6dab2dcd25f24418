"""What a request says: its body and its query, read within limits and checked by name."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing
from typing import Any, Final

import msgspec
import trio
from starlette.requests import ClientDisconnect, Request

from ...protocol.errors import ErrorCode
from .refusals import Refused

MAX_BODY: Final = 1_048_576
"""Bytes that a request's body may have."""

_BODY_TIMEOUT: Final = 10.0
"""Seconds for a body to arrive."""


async def read_body(request: Request) -> bytes:
    """Return a request's body; Refused with 413 before more than `MAX_BODY` is taken.

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
                        raise Refused(413, ErrorCode.TOO_LARGE, text, headers)
    except trio.TooSlowError:
        text = f"the body did not arrive within {_BODY_TIMEOUT:g} s"
        raise Refused(408, ErrorCode.TIMEOUT, text, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, ErrorCode.BAD_MESSAGE, "the body was cut off") from None
    return bytes(body)


def read_json(request: Request, body: bytes) -> Any:
    """Return what a JSON body says, None for an empty one."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if body and kind.lower() != "application/json":
        text = f"a body is application/json here, not {kind[:100]!r}"
        raise Refused(415, "unsupported_media_type", text)
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(400, ErrorCode.BAD_MESSAGE, f"the body is not JSON: {error}") from None


def read_query(request: Request, known: Collection[str]) -> dict[str, Any]:
    """Return the query's parameters, each once, and without those that are empty.

    `limit` is a number, the others are text. Refused with 400, naming what is wrong.
    """
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            text = f"there is no parameter {name[:100]!r}; known are: {', '.join(known) or 'none'}"
            raise Refused(400, ErrorCode.BAD_MESSAGE, text)
        if name in found:
            raise Refused(400, ErrorCode.BAD_MESSAGE, f"`{name}` may be given once")
        if value:
            found[name] = _whole_number(name, value) if name == "limit" else value
    return found


def _whole_number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise Refused(400, ErrorCode.BAD_MESSAGE, f"`{name}` must be a whole number")
    return int(value)
