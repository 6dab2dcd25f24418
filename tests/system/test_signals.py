"""A server in a process of its own, and what signals do to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes import CLOSE, Peer
from tests.fakes_server import dial_port, welcomed

_SERVER = """
import sys
import trio
from moorage import App, Settings, configure_logging, open_supervisor

async def main():
    drain_timeout = float(sys.argv[1])
    settings = Settings(port=0, drain_timeout=drain_timeout, close_timeout=0.2, log_format="json")
    configure_logging(settings)
    async with open_supervisor(settings, App()) as supervisor:
        print(supervisor.addresses[0].rpartition(":")[2].partition("/")[0], flush=True)
        await supervisor.serve_until_signal()
    print("ended", flush=True)

trio.run(main)
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def connect(self) -> Peer:
        return await welcomed(await dial_port(self.port))


@pytest.fixture
async def start(nursery):
    async def start(drain_timeout: float) -> Process:
        command = [sys.executable, "-c", _SERVER, str(drain_timeout)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False}
        process = await nursery.start(partial(trio.run_process, command, **options))
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(1)
        return Process(process, int(line))

    return start


async def rest_of(stream) -> str:
    text = b""
    async for chunk in stream:
        text += chunk
    return text.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_process_exits_with_0(start, number):
    with trio.fail_after(15):
        server = await start(20)
        peer = await server.connect()
        server.process.send_signal(number)
        goodbye = await peer.receive_type("goodbye")
        assert 0 <= goodbye["data"]["reconnect_after"] <= 1.0
        assert await peer.close_code() == 4000
        await peer.send_frame(CLOSE, (4000).to_bytes(2))
        peer.transport.close()
        assert "ended" in await rest_of(server.process.stdout)
        lines = [json.loads(line) for line in (await rest_of(server.process.stderr)).splitlines()]
        assert await server.process.wait() == 0
    events = [line["event"] for line in lines]
    assert events[-3:] == ["draining", "disconnected", "drained"]
    assert lines[-2]["code"] == 4000


async def test_a_second_signal_cuts_the_draining_short(start):
    with trio.fail_after(15):
        server = await start(60)
        peer = await server.connect()
        # A client that hears the goodbye, but whose server would wait for it long.
        server.process.send_signal(signal.SIGTERM)
        await peer.receive_type("goodbye")
        started = trio.current_time()
        server.process.send_signal(signal.SIGTERM)
        assert "ended" in await rest_of(server.process.stdout)
        assert await server.process.wait() == 0
        assert trio.current_time() - started < 5
        peer.transport.close()


_ODD_SERVER = """
import time
import trio
from moorage import App

app = App()

@app.on("shield")
async def shield(context, message):
    context.reply("begun")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

@app.on("hold")
def hold(context, message):
    while True:
        time.sleep(0.01)

@app.on("quit")
def leave(context, message):
    raise SystemExit(5)
"""


@pytest.fixture
async def serve(nursery, tmp_path):
    """Start `moorage serve` with a program that does odd things."""
    (tmp_path / "odd_server.py").write_text(_ODD_SERVER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}

    async def serve(*flags: str) -> Process:
        command = [str(Path(sys.executable).with_name("moorage")), "serve", "--port", "0"]
        command += ["--app", "odd_server:app", "--log-format", "json", *flags]
        options = {"stderr": subprocess.PIPE, "check": False, "cwd": tmp_path}
        environment = {**kept, "XDG_RUNTIME_DIR": str(tmp_path)}
        process = await nursery.start(
            partial(trio.run_process, command, env=environment, **options)
        )
        text = b""
        while b"/ws" not in text:
            text += await process.stderr.receive_some()
        port = text.partition(b'"address": "ws://127.0.0.1:')[2].partition(b"/")[0]
        return Process(process, int(port))

    return serve


def logged(text: str, event: str) -> list[dict[str, Any]]:
    """Return the lines of that event; every line has to be JSON."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE]
)
async def test_a_signal_that_is_for_nothing_yet_does_not_end_the_process(start, number):
    """A closed terminal ended the server at once, without a goodbye to anybody."""
    with trio.fail_after(15):
        server = await start(20)
        peer = await server.connect()
        server.process.send_signal(number)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await peer.close()
        server.process.terminate()
        text = await rest_of(server.process.stderr)
        assert await server.process.wait() == 0
    ignored = [line["signal"] for line in logged(text, "signal_ignored")]
    assert ignored == ([] if number is signal.SIGPIPE else [number.name])


async def test_sigquit_drains(start):
    with trio.fail_after(15):
        server = await start(20)
        peer = await server.connect()
        server.process.send_signal(signal.SIGQUIT)
        assert await peer.close_code() == 4000
        peer.transport.close()
        assert await server.process.wait() == 0


async def test_a_second_signal_ends_a_server_whose_clients_do_not_answer_within_a_second(serve):
    """It took 4.2 s: those who had been told to leave kept their `close_timeout`."""
    with trio.fail_after(30):
        server = await serve()
        peers = [await server.connect() for _ in range(100)]
        server.process.terminate()
        await peers[-1].receive_type("goodbye")
        started = trio.current_time()
        server.process.terminate()
        assert await server.process.wait() == 0
        assert trio.current_time() - started < 1.5  # much of it is the end of Python itself
    for peer in peers:
        peer.transport.close()


async def test_a_handler_that_shields_itself_cannot_keep_the_process(serve):
    """It kept the process for as long as it liked, and nothing told who it was."""
    with trio.fail_after(30):
        server = await serve("--drain-timeout", "0", "--close-timeout", "0.5")
        peer = await server.connect()
        await peer.send({"type": "shield"})
        await peer.receive_type("begun")
        started = trio.current_time()
        server.process.terminate()
        text = await rest_of(server.process.stderr)
        assert await server.process.wait() == 3
        assert trio.current_time() - started < 10
    (line,) = logged(text, "overdue")[:1]
    assert line["connection_id"] == peer.id
    assert "in shield: sleep_forever" in line["tasks"][0]
    assert logged(text, "stop_overdue")
    assert len(logged(text, "cut_off")) == 1
    peer.transport.close()


async def test_code_that_never_returns_cannot_keep_the_process(serve):
    with trio.fail_after(30):
        server = await serve("--drain-timeout", "0", "--close-timeout", "0.5")
        peer = await server.connect()
        await peer.send({"type": "hold"})
        await trio.sleep(0.5)
        server.process.terminate()
        text = await rest_of(server.process.stderr)
        assert await server.process.wait() == 3
    (line,) = logged(text, "cut_off")
    assert line["stack"][-1].endswith("hold")
    peer.transport.close()


async def test_a_handler_that_exits_is_one_line_of_json_and_ends_nothing(serve):
    """It ended the server, seconds later, undrained, with a raw traceback in the log."""
    with trio.fail_after(30):
        server = await serve()
        other, peer = await server.connect(), await server.connect()
        reply = await peer.request_reply({"type": "quit"})
        assert reply["data"]["code"] == "internal"
        assert (await other.request_reply({"type": "ping"}))["type"] == "pong"
        for one in (peer, other):
            await one.close()
        server.process.terminate()
        text = await rest_of(server.process.stderr)
        assert await server.process.wait() == 0
    (line,) = logged(text, "handler_failed")
    assert "SystemExit: 5" in line["exception"]
    raw = [line for line in text.splitlines() if line.startswith(("Traceback", "  File"))]
    assert raw == []
