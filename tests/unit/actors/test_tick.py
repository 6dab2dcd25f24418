import itertools
import re
import time

import pytest
import trio
import trio.testing

from moorage.actors.tick import Tick


@pytest.fixture
async def tick():
    seconds = itertools.count(1_700_000_000)
    tick = Tick(lambda: float(next(seconds)))
    trio.lowlevel.add_instrument(tick)
    yield tick
    trio.lowlevel.remove_instrument(tick)


async def test_both_clocks_are_read_once_in_a_turn(tick):
    stamp, now = tick.stamp(), tick.now()
    assert [tick.stamp(), tick.stamp()] == [stamp, stamp]
    assert [tick.now(), tick.now()] == [now, now]


async def test_a_new_turn_reads_them_anew(tick):
    stamp, now = tick.stamp(), tick.now()
    await trio.lowlevel.checkpoint()
    assert tick.stamp() > stamp
    assert tick.now() >= now


async def test_the_time_is_trios(tick, autojump_clock):
    before = trio.current_time()
    assert tick.now() == before
    await trio.sleep(10)
    assert tick.now() == before + 10


async def test_turns_are_counted(tick):
    before = tick.turns
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    assert tick.turns - before == 3


async def test_the_stamp_is_what_envelopes_carry(tick):
    assert tick.stamp() == b"2023-11-14T22:13:20.000Z"
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", Tick().stamp())


async def test_the_wall_clock_is_never_cached(tick):
    assert tick.wall_time() < tick.wall_time()


async def test_reading_passes_no_checkpoint(tick):
    with trio.testing.assert_no_checkpoints():
        tick.stamp(), tick.now(), tick.wall_time()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Turns:
    """Turns of an event loop, by a clock that a test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.tick = Tick(clock=self.clock)

    def turn(self, took: float, idle: float = 0.0) -> None:
        self.tick.after_io_wait(0)
        self.clock.now += took
        self.tick.before_io_wait(0)
        self.clock.now += idle


def test_a_loop_that_only_waits_has_no_lag():
    turns = Turns()
    for _ in range(100):
        turns.turn(took=0, idle=0.5)
    assert turns.tick.lag() == (0, 0)


def test_the_lag_follows_the_longest_turn_of_each_second():
    turns = Turns()
    for _ in range(100):
        turns.turn(took=0.2, idle=0.05)
        turns.turn(took=0.01)
    smoothed, longest = turns.tick.lag()
    assert smoothed == pytest.approx(0.2, rel=0.05)
    assert longest == pytest.approx(0.2)


def test_one_long_turn_counts_little_and_is_remembered_for_ten_seconds():
    turns = Turns()
    turns.turn(took=2)
    for _ in range(4):
        turns.turn(took=0.001, idle=1)
    smoothed, longest = turns.tick.lag()
    assert 0.1 < smoothed < 0.5
    assert longest == 2
    for _ in range(10):
        turns.turn(took=0.001, idle=1)
    smoothed, longest = turns.tick.lag()
    assert smoothed < 0.02
    assert longest == pytest.approx(0.001)


def test_the_lag_fades_while_the_loop_is_idle_and_takes_no_turns():
    turns = Turns()
    for _ in range(50):
        turns.turn(took=0.5)
    assert turns.tick.lag()[0] == pytest.approx(0.5, rel=0.1)
    turns.clock.now += 30
    smoothed, longest = turns.tick.lag()
    assert smoothed < 0.001
    assert longest <= 0.5
    turns.clock.now += 11
    assert turns.tick.lag()[1] == 0


def test_each_second_somebody_is_told_as_a_turn_begins():
    turns = Turns()
    told: list[float] = []
    turns.tick.every_second = lambda: told.append(turns.clock.now)
    for _ in range(40):
        turns.turn(took=0.1)
    assert told == pytest.approx([1, 2, 3], abs=0.11)


async def test_a_turn_that_takes_long_is_measured(tick):
    time.sleep(0.05)  # noqa: ASYNC251 - that is what is measured
    await trio.lowlevel.checkpoint()
    assert tick.lag()[1] >= 0.05


def test_turns_that_take_longer_than_the_bound_are_counted_and_the_latest_is_kept():
    clock = [100.0]
    tick = Tick(clock=lambda: clock[0], slow_turn=0.5)
    for seconds in (0.4, 0.6, 0.2, 0.55, 0.5):
        tick.after_io_wait(0)
        began = clock[0]
        clock[0] += seconds
        tick.before_io_wait(0)
        if seconds == 0.55:
            latest = (began, clock[0] - began)
    # Once only the longest turn of a second was noticed: the second slow one is shorter than it.
    assert tick.slow_turns == 2
    assert tick.latest_slow_turn == latest


def test_a_turn_that_was_under_way_at_the_start_is_not_measured():
    clock = [100.0]
    tick = Tick(clock=lambda: clock[0], slow_turn=0.5)
    clock[0] += 10
    tick.before_io_wait(0)
    assert tick.slow_turns == 0
    assert tick.lag() == (0.0, 0.0)


def test_whoever_waits_for_a_turn_is_called_as_it_begins_and_once_only():
    tick, calls = Tick(), []
    tick.on_turn = lambda: calls.append(tick.turn_began)
    for _ in range(2):
        tick.after_io_wait(0)
    assert len(calls) == 1
    assert calls[0] is not None


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt()])
async def test_what_fails_once_a_second_is_told_and_no_clock_stands_still(tick, error):
    """Trio removes an instrument that raises: every clock stood still from then on."""

    def fail():
        raise error

    failures = []
    tick.every_second, tick.on_failure = fail, failures.append
    tick._second_began -= 1
    await trio.lowlevel.checkpoint()
    assert failures == [error]
    turns, stamp = tick.turns, tick.stamp()
    await trio.lowlevel.checkpoint()
    assert tick.turns > turns
    assert tick.stamp() > stamp


async def test_the_age_does_not_follow_the_wall_clock():
    readings = iter([100.0, 103.5])
    tick = Tick(lambda: 0.0, lambda: next(readings))
    assert tick.age() == 3.5
