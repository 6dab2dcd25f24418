"""The token of a client: its source, and its renewal on an open connection."""

from __future__ import annotations

import inspect
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, TypeAlias

import trio
from attrs import define, field

from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType, fields_of
from .backoff import Backoff
from .client_connection import ClientConnection
from .client_errors import ConnectionLost, RequestError

# A token is renewed so many seconds before it expires; a short-lived one when a fifth of its time
# is left.
RENEWAL_MARGIN: Final = 30.0

_log: Final = logging.getLogger("moorage.client")

# What `open_client` takes as `token`: none, a fixed one, or a function that fetches one.
Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]] | None

# The characters of a bearer token (RFC 6750, section 2.1). Others, above all a line end, must not
# get into a header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@define(eq=False)
class TokenSource:
    """The token of one client, and the function that fetches a new one.

    Connecting and renewing both use it.
    """

    source: Token
    # The last token of the source; None: the source is asked when a token is needed next.
    _kept: str | None = field(default=None, init=False, repr=False)
    # True until a server has accepted or refused the kept token. If a server refuses such a fresh
    # token, asking the source again makes no sense.
    _unused: bool = field(default=False, init=False)

    @property
    def renewable(self) -> bool:
        """Whether asking again can bring another token."""
        return callable(self.source)

    async def current(self) -> str | None:
        """Return the token to show now, asking the source if none is kept.

        Raises what the source raises, and `ValueError` when it returns something that cannot be a
        token. Cancelling is safe.
        """
        if self._kept is None and self.source is not None:
            self._kept = await self._ask(self.source)
            self._unused = True
        else:
            await trio.lowlevel.checkpoint()
        return self._kept

    async def renewed(self) -> str | None:
        """Ask the source for a new token and return it. Raises what `current` does."""
        self.forget()
        return await self.current()

    def forget(self) -> None:
        """Drop the kept token, since it has expired."""
        self._kept = None

    def accepted(self) -> None:
        """Note that a server accepted the kept token: if it is refused later, it has expired."""
        self._unused = False

    def refused(self) -> bool:
        """Note that a server refused the kept token; return whether to ask the source again.

        False when the token was fresh from the source, or when the source is a fixed text.
        """
        fresh, self._unused = self._unused, False
        self.forget()
        return self.renewable and not fresh

    async def _ask(self, source: str | Callable[[], object]) -> str:
        token = source if isinstance(source, str) else source()
        if inspect.isawaitable(token):
            token = await token
        await trio.lowlevel.checkpoint()
        if not isinstance(token, str) or not _BEARER.fullmatch(token):
            # The text must not hold the token: exceptions are written to logs.
            raise ValueError(
                "a token must be text of A-Z a-z 0-9 . _ ~ + / - (RFC 6750), such as a JWT is; "
                f"got {type(token).__name__}"
            )
        return token


async def keep_fresh(
    tokens: TokenSource,
    connection: ClientConnection,
    welcome: Envelope,
    backoff: Backoff,
    attempt_timeout: float,
) -> None:
    """Renew the token of an open connection, each time shortly before it expires.

    `welcome` is the server's message with the first expiry (`data.expires_at`); each
    `authenticated` brings the next. If the server gives no expiry, the token is renewed when the
    server announces that it has expired, within the server's grace. One attempt may take
    `attempt_timeout` seconds. Returns when the connection has ended, or when the server refuses the
    new token: the server then closes with 4004, and the next connection asks the source again.
    Cancelling is safe.
    """
    expiry: Envelope | None = welcome
    while expiry is not None and tokens.renewable:
        left = seconds_until_expiry(expiry)
        due = math.inf if left is None else max(left - RENEWAL_MARGIN, left * 0.8, 0.0)
        with trio.move_on_after(due):
            await connection.token_expired.wait()
        expiry = await _renew(tokens, connection, backoff, attempt_timeout)
        # A notice that came while the renewal was under way was about the token before.
        connection.token_expired = trio.Event()


async def _renew(
    tokens: TokenSource, connection: ClientConnection, backoff: Backoff, attempt_timeout: float
) -> Envelope | None:
    backoff.reset()
    while True:
        try:
            with trio.fail_after(attempt_timeout):
                token = await tokens.renewed()
                reply = await connection.ask(MessageType.AUTHENTICATE, {"token": token})
        except ConnectionLost:
            return None
        except RequestError as error:
            if not error.retryable:
                _log.warning("the renewed token was refused: %s", error)
                tokens.forget()
                return None
            _log.info("renewing the token: %s", error)
        except Exception:  # noqa: BLE001 - the program's function may raise anything
            _log.warning("renewing the token failed", exc_info=True)
        else:
            tokens.accepted()
            connection.counts.renewals += 1
            return reply
        await trio.sleep(backoff.next())


def seconds_until_expiry(message: Envelope) -> float | None:
    """Return how many seconds after a server's message the token expires, or None.

    None: the message does not give the expiry. Expiry and time stamp both come from the server, so
    a client whose clock is wrong renews in time nevertheless.
    """
    end = _unix_seconds(fields_of(message.data).get("expires_at"))
    if end is None:
        return None
    now = _unix_seconds(message.timestamp)
    return end - (time.time() if now is None else now)


def _unix_seconds(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
