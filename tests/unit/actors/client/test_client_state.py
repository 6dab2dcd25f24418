from moorage.actors.client.client_state import MOVES, ClientState


def reachable(state):
    found, waiting = {state}, [state]
    while waiting:
        for following in MOVES[waiting.pop()] - found:
            found.add(following)
            waiting.append(following)
    return found


def test_every_state_has_its_moves_and_can_be_reached():
    assert set(MOVES) == set(ClientState) == reachable(ClientState.WAITING)


def test_every_state_can_reach_the_end_and_nothing_follows_it():
    assert all(ClientState.CLOSED in reachable(state) for state in ClientState)
    assert MOVES[ClientState.CLOSED] == set()


def test_a_client_is_connected_only_after_connecting():
    before = [state for state in ClientState if ClientState.CONNECTED in MOVES[state]]
    assert before == [ClientState.CONNECTING]


def test_a_client_that_closes_does_not_connect_again():
    assert MOVES[ClientState.CLOSING] == {ClientState.CLOSED}
