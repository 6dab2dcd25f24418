"""The programs and examples on the pages work as printed; `make docs` checks links and names."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import trio

from moorage import App, Settings, TopicRule, open_client, open_supervisor
from tests.fakes import open_server

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return [code for name, code in FENCE.findall(text) if name == language]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_current():
    reference = load(ROOT / "docs" / "settings_reference.py")
    hint = "run .venv/bin/python docs/settings_reference.py"
    assert reference.PAGE.read_text().strip() == reference.page().strip(), hint


def test_settings_page_has_a_toml_example_that_loads(tmp_path):
    from moorage.supervisor.config.sources import load as load_settings

    (example,) = blocks("docs/settings.md", "toml")
    file = tmp_path / "moorage.toml"
    file.write_text(example)
    settings = load_settings({}, {}, file).settings
    assert settings.topics == {
        "prices.*": TopicRule(overload="latest"),
        "log.**": TopicRule(overload="drop_oldest", client_publish=False),
    }


def test_readme_embedding_example_runs_as_printed(tmp_path):
    embedding = next(code for code in blocks("README.md", "python") if "open_supervisor" in code)
    assert len([line for line in embedding.splitlines() if line.strip()]) <= 15
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", embedding],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "chat_message {'text': 'Ahoy!'}\n"


async def test_readme_client_example_talks_to_a_server():
    (client,) = (code for code in blocks("README.md", "python") if "open_supervisor" not in code)
    async with open_supervisor(Settings(port=0), App()) as supervisor:
        url = supervisor.addresses[0]
        assert "ws://127.0.0.1:8765/ws" in client
        client = client.replace("ws://127.0.0.1:8765/ws", url)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", "-W", "error", "-c", client], stdout=subprocess.PIPE
        )
        with trio.fail_after(20):
            async with open_client(url) as other:
                printed = b""
                while b"{'n': 2}" not in printed:
                    await other.publish("news", {"n": 2})
                    printed += await process.stdout.receive_some()
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    assert b"news {'n': 1}" in printed.splitlines()


async def test_embedding_page_shows_an_app_that_can_be_served(autojump_clock, capsys):
    namespace: dict = {}
    for code in blocks("docs/embedding.md", "python"):
        exec(compile(code, "docs/embedding.md", "exec"), namespace)
    async with open_server(namespace["app"], publish_patterns=("news",)) as server:
        peer = await server.connect("/ws/notifications")
        assert peer.welcome["data"]["topics"] == ["notifications"]
        assert (await peer.receive_type("motd"))["data"] == {"message": "Fair winds!"}
        reply = await peer.request_reply({"type": "look_up"})
        assert reply["type"] == "found"
        reply = await peer.request_reply({"type": "whisper", "data": {"to": "ann", "text": "?"}})
        assert reply["data"] == {"recipients": 0}
        reply = await peer.request_reply({"type": "whisper"})
        assert reply["data"]["code"] == "bad_message"
        reply = await peer.request_reply({"type": "subscribe", "topic": "internal.affairs"})
        assert reply["data"]["code"] == "forbidden"
        reply = await peer.request_reply({"type": "data", "topic": "news"})
        assert reply["data"]["code"] == "forbidden"
        goodbye = await peer.receive_type("goodbye")
        assert goodbye["data"] == {"reason": "an hour is enough", "reconnect_after": 60}
        other = await server.connect("/ws/notifications")
        namespace["servers"].append(server.supervisor)
        await peer.close()
        assert (await other.receive_type("left"))["topic"] == "notifications"
        await other.close()
        await server.supervisor.wait_empty()
        assert "disconnected" in capsys.readouterr().out
        status, _, _ = await server.dial().upgrade("/ws")
        assert status == 404
        status, _, _ = await server.dial(address="192.0.2.66").upgrade("/ws/plain")
        assert status == 403


async def test_protocol_page_prints_a_conversation_that_takes_place(autojump_clock):
    (conversation,) = blocks("docs/protocol.md", "text")
    welcome, *rest = conversation.splitlines()
    async with open_server() as server:
        peer = await server.connect()
        printed = json.loads(welcome)
        printed["data"]["connection_id"] = peer.id
        assert peer.welcome == printed | {"timestamp": peer.welcome["timestamp"]}
        assert STAMP.fullmatch(peer.welcome["timestamp"])
        for line in rest:
            message = json.loads(line.removeprefix(">"))
            if line.startswith(">"):
                await peer.send(message)
            else:
                received = await peer.receive()
                assert list(received) == list(message)
                assert received == message | {"timestamp": received["timestamp"]}


def test_protocol_page_names_every_code_and_type():
    from moorage.protocol.closing import CloseCode
    from moorage.protocol.errors import ErrorCode
    from moorage.protocol.messages.types import MessageType

    page = (ROOT / "docs" / "protocol.md").read_text()
    missing = [str(code) for code in ErrorCode if f"`{code}`" not in page]
    missing += [kind for kind in MessageType if f"`{kind}`" not in page]
    missing += [int(code) for code in CloseCode if str(int(code)) not in page and code != 1008]
    assert not missing
