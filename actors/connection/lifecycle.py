"""The life of a connection, as data: its states, and the moves between them."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ...protocol.errors import MoorageError


class State(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"  # accepted, and not yet known to the routing
    AUTHENTICATING = "authenticating"  # open for `authenticate` alone
    OPEN = "open"
    CLOSING = "closing"  # its one cause is known; the goodbye is under way
    CLOSED = "closed"


LEGAL_MOVES: Final[dict[State, frozenset[State]]] = {
    State.OPENING: frozenset({State.AUTHENTICATING, State.OPEN, State.CLOSING}),
    State.AUTHENTICATING: frozenset({State.OPEN, State.CLOSING}),
    State.OPEN: frozenset({State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class IllegalMove(MoorageError):
    """A connection was moved to a state that cannot follow its own: a mistake in this program."""


def move(current: State, to: State) -> State:
    """Return the new state; IllegalMove if it cannot follow the current one."""
    if to not in LEGAL_MOVES[current]:
        allowed = ", ".join(sorted(state.value for state in LEGAL_MOVES[current])) or "nothing"
        message = f"{current.value} -> {to.value}: after {current.value} comes {allowed}"
        raise IllegalMove(message)
    return to
