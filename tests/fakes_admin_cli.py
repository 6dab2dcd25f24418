"""A server in a thread, which the command administers, its clients, and a terminal."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from websockets.sync.client import connect, unix_connect

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import mint_token
from moorage.supervisor.server import Server, open_server
from tests.fakes import RecordingLogger

SECRET = "a secret of thirty-two bytes or so"

# Seconds. For what takes milliseconds, on a machine that is busy.
PATIENCE = 30


@attrs.frozen
class Running:
    """A server with an event loop in a thread of its own, and where it can be reached."""

    server: Server
    loop: trio.lowlevel.TrioToken
    stopping: trio.Event
    url: str
    control_url: str | None  # None: it listens on no port for operators
    control_socket: str

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the server's thread; return what it returns."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self.loop)

    def stop(self) -> None:
        """Let the server stop, unless it has stopped."""
        with suppress(trio.RunFinishedError):
            self.call(self.stopping.set)


@contextmanager
def running_server(control_socket: Path, **settings: Any) -> Generator[Running]:
    """A server on free ports of loopback; at the end it must stop without having failed."""
    log = RecordingLogger()
    started: Future[Running] = Future()

    async def serve() -> None:
        stopping = trio.Event()
        given = Settings(port=0, control_socket=control_socket, jwt_key=SECRET, **settings)
        async with open_server(given, logger=log) as server:
            tcp = [url for url in server.core.control_addresses if url.startswith("ws://")]
            started.set_result(
                Running(
                    server,
                    trio.lowlevel.current_trio_token(),
                    stopping,
                    server.supervisor.addresses[0],
                    tcp[0] if tcp else None,
                    str(control_socket),
                )
            )
            await stopping.wait()

    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(trio.run, serve)
        wait([started, ended], return_when=FIRST_COMPLETED)
        if ended.done():
            ended.result()  # raises what kept it from starting
        running = started.result()
        try:
            yield running
        finally:
            running.stop()
        ended.result(PATIENCE)
    assert [line for line in log.lines if line["level"] >= logging.ERROR] == []


@contextmanager
def client(server, user, *topics, session=None):
    """A connected and subscribed client that we did not write, and its connection id."""
    token = mint_token(SECRET, user=user, session=session)
    headers = {"Authorization": f"Bearer {token}"}
    with connect(server.url, additional_headers=headers) as peer:
        peer.id = json.loads(peer.recv(PATIENCE))["data"]["connection_id"]
        for topic in topics:
            peer.send(json.dumps({"type": "subscribe", "topic": topic}))
            peer.recv(PATIENCE)
        yield peer


@contextmanager
def stalled_client(server):
    """Run a client that publishes to itself and never reads: its mailbox fills."""
    host, port = re.match(r"ws://(.+):(\d+)/", server.url).groups()
    token = mint_token(SECRET, user="sleepy")
    head = (
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect((host, int(port)))
        peer.sendall(head.encode())
        assert b"101" in peer.recv(20)
        peer.sendall(masked({"type": "subscribe", "topic": "slow"}))
        large = masked({"type": "data", "topic": "slow", "data": "x" * 60_000})
        for _ in range(120):  # 7 MB: more than any kernel buffers on the way
            peer.sendall(large)
        eventually(lambda: server.call(stalled, server.server.supervisor))
        yield


def stalled(supervisor):
    """Whether the server has read all from such a client, and something waits to be written."""
    return any(
        connection.user_id == "sleepy" and connection.messages_in > 120 and connection.waiting_bytes
        for connection in supervisor.connections()
    )


def masked(message):
    payload = json.dumps(message).encode()
    length = (
        bytes([0x80 | len(payload)])
        if len(payload) < 126
        else b"\xfe" + struct.pack("!H", len(payload))
    )
    return b"\x81" + length + bytes(4) + payload


def eventually(look):
    """Return the result of `look` as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def closed(peer):
    try:
        peer.recv(0.05)
    except TimeoutError:
        return False
    except Exception:  # noqa: BLE001 - closed in whatever way: the caller looks at the code
        return True
    return False


@contextmanager
def operator(server):
    """A session on the control socket by a client that we did not write."""
    with unix_connect(server.control_socket, "ws://localhost/") as peer:
        yield peer


def give(server, command, **data):
    """Have a command done by an operator with a client that we did not write."""
    with operator(server) as peer:
        peer.recv(PATIENCE)
        peer.send(json.dumps({"type": command, "id": 1, "data": data}))
        while (reply := json.loads(peer.recv(PATIENCE))).get("id") != 1:
            pass
    assert reply["type"] == "result"
    return reply["data"]


@attrs.define
class Terminal:
    """A terminal of 80 x 24 characters, as the person before it sees it."""

    fd: int
    _shown: bytes = b""  # what it has shown and nobody has read yet

    def read_until(self, text: str) -> str:
        """Return what it shows next, up to a text and with it."""
        end = text.encode()
        while end not in self._shown:
            ready, _, _ = select.select([self.fd], [], [], PATIENCE)
            assert ready, f"no {text!r} in {self._shown!r}"
            self._shown += os.read(self.fd, 65_536)
        before, _, self._shown = self._shown.partition(end)
        return (before + end).decode()

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self.fd, keys.encode())


@contextmanager
def open_terminal() -> Generator[Terminal]:
    """A terminal that is the standard input, output and error of this process."""
    ours, its = pty.openpty()
    try:
        with ExitStack() as opened, pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "80")
            patch.setenv("LINES", "24")
            for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
                file = opened.enter_context(open(its, mode, encoding="utf-8", closefd=False))
                patch.setattr(f"sys.{name}", file)
            yield Terminal(ours)
    finally:
        os.close(its)
        os.close(ours)
