import gc
import threading
from typing import Any

import attrs
import pytest
import trio

from moorage.actors.tick import Tick
from moorage.supervisor.app import App
from moorage.supervisor.telemetry.logs import EventLog
from moorage.supervisor.telemetry.watchdog import TurnWatchdog
from tests.fakes import RecordingLogger, Server, open_server

BOUND = 0.02


@attrs.define
class Clock:
    """A clock that a test moves."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


class Loop:
    """An event loop as its instrument sees it, and a watchdog that looks when a test says so."""

    def __init__(self, slow_turn: float = 1.0) -> None:
        self.clock = Clock()
        self.tick = Tick(clock=self.clock, slow_turn=slow_turn)
        self.log = RecordingLogger()
        self.watchdog = TurnWatchdog(
            self.tick, slow_turn, EventLog(self.log, self.clock), lambda: ()
        )
        self.look = self.watchdog.look

    def turn(self, seconds: float) -> None:
        self.tick.after_io_wait(0)
        self.clock.seconds += seconds
        self.tick.before_io_wait(0)

    @property
    def events(self) -> list[tuple[str, float]]:
        return [(line["event"], line["seconds"]) for line in self.log.lines]


@pytest.fixture
def loop():
    return Loop()


def test_a_turn_is_logged_while_it_holds_the_loop_and_when_it_is_over(loop):
    loop.tick.after_io_wait(0)
    loop.look()
    assert loop.events == []
    loop.clock.seconds += 1.5
    loop.look()
    assert loop.events == [("slow_turn", 1.5)]
    loop.clock.seconds += 1.5
    loop.look()
    loop.tick.before_io_wait(0)
    loop.look()
    assert loop.events == [("slow_turn", 1.5), ("slow_turn_over", 3.0)]
    assert {line["level"] for line in loop.log.lines} == {30}


def test_a_turn_that_goes_on_is_logged_again_at_ten_times_the_age(loop):
    loop.tick.after_io_wait(0)
    for _ in range(250):
        loop.clock.seconds += 0.5
        loop.look()
    assert loop.events == [("slow_turn", 1.5), ("slow_turn", 10.5), ("slow_turn", 100.5)]


def test_a_turn_that_kept_the_interpreter_to_itself_is_logged_when_it_is_over(loop):
    loop.turn(3.0)
    loop.look()
    assert loop.events == [("slow_turn_over", 3.0)]
    loop.look()
    assert len(loop.events) == 1


def test_a_turn_within_the_bound_is_neither_logged_nor_counted(loop):
    loop.turn(1.0)
    loop.look()
    assert loop.events == []
    assert loop.tick.slow_turns == 0


def test_slow_turns_are_logged_at_a_limited_rate_and_the_rest_is_counted():
    loop = Loop(slow_turn=0.001)
    for _ in range(15):
        loop.turn(0.002)
        loop.look()
    assert len(loop.events) == 10
    loop.clock.seconds += 5
    loop.turn(0.002)
    loop.look()
    assert loop.log.lines[-1]["suppressed"] == 5
    assert loop.tick.slow_turns == 16


def test_no_look_is_needed_while_the_loop_waits(loop):
    loop.turn(0.1)
    assert loop.look() == 0.5  # it was busy a moment ago
    assert loop.look() is None
    loop.turn(0.1)
    assert loop.look() == 0.5


def test_the_time_of_a_full_collection_is_told_apart(loop):
    loop.tick.after_io_wait(0)
    loop.watchdog._on_collection("start", {"generation": 2})
    loop.clock.seconds += 1.25
    loop.watchdog._on_collection("stop", {"generation": 2})
    loop.look()
    [line] = loop.log.lines
    assert (line["seconds"], line["collecting"]) == (1.25, 1.25)


# With the loop that runs the test, and a thread


class Noting(RecordingLogger):
    """A logger that tells a thread that waits when a line of an event has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = {name: threading.Event() for name in ("slow_turn", "slow_turn_over")}

    def log(self, level: int, event: str, **fields: Any) -> None:
        super().log(level, event, **fields)
        if event in self.came:
            self.came[event].set()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "moorage watchdog"]


def note(server: Server) -> Noting:
    server.parts.log._logger = logger = Noting()
    return logger


async def hold(server: Server, seen: list[bool], app: App) -> str:
    """Hold the loop in a handler until the watchdog has logged that; return the sender's id."""
    logger = note(server)

    @app.on("hold")
    def hold_the_loop(context, envelope):
        seen.append(logger.came["slow_turn"].wait(10))

    peer = await server.connect()
    await peer.send({"type": "hold"}, {"type": "ping"})
    assert (await peer.receive())["type"] == "pong"
    assert await trio.to_thread.run_sync(logger.came["slow_turn_over"].wait, 10)
    server.log.lines = logger.lines
    return peer.id


async def test_a_handler_that_blocks_is_logged_before_it_ends():
    app, seen = App(), []
    async with open_server(app, slow_turn=BOUND, close_timeout=0.05) as server:
        sender = await hold(server, seen, app)
        assert seen == [True]  # once the server only noticed when the handler had returned
        held, over = server.log.of("slow_turn")[0], server.log.of("slow_turn_over")[0]
        assert held["connection_id"] == over["connection_id"] == sender
        assert held["stack"].lstrip().startswith("File")
        assert "in hold_the_loop" in held["stack"]
        assert "trio/_core" not in held["stack"]  # it begins where the task does
        assert held["task"].endswith("Admission.serve")
        assert over["seconds"] >= held["seconds"] >= BOUND
        assert server.operations.stats().slow_turns >= 1


async def test_operators_who_watch_are_shown_it_when_the_loop_goes_on():
    app, shown = App(), []
    async with open_server(app, slow_turn=BOUND, close_timeout=0.05) as server:
        server.parts.log.on_event = lambda event, fields: shown.append(event)
        await hold(server, [], app)
        await trio.testing.wait_all_tasks_blocked()
        assert {"slow_turn", "slow_turn_over"} <= set(shown)


async def test_each_server_of_a_process_has_its_own_watchdog_which_ends_with_it():
    before = len(threads())
    async with open_server(slow_turn=BOUND), open_server(slow_turn=BOUND):
        assert len(threads()) == before + 2
    assert len(threads()) == before


async def test_there_is_none_if_it_is_turned_off():
    before, callbacks = threads(), list(gc.callbacks)
    async with open_server(slow_turn=0.0):
        assert threads() == before
        assert gc.callbacks == callbacks


async def test_it_sleeps_until_a_turn_begins_while_the_loop_waits():
    async with open_server(slow_turn=BOUND) as server:
        tick = server.parts.tick

        def wait_until_it_sleeps() -> bool:
            # In a thread, so that the loop has no turn meanwhile.
            waited = threading.Event()
            return any(tick.on_turn is not None or waited.wait(0.01) for _ in range(500))

        assert await trio.to_thread.run_sync(wait_until_it_sleeps)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert tick.on_turn is None  # the turn has woken it


async def test_a_log_that_fails_ends_neither_the_server_nor_the_watchdog():
    class Broken(Noting):
        def log(self, level, event, **fields):
            super().log(level, event, **fields)
            raise OSError

    async with open_server(slow_turn=BOUND) as server:
        server.parts.log._logger = logger = Broken()
        for _ in range(2):
            logger.came["slow_turn"].clear()
            assert logger.came["slow_turn"].wait(10)  # it holds the loop: this test is its task
            await trio.lowlevel.checkpoint()
        assert server.parts.log.lost >= 2
