"""`moorage serve` as a process of its own."""

import http.client
import json
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
import trio

from tests.fakes_admin_cli import SECRET
from tests.fakes_server import HALF_A_HEAD, OTHER_HALF, dial_port, free_port, welcomed
from tests.system.command_process import start, started


def moorage(*arguments: str, typed: str = "") -> tuple[int, str, str]:
    """Run the command to its end; returns exit code, standard output, standard error."""
    process = start(*arguments)
    out, err = process.communicate(typed, timeout=20)
    assert "Traceback" not in out + err
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_greets_a_developer_and_drains_on_a_signal(number, tmp_path):
    with started("serve", "--port", "0", XDG_RUNTIME_DIR=str(tmp_path)) as server:
        greeting = ""
        while "| " not in greeting:
            line = server.stderr.readline()
            assert line, greeting
            greeting += line
        assert "development mode" in greeting
        url = re.search(r"address +(ws://127\.0\.0\.1:\d+/ws)", greeting)[1]
        token = re.search(r"token +(\S+)", greeting)[1]
        assert f"connect {url} --topic news" in greeting
        for arguments in ([], ["--token", token]):
            given = ("connect", url, "--topic", "news", *arguments)
            code, out, _ = moorage(*given, typed='"It works!"\n')
            assert code == 0
            assert out.endswith('news "It works!"\n')
        code, _, err = moorage("publish", url, "--topic", "news", "--token", token[:-4] + "AAAA")
        assert code == 1
        assert "401" in err
        server.send_signal(number)
        _, rest = server.communicate(timeout=20)
        assert server.returncode == 0
        assert "drained" in rest
        assert token not in rest
        assert "Traceback" not in rest


def test_the_greeting_names_a_dashboard_that_takes_its_token(tmp_path):
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    given = ("--port", "0", "--http-port", str(free_port()))
    with started("serve", *given, **environment) as server:
        greeting = ""
        while "| " not in greeting:
            line = server.stderr.readline()
            assert line, greeting
            greeting += line
        token = re.search(r"token +(\S+)", greeting)[1]
        dashboard = re.search(r"dashboard +(http://127\.0\.0\.1:\d+/dashboard),", greeting)[1]
        assert "Sign in" in httpx.get(dashboard).text
        health = urljoin(dashboard, "/api/admin/websockets/health")
        answer = httpx.get(health, headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["ready"]


def test_without_a_key_no_page_of_the_web_drives_the_server(tmp_path):
    # A page of any site got 101, and published: the key that `serve` makes for itself counted as
    # configured. By DNS rebinding it could read `/metrics`.
    flags = ("--port", "0", "--http-port", "0", "--log-format", "json")
    with started("serve", *flags, XDG_RUNTIME_DIR=str(tmp_path)) as server:
        events, ports = ("listening", "http_listening"), {}
        while len(ports) < 2:
            line = server.stderr.readline()
            assert line
            if line.startswith("{") and (fields := json.loads(line))["event"] in events:
                ports[fields["event"]] = urlsplit(fields["address"]).port
        websocket, http_port = (ports[event] for event in events)
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        for headers, refused in (
            ({}, False),
            ({"Origin": "http://localhost:5173"}, False),
            ({"Origin": "https://evil.example"}, True),
            ({"Host": "evil.example", "Origin": "http://evil.example"}, True),
            ({"Host": "evil.example"}, True),
        ):
            assert status_of(websocket, "/ws", {**upgrade, **headers}) == (403 if refused else 101)
            assert status_of(http_port, "/metrics", headers) == (403 if refused else 200)


def status_of(port: int, path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_serve_runs_the_app_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_chat_module.py").write_text(
        "from moorage import App\n"
        "app = App()\n"
        "@app.on('shout')\n"
        "async def shout(context, message):\n"
        "    context.broadcast_to_topic('room', 'shouted', message.data.upper())\n"
    )
    monkeypatch.chdir(tmp_path)
    app = ("--app", "my_chat_module:app")
    with started("serve", "--port", "0", *app, XDG_RUNTIME_DIR=str(tmp_path)) as server:
        url = None
        while url is None:
            line = server.stderr.readline()
            assert line
            url = re.search(r"address +(ws://\S+)", line)
        typed = '{"type": "shout", "data": "hey"}\n'
        code, out, _ = moorage("connect", url[1], "--topic", "room", typed=typed)
        assert code == 0
        assert 'room shouted "HEY"' in out


def test_a_log_that_nobody_reads_stops_nobody(tmp_path):
    """Once the server stood still after 160 connections, and did not hear SIGTERM either."""

    async def come_and_go(port: int) -> None:
        for _ in range(500):
            with trio.fail_after(10):
                peer = await welcomed(await dial_port(port))
                assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
                await peer.close()

    with started("serve", "--port", "0", XDG_RUNTIME_DIR=str(tmp_path)) as server:
        address = None
        while address is None:
            line = server.stderr.readline()
            assert line
            address = re.search(r"address +ws://127\.0\.0\.1:(\d+)/ws", line)
        trio.run(come_and_go, int(address[1]))
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0


def listening(server, *events):
    """Read the log until these events have come; return all of its lines so far."""
    lines = []
    while not {line["event"] for line in lines} >= set(events):
        text = server.stderr.readline()
        assert text, lines
        lines.append(json.loads(text))
    return lines


def serve_with(descriptors, tmp_path, *arguments):
    given = ("serve", "--port", "0", "--anonymous", "--log-format", "json", *arguments)
    environment = {"MOORAGE_JWT_KEY": SECRET, "XDG_RUNTIME_DIR": str(tmp_path)}
    return started(*given, descriptors=descriptors, **environment)


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(tmp_path):
    with serve_with((300, 16_000), tmp_path) as server:
        lines = listening(server, "listening")
        (line,) = (line for line in lines if line["event"] == "descriptor_limit")
        assert (line["before"], line["limit"]) == (300, 16_000)
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        assert re.search(r"^Max open files +16000 +16000 ", limits, re.MULTILINE)


def test_a_flood_of_clients_leaves_operators_and_http_the_descriptors_that_they_need(tmp_path):
    # Once `moorage admin health` failed with a limit of 100, and the log had ten lines a second.
    control = tmp_path / "control"
    given = ("--http-port", "0", "--control-socket", str(control))
    with serve_with((100, 100), tmp_path, *given) as server, ExitStack() as flood:
        lines = listening(server, "listening", "http_listening", "few_descriptors")
        addresses = {line["event"]: line["address"] for line in lines if "address" in line}
        few = next(line for line in lines if line["event"] == "few_descriptors")
        assert (few["limit"], few["needed"]) == (100, 13_024)
        place = urlsplit(addresses["listening"])
        for _ in range(200):
            one = flood.enter_context(socket.create_connection((place.hostname, place.port), 5))
            one.sendall(HALF_A_HEAD + OTHER_HALF)
        unready = httpx.get(f"{addresses['http_listening']}/readyz", timeout=5)
        assert unready.json()["reasons"] == ["descriptors"]
        http = urlsplit(addresses["http_listening"])
        for _ in range(50):  # HTTP does not take the last ones either
            flood.enter_context(socket.create_connection((http.hostname, http.port), 5))
        for _ in range(3):
            code, out, err = moorage("admin", "health", "--json", "--control-socket", str(control))
            assert code == 1, err
            assert json.loads(out)["reasons"] == ["descriptors"]
        time.sleep(1)  # in which it fails to accept ten times
        flood.close()
        lines = listening(server, "accept_resumed")
        assert [line["event"] for line in lines].count("accept_failed") == 1
        assert lines[-1]["failures"] > 5
