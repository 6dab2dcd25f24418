"""Where a client's token comes from, when it is asked for anew, and how it is renewed in place."""

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
from ...protocol.messages.types import MessageType
from .backoff import Backoff
from .client_errors import ConnectionLost, RequestError
from .dialing import fields_of
from .link import Link

# Seconds before its expiry at which a token is renewed; for short-lived ones a fifth of their time.
RENEWAL_MARGIN: Final = 30.0

_log: Final = logging.getLogger("moorage.client")

# What `open_client` takes as `token`: none, a fixed one, or something that fetches one.
Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]] | None

# RFC 6750 section 2.1: a bearer token is made of these. Anything else, a line end above all, must
# not get into a header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@define(eq=False)
class TokenSource:
    """Keeps the token of one client; used by its connecting and by its renewing."""

    source: Token
    # What the source gave last; None: it is to be asked at the next need.
    _kept: str | None = field(default=None, init=False, repr=False)
    # True while the kept token has not been shown to a server yet: when such a one is refused,
    # asking again makes no sense.
    _unused: bool = field(default=False, init=False)

    @property
    def renewable(self) -> bool:
        """Whether asking again can bring another token."""
        return callable(self.source)

    async def current(self) -> str | None:
        """Return the token to show now, asking the source if none is kept.

        Raises what the source raises, and `ValueError` when it gives what cannot be a token.
        Cancelling is safe.
        """
        if self._kept is None and self.source is not None:
            self._kept = await self._ask(self.source)
            self._unused = True
        else:
            await trio.lowlevel.checkpoint()
        return self._kept

    async def renewed(self) -> str | None:
        """Ask the source again and return what it gives; otherwise as `current`."""
        self.forget()
        return await self.current()

    def forget(self) -> None:
        """Let the source be asked at the next need: the kept token has expired."""
        self._kept = None

    def accepted(self) -> None:
        """Note that a server took the kept token, so that a later refusal means it has aged."""
        self._unused = False

    def refused(self) -> bool:
        """Note that a server refused the kept token; return whether another one can be had.

        False when the token came fresh from the source, or when the source is a fixed text.
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
            # Not the token itself: exceptions end in logs.
            raise ValueError(
                "a token must be text of A-Z a-z 0-9 . _ ~ + / - (RFC 6750), such as a JWT is; "
                f"got {type(token).__name__}"
            )
        return token


async def keep_fresh(
    tokens: TokenSource, link: Link, said: Envelope, backoff: Backoff, patience: float
) -> None:
    """Renew the token of a connection in place, each time shortly before it expires.

    `said` is the server's message with the first expiry (`data.expires_at`), and each
    `authenticated` brings the next; of a server that does not say, the token is renewed when it
    announces that it has expired, within its grace. `patience` (seconds) bounds one attempt.
    Returns when the connection is gone, or when the server will not have the new token: it then
    closes with 4004, and the next connection asks for another one.
    """
    expiry: Envelope | None = said
    while expiry is not None and tokens.renewable:
        left = seconds_until_expiry(expiry)
        due = math.inf if left is None else max(left - RENEWAL_MARGIN, left * 0.8, 0.0)
        with trio.move_on_after(due):
            await link.token_expired.wait()
        link.token_expired = trio.Event()
        expiry = await _renew(tokens, link, backoff, patience)


async def _renew(
    tokens: TokenSource, link: Link, backoff: Backoff, patience: float
) -> Envelope | None:
    backoff.reset()
    while True:
        try:
            with trio.fail_after(patience):
                token = await tokens.renewed()
                reply = await link.ask(MessageType.AUTHENTICATE, {"token": token})
        except ConnectionLost:
            return None
        except RequestError as error:
            if not error.retryable:
                _log.warning("the renewed token was refused: %s", error)
                tokens.forget()
                return None
            _log.info("renewing the token: %s", error)
        except Exception:  # noqa: BLE001 - out of the program's function
            _log.warning("renewing the token failed", exc_info=True)
        else:
            tokens.accepted()
            link.tally.renewals += 1
            return reply
        await trio.sleep(backoff.next())


def seconds_until_expiry(said: Envelope) -> float | None:
    """Return how many seconds after a server's message the token expires; None if not said.

    Expiry and time stamp come from the same server, so that a client whose clock is wrong renews in
    time all the same.
    """
    end = _unix_seconds(fields_of(said.data).get("expires_at"))
    if end is None:
        return None
    now = _unix_seconds(said.timestamp)
    return end - (time.time() if now is None else now)


def _unix_seconds(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
