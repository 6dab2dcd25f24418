"""What tasks wait for, and the log of what ends later than it should."""

from __future__ import annotations

import attrs
import pytest
import trio

from moorage.supervisor.app import App
from moorage.supervisor.waiting import Endings, describe, innermost, waits_for
from tests.fakes import RecordingLogger, open_server
from tests.fakes_containment import is_served, onlooker
from tests.fakes_server import settle


async def pause():
    await trio.sleep_forever()


async def test_a_task_waits_in_its_own_innermost_function_and_in_trios(nursery):
    nursery.start_soon(pause, name="it")
    await settle()
    (task,) = nursery.child_tasks
    assert waits_for(task) == "pause: sleep_forever"
    assert describe([task]) == ["it, in pause: sleep_forever"]


async def test_who_waits_for_others_is_told_by_these(nursery):
    async def above():
        async with trio.open_nursery() as inner:
            inner.start_soon(pause, name="below")

    nursery.start_soon(above)
    await settle()
    assert [task.name for task in innermost(nursery.child_tasks)] == ["below"]


async def test_of_very_many_tasks_the_first_few_are_told(nursery):
    for _ in range(50):
        nursery.start_soon(pause)
    await settle()
    assert len(describe(nursery.child_tasks)) == 6


@attrs.define
class Watched:
    endings: Endings
    lines: list

    @property
    def times(self):
        return [line["seconds"] for line in self.lines]


@pytest.fixture
async def watched(nursery):
    log = RecordingLogger()
    endings = Endings(lambda level, event, **fields: log.log(30, event, **fields))
    nursery.start_soon(endings.watch)
    await settle()
    return Watched(endings, log.lines)


async def test_what_ends_in_time_is_not_logged(autojump_clock, watched):
    watched.endings.expect("one", 5, lambda: (), "c", None)
    await trio.sleep(4)
    watched.endings.ended("one")
    watched.endings.ended("one")
    await trio.sleep(100)
    assert watched.lines == []


async def test_what_is_overdue_is_logged_every_ten_seconds_until_it_ends(autojump_clock, watched):
    watched.endings.expect("one", 5, lambda: (), "c", "ann")
    await trio.sleep(26)
    watched.endings.ended("one")
    await trio.sleep(100)
    assert watched.times == pytest.approx([5, 15, 25])
    assert {line["connection_id"] for line in watched.lines} == {"c"}


async def test_what_is_due_before_all_others_is_not_late_for_long(autojump_clock, watched):
    watched.endings.expect("late", 500, lambda: (), "c", None)
    await trio.sleep(3)
    watched.endings.expect("soon", 2, lambda: (), "c", None)
    await trio.sleep(12)
    assert len(watched.lines) >= 1
    assert watched.times[0] <= 10


async def test_a_thousand_that_are_overdue_are_ten_lines_a_second(autojump_clock, watched):
    for number in range(1000):
        watched.endings.expect(number, 5, lambda: (), "c", None)
    await trio.sleep(15.5)
    assert 90 <= len(watched.lines) <= 120


def shielded(app: App) -> App:
    """Let a handler not be cancelled, for half a minute."""

    @app.on("stay")
    async def stay(_context, _message):
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    return app


async def test_a_handler_that_keeps_its_connection_from_ending_is_named(autojump_clock):
    """It delayed the end, and nothing told why."""
    async with open_server(shielded(App()), close_timeout=5) as server:
        peer = await server.connect()
        await peer.send({"type": "stay"})
        await settle()
        peer.transport.close()
        assert await is_served(await onlooker(server))
        await trio.sleep(4)
        assert server.log.of("overdue") == []
        await trio.sleep(2)
        (line,) = server.log.of("overdue")
        assert line["connection_id"] == peer.id
        assert line["seconds"] == pytest.approx(5, abs=1)
        (task,) = line["tasks"]
        assert task.startswith(f"handlers of {peer.id}, in shielded.<locals>.stay: sleep")
        await trio.sleep(60)
        assert 1 < len(server.log.of("overdue")) <= 3  # until it has ended


async def test_an_endpoint_that_swallows_its_cancellation_is_named(autojump_clock):
    app, ended = App(), trio.Event()

    async def stubborn(_connection):
        while not ended.is_set():
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await ended.wait()

    app.add_endpoint("/ws", stubborn)
    async with open_server(app, close_timeout=5) as server:
        peer = await server.connect()
        await settle()
        peer.transport.close()
        await trio.sleep(7)
        (line,) = server.log.of("overdue")
        assert "stubborn: Event.wait" in line["tasks"][0]
        ended.set()


async def test_a_callback_that_stays_longer_than_it_may_is_named(autojump_clock):
    app = App()

    @app.disconnected
    async def stay(_connection, _cause):
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async with open_server(app, handler_timeout=20) as server:
        peer = await server.connect()
        await peer.close()
        await trio.sleep(20)
        assert server.log.of("overdue") == []
        await trio.sleep(5)
        (line,) = server.log.of("overdue")
        assert line["connection_id"] == peer.id
        assert ".stay: sleep" in line["tasks"][0]


async def test_stop_returns_within_its_bound_and_names_what_has_not_ended(autojump_clock):
    async with open_server(shielded(App()), close_timeout=5) as server:
        peer = await server.connect()
        await peer.send({"type": "stay"})
        await settle()
        began = trio.current_time()
        await server.supervisor.stop()
        assert trio.current_time() - began == pytest.approx(2 * (5 + 1))
        (line,) = server.log.of("stop_overdue")
        assert line["seconds"] == pytest.approx(12)
        assert ".stay: sleep" in line["tasks"][0]


async def test_stop_that_is_done_in_time_says_nothing(autojump_clock):
    async with open_server() as server:
        await server.connect()
        await server.supervisor.stop()
        assert server.log.of("stop_overdue") == []
