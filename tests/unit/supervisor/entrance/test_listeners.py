"""Listeners on real sockets: where they listen, what they refuse to, and what they survive."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import ssl
import stat
from pathlib import Path

import pytest
import trio
import trustme

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.entrance import listeners as listeners_module
from moorage.supervisor.entrance.descriptors import Shortage
from moorage.supervisor.entrance.listeners import Listener, open_listeners, open_unix_listener
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.server_lifecycle import ServerState
from moorage.supervisor.telemetry.statistics import Statistics
from tests.fakes import RecordingLogger, masked, open_server
from tests.fakes_server import (
    KEY,
    dial,
    dial_tcp,
    dial_unix,
    port_of,
    tls_stream,
    until,
    welcomed,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a path short enough for a Unix socket's address."""
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "ws://127.0.0.1:{}/ws"), ("::1", "ws://[::1]:{}/ws")]
)
async def test_tcp_by_ipv4_and_ipv6(host, url):
    async with open_server(host=host) as server:
        assert server.supervisor.addresses == [url.format(port_of(server))]
        peer = await welcomed(await dial_tcp(server))
        assert server.actor(peer.id).address == host
        await peer.close()


async def test_a_name_with_two_addresses_is_listened_on_at_both_with_one_port(monkeypatch):
    async def two_addresses(*_arguments, **_options):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),  # as resolvers repeat
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", two_addresses)
    found = await open_listeners(Settings(host="localhost", port=0))
    try:
        ports = {listener.socket.getsockname()[1] for listener in found}
        assert len(found) == 2
        assert len(ports) == 1
    finally:
        for listener in found:
            listener.close()


async def test_two_colons_listen_on_every_address_of_both_families():
    # Once they listened for IPv6 alone, while the help said every address.
    async with open_server(host="::", jwt_key=KEY, anonymous=True) as server:
        port = port_of(server)
        assert server.supervisor.addresses == [
            f"ws://[::]:{port}/ws",
            f"ws://0.0.0.0:{port}/ws",
        ]
        for address in ("::1", "127.0.0.1"):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            peer = await welcomed(await dial(socket.socket(family), (address, port)))
            assert server.actor(peer.id).address == address
            await peer.close()


class MachineWithout:
    """The `create_server` of a machine that lacks an address, or a family of them."""

    def __init__(self, missing: str, number: int) -> None:
        self.missing = missing
        self.number = number
        self.real = socket.create_server

    def __call__(self, address, **options):
        if address[0] == self.missing:
            raise OSError(self.number, os.strerror(self.number))
        return self.real(address, **options)


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
@pytest.mark.parametrize(
    ("host", "missing", "left"), [("localhost", "::1", "127.0.0.1"), ("::", "::", "0.0.0.0")]
)
async def test_without_ipv6_a_host_of_both_families_is_listened_on_by_ipv4(
    monkeypatch, number, host, missing, left
):
    async def two_addresses(*_arguments, **_options):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", two_addresses)
    monkeypatch.setattr(socket, "create_server", MachineWithout(missing, number))
    async with open_server(host=host, jwt_key=KEY) as server:
        assert server.supervisor.addresses == [f"ws://{left}:{port_of(server)}/ws"]
        (line,) = server.log.of("address_skipped")
        assert (line["address"], line["error"]) == (missing, os.strerror(number))


async def test_an_address_that_this_machine_does_not_have_is_an_error_if_there_is_no_other():
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
        await open_listeners(Settings(host="192.0.2.1", port=0, jwt_key="x"))


async def test_a_port_that_is_taken_is_a_configuration_error_and_leaves_nothing_open(folder):
    async with open_server() as server:
        port = port_of(server)
        with pytest.raises(ConfigurationError) as caught:
            async with open_supervisor(Settings(port=port), logger=RecordingLogger()):
                pytest.fail("it must not start")
        assert caught.value.setting == "port"
        assert str(port) in caught.value.problem
        assert "free port" in caught.value.allowed


async def test_a_unix_socket_that_cannot_be_closes_the_port_that_was_opened_before(folder):
    missing = folder / "missing" / "s"
    with pytest.raises(ConfigurationError) as caught:
        await open_listeners(Settings(port=0, unix_socket=missing))
    assert caught.value.setting == "unix_socket"


async def test_a_host_without_an_address_is_a_configuration_error():
    with pytest.raises(ConfigurationError) as caught:
        await open_listeners(Settings(host="no-such-host.invalid.localhost.", port=0, jwt_key="x"))
    assert caught.value.setting == "host"


async def test_unix_socket(folder):
    path = folder / "s"
    async with open_server(unix_socket=path) as server:
        # Absolute, as what is relative would read as a host in a URL.
        assert server.supervisor.addresses[1] == f"ws+unix://{path.absolute()}:/ws"
        peer = await welcomed(await dial_unix(path))
        assert server.actor(peer.id).address == ""
        await peer.close()
    assert not path.exists()


async def test_the_file_that_a_dead_server_left_is_replaced(folder):
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with open_server(unix_socket=path):
        await (await welcomed(await dial_unix(path))).close()


async def test_a_unix_socket_in_use_is_not_taken_over(folder):
    path = folder / "s"
    async with open_server(unix_socket=path):
        with pytest.raises(ConfigurationError, match="another server"):
            await open_listeners(Settings(port=0, unix_socket=path))
        await (await welcomed(await dial_unix(path))).close()  # and it still serves


async def test_a_unix_socket_in_use_is_seen_though_its_backlog_is_full(folder):
    # Once the probe was a blocking connect(), which waited for ever.
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(str(path))
        with pytest.raises(ConfigurationError, match="another server"):
            await open_listeners(Settings(port=0, unix_socket=path))
        for one in waiting:
            one.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_is_not_a_socket_is_never_removed(folder, kind):
    path = folder / "precious"
    if kind == "file":
        path.write_text("data")
    else:
        path.mkdir()
    with pytest.raises(ConfigurationError, match="not a socket"):
        await open_listeners(Settings(port=0, unix_socket=path))
    assert path.exists()


async def test_a_unix_listeners_mode_holds_from_the_first_moment(folder, monkeypatch):
    seen = []

    class SpyingSocket(socket.socket):
        def listen(self, *arguments):
            seen.append(stat.S_IMODE((folder / "s").stat().st_mode))
            super().listen(*arguments)

    monkeypatch.setattr(listeners_module.socket, "socket", SpyingSocket)
    before = os.umask(0)
    try:
        listener = open_unix_listener(folder / "s", "control_socket", 0o600)
        assert os.umask(0) == 0  # the mask is as it was
    finally:
        os.umask(before)
    listener.close()
    assert seen == [0o600]


async def test_tls(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    pem = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_server(tls_certificate=pem) as server:
        assert server.supervisor.addresses[0].startswith("wss://")
        async with tls_stream(port_of(server), context) as stream:
            await stream.send_all(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            received = b""
            while b'"welcome"' not in received:
                received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 101")
            await stream.send_all(masked(8, b"\x03\xe8"))


async def test_plain_text_at_a_tls_port_harms_nobody(tmp_path):
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    async with open_server(tls_certificate=pem) as server:
        peer = await dial_tcp(server)
        with trio.fail_after(5):
            await peer.send_bytes(b"GET /ws HTTP/1.1\r\n\r\n")
            answer = b""
            while chunk := await peer.stream.receive_some():
                answer += chunk
        assert b"HTTP" not in answer  # a TLS alert, if anything
        peer.transport.close()
        assert server.supervisor.statistics.left_early == 1


@pytest.mark.parametrize("content", [None, "nonsense"])
async def test_a_certificate_that_cannot_be_used_is_a_configuration_error(tmp_path, content):
    pem = tmp_path / "server.pem"
    if content is not None:
        pem.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        await open_listeners(Settings(port=0, tls_certificate=pem))
    assert caught.value.setting == "tls_certificate"


async def test_clients_leave_a_reserve_of_descriptors_in_which_operators_get_in(folder):
    # Once clients could take the last descriptor, and no operator could see why.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = folder / "control"
    async with open_server(control_socket=path) as server:
        exhausted = server.parts.statistics
        lowest = os.dup(0)
        os.close(lowest)
        crowd = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 80, hard))
        try:
            with trio.fail_after(5):
                while not exhausted.exhausted:
                    crowd.append(await dial_tcp(server))
                    with trio.move_on_after(0.3):  # the last one is not accepted
                        await welcomed(crowd[-1])
                assert server.operations.health().reasons == ("descriptors",)
                assert server.operations.stats().version
                operator = await welcomed(await dial_unix(path), "/")
                reply = await operator.request_reply({"type": "health"})
                assert reply["data"]["reasons"] == ["descriptors"]
                await operator.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for peer in crowd:
                peer.transport.close()
        assert server.operations.health().ready


async def test_silent_sockets_give_way_when_descriptors_run_out():
    # Their limit was not reached, and so they kept everybody out for `handshake_timeout`.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_server() as server:
        lowest = os.dup(0)
        os.close(lowest)
        crowd = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 80, hard))
        try:
            with trio.fail_after(5):
                while not server.parts.statistics.exhausted:
                    crowd.append(await dial_tcp(server))
                    await trio.testing.wait_all_tasks_blocked(0.001)
                good = await welcomed(await dial_tcp(server))
                assert (await good.request_reply({"type": "ping"}))["type"] == "pong"
                await good.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for peer in crowd:
                peer.transport.close()
        assert server.parts.admission.handshakes.gave_way > 0


async def test_no_descriptor_left_is_survived_and_counted_and_the_client_served_afterwards():
    async with open_server() as server:
        first = await welcomed(await dial_tcp(server))
        late = socket.socket()
        late.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        hoard = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            with contextlib.suppress(OSError):
                for _ in range(300):
                    hoard.append(os.dup(0))  # noqa: PERF401 - it is to fail in the midst of
            with trio.fail_after(5):
                await trio.socket.from_stdlib_socket(late).connect(("127.0.0.1", port_of(server)))
                await until(lambda: server.supervisor.statistics.exhausted)
                # Who is in notices nothing.
                assert (await first.request_reply({"type": "ping"}))["type"] == "pong"
        finally:
            for descriptor in hoard:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        # Once it was logged ten times a second.
        assert len(server.log.of("accept_failed")) == 1
        with trio.fail_after(5):
            await until(lambda: server.parts.admission.handshaking == 1)
        late.close()
        await first.close()


class FailingSocket:
    """A listening socket whose accept() fails in a given way, and then has nothing more."""

    def __init__(self, number: int, event: trio.Event) -> None:
        self.errors = [OSError(number, os.strerror(number)), BlockingIOError()]
        self.event = event

    def fileno(self) -> int:
        return 0

    def accept(self):
        if len(self.errors) == 1:
            self.event.set()
        raise self.errors.pop(0)


@pytest.mark.parametrize(
    "number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.EPERM, errno.ENETDOWN]
)
async def test_a_connection_broken_before_it_is_accepted_does_not_end_the_listener(
    number, monkeypatch
):
    # Linux hands "already-pending network errors" of the new connection to accept().
    tried = trio.Event()

    async def wait_readable(_socket):
        if tried.is_set():
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)
    listener = Listener(FailingSocket(number, tried), "ws://test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept_all, pytest.fail, Shortage(pytest.fail, Statistics(0)))
        with trio.fail_after(1):
            await tried.wait()
        nursery.cancel_scope.cancel()


class OddSocket:
    """A listening socket whose accept() does what a test says, and then waits."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.descriptor = 0
        self.accepted_at: list[float] = []

    def fileno(self) -> int:
        return self.descriptor

    def accept(self):
        self.accepted_at.append(trio.current_time())
        if not self.answers:
            raise BlockingIOError
        answer = self.answers.pop(0)
        if answer == "closed":  # by `Listener.close`, in the meantime
            self.descriptor = -1
            raise OSError(errno.EBADF, "Bad file descriptor")
        if isinstance(answer, BaseException):
            raise answer
        return answer, ("192.0.2.1", 1)


@pytest.fixture
def no_waiting(monkeypatch):
    """Let a socket that is none be readable a tenth of a second after each look at it."""

    async def wait_readable(_socket):
        await trio.sleep(0.1)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_readable)


async def accepting(listening: OddSocket, start, seconds: float = 10.0):
    """Accept for so long; return the failures that were logged."""
    failures = []

    def log(level, event, *, error, address):
        assert (level, event, address) == ("error", "accept_failed", "ws://test")
        failures.append(error)

    with trio.move_on_after(seconds):
        await Listener(listening, "ws://test").accept_all(start, Shortage(log, Statistics(0)))
    return failures


@pytest.mark.usefixtures("no_waiting")
async def test_an_errno_that_nobody_has_foreseen_ends_neither_listener_nor_server(autojump_clock):
    """It ended the whole server."""
    odd = OSError(errno.EIO, "Input/output error")
    ours, theirs = socket.socketpair()
    listening = OddSocket(odd, ours)
    started = []
    failures = await accepting(listening, lambda *what: started.append(what))
    assert failures == [str(odd)]
    assert started == [(ours, "192.0.2.1")]
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("no_waiting")
async def test_an_accept_that_always_fails_is_told_once_and_tried_about_once_a_second(
    autojump_clock,
):
    listening = OddSocket(*(OSError(errno.EIO, "Input/output error") for _ in range(1000)))
    assert len(await accepting(listening, pytest.fail, 60)) == 1
    assert 50 <= len(listening.accepted_at) <= 65


@pytest.mark.usefixtures("no_waiting")
async def test_a_failure_after_a_success_is_told_anew(autojump_clock):
    ours, theirs = socket.socketpair()
    odd = [OSError(errno.EIO, "Input/output error") for _ in range(2)]
    assert await accepting(OddSocket(odd[0], ours, odd[1]), lambda *_: None) == [
        str(one) for one in odd
    ]
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("error", [MemoryError(), SystemExit(), OSError(errno.EPERM, "no")])
async def test_a_client_that_cannot_be_started_is_closed_and_the_next_one_served(
    autojump_clock, error
):
    (ours, theirs), (later, far) = socket.socketpair(), socket.socketpair()
    started = []

    def start(connected, _peer):
        if connected is ours:
            raise error
        started.append(connected)

    assert await accepting(OddSocket(ours, later), start) == [str(error) or type(error).__name__]
    assert ours.fileno() == -1
    assert started == [later]
    for one in (theirs, later, far):
        one.close()


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_a_socket_that_is_broken_for_good_ends_its_listener(autojump_clock, number):
    broken = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        await accepting(OddSocket(broken), pytest.fail)


@pytest.mark.usefixtures("no_waiting")
async def test_a_socket_that_was_closed_between_two_accepts_is_no_failure(autojump_clock):
    assert await accepting(OddSocket("closed"), pytest.fail) == []


async def test_a_broken_listener_is_one_line_and_the_others_serve_on():
    """It ended the whole server."""
    async with open_server(host="localhost") as server:
        first = server.core.listeners[0]
        peer = await welcomed(await dial_tcp(server))
        first.socket.shutdown(socket.SHUT_RDWR)  # accept() fails with EINVAL from now on
        with trio.fail_after(5):
            await until(lambda: server.log.of("listener_failed"))
        (line,) = server.log.of("listener_failed")
        assert line["address"] == first.url
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        assert server.supervisor.state is ServerState.SERVING
        await peer.close()


async def test_closing_a_listener_twice_is_harmless():
    (listener,) = await open_listeners(Settings(port=0))
    listener.close()
    listener.close()


async def test_nobody_can_connect_any_more_once_the_server_has_stopped():
    async with open_server() as server:
        port = port_of(server)
        with trio.CancelScope(shield=True):  # `stop` cancels the block that it is called in
            await server.supervisor.stop()
            with pytest.raises(OSError, match=r"127\.0\.0\.1"):
                await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_server_that_is_stopped_before_its_first_turn_stops():
    # Once its listener came to wait on a socket that was closed already.
    async with open_server():
        pass
