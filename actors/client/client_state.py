"""What can be known of a client from outside: its state, its counts, its settings."""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import frozen


class ClientState(Enum):
    """Where a client is in its life."""

    # Between two attempts, and before the first.
    WAITING = "waiting"
    # On the way to a connection, up to and including the subscriptions.
    CONNECTING = "connecting"
    # Welcomed, and subscribed to all that it should be.
    CONNECTED = "connected"
    # The context is being left.
    CLOSING = "closing"
    # Nothing will happen any more.
    CLOSED = "closed"


_S = ClientState
# The whole life of a client, visible at once: a missing entry is an illegal move.
MOVES: Final = {
    _S.WAITING: {_S.CONNECTING, _S.CLOSING},
    _S.CONNECTING: {_S.CONNECTED, _S.WAITING, _S.CLOSING, _S.CLOSED},
    _S.CONNECTED: {_S.WAITING, _S.CLOSING, _S.CLOSED},
    _S.CLOSING: {_S.CLOSED},
    _S.CLOSED: set[ClientState](),
}


@frozen
class ClientStatistics:
    """What a client has done so far; counts are over all its connections."""

    state: ClientState
    # Connections that came to stand, and attempts that came to nothing.
    connections: int
    failed_attempts: int
    # Messages written and received, and those received that were none of the protocol's.
    messages_sent: int
    messages_received: int
    messages_malformed: int
    # Messages dropped because `messages()` or a subscription was not read fast enough.
    messages_dropped: int
    # Requests that wait for an answer, and topics subscribed, now.
    requests_pending: int
    topics: int
    # Renewals of the token in place.
    renewals: int


@frozen
class ClientSettings:
    """The deadlines (seconds) and limits of a client; `open_client` says what each is for."""

    connect_timeout: float
    request_timeout: float
    write_timeout: float
    pong_timeout: float
    close_timeout: float
    max_message_size: int
    max_buffered_messages: int
    max_buffered_bytes: int
