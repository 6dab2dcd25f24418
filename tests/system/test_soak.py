"""Thousands of connections that come, talk, and leave in every way there is, and leave nothing."""

from __future__ import annotations

import contextlib
import gc
import random

import pytest
import trio

from moorage.actors.connection.connection import Connection
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, TEXT, Peer, Server, masked, open_server
from tests.fakes_server import KEY, assert_nothing_left, descriptors, dial_tcp, settle, token, until

IN_MEMORY, ON_SOCKETS = 3000, 300
TOPICS = [f"topic.{number}" for number in range(20)]
USERS = [token(f"user{number}") for number in range(10)]


def make_app() -> App:
    app = App()

    @app.endpoint("/ws", topics=["everyone", "user:{user_id}"])
    async def beside(connection):
        await trio.sleep_forever()

    @app.on("sync")
    def sync(context, message):
        context.subscribe("from.handler")
        context.broadcast_to_topic("from.handler", "said", message.data)

    @app.on("async")
    async def asynchronous(context, message):
        await trio.sleep(0.01)
        context.reply("done")

    @app.on("broken")
    async def broken(context, message):
        await trio.lowlevel.checkpoint()
        raise ValueError

    @app.authorize_publish
    async def publish(connection, topic):
        await trio.lowlevel.checkpoint()

    @app.connected
    async def connected(connection):
        connection.metadata["since"] = trio.current_time()

    @app.disconnected
    async def disconnected(connection, cause):
        await trio.lowlevel.checkpoint()

    return app


async def talk(server: Server, peer: Peer, chance: random.Random) -> None:
    """Say a few things, and read what comes back as long as it lasts."""
    topics = chance.sample(TOPICS, 3)
    await peer.send({"type": "subscribe", "data": {"topics": topics}})
    for _ in range(chance.randrange(4)):
        await peer.send(
            chance.choice(
                [
                    {"type": "data", "topic": chance.choice(TOPICS), "data": chance.random()},
                    {"type": "unsubscribe", "topic": topics[0]},
                    {"type": "sync", "data": 1},
                    {"type": "async", "id": 1},
                    {"type": "broken"},
                    {"type": "unknown"},
                    {"type": "ping"},
                    "not a message",
                ]
            )
        )
    with trio.move_on_after(0.3):  # perhaps nothing more comes
        for _ in range(chance.randrange(8)):
            await peer.receive()


async def leave(server: Server, peer: Peer, chance: random.Random) -> None:
    """Go, in one of the ways that there are."""
    way = chance.randrange(8)
    if way == 0:
        await peer.close()
    elif way == 1:
        await peer.send_frame(BINARY, b"x")
        await peer.close_code()
    elif way == 2:
        await peer.send_bytes(b"\xff" * 10)
        await peer.close_code()
    elif way == 3:
        await peer.send_bytes(masked(TEXT, b'{"type":"ping"}')[:7])  # half a frame
    elif way == 4 and (connection := server.actor(peer.id)) is not None:
        connection.disconnect(reconnect_after=1.0)
        await peer.close_code()
    elif way == 5:
        await peer.send({"type": "async"}, {"type": "async"})  # and does not wait for them
        await peer.send_frame(CLOSE, (1001).to_bytes(2))
    elif way == 6 and hasattr(peer.transport, "reset"):
        peer.transport.reset()


async def one_client(server: Server, number: int, *, on_socket: bool) -> None:
    chance = random.Random(number)
    peer = await dial_tcp(server) if on_socket else server.dial()
    # What ends a conversation early is what the server or this client did on purpose.
    with contextlib.suppress(EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
        how = chance.randrange(20)
        if how == 0:
            await peer.send_bytes(b"GET /ws HTTP/1.1\r\n")  # and no more
        elif how == 1:
            assert (await peer.upgrade("/nowhere"))[0] == 404
        elif how == 2:
            assert (await peer.upgrade(headers={"Authorization": "Bearer x"}))[0] == 401
        else:
            headers = {"Authorization": f"Bearer {chance.choice(USERS)}"} if how < 10 else {}
            assert (await peer.upgrade(headers=headers))[0] == 101
            peer.welcome = await peer.receive()
            await talk(server, peer, chance)
            await leave(server, peer, chance)
    peer.transport.close()


async def everyone(server: Server, *, on_socket: bool, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(lambda n=number: one_client(server, n, on_socket=on_socket))
            if number % 50 == 0:
                server.supervisor.broadcast_to_topic("everyone", "count", number)
                server.supervisor.send_to_user(f"user{number % 10}", "hello")
                await trio.sleep(0.002)


@pytest.mark.parametrize(
    ("on_socket", "count"), [(False, IN_MEMORY), (True, ON_SOCKETS)], ids=["memory", "sockets"]
)
async def test_nothing_is_left_of_thousands_of_connections(on_socket, count):
    descriptors_before = descriptors()
    options = {"jwt_key": KEY, "anonymous": True, "max_connections_per_topic": 10_000}
    async with open_server(make_app(), close_timeout=1.0, **options) as server:
        await settle()
        tasks = trio.lowlevel.current_statistics().tasks_living
        supervisor, statistics = server.supervisor, server.parts.statistics
        with trio.fail_after(30):
            await everyone(server, on_socket=on_socket, count=count)
            await until(
                lambda: not supervisor.connections() and not server.parts.admission.admitted
            )
            await until(lambda: trio.lowlevel.current_statistics().tasks_living == tasks)
        assert_nothing_left(server)
        assert statistics.accepted == count
        assert statistics.accepted == (
            statistics.connected
            + statistics.refused.total()
            + statistics.left_early
            + statistics.unanswered
        )
        assert statistics.connected > count * 0.8
        assert len(statistics.closed) >= 5
        assert CloseCause.INTERNAL_ERROR not in statistics.closed
        assert len(server.parts.admission.refusals) == 0
        assert len(server.log.of("handler_failed")) > 10  # it did meet the broken handler
        server.log.lines.clear()  # their tracebacks hold connections
        gc.collect()
        left = [one for one in gc.get_objects() if isinstance(one, Connection)]
        shared = server.parts.shared  # other tests' servers have left theirs in tracebacks
        assert not [connection for connection in left if connection.shared is shared]
    assert descriptors() == descriptors_before


async def test_a_server_that_stops_under_load_leaves_nothing_either():
    descriptors_before = descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    options = {"jwt_key": KEY, "anonymous": True}
    async with trio.open_nursery() as clients:
        async with open_server(make_app(), close_timeout=0.5, **options) as server:
            for number in range(200):
                on_socket = number % 4 == 0
                clients.start_soon(lambda n=number, s=on_socket: client(server, n, on_socket=s))
            await until(lambda: server.supervisor.statistics.connected > 100)
        assert_nothing_left(server)
        clients.cancel_scope.cancel()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    gc.collect()
    assert descriptors() == descriptors_before


async def client(server: Server, number: int, *, on_socket: bool) -> None:
    with contextlib.suppress(AssertionError, OSError):  # a server that stops answers in many ways
        await one_client(server, number, on_socket=on_socket)
