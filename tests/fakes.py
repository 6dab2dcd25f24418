"""A server whose clients need no sockets, and a client that tests control frame by frame.

`open_server` runs a real server whose clients connect over the in-memory network, in virtual time
if the test uses `autojump_clock`. `Peer` is a client written from RFC 6455 and docs/protocol.md,
not from the code under test, so that it can also break every rule.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from moorage.actors.transports.memory import MemoryTransport, memory_connection
from moorage.actors.transports.transport_stream import TransportStream
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.core import ServerCore
from moorage.supervisor.hub import ClientActor, Hub
from moorage.supervisor.operations.admin_sessions import AdminSessions
from moorage.supervisor.operations.operations import Operations
from moorage.supervisor.parts import Parts
from moorage.supervisor.server import Server as Composition
from moorage.supervisor.server import open_server as open_composition
from moorage.supervisor.supervisor import Supervisor
from moorage.supervisor.topics.routing import Router

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


@attrs.define
class RecordingLogger:
    """A logger that keeps its lines for a test to read."""

    lines: list[dict[str, Any]] = attrs.field(factory=list)

    def log(self, level: int, event: str, **fields: Any) -> None:
        self.lines.append({"level": level, "event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.lines if line["event"] == event]


@attrs.define
class Server:
    """A server under test, its log, and methods to connect to it."""

    composition: Composition
    log: RecordingLogger

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor, which a program would hold."""
        return self.composition.supervisor

    @property
    def core(self) -> ServerCore:
        return self.composition.core

    @property
    def parts(self) -> Parts:
        return self.composition.core.parts

    @property
    def hub(self) -> Hub:
        return self.parts.hub

    @property
    def router(self) -> Router:
        return self.parts.router

    @property
    def operations(self) -> Operations:
        return self.composition.operations

    @property
    def admin_sessions(self) -> AdminSessions:
        return self.composition.admin_sessions

    def actor(self, connection_id: str) -> ClientActor | None:
        """Return the actor of a connection; None if there is none, or no longer."""
        return self.hub.by_id.get(connection_id)

    def actors(self) -> tuple[ClientActor, ...]:
        return tuple(self.hub)

    def dial(self, capacity: int = 65_536, address: str = "192.0.2.1") -> Peer:
        """Connect, without sending anything yet; `capacity` bytes can be under way."""
        near, far = memory_connection(capacity, (address, "server"))
        self.supervisor.serve_transport(far)
        return Peer(near)

    async def connect(
        self,
        path: str = "/ws",
        *,
        token: str | None = None,
        capacity: int = 65_536,
        address: str = "192.0.2.1",
        headers: dict[str, str] | None = None,
    ) -> Peer:
        """Connect, upgrade, and receive the welcome, which is kept as `peer.welcome`."""
        peer = self.dial(capacity, address)
        all_headers = dict(headers or {})
        if token is not None:
            all_headers["Authorization"] = f"Bearer {token}"
        status, _, body = await peer.upgrade(path, all_headers)
        assert status == 101, body
        peer.welcome = await peer.receive()
        assert peer.welcome["type"] == "welcome"
        return peer


@asynccontextmanager
async def open_server(app: App | None = None, **settings: Any) -> AsyncGenerator[Server]:
    """Run a server without clients; its only listener, on loopback, is not used.

    It has no watchdog unless a test asks for one: that is a thread, which has a real clock.
    """
    log = RecordingLogger()
    async with open_composition(
        Settings(**{"port": 0, "slow_turn": 0.0, **settings}), app, logger=log
    ) as composition:
        yield Server(composition, log)


def masked(opcode: int, payload: bytes = b"", *, first: int | None = None) -> bytes:
    """Return one client frame; `first` overrides its first byte."""
    key = os.urandom(4)
    head = bytes([0x80 | opcode if first is None else first])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65_536:
        head += b"\xfe" + len(payload).to_bytes(2)
    else:
        head += b"\xff" + len(payload).to_bytes(8)
    # As two large numbers: Python would take seconds for the bytes of all tests one by one.
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return head + key + (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(len(payload))


class Peer:
    """A client over any transport, frame by frame."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.stream = TransportStream(transport)
        self.welcome: dict[str, Any] = {}
        self._buffer = b""

    @property
    def id(self) -> str:
        return self.welcome["data"]["connection_id"]

    async def upgrade(
        self, path: str = "/ws", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send an upgrade request; return the response's status, headers and body."""
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        return await self.request("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def request(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request as it is; return the response's status, headers and body."""
        await self.stream.send_all(data)
        while b"\r\n\r\n" not in self._buffer:
            chunk = await self.stream.receive_some()
            assert chunk, f"the server closed without an answer; got {self._buffer!r}"
            self._buffer += chunk
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in rest)}
        body = b""
        if length := int(headers.get("content-length", "0")):
            body = await self._take(length)
        return int(first.split()[1]), headers, body

    async def send(self, *messages: dict[str, Any] | str) -> None:
        """Send messages, each in a text frame, in one piece."""
        texts = [m if isinstance(m, str) else json.dumps(m) for m in messages]
        await self.send_bytes(b"".join(masked(TEXT, text.encode()) for text in texts))

    async def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        await self.send_bytes(masked(opcode, payload))

    async def send_bytes(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; EOFError at the end of the stream."""
        first, second = await self._take(2)
        assert first & 0x80, "a server's frame was fragmented"
        assert not second & 0x80, "a server's frame was masked"
        length = second
        if second == 126:
            length = int.from_bytes(await self._take(2))
        elif second == 127:
            length = int.from_bytes(await self._take(8))
        return first & 0x0F, await self._take(length)

    async def receive(self) -> dict[str, Any]:
        """Return the next message, answering Pings; EOFError after a Close frame, with its code."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == PING:
                await self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                raise EOFError(int.from_bytes(payload[:2]), payload[2:].decode())
            elif opcode == TEXT:
                return json.loads(payload)

    async def receive_type(self, message_type: str) -> dict[str, Any]:
        """Return the next message of a type, passing over others."""
        while (message := await self.receive())["type"] != message_type:
            pass
        return message

    async def request_reply(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message with an id, and return its reply, passing over others."""
        message = {"id": "request", **message}
        await self.send(message)
        while (reply := await self.receive()).get("id") != message["id"]:
            pass
        return reply

    async def close_code(self) -> int | None:
        """Read until the server closes; return its close code, None for none at all."""
        with contextlib.suppress(trio.BrokenResourceError):
            try:
                while True:
                    await self.receive()
            except EOFError as error:
                return error.args[0] if len(error.args) > 1 else None
        return None

    async def close(self, code: int = 1000) -> None:
        """Close properly, and read to the end."""
        await self.send_frame(CLOSE, code.to_bytes(2))
        await self.close_code()
        self.transport.close()

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            chunk = await self.stream.receive_some()
            if not chunk:
                raise EOFError
            self._buffer += chunk
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
