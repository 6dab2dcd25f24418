"""The authorization of requests, by bearer token and by the origin of pages.

A token is accepted in `Authorization: Bearer …`, of a WebSocket also as a subprotocol, and nowhere
else: there is no cookie, so a foreign page cannot make a browser show one. Foreign pages are
refused in addition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ...protocol.errors import ErrorCode, ProtocolError
from ...protocol.identity import Identity
from ...protocol.loopback import host_problem, page_problem
from .responses import RequestRefused, error_response

_CHALLENGE: Final = 'Bearer realm="moorage"'
_SUBPROTOCOL: Final = "bearer."


@attrs.frozen
class Authorizer:
    """Decides whether a request may be done, and on whose behalf."""

    verify: Callable[[str], Identity]  # of a token; ProtocolError if it is not good
    # Those of pages on other hosts that may use this one, in lower case; no `*`, no `null`.
    allowed_origins: frozenset[str]

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse a request of a page of another origin (403); programs send no `Origin`."""
        origin = connection.headers.get("origin")
        if origin is None or origin.lower() in self.allowed_origins:
            return
        # Without the scheme, which behind a proxy that ends TLS differs from the page's.
        if origin.lower().partition("://")[2] == connection.headers.get("host", "").lower():
            return
        text = f"pages of {origin[:255]!r} may not use this; `allowed_origins` can name them"
        raise RequestRefused(403, ErrorCode.FORBIDDEN, text)

    def identify(self, connection: HTTPConnection) -> Identity:
        """Return the identity of the token; RequestRefused: 401 if it is missing or not good."""
        self.check_origin(connection)
        token = _token_of(connection)
        if not token:
            text = "a token is needed, in `Authorization: Bearer …`"
            # RFC 6750, section 3.1: no error code where no token was shown.
            headers = {"WWW-Authenticate": _CHALLENGE}
            raise RequestRefused(401, ErrorCode.UNAUTHORIZED, text, headers)
        try:
            return self.verify(token)
        except ProtocolError as error:
            headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
            raise RequestRefused(401, error.code, error.message, headers) from None

    def admin(self, connection: HTTPConnection) -> Identity:
        """Return the identity of an administrator; RequestRefused: 403 for that of anyone else."""
        identity = self.identify(connection)
        if not identity.is_admin:
            text = "this is for administrators: a token whose `role` is admin"
            raise RequestRefused(403, ErrorCode.FORBIDDEN, text)
        return identity


def _token_of(connection: HTTPConnection) -> str:
    """Return the token that a request shows, or nothing; docs/protocol.md has the places."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # A page can set no header of a WebSocket, and offers its token as a subprotocol.
    offered: list[str] = connection.scope.get("subprotocols", [])
    tokens = (name.removeprefix(_SUBPROTOCOL) for name in offered if name.startswith(_SUBPROTOCOL))
    return next(tokens, "")


class OfThisMachine:
    """An ASGI middleware for a server that is for this machine only.

    Whatever is asked for, it refuses pages of other origins, and requests whose `Host` names
    another server (403). Probes and metrics need no token, but are not for every page either.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        """Take the application, and the origins that are allowed, `LOOPBACK` among them."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            problem = page_problem(headers.get("origin"), self._allowed)
            problem = problem or host_problem(headers.get("host"), self._allowed)
            if problem is not None:
                response = error_response(403, str(ErrorCode.FORBIDDEN), problem)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
