"""The lifecycle of a connection as data: its states, and the moves between them."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ...protocol.moves import checked_move


class ConnectionState(Enum):
    """The states of a connection."""

    OPENING = "opening"  # accepted; the supervisor does not know it yet
    AUTHENTICATING = "authenticating"  # only `authenticate` and `ping` are acted on
    OPEN = "open"
    CLOSING = "closing"  # the cause of its end is known; the goodbye is under way
    CLOSED = "closed"


_S = ConnectionState

LEGAL_MOVES: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    ConnectionState.OPENING: frozenset(
        {ConnectionState.AUTHENTICATING, ConnectionState.OPEN, ConnectionState.CLOSING}
    ),
    ConnectionState.AUTHENTICATING: frozenset({ConnectionState.OPEN, ConnectionState.CLOSING}),
    ConnectionState.OPEN: frozenset({ConnectionState.CLOSING}),
    ConnectionState.CLOSING: frozenset({ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}


def move(current: ConnectionState, to: ConnectionState) -> ConnectionState:
    """Return the new state; IllegalMove if it cannot follow the current one."""
    return checked_move(current, to, LEGAL_MOVES)
