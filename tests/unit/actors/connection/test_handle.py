"""What a program holds of a connection: it shows what it may see, and reaches nothing else."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio

from moorage.actors.connection.connection import Connection
from moorage.actors.connection.handle import ConnectionHandle
from moorage.actors.connection.lifecycle import ConnectionState
from moorage.actors.connection.raw import RawConnection
from moorage.actors.session.session import Session
from moorage.supervisor.app import App
from tests.fakes import PONG, open_server
from tests.fakes_server import KEY, assert_nothing_left, settle, token, upgraded

COMMON = {
    *("id", "identity", "user_id", "address", "path", "metadata", "state", "is_open"),
    *("connected_at", "last_heard", "rtt", "messages_in", "waiting_bytes", "close_code"),
}


def public_names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def raw_app() -> App:
    app = App()
    app.add_endpoint("/ws")

    @app.endpoint("/raw", raw=True)
    async def wait(connection):
        await trio.sleep_forever()

    return app


# What can be reached


def test_a_program_sees_these_names_and_no_others():
    assert public_names(ConnectionHandle) == COMMON
    assert public_names(Session) == COMMON | {
        *("topics", "subscriptions", "send", "subscribe", "unsubscribe", "disconnect")
    }
    assert public_names(RawConnection) == COMMON | {"subprotocol", "send", "disconnect"}


@pytest.mark.parametrize("path", ["/ws", "/raw"])
async def test_what_a_program_sees_can_be_neither_set_nor_added_to(autojump_clock, path):
    async with open_server(raw_app()) as server:
        await upgraded(server.dial(), path)
        await settle()
        (handle,) = server.supervisor.connections()
        for name in (*public_names(type(handle)), "a_new_one"):
            with pytest.raises(AttributeError):
                setattr(handle, name, None)


@pytest.mark.parametrize("path", ["/ws", "/raw"])
async def test_nothing_that_a_program_sees_is_an_actor_or_leads_to_one(autojump_clock, path):
    async with open_server(raw_app()) as server:
        await upgraded(server.dial(), path)
        await settle()
        (handle,) = server.supervisor.connections()
        kind = type(handle)
        for name in public_names(kind):
            if isinstance(getattr(kind, name), property):
                value = getattr(handle, name)
                assert not isinstance(value, Connection)
                public = [getattr(value, one) for one in public_names(type(value))]
                assert not [one for one in public if isinstance(one, Connection)]


# Handles as values


@pytest.mark.parametrize("path", ["/ws", "/raw"])
async def test_two_handles_of_one_connection_are_equal(autojump_clock, path):
    async with open_server(raw_app()) as server:
        for _ in range(2):
            await upgraded(server.dial(), path)
        await settle()
        one, other = server.supervisor.connections()
        again = server.supervisor.connection(one.id)
        assert one is not again
        assert one == again
        assert hash(one) == hash(again)
        assert one != other
        assert one != one.id
        assert one != server.actor(one.id)
        assert {one, again, other} == {one, other}
        assert {one: "noted"}[again] == "noted"


async def test_a_connection_that_is_over_is_still_equal_to_itself(autojump_clock):
    app, gone = App(), []
    app.disconnected(lambda connection, cause: gone.append(connection))
    async with open_server(app) as server:
        peer = await server.connect()
        before = server.supervisor.connection(peer.id)
        await peer.close()
        await settle()
        assert gone == [before]
        assert len({*gone, before}) == 1


async def test_a_handle_shows_whose_it_is(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann"))
        handle = server.supervisor.connection(peer.id)
        assert repr(handle) == f"<Session {peer.id} of 'ann', open>"
        await peer.close()
        await settle()
        assert repr(handle).endswith(", closed>")


async def test_the_actor_does_not_keep_its_handles(autojump_clock):
    async with open_server(raw_app()) as server:
        peer = await server.connect()
        await upgraded(server.dial(), "/raw")
        await settle()
        for actor in server.actors():
            assert actor.handle is not actor.handle
        handle = server.supervisor.connection(peer.id)
        holders = [one for one in gc.get_referrers(handle) if isinstance(one, Connection)]
        assert holders == []


async def test_a_connection_that_is_over_needs_no_collector_to_be_let_go(autojump_clock):
    """The actor and its mailbox were a cycle: ended connections stayed until the collector ran."""
    async with open_server() as server:
        peer = await server.connect()
        await peer.request_reply({"type": "subscribe", "topic": "t"})
        gc.collect()
        gc.disable()
        try:
            actor = weakref.ref(server.actor(peer.id))
            handle = actor().handle
            await peer.close()
            await settle()
            assert handle.state is ConnectionState.CLOSED
            del handle
            assert actor() is None
        finally:
            gc.enable()


# What it shows


async def test_a_handle_shows_the_connection_as_it_is(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann"), address="192.0.2.7")
        handle, actor = server.supervisor.connection(peer.id), server.actor(peer.id)
        assert (handle.id, handle.user_id, handle.address) == (peer.id, "ann", "192.0.2.7")
        assert handle.identity is actor.identity
        assert (handle.path, handle.state, handle.is_open) == ("/ws", ConnectionState.OPEN, True)
        assert (handle.rtt, handle.close_code, handle.messages_in) == (None, None, 0)
        await trio.sleep(5)
        await peer.send({"type": "ping"}, {"type": "ping"})
        await settle()
        assert handle.messages_in == 2
        assert handle.last_heard == pytest.approx(trio.current_time(), abs=0.1)
        _, payload = [await peer.receive_frame() for _ in range(3)][-1]
        await trio.sleep(1)
        await peer.send_frame(PONG, payload)
        await settle()
        assert handle.rtt == pytest.approx(1)


async def test_a_handle_shows_what_waits_for_a_slow_client(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=500)
        handle = server.supervisor.connection(peer.id)
        assert handle.waiting_bytes == 0
        handle.send("big", "x" * 5_000)
        assert 4_000 < handle.waiting_bytes < 5_200
        await peer.receive()
        await settle()
        assert handle.waiting_bytes == 0


# After the end


@pytest.mark.parametrize("path", ["/ws", "/raw"])
async def test_everything_can_still_be_read_after_the_end(autojump_clock, path):
    async with open_server(raw_app(), close_timeout=2) as server:
        peer = await upgraded(server.dial(), path)
        await settle()
        (handle,) = server.supervisor.connections()
        kind = type(handle)
        names = [n for n in public_names(kind) if isinstance(getattr(kind, n), property)]
        before = {name: getattr(handle, name) for name in names}
        handle.metadata["note"] = 1
        handle.disconnect()
        await peer.close_code()
        peer.transport.close()
        await server.supervisor.wait_empty()
        after = {name: getattr(handle, name) for name in names}
        assert before.keys() == after.keys()
        for name in ("id", "identity", "user_id", "address", "path", "connected_at"):
            assert after[name] == before[name]
        assert (after["state"], after["is_open"]) == (ConnectionState.CLOSED, False)
        assert after["close_code"] == (4503 if path == "/ws" else 1000)
        assert after["metadata"]["note"] == 1
        assert after["waiting_bytes"] == 0
        assert handle.disconnect() is False


async def test_what_is_done_to_a_connection_that_is_over_leaves_nothing_in_the_tables(
    autojump_clock,
):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        await peer.close()
        await settle()
        assert connection.subscribe("t") is False
        assert connection.unsubscribe("t") is False
        assert connection.send("x") is False
        assert connection.disconnect() is False
        assert_nothing_left(server)


async def test_metadata_belongs_to_one_connection(autojump_clock):
    async with open_server() as server:
        first, second = [await server.connect() for _ in range(2)]
        server.supervisor.connection(first.id).metadata["a"] = 1
        assert server.supervisor.connection(second.id).metadata == {}
