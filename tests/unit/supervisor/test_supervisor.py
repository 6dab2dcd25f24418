"""The supervisor: what a program may ask of a server, from any thread."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from moorage.actors.session.session import Session
from moorage.protocol.errors import LocalProtocolError, RemoteProtocolError
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.supervisor import BlockingSupervisor, Supervisor
from tests.fakes import RecordingLogger, open_server
from tests.fakes_server import KEY, subscribed, token


def test_a_program_sees_these_names_and_no_others():
    assert {name for name in dir(Supervisor) if not name.startswith("_")} == {
        *("state", "addresses", "control_addresses", "http_addresses", "statistics"),
        *("connections", "connection", "connections_of", "serve_transport", "disconnect_user"),
        *("broadcast_to_topic", "send_to_user", "send_to_connection"),
        *("subscribe_user", "unsubscribe_user"),
        *("suspend", "resume", "drain", "stop", "wait_empty", "wait_stopped"),
        *("serve_until_signal", "from_thread"),
    }


def test_other_threads_have_the_synchronous_operations_and_draining():
    names = {name for name in dir(BlockingSupervisor) if not name.startswith("_")}
    assert names == {
        *("run", "broadcast_to_topic", "send_to_user", "send_to_connection", "subscribe_user"),
        *("unsubscribe_user", "disconnect_user", "suspend", "resume", "drain", "stop"),
    }


async def test_what_a_supervisor_shows_cannot_be_set(autojump_clock):
    async with open_server() as server:
        for name in ("state", "addresses", "statistics", "a_new_one"):
            with pytest.raises(AttributeError):
                setattr(server.supervisor, name, None)


async def test_the_addresses_are_copies(autojump_clock):
    async with open_server() as server:
        server.supervisor.addresses.clear()
        server.supervisor.control_addresses.append("ws://nowhere")
        assert len(server.supervisor.addresses) == 1
        assert server.supervisor.control_addresses == []


# Connections


async def test_connections_are_handles_oldest_first(autojump_clock):
    async with open_server(jwt_key=KEY, anonymous=True) as server:
        peers = [await server.connect(token=token("ann")) for _ in range(2)]
        peers.append(await server.connect())
        supervisor = server.supervisor
        ids = [peer.id for peer in peers]
        assert all(type(handle) is Session for handle in supervisor.connections())
        assert [handle.id for handle in supervisor.connections()] == ids
        assert [handle.id for handle in supervisor.connections_of("ann")] == ids[:2]
        assert supervisor.connections_of("nobody") == ()
        assert supervisor.connection(ids[2]) == supervisor.connections()[2]
        assert supervisor.connection("nobody") is None


async def test_a_reason_that_cannot_be_sent_disconnects_nobody(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peers = [await server.connect(token=token("ann")) for _ in range(2)]
        with pytest.raises(ValueError, match="surrogates"):
            server.supervisor.disconnect_user("ann", "\ud800")
        for peer in peers:
            assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


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
