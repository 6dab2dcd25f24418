"""HTTP responses: values as JSON, and errors, which all have one shape.

That is `{"error": …, "code": …}`: a sentence for people, and a word for machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...protocol.errors import ErrorCode, MoorageError, ProtocolError
from ...protocol.messages.codec import encode_value
from ..operations.snapshots import NotFound

_STATUS: Final = {
    ErrorCode.BAD_MESSAGE: 400,
    ErrorCode.BAD_TOPIC: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_SUBSCRIBED: 409,
    ErrorCode.TOPIC_LIMIT: 409,
    ErrorCode.SUBSCRIPTION_LIMIT: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.TIMEOUT: 504,
}

NOT_FOUND: Final = "not_found"
"""The code of a 404, which `ErrorCode` does not have."""


class RequestRefused(MoorageError):
    """A request is not done, and the client is told why.

    `status` is the HTTP status, `code` and `text` are the two fields of the body.
    """

    def __init__(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a value as JSON; attrs classes are written as objects, enums as their values."""
    return Response(encode_value(value), status, headers, "application/json")


def error_response(
    status: int, code: str, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error in the shape of all errors."""
    return json_response({"error": text, "code": code}, status, headers)


def on_refused(_request: Request, error: Exception) -> Response:
    """Answer a request that is refused on purpose."""
    assert isinstance(error, RequestRefused)  # noqa: S101 - it is registered for these
    return error_response(error.status, error.code, error.text, error.headers)


def on_protocol_error(_request: Request, error: Exception) -> Response:
    """Answer a request that the operations refuse."""
    assert isinstance(error, ProtocolError)  # noqa: S101 - it is registered for these
    # The text speaks of the `data` of a message, which here is the body of a request.
    text = error.message.replace("`data.", "`").replace("`data`", "the body")
    if isinstance(error, NotFound):
        return error_response(404, NOT_FOUND, text)
    return error_response(_STATUS.get(error.code, 500), str(error.code), text)


def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: no such path, another method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    phrase = HTTPStatus(error.status_code).phrase
    text = {
        404: f"there is nothing at {request.url.path[:255]!r}; /openapi.json lists what there is",
        405: f"{request.method} is not for {request.url.path[:255]!r}",
    }.get(error.status_code, phrase)
    code = NOT_FOUND if error.status_code == HTTPStatus.NOT_FOUND else phrase.lower()
    return error_response(error.status_code, code.replace(" ", "_"), text, error.headers)


def on_failure(_request: Request, _error: Exception) -> Response:
    """Answer a request on which this program failed; the framework raises the error further."""
    return error_response(500, str(ErrorCode.INTERNAL), "the server failed; its log says how")
