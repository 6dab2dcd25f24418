"""What the files of `examples/deploy/` say fits together, and the programs that read them agree."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from moorage import Settings
from moorage.supervisor.cli.exit_timer import GRACE
from moorage.supervisor.config.sources import load
from tests.fakes_deploy import DEPLOY, ROOT, is_open, replaced, required, server
from tests.fakes_server import free_port, until

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}


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
    stopping = 2 * (settings.close_timeout + 1) + GRACE
    assert int(unit["TimeoutStopSec"]) > settings.drain_timeout + stopping
    needed = settings.max_total_connections + 2 * settings.max_handshakes + 1024
    assert int(unit["LimitNOFILE"]) > needed
    assert unit["KillSignal"] == "SIGTERM"
    for path in (settings.unix_socket, settings.control_socket):
        assert path.parent == Path("/run") / unit["RuntimeDirectory"]
    # Every variable that the unit sets belongs to a setting.
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
    # The output is also about the machine's other units.
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


async def test_the_service_serves_and_only_the_right_users_can_open_its_sockets(tmp_path):
    """The unit's command runs with the unit's umask, and is stopped as systemd stops it."""
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
            await until(lambda: is_open(ports[8780]) or process.poll() is not None)
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
    project = pyproject["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    # The package, and the folders that its links lead to.
    needed |= {"moorage", *(p.name for p in (ROOT / "moorage").iterdir() if p.is_symlink())}
    assert copied == needed
    assert all((ROOT / name).exists() for name in copied)


def test_image_and_page_install_the_extra_with_the_command():
    assert "'/src[server]'" in (DEPLOY / "Containerfile").read_text()
    page = (ROOT / "docs" / "operations" / "deploying.md").read_text()
    assert re.search(r"^\S*pip install .*'\.\[server\]'$", page, re.MULTILINE)


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
    """Each case has an alert, the series that make it fire, and the time when it must fire."""
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


async def test_the_rules_and_pages_name_only_metrics_that_exist():
    async with server() as supervisor:
        port = urlsplit(supervisor.http_addresses[0]).port
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
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
