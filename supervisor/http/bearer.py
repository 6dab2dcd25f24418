"""Who asks: bearer tokens, and the origin of pages.

A token is demanded in `Authorization: Bearer …` and nowhere else: no cookie stands for it, so a
foreign page cannot make a browser show it. Foreign pages are refused all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from starlette.requests import HTTPConnection

from ...protocol.errors import ErrorCode, ProtocolError
from ...protocol.identity import Identity
from .refusals import Refused

_CHALLENGE: Final = 'Bearer realm="moorage"'


@attrs.frozen
class Access:
    """Decides who may ask for what."""

    verify: Callable[[str], Identity]  # a token; ProtocolError if it is not good
    # Of pages on other hosts that may use this one; `*` is for clients, and counts for nothing.
    allowed_origins: frozenset[str]

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuse what a page of another origin asks for; programs send no `Origin`."""
        origin = connection.headers.get("origin")
        if origin is None or origin.lower() in self.allowed_origins:
            return
        # Without the scheme: behind a proxy that ends TLS, the page's is not the one seen here.
        if origin.lower().partition("://")[2] == connection.headers.get("host", "").lower():
            return
        text = f"pages of {origin[:255]!r} may not use this; `allowed_origins` can name them"
        raise Refused(403, ErrorCode.FORBIDDEN, text)

    def identify(self, connection: HTTPConnection) -> Identity:
        """Return who asks; Refused with 401 for a token that is missing, expired or not good."""
        self.check_origin(connection)
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            text = "a token is needed, in `Authorization: Bearer …`"
            # RFC 6750, section 3.1: no error code where no token was shown.
            headers = {"WWW-Authenticate": _CHALLENGE}
            raise Refused(401, ErrorCode.UNAUTHORIZED, text, headers)
        try:
            return self.verify(token.strip())
        except ProtocolError as error:
            headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
            raise Refused(401, error.code, error.message, headers) from None

    def admin(self, connection: HTTPConnection) -> Identity:
        """Return which administrator asks; Refused with 403 for anyone else."""
        identity = self.identify(connection)
        if not identity.is_admin:
            text = "this is for administrators: a token whose `role` is admin"
            raise Refused(403, ErrorCode.FORBIDDEN, text)
        return identity
