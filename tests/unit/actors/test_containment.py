"""Containment: what a failure ends, and what it must never end."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import trio

from moorage.actors.containment import Boundary, apart, contain
from moorage.actors.session.session import SessionActor
from moorage.supervisor.app import App
from moorage.supervisor.server_lifecycle import ServerState
from moorage.supervisor.topics import routing
from moorage.supervisor.topics.routing import Router
from tests.fakes import Server, masked, open_server
from tests.fakes_admin_cli import PATIENCE
from tests.fakes_containment import KINDS, Bug, Foreign, errors, is_served, made, onlooker
from tests.fakes_server import settle, subscribed, waiting_bytes

# Which part of an exception goes on


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_program_raises_is_reported_once_and_ends_there(kind):
    error = await made(kind)
    reported = []
    with Boundary(reported.append):
        await trio.lowlevel.checkpoint()
        raise error
    contain(error, reported.append)
    assert reported == [error, error]


def test_an_interrupt_from_the_keyboard_goes_on():
    reported = []
    with pytest.raises(KeyboardInterrupt):
        contain(KeyboardInterrupt(), reported.append)
    assert reported == []


async def test_the_cancellation_of_a_scope_around_goes_on():
    reported = []
    with trio.CancelScope() as scope:
        scope.cancel()
        with Boundary(reported.append):
            await trio.lowlevel.checkpoint()
        raise AssertionError("it has gone on behind the block")
    assert scope.cancelled_caught
    assert reported == []


async def test_a_cancellation_that_a_shield_keeps_out_is_none():
    reported = []
    kept = await made("Cancelled")
    with trio.CancelScope() as scope:
        scope.cancel()
        with trio.CancelScope(shield=True), Boundary(reported.append):
            await trio.lowlevel.checkpoint()
            raise kept
    assert reported == [kept]


async def test_of_a_group_the_part_that_may_go_on_does_and_the_rest_is_reported():
    reported = []
    bug = Bug()
    with trio.CancelScope() as scope:
        scope.cancel()
        with Boundary(reported.append):
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                raise BaseExceptionGroup("both", [cancelled, bug]) from None
    assert scope.cancelled_caught
    (group,) = reported
    assert group.exceptions == (bug,)


async def test_of_a_group_an_interrupt_goes_on_and_the_rest_is_reported():
    reported = []
    interrupt = KeyboardInterrupt()
    with pytest.raises(BaseExceptionGroup) as caught, Boundary(reported.append):
        raise BaseExceptionGroup("both", [interrupt, Foreign()])
    assert caught.value.exceptions == (interrupt,)
    assert len(reported) == 1


async def test_a_report_that_fails_does_not_keep_an_interrupt():
    def fail(_error):
        raise Bug

    with pytest.raises(BaseExceptionGroup), Boundary(fail):
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), Bug()])


async def test_a_coroutine_that_is_closed_ends_at_once():
    reported, went_on = [], []

    async def run():
        with Boundary(reported.append):
            await trio.sleep_forever()
        went_on.append(True)

    coroutine = run()
    coroutine.send(None)  # up to the wait; the task of it is this test's
    this = trio.lowlevel.current_task()
    await trio.lowlevel.checkpoint()
    assert this is trio.lowlevel.current_task()
    await trio.to_thread.run_sync(coroutine.close)  # where no task is the current one
    assert reported == went_on == []


async def test_a_contained_exception_leaves_no_cycle():
    gc.collect()
    gc.disable()
    try:

        async def fail():
            error = Foreign()
            seen.append(weakref.ref(error))
            try:
                with Boundary(lambda _: None):
                    raise error
            finally:
                del error

        seen = []
        await fail()
        assert seen[0]() is None
    finally:
        gc.enable()


async def test_what_is_awaited_apart_returns_its_result_and_raises_its_own_error():
    async def double(number):
        await trio.lowlevel.checkpoint()
        return 2 * number

    async def fail():
        await trio.lowlevel.checkpoint()
        raise Foreign

    assert await apart(double(4)) == 8
    with pytest.raises(Foreign):
        await apart(fail())


async def test_what_is_awaited_apart_cannot_corrupt_the_stack_of_its_caller():
    async def leave_open():
        nursery = trio.open_nursery()
        await nursery.__aenter__()

    with pytest.raises(ExceptionGroup):
        await apart(leave_open())
    await trio.lowlevel.checkpoint()


# Every place in which a program's code runs, with every kind of exception


def _raising(error: BaseException, *, asynchronous: bool = False):
    def fail(*_arguments):
        raise error

    async def fail_later(*_arguments):
        await trio.lowlevel.checkpoint()
        raise error

    return fail_later if asynchronous else fail


async def _request(server: Server, **message):
    """Send a message that fails on the server; its sender is told so, and goes on."""
    peer = await server.connect()
    reply = await peer.request_reply(message)
    assert (reply["type"], reply["data"]["code"]) == ("error", "internal")
    assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def _closed(server: Server, path: str):
    """Connect to an endpoint that fails: its connection ends, with 1011."""
    peer = server.dial()
    assert (await peer.upgrade(path))[0] == 101
    assert await peer.close_code() == 1011
    peer.transport.close()
    await settle()


async def _come_and_go(server: Server):
    peer = await server.connect()
    await settle()
    await peer.close()
    await settle()


async def _refused(server: Server):
    assert (await server.dial().upgrade())[0] == 500


async def _next_second(server: Server):
    server.parts.tick.every_second = server.raising
    server.parts.tick._second_began -= 1.0
    await settle()
    await trio.lowlevel.checkpoint()
    server.parts.tick.every_second = None


async def _watched(server: Server):
    server.parts.log.on_event = server.raising
    server.parts.log.write("info", "resumed")
    server.parts.log.on_event = None


async def _watched_topics(server: Server):
    server.parts.pubsub.on_event = server.raising
    peer = await subscribed(await server.connect(), "watched")
    server.parts.pubsub.on_event = None
    assert peer.id in server.hub.by_id


async def _service(server: Server):
    async def fail():
        server.raising()

    server.core.start_service(fail, "odd job")
    await settle()


async def _transport(server: Server):
    peer = await server.connect()
    server.actor(peer.id).transport.wait_readable = server.raising
    await peer.send_bytes(masked(0xA))
    await settle()


async def _delivery(server: Server):
    peer = await subscribed(await server.connect(), "t")
    server.actor(peer.id).mailbox._write = server.raising
    server.supervisor.broadcast_to_topic("t", "x")
    await settle()


async def _forgetting(server: Server):
    peer = await subscribed(await server.connect(), "t")
    forget = Router.remove

    def fail(router, connection):
        forget(router, connection)
        server.raising()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Router, "remove", fail)
        await peer.close()
        await settle()
    assert peer.id not in server.hub.by_id


async def _batch(server: Server):
    peer = await subscribed(await server.connect(), "t", "u")
    begin = routing._begin_delivery
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            routing,
            "_begin_delivery",
            lambda topic, batch: server.raising() if topic.name == "t" else begin(topic, batch),
        )
        server.supervisor.broadcast_to_topic("t", "lost")
        server.supervisor.broadcast_to_topic("u", "kept")
        await settle()
    assert (await peer.receive())["type"] == "kept"


async def _for_each(server: Server):
    await server.connect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SessionActor, "disconnect", server.raising)
        await server.supervisor.drain(0)
    assert server.supervisor.state is ServerState.DRAINED
    server.supervisor.resume()


def _on(app, fail):
    app.on("odd")(fail)


PLACES = {
    "handler": (_on, lambda server: _request(server, type="odd"), "handler_failed"),
    "subscribe": (
        lambda app, fail: app.authorize_subscribe(fail),
        lambda server: _request(server, type="subscribe", topic="t"),
        "handler_failed",
    ),
    "publish": (
        lambda app, fail: app.authorize_publish(fail),
        lambda server: _request(server, type="data", topic="t"),
        "handler_failed",
    ),
    "connect": (lambda app, fail: app.authorize_connect(fail), _refused, "handshake_failed"),
    "connected": (lambda app, fail: app.connected(fail), _come_and_go, "callback_failed"),
    "disconnected": (lambda app, fail: app.disconnected(fail), _come_and_go, "callback_failed"),
}
"""How code of a program is registered, how it is made to run, and the event that tells of it."""


async def _is_contained(server: Server, provoke, event: str, error: BaseException) -> None:
    """Provoke a failure, and see that it is logged once and at once, and ends nobody else."""
    began = trio.current_time()
    with trio.fail_after(PATIENCE):
        await provoke(server)
    assert trio.current_time() - began < 0.1  # and not only after `close_timeout`
    assert [line["event"] for line in errors(server) if "exc_info" in line] == [event]
    line = server.log.of(event)[0]
    assert line["exc_info"] is error
    assert server.supervisor.state is ServerState.SERVING


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("place", PLACES)
async def test_a_program_that_fails_ends_its_own_call_alone(
    autojump_clock, place, asynchronous, kind
):
    """Whatever is no `Exception` once ended the whole server, seconds later."""
    register, provoke, event = PLACES[place]
    app, error, broken = App(), await made(kind), []
    register(app, lambda *args: broken[0](*args) if broken else None)
    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        broken.append(_raising(error, asynchronous=asynchronous))
        await _is_contained(server, provoke, event, error)
        broken.clear()
        assert await is_served(other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [False, True])
async def test_an_endpoint_that_fails_ends_its_own_connection_alone(autojump_clock, raw, kind):
    app, error = App(), await made(kind)
    app.add_endpoint("/odd", _raising(error, asynchronous=True), raw=raw)
    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        await _is_contained(server, lambda s: _closed(s, "/odd"), "endpoint_failed", error)
        assert await is_served(other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("provoke", "event"),
    [
        (_next_second, "sampling_failed"),
        (_watched, "event_failed"),
        (_watched_topics, "event_failed"),
        (_service, "service_failed"),
        (_transport, "connection_failed"),
        (_delivery, "delivery_failed"),
        (_forgetting, "connection_failed"),
        (_batch, "delivery_failed"),
        (_for_each, "connection_failed"),
    ],
)
async def test_a_task_or_hook_of_the_server_that_fails_ends_nobody_else(
    autojump_clock, provoke, event, kind
):
    error = await made(kind)
    async with open_server(close_timeout=0.01) as server:
        other = await onlooker(server)
        with trio.fail_after(PATIENCE):
            await provoke(_Raising(server.composition, server.log, error))
        failed = [line for line in errors(server) if "exc_info" in line]
        # A draining fails with both connections; a nursery puts what it gets into a group.
        assert [line["event"] for line in failed] == [event] * (1 + (provoke is _for_each))
        assert server.supervisor.state is ServerState.SERVING
        if provoke is not _for_each:
            assert await is_served(other)
        assert await is_served(await onlooker(server))


class _Raising(Server):
    """A server with a function that raises one exception."""

    def __init__(self, composition, log, error):
        super().__init__(composition, log)
        self.raising = _raising(error)


# What a program can reach cannot break the tables


async def test_no_public_object_leads_to_the_tables(autojump_clock):
    """Writing to `connection.topics` once ended the server, when that connection ended."""
    app, sessions = App(), []
    app.connected(sessions.append)
    async with open_server(app) as server:
        other = await onlooker(server)
        peer = await subscribed(await server.connect(), "t", "u")
        session = sessions[-1]
        found = {name: getattr(session, name) for name in dir(session) if not name.startswith("_")}
        for name, value in found.items():
            with pytest.raises((AttributeError, TypeError)):
                setattr(session, name, None)
            for change in ("clear", "pop", "popitem", "update", "add", "discard", "setdefault"):
                assert name == "metadata" or not hasattr(value, change), (name, change)
        session.metadata.clear()
        statistics = server.supervisor.statistics
        for name in ("closed", "refused", "traffic", "connected", "handshakes"):
            setattr(statistics, name, None)
        server.supervisor.statistics.closed.clear()
        server.supervisor.addresses.clear()
        server.supervisor.control_addresses.clear()
        await peer.close()
        await settle()
        assert errors(server) == []
        assert server.supervisor.statistics.closed.total() == 1
        assert list(server.router.topics) == ["onlookers"]
        assert await is_served(other)


async def test_callbacks_that_are_no_list_any_more_leave_the_tables_whole(autojump_clock):
    app = App()
    async with open_server(app) as server:
        other, peer = await onlooker(server), await subscribed(await server.connect(), "t")
        app.disconnected_callbacks = None
        await peer.close()
        await settle()
        assert server.log.of("connection_failed")
        assert peer.id not in server.hub.by_id
        assert list(server.router.topics) == ["onlookers"]
        app.disconnected_callbacks = []
        assert await is_served(other)


# Code that leaves nurseries and scopes open


async def _half(nurseries):
    manager = trio.open_nursery()
    await manager.__aenter__()
    nurseries.append(manager)


@pytest.mark.parametrize("place", ["handler", "connect", "connected", "disconnected"])
async def test_a_nursery_that_a_program_leaves_open_ends_nobody_else(autojump_clock, place):
    """Trio's complaint about it comes out of the task itself, and ended the whole server."""
    register, _, _ = PLACES[place]
    app, broken, nurseries = App(), [], []

    async def leave_open(*_arguments):
        await trio.lowlevel.checkpoint()
        if broken:
            await _half(nurseries)

    register(app, leave_open)
    async with open_server(app) as server:
        other = await onlooker(server)
        await settle()  # its own callback is over before anything is broken
        broken.append(True)
        peer = server.dial()
        status, _, _ = await peer.upgrade()
        assert status == (500 if place == "connect" else 101)
        if place == "handler":
            await peer.send({"type": "odd"})
        await settle()
        peer.transport.close()
        await settle()
        assert [line for line in errors(server) if "exc_info" in line]
        broken.clear()
        assert await is_served(other)


async def test_the_client_whose_handler_ends_the_process_is_told_of_an_internal_error(
    autojump_clock,
):
    app = App()

    @app.on("quit")
    def leave(_context, _message):
        raise SystemExit

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "quit", "id": 1})
        await settle()
        said = waiting_bytes(peer)
        assert json.loads(said[said.index(b"{") :])["data"]["code"] == "internal"
