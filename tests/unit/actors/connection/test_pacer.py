from collections import Counter

import pytest
import trio
import trio.testing

from moorage.actors.connection.pacer import Pacer, in_turns
from moorage.actors.tick import Tick
from tests.fakes import open_server


class Turns:
    """The turns of the loop that runs the test, on a clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.tick = Tick(clock=lambda: self.seconds)
        self.pacer = Pacer(self.tick)
        self.passed: Counter[int] = Counter()  # by turn

    async def end(self, seconds: float = 0.001) -> None:
        """Do what takes so long, when the pacer lets it."""
        await self.pacer.wait()
        self.passed[self.tick.turns] += 1
        self.seconds += seconds


@pytest.fixture
async def turns(autojump_clock):
    turns = Turns()
    trio.lowlevel.add_instrument(turns.tick)
    await trio.lowlevel.checkpoint()
    yield turns
    trio.lowlevel.remove_instrument(turns.tick)


async def test_while_there_is_room_nobody_waits(turns):
    with trio.testing.assert_no_checkpoints():
        for _ in range(500):
            await turns.end(0.000_005)


async def test_a_turn_has_room_for_few_when_it_has_taken_long_already(turns):
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(turns.end)
    assert sum(turns.passed.values()) == 100
    assert max(turns.passed.values()) == 16


async def test_a_turn_has_room_for_many_whose_ends_are_quick(turns):
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(turns.end, 0.000_05)
    assert max(turns.passed.values()) == pytest.approx(60, abs=2)  # 3 ms


async def test_whoever_is_cancelled_while_it_wakes_the_others_hands_that_over(turns):
    scopes = []

    async def cancellable():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await turns.end()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(cancellable)
        for _ in range(4):
            await trio.lowlevel.checkpoint()
            for scope in scopes[::10]:
                scope.cancel()
    # All others have passed: nobody waits for a task that is gone.
    assert 80 <= sum(turns.passed.values()) <= 100


def count_ends(server) -> Counter[int]:
    """Count the ends of connections by turn from now on, each of which takes a millisecond."""
    tick, ends, seconds = server.parts.tick, Counter(), 100.0
    tick.clock = lambda: seconds

    def note(event, fields):
        nonlocal seconds
        if event == "disconnected":
            ends[tick.turns] += 1
            seconds += 0.001

    server.parts.log.on_event = note
    return ends


async def test_connections_that_die_at_once_end_in_several_turns(autojump_clock):
    async with open_server() as server:
        peers = [await server.connect() for _ in range(150)]
        ends = count_ends(server)
        await trio.testing.wait_all_tasks_blocked()
        for peer in peers:
            peer.transport.close()
        await server.hub.wait_empty()
    assert ends.total() == 150
    assert max(ends.values()) <= 17  # once all of them ended in the turn in which they had died


async def test_clients_that_answer_a_goodbye_at_once_end_in_several_turns(autojump_clock):
    async with open_server() as server:
        peers = [await server.connect() for _ in range(150)]
        for connection in server.hub:
            connection.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        ends = count_ends(server)
        for peer in peers:
            peer.transport.close()
        await server.hub.wait_empty()
    assert ends.total() == 150
    assert max(ends.values()) <= 17


async def test_many_things_are_done_with_turns_for_others_in_between(turns):
    done: Counter[int] = Counter()
    await in_turns(range(250), lambda _: done.update([turns.tick.turns]))
    assert sorted(done.values()) == [50, 100, 100]


async def test_what_fails_with_one_is_done_to_the_others():
    done, failed = [], []

    def do(number):
        if number == 2:
            raise SystemExit
        done.append(number)

    await in_turns(range(4), do, lambda number, error: failed.append((number, type(error))))
    assert done == [0, 1, 3]
    assert failed == [(2, SystemExit)]


async def test_without_somebody_who_hears_of_it_a_failure_is_raised():
    with pytest.raises(ZeroDivisionError):
        await in_turns(range(4), lambda number: 1 / number)
