"""A server in a process of its own, and what signals do to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

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
