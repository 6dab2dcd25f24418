"""The life of a server: every move that the table allows, no other, and what each state means."""

from __future__ import annotations

import itertools

import pytest

from moorage.protocol.moves import IllegalMove
from moorage.supervisor.server_lifecycle import LEGAL_MOVES, ServerLifecycle, ServerState

S = ServerState

LEGAL = [
    (S.STARTING, S.SERVING),
    (S.STARTING, S.STOPPING),
    (S.SERVING, S.SUSPENDED),
    (S.SERVING, S.DRAINING),
    (S.SERVING, S.TERMINATING),
    (S.SERVING, S.STOPPING),
    (S.SUSPENDED, S.SERVING),
    (S.SUSPENDED, S.DRAINING),
    (S.SUSPENDED, S.TERMINATING),
    (S.SUSPENDED, S.STOPPING),
    (S.DRAINING, S.SERVING),
    (S.DRAINING, S.DRAINED),
    (S.DRAINING, S.TERMINATING),
    (S.DRAINING, S.STOPPING),
    (S.DRAINED, S.SERVING),
    (S.DRAINED, S.DRAINING),
    (S.DRAINED, S.TERMINATING),
    (S.DRAINED, S.STOPPING),
    (S.TERMINATING, S.STOPPING),
    (S.STOPPING, S.STOPPED),
]


def reachable(state: ServerState) -> set[ServerState]:
    """The states that can follow, at once or later."""
    found: set[ServerState] = set()
    waiting = [state]
    while waiting:
        for following in LEGAL_MOVES[waiting.pop()] - found:
            found.add(following)
            waiting.append(following)
    return found


def test_a_server_begins_by_starting():
    assert ServerLifecycle().state is S.STARTING


@pytest.mark.parametrize(("current", "to"), LEGAL)
def test_a_legal_move_enters_the_state(current, to):
    lifecycle = ServerLifecycle(current)
    assert lifecycle.may_move(to)
    lifecycle.move(to)
    assert lifecycle.state is to


def test_every_other_move_is_refused_and_changes_nothing():
    for current, to in itertools.product(S, S):
        if (current, to) in LEGAL:
            continue
        lifecycle = ServerLifecycle(current)
        assert not lifecycle.may_move(to)
        with pytest.raises(IllegalMove, match=f"{current.value} -> {to.value}: after "):
            lifecycle.move(to)
        assert lifecycle.state is current


def test_every_state_has_its_row_and_is_reached_from_the_start():
    assert set(LEGAL_MOVES) == set(S)
    assert reachable(S.STARTING) == set(S) - {S.STARTING}


def test_from_everywhere_a_server_can_stop_and_then_nothing_follows():
    assert {state for state in S if S.STOPPED in reachable(state)} == set(S) - {S.STOPPED}
    assert reachable(S.STOPPED) == set()


def test_a_server_that_was_told_to_stop_never_serves_again():
    for state in (S.TERMINATING, S.STOPPING, S.STOPPED):
        assert S.SERVING not in reachable(state)
    for state in (S.SUSPENDED, S.DRAINING, S.DRAINED):
        assert S.SERVING in LEGAL_MOVES[state]


@pytest.mark.parametrize(
    ("state", "admits", "sends_away", "is_ending", "reason"),
    [
        (S.STARTING, False, False, False, "starting"),
        (S.SERVING, True, False, False, None),
        (S.SUSPENDED, False, False, False, "suspended"),
        (S.DRAINING, False, True, False, "draining"),
        (S.DRAINED, False, True, False, "suspended"),
        (S.TERMINATING, False, True, False, "draining"),
        (S.STOPPING, False, False, True, "stopping"),
        (S.STOPPED, False, False, True, "stopped"),
    ],
)
def test_what_a_state_means(state, admits, sends_away, is_ending, reason):
    assert (state.admits, state.sends_away) == (admits, sends_away)
    assert (state.is_ending, state.reason) == (is_ending, reason)


def test_whoever_is_not_let_in_can_be_told_why():
    assert all((state.reason is None) is state.admits for state in S)
