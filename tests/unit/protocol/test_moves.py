from enum import Enum

import pytest

from moorage.protocol.errors import MoorageError
from moorage.protocol.moves import IllegalMove, checked_move


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"
    LOCKED = "locked"
    GONE = "gone"


MOVES = {
    Door.OPEN: {Door.SHUT, Door.GONE},
    Door.SHUT: {Door.OPEN, Door.LOCKED},
    Door.LOCKED: {Door.SHUT},
    Door.GONE: set(),
}


@pytest.mark.parametrize(("current", "to"), [(a, b) for a in MOVES for b in MOVES[a]])
def test_a_move_of_the_table_leads_to_its_state(current, to):
    assert checked_move(current, to, MOVES) is to


@pytest.mark.parametrize(
    ("current", "to"), [(a, b) for a in Door for b in Door if b not in MOVES[a]]
)
def test_a_move_that_is_missing_is_illegal(current, to):
    with pytest.raises(IllegalMove):
        checked_move(current, to, MOVES)


def test_the_error_names_the_move_and_what_is_legal_instead():
    with pytest.raises(MoorageError, match="open -> locked") as caught:
        checked_move(Door.OPEN, Door.LOCKED, MOVES)
    assert "gone, shut" in str(caught.value)
    with pytest.raises(IllegalMove, match="nothing"):
        checked_move(Door.GONE, Door.OPEN, MOVES)
