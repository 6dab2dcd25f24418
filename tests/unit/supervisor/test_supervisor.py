"""The supervisor as a whole: what a program may ask of it, from any thread, and its numbers."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import LocalProtocolError, RemoteProtocolError
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.supervisor import open_supervisor
from tests.fakes import CLOSE, RecordingLogger, Server, open_server
from tests.fakes_server import (
    KEY,
    assert_nothing_left,
    settle,
    subscribed,
    token,
    waiting_bytes,
)

# Messages


async def test_broadcast_tells_how_many_are_addressed(autojump_clock):
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "t") for _ in range(3)]
        broadcast = server.supervisor.broadcast_to_topic
        assert broadcast("t", "news", {"x": 1}) == 3
        assert broadcast("t", "news", 2, exclude={peers[0].id}) == 2
        assert broadcast("t", "news", 3, exclude={"nobody"}) == 3
        assert broadcast("nobody's", "news") == 0
        message = await peers[1].receive()
        assert {key: message[key] for key in ("type", "topic", "data")} == {
            "type": "news",
            "topic": "t",
            "data": {"x": 1},
        }
        assert message["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("topic", "message_type", "data"),
    [("a b", "x", 1), ("", "x", 1), ("t", "", 1), ("t", "a b", 1), ("t", "x", float("nan"))],
)
async def test_what_cannot_be_broadcast_raises_and_sends_nothing(
    autojump_clock, topic, message_type, data
):
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "t")
        with pytest.raises((LocalProtocolError, RemoteProtocolError)):
            server.supervisor.broadcast_to_topic(topic, message_type, data, exclude={peer.id})
        assert server.supervisor.broadcast_to_topic("t", "x", 1) == 1
        assert (await peer.receive())["data"] == 1


async def test_send_to_user_reaches_all_connections_of_that_user_and_nobody_else(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        ann = [await server.connect(token=token("7")) for _ in range(2)]
        bob = await server.connect(token=token("8"))
        assert server.supervisor.send_to_user(7, "note", 1) == 2
        assert server.supervisor.send_to_user("7", "note", 2) == 2
        assert server.supervisor.send_to_user("nobody", "note", 3) == 0
        assert [(await peer.receive())["data"] for peer in ann] == [1, 1]
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_send_to_one_connection(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        assert server.supervisor.send_to_connection(peer.id, "note", 1) is True
        assert server.supervisor.send_to_connection("nobody", "note", 1) is False
        assert (await peer.receive())["type"] == "note"


async def test_subscribing_a_user_counts_the_connections_that_are_new_to_the_topic(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        first, second = [await server.connect(token=token("ann")) for _ in range(2)]
        await subscribed(first, "t")
        assert server.supervisor.subscribe_user("ann", "t") == 1
        assert (await second.receive())["type"] == "subscribed"
        assert server.supervisor.broadcast_to_topic("t", "x") == 2
        assert server.supervisor.unsubscribe_user("ann", "t") == 2
        assert server.supervisor.unsubscribe_user("ann", "t") == 0
        assert [(await second.receive())["type"] for _ in range(2)] == ["x", "unsubscribed"]
        assert server.supervisor.broadcast_to_topic("t", "x") == 0


async def test_disconnecting_a_user_closes_all_its_connections(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        ann = [await server.connect(token=token("ann")) for _ in range(2)]
        bob = await server.connect(token=token("bob"))
        assert server.supervisor.disconnect_user("ann", "enough") == 2
        assert server.supervisor.disconnect_user("ann") == 0  # the first cause wins
        assert [await peer.close_code() for peer in ann] == [4503, 4503]
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_what_was_broadcast_before_a_disconnect_arrives_before_the_close(autojump_clock):
    # Once it depended on which task came first in the turn.
    async with open_server() as server:
        for _ in range(20):
            peer = await subscribed(await server.connect(), "t")
            server.supervisor.broadcast_to_topic("t", "last", 1)
            server.supervisor.connection(peer.id).disconnect()
            assert (await peer.receive())["type"] == "last"
            assert await peer.close_code() == 4503
            peer.transport.close()


async def test_nothing_follows_a_close_frame(autojump_clock):
    """RFC 6455, section 5.5.1: no data frames after a Close frame."""
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "t")
        connection = server.supervisor.connection(peer.id)
        connection.disconnect()
        await settle()
        # The peer has not answered yet, and the connection is still there.
        assert server.supervisor.broadcast_to_topic("t", "late", 1) == 0
        assert connection.send("late") is False
        assert connection.subscribe("u") is False
        await settle()
        data = waiting_bytes(peer)
        assert data[0] & 0x0F == CLOSE
        assert len(data) == 2 + data[1]


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


async def test_the_programs_operations_pass_no_checkpoint(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann"))
        supervisor = server.supervisor
        with trio.testing.assert_no_checkpoints():
            supervisor.subscribe_user("ann", "t")
            supervisor.broadcast_to_topic("t", "x", 1, exclude={peer.id})
            supervisor.send_to_user("ann", "x")
            supervisor.send_to_connection(peer.id, "x")
            supervisor.unsubscribe_user("ann", "t")
            supervisor.suspend()
            supervisor.resume()
            supervisor.disconnect_user("ann")
            supervisor.statistics.as_dict()


async def test_metadata_belongs_to_one_connection(autojump_clock):
    async with open_server() as server:
        first, second = [await server.connect() for _ in range(2)]
        server.supervisor.connection(first.id).metadata["a"] = 1
        assert server.supervisor.connection(second.id).metadata == {}


# From other threads


async def test_every_operation_from_another_thread():
    async with open_server(jwt_key=KEY, close_timeout=0.5) as server:
        peer = await server.connect(token=token("7"))
        port = server.supervisor.from_thread

        def work():
            return [
                port.subscribe_user(7, "t"),
                port.broadcast_to_topic("t", "x", 1),
                port.broadcast_to_topic("t", "x", 1, exclude={peer.id}),
                port.send_to_user(7, "x", 2),
                port.send_to_connection(peer.id, "x", 3),
                port.unsubscribe_user(7, "t"),
                port.suspend(),
                port.resume(),
                port.run(lambda: len(server.supervisor.connections())),
                port.disconnect_user(7, "bye"),
                port.drain(2.0),
            ]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.close_code)
            result = await trio.to_thread.run_sync(work)
        assert result == [1, 1, 0, 1, True, 1, None, None, 1, 1, 0]


async def test_an_error_in_another_threads_call_is_raised_there():
    async with open_server() as server:
        port = server.supervisor.from_thread

        def work():
            with pytest.raises(LocalProtocolError):
                port.broadcast_to_topic("not a topic", "x")

        await trio.to_thread.run_sync(work)


async def test_the_thread_operations_are_refused_in_the_loops_own_thread():
    async with open_server() as server:
        with pytest.raises(RuntimeError):
            server.supervisor.from_thread.suspend()


def test_a_thread_that_comes_too_late_is_told():
    ports = []

    async def serve():
        async with open_supervisor(Settings(port=0), logger=RecordingLogger()) as supervisor:
            ports.append(supervisor.from_thread)

    trio.run(serve)
    with pytest.raises(trio.RunFinishedError):
        ports[0].suspend()


# Statistics


async def test_the_numbers_add_up(autojump_clock):
    app = App()

    @app.on("broken")
    def broken(context, message):
        raise ValueError

    async with open_server(app, jwt_key=KEY, anonymous=True, max_connections_per_user=1) as server:
        statistics = server.supervisor.statistics
        traffic = statistics.traffic
        peers = [await subscribed(await server.connect(), "t") for _ in range(4)]
        await server.dial().upgrade("/nowhere")
        server.dial().transport.close()
        wrong = server.dial()
        await wrong.upgrade(headers={"Authorization": "Bearer nonsense"})
        wrong.transport.reset()
        await server.connect(token=token("ann"))
        extra = server.dial()
        await extra.upgrade(headers={"Authorization": f"Bearer {token('ann')}"})
        await extra.close_code()
        extra.transport.close()
        before = traffic.messages_out, traffic.published
        server.supervisor.broadcast_to_topic("t", "x", 1, exclude={peers[0].id})
        await peers[0].send({"type": "data", "topic": "t", "data": 1}, {"type": "broken"}, "{")
        await settle()
        # 3 of the broadcast, 4 of the publication, and 2 errors.
        assert traffic.messages_out - before[0] == 9
        assert traffic.published - before[1] == 2
        assert traffic.handler_errors == 1
        assert traffic.bad_messages == 1
        await peers[0].close()
        peers[1].transport.reset()
        peers[2].transport.close()
        await settle()
        assert statistics.accepted == 9
        assert statistics.refused == {404: 1, 401: 1}
        assert statistics.left_early == 1
        assert statistics.connected == 6
        assert statistics.accepted == (
            statistics.connected + statistics.refused.total() + statistics.left_early
        )
        assert statistics.closed == {
            CloseCause.PEER_CLOSED: 1,
            CloseCause.PEER_VANISHED: 2,
            CloseCause.TOO_MANY_CONNECTIONS: 1,
        }
        live = len(server.supervisor.connections())
        assert statistics.connected == statistics.closed.total() + live
        assert server.supervisor.harbor.router.subscriptions == 1
        mailboxes = [one.mailbox for one in server.supervisor.connections()]
        assert sum(mailbox.messages_out for mailbox in mailboxes) <= traffic.messages_out
        json.dumps(statistics.as_dict())


async def test_a_log_that_cannot_be_written_ends_nobodys_connection(autojump_clock):
    class BrokenLogger:
        def log(self, level, event, **fields):
            raise BrokenPipeError(32, "Broken pipe")

    settings = Settings(port=0)
    async with open_supervisor(settings, logger=BrokenLogger()) as supervisor:
        server = Server(supervisor, RecordingLogger())
        peer, other = await server.connect(), await server.connect()
        await peer.close()
        assert (await other.request_reply({"type": "ping"}))["type"] == "pong"
        await other.close()
        await settle()
        assert_nothing_left(server)
        assert supervisor.harbor._log.lost > 0
