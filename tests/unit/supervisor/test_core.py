"""The verbs that change the state of a server, and what each means for whom."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing

from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.core import ResumeRefused, ServerCore
from moorage.supervisor.parts import make_parts
from moorage.supervisor.server_lifecycle import ServerState
from tests.fakes import CLOSE, RecordingLogger, Server, open_server
from tests.fakes_control import ADMIN, connect_admin, refused
from tests.fakes_http import serving
from tests.fakes_server import (
    OTHER_HALF,
    assert_nothing_left,
    ended,
    half_way_in,
    settle,
    types_until_closed,
)


def reasons(server: Server) -> tuple[str, ...]:
    """Why the server says that it is not ready for new clients."""
    return server.operations.health().reasons


async def leave(peer):
    """Read to the end, and go; return the close code."""
    code = await peer.close_code()
    peer.transport.close()
    return code


async def test_suspend_refuses_newcomers_and_resume_lets_them_in(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        server.supervisor.suspend()
        server.supervisor.suspend()
        status, headers, _ = await server.dial().upgrade()
        assert (status, "retry-after" in headers) == (503, True)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        server.supervisor.resume()
        await server.connect()
        assert len(server.log.of("suspended")) == len(server.log.of("resumed")) == 1


async def test_after_drain_and_resume_the_server_serves_as_before(autojump_clock):
    async with open_server() as server:
        assert await server.supervisor.drain() == 0
        server.supervisor.resume()
        peer = await server.connect()
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_who_was_in_the_handshake_when_draining_began_is_sent_away_too(autojump_clock):
    # Once such a client came in, was told nothing, and made the drain wait to its deadline.
    async with open_server() as server:
        late = server.dial()
        await late.send_bytes(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n")
        staying = await server.connect()
        await settle()
        drained = []

        async def drain():
            drained.append(await server.supervisor.drain())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await settle()
            status, _, _ = await late.request(
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert status == 101
            assert (await late.receive())["type"] == "goodbye"
            assert await late.close_code() == 4000
            late.transport.close()
            await staying.close_code()
            staying.transport.close()
        assert drained == [0]
        assert trio.current_time() < 5


# Resume


def test_before_it_serves_a_server_cannot_be_resumed():
    core = ServerCore(make_parts(Settings(), App(), RecordingLogger()))
    with pytest.raises(ResumeRefused, match="started"):
        core.resume()
    assert core.state is ServerState.STARTING


async def test_resuming_a_server_that_serves_changes_nothing(autojump_clock):
    async with open_server() as server:
        server.supervisor.resume()
        assert server.supervisor.state is ServerState.SERVING
        assert server.log.of("resumed") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_after_a_signal_resume_is_refused_and_says_why(autojump_clock, number):
    """It let clients into a server that stopped a moment later."""
    async with open_server(close_timeout=1000, **ADMIN) as server, trio.open_nursery() as nursery:
        operator, peer = await connect_admin(server), await server.connect()
        nursery.start_soon(server.supervisor.serve_until_signal)
        await settle()
        signal.raise_signal(number)
        await settle()
        with pytest.raises(ResumeRefused, match="signal") as caught:
            server.supervisor.resume()
        assert await refused(operator, "resume") == ("forbidden", str(caught.value))
        assert server.supervisor.state is ServerState.TERMINATING
        assert (await server.dial().upgrade())[0] == 503
        assert await leave(peer) == 4000


async def test_while_a_server_stops_resume_is_refused_and_says_why(autojump_clock):
    async with open_server(close_timeout=10) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(server.supervisor.stop)
        await settle()
        with pytest.raises(ResumeRefused, match="stopping"):
            server.supervisor.resume()
        await server.supervisor.wait_stopped()
        with pytest.raises(ResumeRefused, match="stopped"):
            server.supervisor.resume()


async def test_suspend_changes_nothing_for_a_server_that_drains_or_stops(autojump_clock):
    async with open_server() as server:
        await server.supervisor.drain()
        server.supervisor.suspend()
        assert server.supervisor.state is ServerState.DRAINED
        await server.supervisor.stop()
        server.supervisor.suspend()
        assert server.supervisor.state is ServerState.STOPPED


# Why a server is not ready


async def test_the_reason_is_draining_while_it_drains_and_suspended_afterwards(autojump_clock):
    async with open_server(close_timeout=1000) as server, trio.open_nursery() as nursery:
        await server.connect()
        assert reasons(server) == ()
        server.supervisor.suspend()
        assert reasons(server) == ("suspended",)
        nursery.start_soon(server.supervisor.drain, 5.0)
        await settle()
        assert reasons(server) == ("draining",)
        await trio.sleep(6)
        assert reasons(server) == ("suspended",)
        server.supervisor.resume()
        assert reasons(server) == ()


async def test_the_reason_is_draining_from_a_signal_until_the_server_stops(autojump_clock):
    async with open_server(drain_timeout=5, close_timeout=8) as server:
        await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await settle()
            assert reasons(server) == ("draining",)
        # The draining is over, and there is no way back: `suspended` would promise one.
        assert reasons(server) == ("draining",)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            await settle()
            assert reasons(server) == ("stopping",)
        assert reasons(server) == ("stopped",)


async def test_readyz_tells_the_reasons_while_a_server_drains_and_stops():
    async with serving(close_timeout=0.5) as server:
        stubborn = await server.connect(
            headers={"Authorization": server.http.headers["Authorization"]}
        )

        async def ready():
            response = await server.get("/readyz")
            return response.status_code, response.json()["reasons"]

        with trio.fail_after(10):
            assert await ready() == (200, [])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.drain)
                await stubborn.receive_type("goodbye")
                assert await ready() == (503, ["draining"])
            assert await ready() == (503, ["suspended"])
            server.supervisor.resume()
            stubborn = await server.connect(
                headers={"Authorization": server.http.headers["Authorization"]}
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.stop)
                assert await stubborn.close_code() == 1001
                assert await ready() == (503, ["stopping"])


# Clients whose handshake is under way


async def test_a_latecomer_to_a_server_that_is_suspended_stays(autojump_clock):
    async with open_server() as server:
        late = await half_way_in(server)
        server.supervisor.suspend()
        assert (await late.request(OTHER_HALF))[0] == 101
        assert (await late.receive())["type"] == "welcome"
        assert (await late.request_reply({"type": "ping"}))["type"] == "pong"


async def test_a_latecomer_to_a_server_that_has_been_drained_is_sent_away(autojump_clock):
    async with open_server() as server:
        late = await half_way_in(server)
        await server.supervisor.drain()
        assert server.supervisor.state is ServerState.DRAINED
        assert (await late.request(OTHER_HALF))[0] == 101
        assert await types_until_closed(late) == (
            ["goodbye"],
            b"\x0f\xa0" + CloseCause.DRAINED.reason.encode(),
        )
        late.transport.close()
        await settle()
        assert_nothing_left(server)


async def test_a_latecomer_after_a_signal_is_sent_away(autojump_clock):
    async with open_server(close_timeout=1000) as server, trio.open_nursery() as nursery:
        late, staying = await half_way_in(server), await server.connect()
        nursery.start_soon(server.supervisor.serve_until_signal)
        await settle()
        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert (await late.request(OTHER_HALF))[0] == 101
        assert await leave(late) == 4000
        assert await leave(staying) == 4000


async def test_a_latecomer_to_a_server_that_stops_hears_that_it_goes_away(autojump_clock):
    async with open_server(close_timeout=10) as server, trio.open_nursery() as nursery:
        late, stubborn = await half_way_in(server), await server.connect()
        nursery.start_soon(server.supervisor.stop)
        await settle()
        assert (await late.request(OTHER_HALF))[0] == 101
        assert await types_until_closed(late) == ([], b"\x03\xe9the server is going away")
        late.transport.close()
        assert await leave(stubborn) == 1001
        await server.supervisor.wait_stopped()
        assert server.supervisor.statistics.closed == {CloseCause.STOPPED: 2}


async def test_a_latecomer_that_was_sent_away_has_never_been_there(autojump_clock):
    app, seen = App(), []
    app.connected(seen.append)
    app.disconnected(lambda *arguments: seen.append(arguments))
    async with open_server(app) as server:
        late = await half_way_in(server)
        await server.supervisor.drain()
        await late.request(OTHER_HALF)
        await leave(late)
        await settle()
        assert seen == []


# Signals


async def test_a_signal_bounds_a_long_draining_of_an_operator(autojump_clock):
    """The server went on draining for as long as the operator had asked for."""
    async with open_server(drain_timeout=5, close_timeout=2000) as server:
        peer = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain, 1000.0)
            await trio.sleep(1)
            began = trio.current_time()
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
        assert trio.current_time() - began == pytest.approx(5)
        assert server.supervisor.state is ServerState.TERMINATING
        assert await leave(peer) == 4000


async def test_a_signal_does_not_prolong_a_draining_that_is_nearly_over(autojump_clock):
    async with open_server(drain_timeout=500, close_timeout=2000) as server:
        peer = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain, 10.0)
            await trio.sleep(7)
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(3)
        assert await leave(peer) == 4000


async def test_a_second_signal_ends_the_draining_at_once(autojump_clock):
    async with open_server(drain_timeout=500, close_timeout=2000) as server:
        peer = await server.connect()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await settle()
            signal.raise_signal(signal.SIGINT)
        assert trio.current_time() == began
        assert len(server.log.of("stopping")) == 1
        assert await leave(peer) == 4000


async def test_a_signal_ends_a_server_that_was_drained_before(autojump_clock):
    async with open_server() as server:
        await server.supervisor.drain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
        assert server.supervisor.state is ServerState.TERMINATING


async def test_waiting_for_a_signal_ends_when_the_server_was_stopped_otherwise(autojump_clock):
    async with open_server() as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            await server.supervisor.stop()
        assert server.log.of("signal") == []
        await server.supervisor.serve_until_signal()  # and does not begin anew


async def test_a_stop_during_the_draining_of_a_signal_ends_it(autojump_clock):
    async with open_server(drain_timeout=500, close_timeout=3) as server:
        peer = await server.connect()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await settle()
            await server.supervisor.stop()
        assert trio.current_time() - began <= 2 * 4
        assert server.supervisor.state is ServerState.STOPPED
        assert await leave(peer) == 4000


# Stop


async def test_a_program_that_stops_its_server_goes_on_in_its_block(autojump_clock):
    """`stop` cancelled the block that it was called in."""
    reached = []
    async with open_server() as server:
        peers = [await server.connect() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            codes = []
            for peer in peers:

                async def go(peer=peer):
                    codes.append(await leave(peer))

                nursery.start_soon(go)
            await server.supervisor.stop()
        assert codes == [1001] * 3
        assert server.supervisor.state is ServerState.STOPPED
        assert all(listener.socket.fileno() == -1 for listener in server.composition.listeners)
        assert_nothing_left(server)
        await trio.sleep(3600)  # such as a last report to somebody
        reached.append(server.supervisor.state)
    assert reached == [ServerState.STOPPED]


async def test_a_server_that_was_stopped_can_still_be_looked_at_and_does_nothing(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        session = server.supervisor.connection(peer.id)
        await server.supervisor.stop()
        supervisor = server.supervisor
        assert supervisor.connections() == ()
        assert supervisor.broadcast_to_topic("t", "x") == 0
        assert supervisor.disconnect_user("ann") == 0
        assert session.send("x") is False
        await supervisor.wait_empty()
        await supervisor.wait_stopped()
        assert supervisor.statistics.closed == {CloseCause.STOPPED: 1}


async def test_a_client_that_a_program_brings_to_a_server_that_stops_is_closed(autojump_clock):
    """After the end, it was an error of a nursery that was closed, and the client stayed open."""
    async with open_server(close_timeout=5) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(server.supervisor.stop)
        await settle()
        for _ in range(2):  # while it stops, and afterwards
            assert await server.dial().stream.receive_some() == b""
            await server.supervisor.wait_stopped()


async def test_stopping_twice_is_stopping_once(autojump_clock):
    async with open_server(close_timeout=3) as server:
        await server.connect()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            await server.supervisor.stop()
        took = trio.current_time() - began
        await server.supervisor.stop()
        assert trio.current_time() - began == took == pytest.approx(3)
        assert server.supervisor.state is ServerState.STOPPED


async def test_everybody_who_waits_for_the_end_is_told_of_it(autojump_clock):
    async with open_server() as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.wait_stopped)
            nursery.start_soon(server.supervisor.wait_stopped)
            await settle()
            assert len(nursery.child_tasks) == 2
            await server.supervisor.stop()
        await server.supervisor.wait_stopped()


async def test_a_stop_that_is_cancelled_stops_the_server_all_the_same(autojump_clock):
    async with open_server(close_timeout=5) as server:
        peer = await server.connect()
        with trio.move_on_after(1) as scope:
            await server.supervisor.stop()
        assert scope.cancelled_caught
        assert server.supervisor.state is ServerState.STOPPING
        await server.supervisor.wait_stopped()
        assert await peer.close_code() == 1001


async def test_a_message_handler_can_stop_the_server(autojump_clock):
    app = App()

    @app.on("stop")
    async def stop(context, message):
        await server.supervisor.stop()

    async with open_server(app) as server:
        peer, other = await server.connect(), await server.connect()
        await peer.send({"type": "stop"})
        assert [await leave(peer), await leave(other)] == [1001, 1001]
        await server.supervisor.wait_stopped()
        assert [line for line in server.log.lines if line["level"] >= 40] == []


async def test_a_callback_about_a_connections_end_can_stop_the_server(autojump_clock):
    """The server waits for the callback, and the callback for the server: `stop` gives up."""
    app, returned = App(), []

    @app.disconnected
    async def stop(connection, cause):
        await server.supervisor.stop()
        returned.append(trio.current_time())

    async with open_server(app, close_timeout=2) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.close()
        await server.supervisor.wait_stopped()
        assert returned == [pytest.approx(began + 2 * (2 + 1))]
        assert trio.current_time() == returned[0]


async def test_another_task_can_stop_the_server(autojump_clock):
    async with open_server() as server, trio.open_nursery() as nursery:
        peer = await server.connect()
        nursery.start_soon(server.supervisor.stop)
        assert await leave(peer) == 1001
        await server.supervisor.wait_stopped()


async def test_another_thread_can_stop_the_server():
    async with open_server(close_timeout=0.5) as server:
        with trio.fail_after(10):
            await trio.to_thread.run_sync(server.supervisor.from_thread.stop)
        assert server.supervisor.state is ServerState.STOPPED


async def test_a_stop_during_a_draining_ends_both(autojump_clock):
    async with open_server(close_timeout=3) as server:
        peer = await server.connect()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain, 1000.0)
            await settle()
            await server.supervisor.stop()
        assert trio.current_time() - began <= 4
        assert server.supervisor.state is ServerState.STOPPED
        assert await leave(peer) == 4000  # the first cause wins


async def test_stop_closes_with_going_away_and_waits_no_longer_than_the_close_timeout(
    autojump_clock,
):
    async with open_server(close_timeout=3.0) as server:
        peer = await server.connect()
        stubborn = await server.connect()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            assert await peer.close_code() == 1001
            await peer.send_frame(CLOSE, b"")
        assert 3.0 <= trio.current_time() - started <= 4.0
        assert await stubborn.close_code() == 1001
        assert server.actors() == ()


async def test_stopping_the_server_says_that_it_goes_away(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.stop)
            assert await types_until_closed(peer) == ([], b"\x03\xe9the server is going away")
            peer.transport.close()
        assert await ended(server) == ("stopped", 1001)


async def test_a_second_call_joins_what_a_signal_has_begun_and_hears_the_next_one(autojump_clock):
    """It waited for an end that nobody brought, and swallowed every further signal meanwhile."""
    async with open_server(drain_timeout=1000.0, close_timeout=1000.0) as server:
        await server.connect()  # stays
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.supervisor.serve_until_signal)
                await settle()
                signal.raise_signal(signal.SIGTERM)
        assert server.supervisor.state is ServerState.TERMINATING
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.serve_until_signal)
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await settle()
            signal.raise_signal(signal.SIGTERM)
        assert trio.current_time() < 10
        server.actors()[0].transport.close()


async def test_clients_of_a_server_that_stops_are_told_over_several_turns(autojump_clock):
    async with open_server(close_timeout=0.5) as server:
        for _ in range(250):
            await server.connect()
        actors, told = server.actors(), []

        async def look():
            while len(told) < 10_000 and not (told and told[-1] == len(actors)):
                told.append(sum(not actor.is_open for actor in actors))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            server.core.begin_stop()
    assert set(told) - {0, 250}  # once it was 0, and then 250 in the next turn


async def test_settings_that_need_more_descriptors_than_there_are_are_told_at_the_start(
    autojump_clock,
):
    async with open_server(max_total_connections=10_000_000) as server:
        (line,) = server.log.of("few_descriptors")
        assert line["max_total_connections"] == 10_000_000
        assert line["needed"] > 10_000_000 > line["limit"]
        assert "LimitNOFILE" in line["advice"]


async def test_a_heartbeat_that_comes_too_late_to_be_sent_is_told_at_the_start(autojump_clock):
    """The help of `connection_timeout` said nothing of the other two; it was never reached."""
    async with open_server(connection_timeout=20.0) as server:
        (line,) = server.log.of("no_heartbeat")
        assert (line["connection_timeout"], line["heartbeat_interval"]) == (20.0, 30.0)
        peer = await server.connect()
        assert await peer.close_code() == 4002  # at 20 s, and it was never asked
        assert server.supervisor.statistics.traffic.heartbeats == 0


async def test_by_default_a_silent_client_is_found_by_its_heartbeat_and_nothing_is_told(
    autojump_clock,
):
    async with open_server() as server:
        assert server.log.of("no_heartbeat") == []
        began = trio.current_time()
        silent = await server.connect()
        while (await silent.receive_frame())[0] != CLOSE:
            pass
        assert 37 <= trio.current_time() - began <= 40.1
