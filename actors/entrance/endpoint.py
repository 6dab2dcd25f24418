"""Endpoints: what is served at a path, and who may come in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ...protocol.identity import Identity

if TYPE_CHECKING:
    from ..connection.raw import RawConnection
    from ..session.session import Session


@attrs.frozen
class Endpoint:
    """What is served at one path; made by `App.endpoint`."""

    path: str
    # Every connection is subscribed to these on arrival; `{user_id}` stands for its user.
    topics: tuple[str, ...] = ()
    # Whether a token is needed. None leaves it to the settings, which decide when the supervisor
    # opens: it is needed, unless `anonymous` is on or the server is in development mode.
    require_auth: bool | None = None
    # Whether the token may also come in the first message, `authenticate`.
    authenticate_by_message: bool = False
    # Runs beside each connection and is cancelled with it.
    handler: Callable[[Session], Awaitable[None]] | None = None
    # Set for a raw endpoint: it gets `str` and `bytes` messages, and speaks its own protocol.
    raw_handler: Callable[[RawConnection], Awaitable[None]] | None = None
    # Subprotocols that a raw endpoint speaks, best first.
    subprotocols: tuple[str, ...] = ()
    # Bytes; None leaves it to the settings.
    max_message_size: int | None = None


@attrs.define(eq=False)
class UpgradeRequest:
    """A client's request to connect, as an `authorize_connect` hook sees it."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case; the token is not among them
    address: str  # of the client; behind a proxy, the one that `trusted_proxies` vouch for
    identity: Identity
    # What the hook puts here is the connection's metadata from the start.
    metadata: dict[str, Any] = attrs.field(factory=dict[str, Any])
