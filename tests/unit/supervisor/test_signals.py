"""The signals that a server takes, and when it gives them back."""

from __future__ import annotations

import signal
from functools import partial

import pytest
import trio

from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from moorage.supervisor.server_lifecycle import ServerState
from moorage.supervisor.signals import ENDING, SignalHandlers
from tests.fakes import open_server
from tests.fakes_containment import is_served, onlooker
from tests.fakes_control import ADMIN, connect_admin
from tests.fakes_server import settle

HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


@pytest.fixture
def handlers():
    """The handlers of a process that ignores no signal; what there was comes back at the end.

    A process that a shell starts in its background ignores SIGINT and SIGQUIT, and one that `nohup`
    starts SIGHUP.
    """
    before = {number: signal.getsignal(number) for number in (*ENDING, *HARMLESS)}
    for number in before:
        default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)


def are_back(handlers):
    """Tell whether the handlers are those of before; Trio has one of its own for SIGINT."""
    return all(
        signal.getsignal(number) is handler
        for number, handler in handlers.items()
        if number is not signal.SIGINT
    )


async def test_a_signal_comes_to_the_loop_and_first_to_the_observer(handlers):
    heard = []
    taken = SignalHandlers(
        lambda number: heard.append(("loop", number)),
        lambda number: heard.append(("at once", number)),
    )
    signal.raise_signal(signal.SIGTERM)
    assert heard == [("at once", signal.SIGTERM)]
    await settle()
    assert heard[1:] == [("loop", signal.SIGTERM)]
    taken.put_back()
    assert are_back(handlers)


async def test_two_signals_in_one_turn_of_the_loop_are_two(handlers):
    """The process was given the time of a second signal, but the server heard only the first."""
    heard = []
    taken = SignalHandlers(heard.append)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    await settle()
    taken.put_back()
    assert heard == [signal.SIGTERM, signal.SIGTERM]


async def test_a_handler_of_the_programs_own_is_left_alone(handlers):
    own = []
    signal.signal(signal.SIGUSR1, lambda *_: own.append(True))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` leaves it
    kept = signal.getsignal(signal.SIGUSR1)
    taken = SignalHandlers(pytest.fail)
    assert signal.getsignal(signal.SIGUSR1) is kept
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGHUP)
    await settle()
    assert own == [True]
    taken.put_back()


async def test_a_signal_on_its_way_when_the_handlers_go_comes_to_the_former_handler(handlers):
    before = []
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: before.append(True))
    taken = SignalHandlers(pytest.fail)
    signal.raise_signal(signal.SIGTERM)
    taken.put_back()
    await settle()
    assert before == [True]


@pytest.mark.parametrize("first", [0, 1])
async def test_two_servers_in_one_process_may_end_in_either_order(handlers, first):
    """SIGTERM ended the process when the first of two had ended, and the other still served."""
    heard = []
    taken = [SignalHandlers(lambda _, n=n: heard.append(n)) for n in range(2)]
    taken[first].put_back()
    signal.raise_signal(signal.SIGTERM)
    await settle()
    assert heard == [1 - first]
    taken[1 - first].put_back()
    assert are_back(handlers)


async def test_a_handler_that_the_program_has_set_since_then_stays(handlers):
    taken = SignalHandlers(pytest.fail)
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    taken.put_back()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert own != signal.SIG_IGN


async def test_only_the_main_thread_can_take_signals():
    with pytest.raises(RuntimeError, match="main thread"):
        await trio.to_thread.run_sync(partial(SignalHandlers, pytest.fail))


# What they do to a server


@pytest.mark.parametrize("number", HARMLESS)
async def test_a_signal_that_is_for_nothing_yet_is_logged_and_nothing_happens(
    autojump_clock, handlers, number
):
    """The kernel ended the process: a closed terminal did, and a rotation of logs."""
    async with open_server() as server, trio.open_nursery() as nursery:
        peer = await onlooker(server)
        nursery.start_soon(server.supervisor.serve_until_signal)
        await settle()
        signal.raise_signal(number)
        await settle()
        (line,) = server.log.of("signal_ignored")
        assert line["signal"] == number.name
        assert server.supervisor.state is ServerState.SERVING
        assert await is_served(peer)
        nursery.cancel_scope.cancel()
    assert are_back(handlers)


async def test_sigquit_drains_as_sigterm_does(autojump_clock, handlers):
    async with open_server(drain_timeout=3) as server:
        await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGQUIT)
        assert server.supervisor.state is ServerState.TERMINATING
        assert server.log.of("signal")[0]["signal"] == "SIGQUIT"


async def test_signals_are_heard_while_the_last_connections_end(autojump_clock, handlers):
    """The kernel ended the process between the draining and the end, without any goodbye."""
    async with open_server(drain_timeout=1, close_timeout=60) as server:
        await server.connect()  # stays
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            await settle()
            signal.raise_signal(signal.SIGHUP)
            await settle()
            assert server.log.of("signal_ignored")
            signal.raise_signal(signal.SIGTERM)
        assert trio.current_time() - began < 1
    assert are_back(handlers)


async def test_after_a_second_signal_the_server_ends_within_a_moment(autojump_clock, handlers):
    """Clients that had been told to leave kept it waiting for `close_timeout` all the same."""
    app = App()

    @app.disconnected
    async def slow(_connection, _cause):
        await trio.sleep(20)

    async with open_server(app, drain_timeout=500, close_timeout=5) as server:
        for _ in range(50):
            await server.connect()  # stays, and answers no Close frame
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(0.8)
            signal.raise_signal(signal.SIGINT)
            began = trio.current_time()
        await server.supervisor.stop()
        assert server.supervisor.state is ServerState.STOPPED
        assert trio.current_time() - began < 0.5
        assert server.supervisor.statistics.closed == {CloseCause.DRAINED: 50}


async def test_who_comes_late_after_a_second_signal_does_not_keep_the_server(
    autojump_clock, handlers
):
    async with open_server(drain_timeout=500, close_timeout=60) as server:
        await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await settle()
            signal.raise_signal(signal.SIGTERM)
        began = trio.current_time()
        await server.supervisor.stop()
        assert trio.current_time() - began < 0.5


async def test_after_a_second_signal_no_operator_keeps_the_server(autojump_clock, handlers):
    """The process was cut off, since an operator's goodbye had begun before the second signal."""
    async with open_server(**ADMIN, close_timeout=60) as server:
        await connect_admin(server)  # answers no Close frame
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)  # there are no clients, so it is drained at once
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            await trio.sleep(1)
            signal.raise_signal(signal.SIGTERM)
            began = trio.current_time()
        assert server.supervisor.state is ServerState.STOPPED
        assert trio.current_time() - began < 0.5


async def test_a_third_signal_is_the_programs_or_the_kernels(autojump_clock, handlers):
    before = []
    signal.signal(signal.SIGTERM, lambda *_: before.append(True))
    async with open_server(drain_timeout=500) as server:
        await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
                await settle()
        signal.raise_signal(signal.SIGTERM)
        assert before == [True]


async def test_a_failure_while_a_signal_is_heard_does_not_end_the_run(autojump_clock, handlers):
    async with open_server() as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.supervisor.serve_until_signal)
        await settle()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server.core, "_terminate", lambda: 1 / 0)
            signal.raise_signal(signal.SIGTERM)
            await settle()
        (line,) = server.log.of("service_failed")
        assert line["service"] == "signals"
        signal.raise_signal(signal.SIGTERM)  # which is the first one that was understood
        await settle()
        assert server.supervisor.state is ServerState.TERMINATING


def test_a_signal_after_the_loop_has_ended_is_the_former_handlers(handlers):
    before = []
    signal.signal(signal.SIGTERM, lambda *_: before.append(True))

    async def take():
        return SignalHandlers(pytest.fail)

    trio.run(take)
    signal.raise_signal(signal.SIGTERM)
    assert before == [True]
    assert signal.getsignal(signal.SIGUSR1) is handlers[signal.SIGUSR1]
