"""What `examples/deploy/` holds works: real nginx, real HAProxy, and the tools of the others.

The proxies run as their files say, but for addresses, paths and logs, which are this test's own:
loopback, free ports, a temporary folder. Clients are `websockets`' synchronous ones, in threads,
so that they can come from loopback addresses of their own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from moorage.actors.client.client import open_client
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.sources import load
from moorage.supervisor.supervisor import Supervisor, open_supervisor
from tests.external import require_debian
from tests.fakes import RecordingLogger
from tests.fakes_server import until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"
POLICY = Path("/usr/sbin/policy-rc.d")

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}


# --- The programs of others


@contextmanager
def no_services() -> Iterator[None]:
    """While packages are installed, keep Debian from starting the services that they bring."""
    if os.geteuid() != 0 or POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")  # invoke-rc.d(8): "action forbidden by policy"
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def required(package: str, program: str | None = None) -> str:
    with no_services():
        return require_debian(package, program)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Replace what a configuration says; all of it must be there, or the test tests nothing."""
    for before, after in pairs:
        assert before in text, before
        text = text.replace(before, after)
    return text


@attrs.define
class Proxy:
    """A proxy under test: how its file becomes a configuration, and where it listens."""

    name: str
    folder: Path
    port: int
    client_context: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/ws"

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def configure(self, one: Path, two: int, checks: tuple[int, int], idle: float = 75) -> Path:
        """Write the configuration for two servers; `idle` are seconds for their silence."""
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
        """Return how the configuration is checked, and how the proxy is run with it."""
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
                await until(partial(_is_open, self.port))
                yield
            finally:
                process.send_signal(signal.SIGTERM if self.name == "nginx" else signal.SIGUSR1)
                with trio.move_on_after(2, shield=True) as waiting:
                    await process.wait()
                if waiting.cancelled_caught:
                    process.kill()
                    await process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(tmp_path / "chain.pem", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Proxy(request.param, tmp_path, free_port(), context)


# --- Servers and clients


@asynccontextmanager
async def server(**settings: Any) -> AsyncGenerator[Supervisor]:
    everything = {"port": 0, "http_port": 0, "anonymous": True, **settings}
    async with open_supervisor(Settings(**everything), logger=RecordingLogger()) as supervisor:
        yield supervisor


def port_in(url: str) -> int:
    return int(re.search(r":(\d+)(/|$)", url)[1])


@asynccontextmanager
async def deployed(
    proxy: Proxy, *, idle: float = 75, **settings: Any
) -> AsyncGenerator[tuple[Supervisor, Supervisor]]:
    """Run the deployment of the files: a server on a Unix socket, one on TCP, and the proxy."""
    socket_path = proxy.folder / "clients.sock"
    settings = {"trusted_proxies": "127.0.0.1/32", **settings}
    async with server(unix_socket=socket_path, **settings) as one, server(**settings) as two:
        checks = tuple(port_in(each.http_addresses[0]) for each in (one, two))
        configuration = proxy.configure(socket_path, port_in(two.addresses[0]), checks, idle)
        with trio.fail_after(20):
            async with proxy.running(configuration):
                yield one, two


@asynccontextmanager
async def client(
    proxy: Proxy, source: str = "127.0.0.1", query: str = "", **headers: str
) -> AsyncGenerator[ClientConnection]:
    def dial() -> ClientConnection:
        # Now and then nginx 1.22, on its way from a suspended server's 503 to the next one, sends
        # the body of the 503 among the headers. A client comes back then, and so does this one.
        try:
            return dial_once()
        except InvalidMessage:
            return dial_once()

    def dial_once() -> ClientConnection:
        address = ("127.0.0.1", proxy.port)
        connecting = connect(
            proxy.url + query,
            sock=socket.create_connection(address, 5, source_address=(source, 0)),
            ssl=proxy.client_context,
            additional_headers={name.replace("_", "-"): text for name, text in headers.items()},
            proxy=None,
            ping_interval=None,  # silence is a part of the tests
            compression=None,
        )
        return stack.enter_context(connecting)

    stack = ExitStack()
    connection = await trio.to_thread.run_sync(dial)
    try:
        welcome = await receive(connection)
        assert welcome["type"] == "welcome"
        yield connection
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stack.close)


async def receive(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(await trio.to_thread.run_sync(partial(connection.recv, timeout=5)))


async def asked(connection: ClientConnection, **message: Any) -> dict[str, Any]:
    await trio.to_thread.run_sync(connection.send, json.dumps({"id": 1, **message}))
    while (answer := await receive(connection)).get("id") != 1:
        pass
    return answer


def addresses(*supervisors: Supervisor) -> list[str]:
    return sorted(each.address for one in supervisors for each in one.connections())


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
        await trio.sleep(1.7)
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
        # At once, before any check can have noticed: the proxy meets a 503, and asks the next.
        async with client(proxy), client(proxy):
            assert (len(staying.connections()), len(other.connections())) == (1, 2)
            # Who is connected to it stays, also once the checks have seen it.
            await trio.sleep(0.5)
            assert (await asked(early, type="ping"))["type"] == "pong"
        if proxy.name == "haproxy":
            assert re.search(r"Server moorage/(one|two) is DOWN, reason: Layer7.* 503", proxy.log())


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
        await until(
            lambda: "news" in one.harbor.router.topics or "news" in two.harbor.router.topics
        )
        old, new = (one, two) if one.connections() else (two, one)
        assert await old.drain(5) == 0
        await until(lambda: "news" in new.harbor.router.topics)
        new.broadcast_to_topic("news", "data", "still there")
        async for message in moving.messages():
            if message.type == "data":  # before it comes a `gap`: something may have been missed
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


# --- The files


def seconds(text: str, file: str) -> float:
    """Return a time that a proxy's configuration gives a setting, such as `75s`."""
    found = re.search(rf"^\s*{re.escape(text)}\s+(\d+)(ms|s|m|h|);?$", file, re.MULTILINE)
    assert found, text
    return int(found[1]) * SECONDS[found[2]]


def directives(unit: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))


def settings_of(**environment: str) -> Settings:
    given = {"MOORAGE_JWT_KEY": "a secret of thirty-two bytes or so"}
    return load({}, {**given, **environment}, DEPLOY / "moorage.toml").settings


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("nginx.conf", "proxy_read_timeout"),
        ("nginx.conf", "proxy_send_timeout"),
        ("haproxy.cfg", "timeout tunnel"),
        ("haproxy.cfg", "timeout client"),
        ("haproxy.cfg", "timeout server"),
    ],
)
def test_the_proxies_are_more_patient_than_the_heartbeat(file, setting):
    settings = settings_of()
    silence = settings.heartbeat_interval + settings.pong_timeout
    assert seconds(setting, (DEPLOY / file).read_text()) > silence


def test_the_settings_fit_the_proxies_and_the_unit():
    settings = settings_of()
    texts = {name: (DEPLOY / name).read_text() for name in ("nginx.conf", "haproxy.cfg")}
    for name, text in texts.items():
        assert str(settings.unix_socket) in text, name
        assert settings.path in text, name
    assert f"port {settings.http_port}" in texts["haproxy.cfg"]
    assert "127.0.0.1/32" in settings.trusted_proxies
    assert f":{settings.port} " in texts["nginx.conf"]


def test_the_unit_gives_a_drain_its_time_and_every_client_a_descriptor():
    unit = directives((DEPLOY / "moorage.service").read_text())
    settings = settings_of()
    assert int(unit["TimeoutStopSec"]) > settings.drain_timeout + settings.close_timeout + 1
    assert int(unit["LimitNOFILE"]) > settings.max_total_connections + 1024
    assert unit["KillSignal"] == "SIGTERM"
    for path in (settings.unix_socket, settings.control_socket):
        assert path.parent == Path("/run") / unit["RuntimeDirectory"]
    # Every variable that it sets is one of a setting.
    name, _, value = unit["Environment"].partition("=")
    assert name == "MOORAGE_JWT_KEY_FILE"
    assert value.startswith("%d/"), "where LoadCredential puts it"
    # The proxy's user, in the group, can open the clients' socket and find it.
    assert int(unit["RuntimeDirectoryMode"], 8) & 0o050 == 0o050
    assert int(unit["UMask"], 8) & 0o070 == 0


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    analyze = required("systemd", "systemd-analyze")
    program = Path(sys.executable).with_name("moorage")
    text = (
        (DEPLOY / "moorage.service").read_text().replace("/opt/moorage/bin/moorage", str(program))
    )
    unit = tmp_path / "moorage.service"
    unit.write_text(text)
    checked = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    # It speaks of the machine's other units too.
    said = [line for line in checked.stderr.splitlines() if "moorage" in line]
    assert (checked.returncode, said) == (0, [])
    exposure = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposure.returncode == 0, exposure.stdout  # 2.0 of 10; 9.6 without the last section


def test_the_command_accepts_what_the_unit_starts(tmp_path):
    key = tmp_path / "jwt.pem"
    key.write_text("a secret of thirty-two bytes or so")
    unit = directives((DEPLOY / "moorage.service").read_text())
    program = str(Path(sys.executable).with_name("moorage"))
    command = unit["ExecStartPre"].replace("/opt/moorage/bin/moorage", program)
    command = command.replace("/etc/moorage/moorage.toml", str(DEPLOY / "moorage.toml"))
    done = subprocess.run(
        command.split(),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MOORAGE_JWT_KEY_FILE": str(key)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_the_service_serves_and_its_sockets_are_for_whom_they_are_meant(tmp_path):
    """Run what the unit runs, with its umask, and stop it as systemd does."""
    text = (DEPLOY / "moorage.toml").read_text()
    ports = {port: free_port() for port in (8765, 8780)}
    pairs = [(f"port = {port}\n", f"port = {free}\n") for port, free in ports.items()]
    config = tmp_path / "moorage.toml"
    config.write_text(replaced(text, ("/run/moorage", str(tmp_path)), *pairs))
    key = tmp_path / "jwt.pem"
    key.write_text("a secret of thirty-two bytes or so")
    unit = directives((DEPLOY / "moorage.service").read_text())
    program = str(Path(sys.executable).with_name("moorage"))
    environment = {
        **{name: os.environ[name] for name in ("PATH",)},
        "HOME": str(tmp_path),
        "MOORAGE_JWT_KEY_FILE": str(key),
        "MOORAGE_CONTROL_SOCKET": str(tmp_path / "control.sock"),
    }
    with (tmp_path / "log").open("w") as log, trio.fail_after(15):
        process = await trio.lowlevel.open_process(
            [program, "serve", "--config", str(config)],
            env=environment,
            umask=int(unit["UMask"], 8),
            stderr=log,
        )
        try:
            await until(lambda: _is_open(ports[8780]) or process.poll() is not None)
            clients, control = tmp_path / "clients.sock", tmp_path / "control.sock"
            assert clients.stat().st_mode & 0o777 == 0o770, "the proxy, in the group, may connect"
            assert control.stat().st_mode & 0o777 == 0o600
            image = dict(instructions((DEPLOY / "Containerfile").read_text()))
            check = json.loads(image["HEALTHCHECK"].partition(" CMD ")[2])[2]
            script = replaced(check, ("8780", str(ports[8780])))
            await trio.run_process([sys.executable, "-c", script])
            await trio.run_process(
                [program, "admin", "health"], env=environment, capture_stdout=True
            )
        finally:
            process.send_signal(signal.SIGTERM)
            status = await process.wait()
    said = (tmp_path / "log").read_text()
    assert status == 0, said
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert {"listening", "signal", "draining", "drained"} <= set(events)
    assert not clients.exists()


def instructions(containerfile: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", containerfile, flags=re.MULTILINE))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line]


def test_the_image_runs_the_server_as_nobody_and_lets_signals_through():
    stages: list[list[tuple[str, str]]] = []
    for word, rest in instructions((DEPLOY / "Containerfile").read_text()):
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    assert len(stages) == 2
    final = dict(stages[-1])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])
    assert ast.literal_eval(final["ENTRYPOINT"]) == ["moorage", "serve"]  # no shell in between
    assert final["STOPSIGNAL"] == "SIGTERM"
    check = final["HEALTHCHECK"].partition(" CMD ")[2]
    ast.parse(json.loads(check)[2])
    assert "/healthz" in check

    variables = dict(re.findall(r"(\w+)=(\S+)", final["ENV"]))
    ours = {name: text for name, text in variables.items() if name.startswith("MOORAGE_")}
    ours.pop("MOORAGE_JWT_KEY_FILE")  # comes with the container, not with the image
    loaded = load({}, {**ours, "MOORAGE_JWT_KEY": "x" * 32}).settings
    assert f"{loaded.port} {loaded.http_port}" == final["EXPOSE"]
    assert f":{loaded.http_port}/healthz" in check
    assert str(loaded.control_socket.parent) in final["RUN"]


def test_the_image_copies_all_that_is_needed_to_install():
    copied = {
        source
        for word, rest in instructions((DEPLOY / "Containerfile").read_text())
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = pyproject["tool"]["setuptools"]["package-dir"].values()
    project = pyproject["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    needed |= {folder.partition("/")[0] for folder in folders}
    assert copied == needed
    assert all((ROOT / name).exists() for name in copied)


def test_the_kernel_knows_what_the_sysctl_file_sets():
    lines = (DEPLOY / "sysctl.conf").read_text().splitlines()
    given = dict(line.split(" = ") for line in lines if line and not line.startswith("#"))
    for name, value in given.items():
        path = Path("/proc/sys", *name.split("."))
        assert path.is_file(), name
        assert len(path.read_text().split()) == len(value.split()), name
    assert int(given["net.core.somaxconn"]) >= Settings().backlog
    low, high = map(int, given["net.ipv4.ip_local_port_range"].split())
    assert low % 2 != high % 2, "the kernel asks for one even and one odd bound"


# --- The alerts


def test_prometheus_can_read_the_rules():
    promtool = required("prometheus", "promtool")
    checked = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", DEPLOY / "alerts.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_fire_when_they_should_and_only_then(tmp_path):
    """Each case: an alert, the series that make it fire, and when it is looked at."""
    one = 'instance="one",job="moorage"'
    cases: list[tuple[str, dict[str, str], str]] = [
        ("MoorageDown", {f"up{{{one}}}": "0x10"}, "5m"),
        ("MoorageNotReady", {f"moorage_ready{{{one}}}": "0x10"}, "6m"),
        ("MoorageRestarting", {f"moorage_start_time_seconds{{{one}}}": "0+60x10"}, "9m"),
        (
            "MoorageNearlyFull",
            {
                f"moorage_connections_headroom{{{one}}}": "900x10",
                f"moorage_connections_limit{{{one}}}": "10000x10",
            },
            "6m",
        ),
        (
            "MoorageDescriptorsLow",
            {f"process_open_fds{{{one}}}": "980x10", f"process_max_fds{{{one}}}": "1024x10"},
            "5m",
        ),
        ("MoorageAcceptFailing", {f"moorage_accept_failures_total{{{one}}}": "0+1x10"}, "5m"),
        ("MoorageLoopLag", {f"moorage_event_loop_lag_seconds{{{one}}}": "0.5x10"}, "5m"),
        (
            "MoorageReconnectStorm",
            {
                f'moorage_connections{{{one},state="open"}}': "500x20",
                f"moorage_connections_opened_total{{{one}}}": "0+400x20",
            },
            "15m",
        ),
        (
            "MoorageSlowConsumers",
            {f'moorage_connections_closed_total{{{one},cause="slow_consumer"}}': "0+5x10"},
            "10m",
        ),
        (
            "MoorageClientsVanish",
            {
                f'moorage_connections_closed_total{{{one},cause="heartbeat_timeout"}}': "0+60x40",
                f'moorage_connections_closed_total{{{one},cause="peer_closed"}}': "0+10x40",
            },
            "35m",
        ),
        (
            "MoorageRefusing",
            {f'moorage_handshakes_refused_total{{{one},status="401"}}': "0+600x30"},
            "25m",
        ),
    ]
    quiet = {
        f"up{{{one}}}": "1x40",
        f"moorage_ready{{{one}}}": "1x40",
        f'moorage_connections{{{one},state="open"}}': "500x40",
        f"moorage_connections_opened_total{{{one}}}": "0+20x40",
        f'moorage_connections_closed_total{{{one},cause="peer_closed"}}': "0+20x40",
        f"moorage_accept_failures_total{{{one}}}": "0x40",
        f"moorage_event_loop_lag_seconds{{{one}}}": "0.001x40",
    }
    rules = (DEPLOY / "alerts.yml").read_text()
    severity = dict(re.findall(r"alert: (\w+)\n(?:.*\n)*?\s+labels: \{severity: (\w+)\}", rules))

    def check(alert: str, series: dict[str, str], at: str, firing: int) -> Any:
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": text} for name, text in series.items()],
            # Annotations are not compared: their words are for people.
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertname="{alert}",'
                    f'alertstate="firing",severity="{severity[alert]}"}})',
                    "eval_time": at,
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": firing}]
                    if firing
                    else [],
                }
            ],
        }

    tests = [check(alert, series, at, 1) for alert, series, at in cases]
    tests += [check(alert, quiet, "30m", 0) for alert in severity]
    file = tmp_path / "tests.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(DEPLOY / "alerts.yml")], "tests": tests}))
    promtool = required("prometheus", "promtool")
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_rules_and_pages_know_only_metrics_that_there_are():
    async with server() as supervisor:
        stream = await trio.open_tcp_stream("127.0.0.1", port_in(supervisor.http_addresses[0]))
        async with stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = b"".join([chunk async for chunk in stream]).decode()
    # A counter by label has no lines before its first event, but it has a type.
    exposed = set(re.findall(r"^(?:# TYPE )?([a-z_]+)(?:\{| )", said, re.MULTILINE))
    labels = set(re.findall(r'(?:cause|state)="(\w+)"', said))
    texts = [DEPLOY / "alerts.yml", *(ROOT / "docs").rglob("operations/*.md")]
    for path in texts:
        text = path.read_text()
        used = set(re.findall(r"\b(?:moorage|process)_[a-z_]+_[a-z_]+\b|\bmoorage_ready\b", text))
        assert used <= exposed, (path.name, used - exposed)
        for matched in re.findall(r'(?:cause|state)=~?"([\w|]+)"', text):
            assert set(matched.split("|")) <= labels, (path.name, matched)
