"""Lifecycles as data: an enum of states, a table of the moves between them, and one exception.

A server, a connection and a client each have such a table. What is missing from it is an error, and
an illegal move changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import TypeVar

from .errors import MoorageError

StateT = TypeVar("StateT", bound=Enum)


class IllegalMove(MoorageError):
    """Something was moved to a state that cannot follow its own: a mistake in this program."""


def checked_move(
    current: StateT, to: StateT, moves: Mapping[StateT, AbstractSet[StateT]]
) -> StateT:
    """Return the new state; IllegalMove if the table does not let it follow the current one."""
    if to not in moves[current]:
        allowed = ", ".join(sorted(state.value for state in moves[current])) or "nothing"
        message = f"{current.value} -> {to.value}: after {current.value} comes {allowed}"
        raise IllegalMove(message)
    return to
