import itertools

import pytest

from moorage.actors.connection.lifecycle import LEGAL_MOVES, ConnectionState, move
from moorage.protocol.moves import IllegalMove

LEGAL = [
    (ConnectionState.OPENING, ConnectionState.AUTHENTICATING),
    (ConnectionState.OPENING, ConnectionState.OPEN),
    (ConnectionState.OPENING, ConnectionState.CLOSING),
    (ConnectionState.AUTHENTICATING, ConnectionState.OPEN),
    (ConnectionState.AUTHENTICATING, ConnectionState.CLOSING),
    (ConnectionState.OPEN, ConnectionState.CLOSING),
    (ConnectionState.CLOSING, ConnectionState.CLOSED),
]


@pytest.mark.parametrize(("current", "to"), LEGAL)
def test_a_legal_move_returns_the_new_state(current, to):
    assert move(current, to) is to


def test_every_other_move_is_refused_with_what_would_be_legal():
    for current, to in itertools.product(ConnectionState, ConnectionState):
        if (current, to) in LEGAL:
            continue
        with pytest.raises(IllegalMove, match=f"{current.value} -> {to.value}: after "):
            move(current, to)


def test_the_refusal_names_what_may_follow():
    with pytest.raises(IllegalMove, match="after open comes closing"):
        move(ConnectionState.OPEN, ConnectionState.OPENING)
    with pytest.raises(IllegalMove, match="after closed comes nothing"):
        move(ConnectionState.CLOSED, ConnectionState.OPEN)


def test_every_state_but_the_first_is_reached_and_every_one_but_the_last_is_left():
    assert set(LEGAL_MOVES) == set(ConnectionState)
    reached = set().union(*LEGAL_MOVES.values())
    assert reached == set(ConnectionState) - {ConnectionState.OPENING}
    assert [state for state in ConnectionState if not LEGAL_MOVES[state]] == [
        ConnectionState.CLOSED
    ]
