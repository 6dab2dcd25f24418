"""Endpoints, which say what is served at a path, and the request that a client makes to one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from ...protocol.identity import Identity

# The argument is a handle, `Session` or `RawConnection`. Those types are not named here, since the
# actors' modules import this one.
EndpointFunction = Callable[[Any], Awaitable[None]]


@attrs.frozen
class Endpoint:
    """The description of what is served at one path; made by `App.endpoint`."""

    # The path of the URL, from its first slash on.
    path: str
    # The topics to which every connection is subscribed from the start; `{user_id}` stands for its
    # user.
    topics: tuple[str, ...] = ()
    # Whether a token is needed. None leaves it to the settings, when the supervisor opens: a token
    # is needed, unless `anonymous` is on or the server is in development mode.
    require_auth: bool | None = None
    # Whether the token may also come in the first message, `authenticate`.
    authenticate_by_message: bool = False
    # The function that runs beside each connection and is cancelled with it; None: there is none.
    handler: EndpointFunction | None = None
    # The function of a raw endpoint, which gets `str` and `bytes` messages; None: it is not raw.
    raw_handler: EndpointFunction | None = None
    # The subprotocols that a raw endpoint speaks, best first.
    subprotocols: tuple[str, ...] = ()
    # The most bytes that a message may have; None leaves it to the settings.
    max_message_size: int | None = None


@attrs.define(eq=False)
class UpgradeRequest:
    """A client's request to connect, as an `authorize_connect` hook sees it."""

    # The request's URL: its path, and the parameters behind the question mark, without the token.
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case; the token is not among them
    address: str  # the client's; behind a proxy, the one that `trusted_proxies` vouch for
    identity: Identity
    # The metadata of the connection; the hook may add to it.
    metadata: dict[str, Any] = attrs.field(factory=dict[str, Any])
