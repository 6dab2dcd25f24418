"""The files of `examples/deploy/` work with real proxies: nginx and HAProxy.

The proxies run with these files; only addresses, paths and logs are this test's own: loopback, free
ports, a temporary folder. Clients speak the protocol of `websockets` over Trio's streams, so that
each can have a loopback address of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import trio
import trustme
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.uri import parse_uri

from moorage import Supervisor, open_client
from tests.fakes_deploy import DEPLOY, is_open, replaced, required, server
from tests.fakes_server import free_port, until

# --- The programs of others


@attrs.define
class Proxy:
    """A proxy under test, with its configuration made from the file, and its port."""

    name: str
    folder: Path
    port: int
    client_context: ssl.SSLContext
    # Failures after which nginx leaves a server alone for a while; 0: it asks it each time.
    max_fails: int = 1

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/ws"

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def configure(self, one: Path, two: int, checks: tuple[int, int], idle: float = 75) -> Path:
        """Write the configuration for two servers; `idle` is the idle timeout in seconds."""
        render = {"nginx": self._nginx, "haproxy": self._haproxy}[self.name]
        return render(one, two, checks, idle)

    def _nginx(self, one: Path, two: int, _checks: tuple[int, int], idle: float) -> Path:
        snippet = replaced(
            (DEPLOY / "nginx.conf").read_text(),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("listen [::]:443 ssl;", ""),
            ("/run/moorage/clients.sock", str(one)),
            ("192.0.2.12:8765", f"127.0.0.1:{two}"),
            ("/etc/ssl/moorage/chain.pem", str(self.folder / "chain.pem")),
            ("/etc/ssl/moorage/key.pem", str(self.folder / "key.pem")),
            ("/var/log/nginx/moorage.log", str(self.folder / "access.log")),
            ("max_fails=1 ", f"max_fails={self.max_fails} "),
            ("proxy_read_timeout 75s", f"proxy_read_timeout {round(idle * 1000)}ms"),
        )
        (self.folder / "moorage.conf").write_text(snippet)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder / kind};\n" for kind in kinds)
        main = self.folder / "nginx-main.conf"
        main.write_text(
            f"pid {self.folder / 'nginx.pid'};\n"
            f"error_log {self.folder / 'error.log'} warn;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + "daemon off; worker_processes 1; events { worker_connections 256; }\n"
            + f"http {{\n{temporary}include {self.folder / 'moorage.conf'};\n}}\n"
        )
        return main

    def _haproxy(self, one: Path, two: int, checks: tuple[int, int], idle: float) -> Path:
        pem = self.folder / "moorage.pem"
        pem.write_text((self.folder / "key.pem").read_text())
        with pem.open("a") as file:
            file.write((self.folder / "chain.pem").read_text())
        text = replaced(
            (DEPLOY / "haproxy.cfg").read_text(),
            ("log /dev/log local0", "log stdout format raw local0"),
            ("bind :443", f"bind 127.0.0.1:{self.port}"),
            ("/etc/haproxy/moorage.pem", str(pem)),
            ("unix@/run/moorage/clients.sock", f"unix@{one}"),
            ("addr 127.0.0.1 port 8780", f"addr 127.0.0.1 port {checks[0]}"),
            ("192.0.2.12:8765 port 8780", f"127.0.0.1:{two} port {checks[1]}"),
            ("timeout tunnel       75s", f"timeout tunnel {round(idle * 1000)}ms"),
            ("check inter 1s", "check inter 100ms"),
            ("maxconn 20000", "maxconn 256"),
        )
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        return path

    def commands(self, configuration: Path) -> tuple[list[str], list[str]]:
        """Return the command that checks the configuration, and the one that runs the proxy."""
        if self.name == "nginx":
            nginx = [required("nginx-light", "nginx"), "-p", str(self.folder), "-c"]
            nginx += [str(configuration), "-e", str(self.folder / "error.log")]
            return [*nginx, "-t"], nginx
        haproxy = [required("haproxy"), "-f", str(configuration)]
        return [*haproxy, "-c"], [*haproxy, "-db"]

    @asynccontextmanager
    async def running(self, configuration: Path) -> AsyncGenerator[None]:
        check, run = self.commands(configuration)
        checked = await trio.run_process(
            check, check=False, capture_stdout=True, stderr=subprocess.STDOUT
        )
        said = checked.stdout.decode()
        assert checked.returncode == 0, said
        assert not re.search(r"warn|alert", said, re.IGNORECASE), said
        with (self.folder / "output.log").open("w") as output:
            process = await trio.lowlevel.open_process(run, stdout=output, stderr=output)
            try:
                await until(lambda: is_open(self.port) or process.poll() is not None)
                assert process.returncode is None, self.log()
                yield
            finally:
                process.send_signal(signal.SIGTERM if self.name == "nginx" else signal.SIGUSR1)
                with trio.move_on_after(2, shield=True) as waiting:
                    await process.wait()
                if waiting.cancelled_caught:
                    process.kill()
                    await process.wait()


@pytest.fixture
def make_proxy(tmp_path):
    def make(name: str) -> Proxy:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        for part in certificate.cert_chain_pems:
            part.write_to_path(tmp_path / "chain.pem", append=True)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return Proxy(name, tmp_path, free_port(), context)

    return make


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request, make_proxy):
    return make_proxy(request.param)


# --- Servers and clients


@asynccontextmanager
async def deployed(
    proxy: Proxy, *, idle: float = 75, patience: float = 20, **settings: Any
) -> AsyncGenerator[tuple[Supervisor, Supervisor]]:
    """Run the deployment of the files: a server on a Unix socket, one on TCP, and the proxy."""
    socket_path = proxy.folder / "clients.sock"
    settings = {"trusted_proxies": "127.0.0.1/32", **settings}
    async with server(unix_socket=socket_path, **settings) as one, server(**settings) as two:
        checks = tuple(urlsplit(each.http_addresses[0]).port for each in (one, two))
        configuration = proxy.configure(socket_path, urlsplit(two.addresses[0]).port, checks, idle)
        with trio.fail_after(patience):
            async with proxy.running(configuration):
                yield one, two


@attrs.define
class ProxyClient:
    """A client out of the protocol of `websockets`; it reads, and answers pings, when asked to."""

    stream: trio.abc.Stream
    protocol: ClientProtocol
    events: deque[Any] = attrs.field(factory=deque)

    async def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:  # empty: half-close, which TLS does not have
                await self.stream.send_all(data)

    async def next_event(self) -> Any:
        """Return the next frame, or the answer to the request; raise what ended the connection."""
        while not self.events:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # no TLS goodbye
                data = b""
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
            with suppress(trio.BrokenResourceError):  # the next read tells why
                await self.flush()
            self.events += self.protocol.events_received()
            if self.protocol.handshake_exc is not None:
                raise self.protocol.handshake_exc
            if not data and not self.events:
                raise self.protocol.close_exc
        return self.events.popleft()

    async def upgrade(self, **headers: str) -> None:
        request = self.protocol.connect()
        for name, text in headers.items():
            request.headers[name.replace("_", "-")] = text
        self.protocol.send_request(request)
        await self.flush()
        await self.next_event()


@asynccontextmanager
async def client(
    proxy: Proxy, source: str = "127.0.0.1", query: str = "", **headers: str
) -> AsyncGenerator[ProxyClient]:
    async with AsyncExitStack() as stack:

        async def dial() -> ProxyClient:
            dialing = trio.socket.socket()
            stream = trio.SSLStream(
                trio.SocketStream(dialing),
                proxy.client_context,
                server_hostname="localhost",
                https_compatible=True,
            )
            stack.push_async_callback(trio.aclose_forcefully, stream)
            await dialing.bind((source, 0))
            await dialing.connect(("127.0.0.1", proxy.port))
            dialed = ProxyClient(stream, ClientProtocol(parse_uri(proxy.url + query)))
            await dialed.upgrade(**headers)
            return dialed

        with trio.fail_after(5):
            connection = await dial()
        assert (await receive(connection))["type"] == "welcome"
        yield connection


async def receive(connection: ProxyClient) -> dict[str, Any]:
    with trio.fail_after(5):
        while (frame := await connection.next_event()).opcode is not Opcode.TEXT:
            pass
    return json.loads(frame.data)


async def asked(connection: ProxyClient, **message: Any) -> dict[str, Any]:
    connection.protocol.send_text(json.dumps({"id": 1, **message}).encode())
    await connection.flush()
    while (answer := await receive(connection)).get("id") != 1:
        pass
    return answer


def addresses(*supervisors: Supervisor) -> list[str]:
    return sorted(each.address for one in supervisors for each in one.connections())


def topics(supervisor: Supervisor) -> set[str]:
    return {topic for each in supervisor.connections() for topic in each.topics}


# --- Through the proxies


async def test_the_upgrade_passes_over_a_unix_socket_and_over_tcp(proxy):
    async with (
        deployed(proxy) as (one, two),
        client(proxy) as first,
        client(proxy) as second,
    ):
        # Least connections first, so each server has one.
        assert [len(one.connections()), len(two.connections())] == [1, 1]
        for connection in (first, second):
            assert (await asked(connection, type="ping", data={"n": 1}))["type"] == "pong"


async def test_the_clients_address_is_believed_and_a_forged_one_is_not(proxy):
    async with (
        deployed(proxy) as supervisors,
        client(proxy, "127.0.0.2"),
        client(proxy, "127.0.0.3", X_Forwarded_For="198.51.100.7"),
        client(proxy, "127.0.0.4", X_Forwarded_For="198.51.100.7, 127.0.0.1"),
        client(proxy, "127.0.0.5", X_Forwarded_For="nonsense"),
    ):
        expected = [f"127.0.0.{last}" for last in (2, 3, 4, 5)]
        assert addresses(*supervisors) == expected


async def test_without_trust_all_clients_have_the_proxys_address(proxy):
    async with (
        deployed(proxy, trusted_proxies=()) as supervisors,
        client(proxy, "127.0.0.2"),
        client(proxy, "127.0.0.3"),
    ):
        assert addresses(*supervisors) == ["", "127.0.0.1"]


async def test_the_limit_per_address_counts_clients_and_not_the_proxy(proxy):
    # Each server counts for itself: with one of them suspended, all are the other's.
    async with deployed(proxy, max_connections_per_address=1) as (one, two):
        two.suspend()
        async with client(proxy, "127.0.0.2"), client(proxy, "127.0.0.3"):
            assert addresses(one) == ["127.0.0.2", "127.0.0.3"]
            with pytest.raises(ConnectionClosed) as refused:
                async with client(proxy, "127.0.0.2") as third:
                    await receive(third)
            assert refused.value.rcvd.code == 4504


async def test_a_quiet_connection_lives_as_long_as_heartbeats_are_faster_than_the_proxy(proxy):
    async with (
        deployed(proxy, idle=0.8, heartbeat_interval=0.3, pong_timeout=0.3) as supervisors,
        client(proxy) as quiet,
    ):
        with trio.move_on_after(1.7):
            while (await receive(quiet))["type"] == "heartbeat":
                pass
        assert len(addresses(*supervisors)) == 1
        assert (await asked(quiet, type="ping"))["type"] == "pong"


async def test_a_proxy_less_patient_than_the_heartbeat_cuts_quiet_connections(proxy):
    async with deployed(proxy, idle=0.4) as supervisors:
        with pytest.raises(ConnectionClosed) as cut:
            async with client(proxy) as quiet:
                await receive(quiet)
        assert cut.value.rcvd is None  # no Close frame: neither side knew why
        await until(lambda: not addresses(*supervisors))


async def test_newcomers_go_past_a_draining_server_and_do_not_notice(proxy):
    async with deployed(proxy) as (one, two), client(proxy) as early:
        staying, other = (one, two) if one.connections() else (two, one)
        staying.suspend()
        # At once, before any check has noticed: the proxy gets a 503, and asks the next server.
        async with client(proxy), client(proxy):
            assert (len(staying.connections()), len(other.connections())) == (1, 2)
            # Its client stays connected, also after the checks have noticed.
            await trio.sleep(0.5)
            assert (await asked(early, type="ping"))["type"] == "pong"
        if proxy.name == "haproxy":
            assert re.search(r"Server moorage/(one|two) is DOWN, reason: Layer7.* 503", proxy.log())


async def test_none_of_600_newcomers_gets_the_answers_of_two_servers_mixed(make_proxy):
    # A 503 that came before its request was read: nginx 1.22 sent its body to 2 % of the clients
    # among the headers of the next server's answer.
    nginx = make_proxy("nginx")
    nginx.max_fails = 0

    async def come_and_go(times: int) -> None:
        for _ in range(times):
            async with client(nginx):
                pass

    async with deployed(nginx, patience=120) as (_, two), AsyncExitStack() as staying:
        two.suspend()
        for _ in range(40):  # they are with the other server, so nginx asks the suspended one first
            await staying.enter_async_context(client(nginx))
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(come_and_go, 30)
        assert two.statistics.refused[503] >= 600


async def test_when_no_server_is_ready_the_client_gets_503(proxy):
    async with deployed(proxy) as (one, two):
        one.suspend()
        two.suspend()
        with pytest.raises(InvalidStatus) as refused:
            async with client(proxy):
                pass
        assert refused.value.response.status_code in {502, 503}


async def test_a_rolling_restart_moves_a_client_to_the_other_server(proxy):
    async with (
        deployed(proxy, reconnect_rate=1000) as (one, two),
        open_client(proxy.url, topics=["news"], ssl_context=proxy.client_context) as moving,
    ):
        await until(lambda: "news" in topics(one) | topics(two))
        old, new = (one, two) if one.connections() else (two, one)
        assert await old.drain(5) == 0
        await until(lambda: "news" in topics(new))
        new.broadcast_to_topic("news", "data", "still there")
        async for message in moving.messages():
            if message.type == "data":  # a `gap` comes before it: something may have been missed
                assert message.data == "still there"
                break


async def test_a_token_in_the_query_does_not_reach_the_proxys_log(proxy):
    async with deployed(proxy):
        with pytest.raises(InvalidStatus, match="401"):
            async with client(proxy, query="?token=not-for-logs"):
                pass
    assert "/ws" in proxy.log()
    assert "not-for-logs" not in proxy.log()


async def test_only_the_endpoint_is_reachable_through_the_proxy(proxy):
    async with deployed(proxy):
        for path in ("/metrics", "/api/admin/websockets/stats", "/ws/x", "/"):
            stream = await trio.open_ssl_over_tcp_stream(
                "localhost",
                proxy.port,
                ssl_context=proxy.client_context,
                https_compatible=True,
            )
            async with stream:
                request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                await stream.send_all(request.encode())
                assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 404 "), path
