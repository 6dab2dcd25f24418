import itertools

import pytest

from moorage.actors.connection.lifecycle import LEGAL_MOVES, IllegalMove, State, move

LEGAL = [
    (State.OPENING, State.AUTHENTICATING),
    (State.OPENING, State.OPEN),
    (State.OPENING, State.CLOSING),
    (State.AUTHENTICATING, State.OPEN),
    (State.AUTHENTICATING, State.CLOSING),
    (State.OPEN, State.CLOSING),
    (State.CLOSING, State.CLOSED),
]


@pytest.mark.parametrize(("current", "to"), LEGAL)
def test_a_legal_move_returns_the_new_state(current, to):
    assert move(current, to) is to


def test_every_other_move_is_refused_with_what_would_be_legal():
    for current, to in itertools.product(State, State):
        if (current, to) in LEGAL:
            continue
        with pytest.raises(IllegalMove, match=f"{current.value} -> {to.value}: after "):
            move(current, to)


def test_the_refusal_names_what_may_follow():
    with pytest.raises(IllegalMove, match="after open comes closing"):
        move(State.OPEN, State.OPENING)
    with pytest.raises(IllegalMove, match="after closed comes nothing"):
        move(State.CLOSED, State.OPEN)


def test_every_state_but_the_first_is_reached_and_every_one_but_the_last_is_left():
    assert set(LEGAL_MOVES) == set(State)
    reached = set().union(*LEGAL_MOVES.values())
    assert reached == set(State) - {State.OPENING}
    assert [state for state in State if not LEGAL_MOVES[state]] == [State.CLOSED]
