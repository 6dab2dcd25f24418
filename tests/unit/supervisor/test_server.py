"""The composition: how a server begins, how its block ends, and in which order."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import trio

from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.server import open_server as open_composition
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.server_lifecycle import ServerState
from moorage.supervisor.supervisor import Supervisor
from tests.fakes import RecordingLogger, Server, open_server
from tests.fakes_control import ADMIN, connect_admin, dial_admin
from tests.fakes_server import count_tasks, descriptors, settle, subscribed


async def test_cancelling_the_program_still_says_goodbye(autojump_clock):
    with trio.CancelScope() as scope:
        async with open_server(close_timeout=3.0) as server:
            peer = await server.connect()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await peer.close_code() == 1001


async def test_an_exception_of_the_program_ends_the_server_with_a_goodbye(autojump_clock):
    peers = []

    async def program():
        async with open_server() as server:
            peers.append(await server.connect())
            raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        await program()
    assert await peers[0].close_code() == 1001


# What a block raises comes out as it is


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of the program"),
        ExceptionGroup("of the program", [ValueError(), KeyError()]),
        KeyboardInterrupt(),
        SystemExit(3),
        BaseExceptionGroup("of the program", [KeyboardInterrupt(), ValueError()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_program_raises_comes_out_as_it_is(autojump_clock, error):
    """Ctrl+C and `sys.exit` came out in a group, with which no `except` reckons."""
    with pytest.raises(BaseException) as caught:  # noqa: PT012 - the block is what is tested
        async with open_server() as server:
            peer = await server.connect()
            raise error
    assert caught.value is error
    assert server.supervisor.state is ServerState.STOPPED
    assert await peer.close_code() == 1001


async def test_what_a_program_raises_is_not_lost_where_its_block_is_cancelled(autojump_clock):
    """The cancellation took the place of the error, and the program never heard of it."""
    error, peers = ValueError("of the program"), []

    async def program():
        with trio.CancelScope() as scope:
            async with open_server(close_timeout=2) as server:
                peers.append(await server.connect())
                scope.cancel()
                raise error

    with pytest.raises(ValueError, match="of the program") as caught:
        await program()
    assert caught.value is error
    assert await peers[0].close_code() == 1001


async def test_what_the_tasks_of_a_block_raise_comes_out_in_their_own_group(autojump_clock):
    """A program's group came out inside of another one, of a nursery that it does not know."""

    async def program():
        with trio.CancelScope() as scope:
            async with open_server(close_timeout=2), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await settle()
                scope.cancel()
                raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


async def test_a_block_that_is_cancelled_ends_within_the_time_for_goodbyes(autojump_clock):
    with trio.move_on_after(1) as scope:
        async with open_server(close_timeout=3.0) as server:
            stubborn = await server.connect()
            began = trio.current_time()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(1 + 3)
    assert await stubborn.close_code() == 1001
    assert server.supervisor.state is ServerState.STOPPED


async def test_what_a_block_raises_after_it_has_stopped_the_server_comes_out_too(autojump_clock):
    with pytest.raises(ValueError, match="after"):  # noqa: PT012 - the block is what is tested
        async with open_server() as server:
            await server.supervisor.stop()
            raise ValueError("after")


# A server that ends


async def test_a_block_that_ends_ends_the_server(autojump_clock):
    before = count_tasks()
    async with open_server() as server:
        peer = await server.connect()
        assert server.supervisor.state is ServerState.SERVING
        assert count_tasks() > before + 1
    assert server.supervisor.state is ServerState.STOPPED
    assert count_tasks() == before
    assert await peer.close_code() == 1001


async def test_what_was_published_before_the_end_is_delivered_before_the_goodbye(autojump_clock):
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "t")
        server.supervisor.broadcast_to_topic("t", "last")
    assert (await peer.receive())["type"] == "last"
    assert await peer.close_code() == 1001


async def test_operators_are_there_until_the_last_client_has_gone(autojump_clock):
    async with open_server(close_timeout=5, **ADMIN) as server, trio.open_nursery() as nursery:
        operator, _stubborn = await connect_admin(server), await server.connect()
        nursery.start_soon(server.supervisor.stop)
        await trio.sleep(2)
        reply = await operator.request_reply({"type": "health"})
        assert reply["data"]["reasons"] == ["stopping"]
        assert await operator.close_code() == 1001
        operator.transport.close()
        await server.supervisor.wait_stopped()


async def test_a_program_holds_a_supervisor_and_nothing_else():
    async with open_supervisor(Settings(port=0), logger=RecordingLogger()) as supervisor:
        assert type(supervisor) is Supervisor
        assert supervisor.state is ServerState.SERVING
        assert supervisor.addresses[0].startswith("ws://127.0.0.1:")
        assert (supervisor.control_addresses, supervisor.http_addresses) == ([], [])
    assert supervisor.state is ServerState.STOPPED


async def test_servers_come_one_after_the_other(autojump_clock):
    app = App()
    for _ in range(3):
        async with open_server(app) as server:
            await server.connect()
            await server.supervisor.stop()


async def test_the_handlers_of_signals_are_put_back(autojump_clock):
    before = signal.getsignal(signal.SIGTERM)
    async with open_server() as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.supervisor.serve_until_signal)
        await settle()
        assert signal.getsignal(signal.SIGTERM) is not before
        await server.supervisor.stop()
    assert signal.getsignal(signal.SIGTERM) is before


# A server that cannot start


@pytest.mark.parametrize("setting", ["port", "unix_socket", "control_socket", "http_port"])
async def test_a_server_that_cannot_start_leaves_nothing_behind(tmp_path, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        nowhere = tmp_path / "nowhere" / "socket"
        paths = {name: tmp_path / name for name in ("unix_socket", "control_socket")}
        choice = {"port": port, "http_port": port}.get(setting, nowhere)
        settings = Settings(**{"port": 0, "http_port": 0, **paths, setting: choice})
        before = descriptors(), count_tasks()
        with pytest.raises(ConfigurationError, match=setting):
            async with open_supervisor(settings, logger=RecordingLogger()):
                raise AssertionError("it has started")
        assert (descriptors(), count_tasks()) == before
        assert list(tmp_path.iterdir()) == []


async def test_a_server_with_a_key_that_cannot_be_used_opens_no_socket(tmp_path):
    settings = Settings(port=0, unix_socket=tmp_path / "socket", jwt_key="-----BEGIN nonsense")
    before = descriptors()
    with pytest.raises(ConfigurationError, match="jwt_key"):
        async with open_supervisor(settings, logger=RecordingLogger()):
            raise AssertionError("it has started")
    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_could_not_start_can_start_later(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1], unix_socket=tmp_path / "socket")
        with pytest.raises(ConfigurationError):
            async with open_supervisor(settings, logger=RecordingLogger()):
                raise AssertionError("it has started")
    async with open_supervisor(settings, logger=RecordingLogger()) as supervisor:
        assert supervisor.state is ServerState.SERVING
    assert list(tmp_path.iterdir()) == []


async def test_the_end_is_bounded_whatever_a_handshake_and_a_client_do(autojump_clock):
    """The waiting for the goodbyes was cancelled with the listeners, and with it what bounds it."""
    async with open_server(close_timeout=1.0, handshake_timeout=60.0) as server:
        server.dial()  # says nothing, and is in its handshake for a minute
        await server.connect()  # does not answer a Close frame
        began = trio.current_time()
        await server.supervisor.stop()
        assert server.supervisor.state is ServerState.STOPPED
        assert trio.current_time() - began <= 2.0


async def test_the_end_is_bounded_whatever_an_operators_handshake_does(autojump_clock):
    async with open_server(close_timeout=1.0, handshake_timeout=60.0, **ADMIN) as server:
        dial_admin(server)
        await connect_admin(server)
        began = trio.current_time()
        await server.supervisor.stop()
        assert server.supervisor.state is ServerState.STOPPED
        assert trio.current_time() - began <= 2.0


async def test_a_socket_file_that_cannot_be_removed_does_not_keep_a_server_from_stopping(
    tmp_path, monkeypatch
):
    """After a change of user: the error came out of `stop`, and the end was waited for for good."""

    def refuse(*_args, **_options):
        raise PermissionError

    with trio.fail_after(5):
        async with open_server(unix_socket=tmp_path / "socket") as server:
            monkeypatch.setattr(Path, "unlink", refuse)
            await server.supervisor.stop()
            assert server.supervisor.state is ServerState.STOPPED


async def test_a_server_that_is_cancelled_says_that_it_stops(autojump_clock):
    stopping = []

    async def serve():
        settings = Settings(port=0, close_timeout=1.0)
        async with open_composition(settings, logger=RecordingLogger()) as composition:
            stopping.append(composition.core)
            await Server(composition, RecordingLogger()).connect()  # answers no Close frame
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await settle()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.5)
            assert stopping[0].state is ServerState.STOPPING
