"""`moorage serve` as a process of its own."""

import re
import signal
from urllib.parse import urljoin

import httpx
import pytest
import trio

from tests.fakes_server import dial_port, free_port, welcomed
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
