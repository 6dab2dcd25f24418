"""More ways to connect to a server under test: over real sockets, and with a token.

`fakes.py` connects over the in-memory network; this module connects over sockets, for facts that
only a kernel can confirm. There is no virtual time here: the clock would jump while the kernel
works.
"""

from __future__ import annotations

import gc
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
import trio.testing

from moorage.actors.transports.memory import MemoryTransport, memory_connection
from moorage.actors.transports.sockets import SocketTransport
from moorage.actors.transports.transport import CHUNK
from moorage.supervisor.app import App
from moorage.supervisor.entrance.tokens import mint_token
from tests.fakes import CLOSE, PING, PONG, Peer, Server, masked

KEY = "a secret of the tests, which is long enough"


def token(user: str, **claims: Any) -> str:
    """Return a token of that user, valid for a server whose `jwt_key` is KEY."""
    return mint_token(KEY, user=user, **claims)


def free_port() -> int:
    """Return a port on which nothing listens, and which the kernel gives to nobody by itself.

    A port out of the kernel's own range (32768 to 60999 on Linux) could become another listener's,
    or a client's end, before the test uses it; a proxy would then seem to listen, and be a server.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def port_of(server: Server) -> int:
    return server.core.listeners[0].socket.getsockname()[1]


async def dial_tcp(server: Server, *, receive_buffer: int = 0) -> Peer:
    """Connect over TCP, without sending anything yet."""
    family, address = socket.AF_INET, server.core.listeners[0].socket.getsockname()
    if len(address) == 4:
        family = socket.AF_INET6
    return await dial(socket.socket(family), address, receive_buffer)


async def dial_port(port: int) -> Peer:
    return await dial(socket.socket(), ("127.0.0.1", port))


async def dial_unix(path: Path) -> Peer:
    return await dial(socket.socket(socket.AF_UNIX), str(path))


async def dial(connecting: socket.socket, address: Any, receive_buffer: int = 0) -> Peer:
    """Connect a socket of any family."""
    if receive_buffer:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connecting.setblocking(False)
    try:
        await trio.socket.from_stdlib_socket(connecting).connect(address)
    except BaseException:
        connecting.close()
        raise
    return Peer(SocketTransport(connecting))


async def welcomed(peer: Peer, path: str = "/ws", **headers: str) -> Peer:
    """Upgrade, and receive the welcome."""
    status, _, body = await peer.upgrade(path, headers)
    assert status == 101, body
    peer.welcome = await peer.receive()
    return peer


async def upgraded(peer: Peer, path: str) -> Peer:
    """Upgrade at a raw endpoint, which has no welcome."""
    status, _, body = await peer.upgrade(path)
    assert status == 101, body
    return peer


async def subscribed(peer: Peer, *topics: str) -> Peer:
    for topic in topics:
        reply = await peer.request_reply({"type": "subscribe", "topic": topic})
        assert reply["type"] == "subscribed", reply
    return peer


@asynccontextmanager
async def tls_stream(port: int, context: ssl.SSLContext) -> AsyncGenerator[trio.SSLStream]:
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    async with stream:
        await stream.do_handshake()
        yield stream


def counting(server: Server, capacity: int = 65_536) -> tuple[Peer, list[int]]:
    """Connect in memory; return the peer, and a list that gets the size of each server's write."""
    near, far = memory_connection(capacity)
    writes: list[int] = []
    write_some = far.write_some

    def count(data: bytes) -> int:
        taken = write_some(data)
        writes.append(taken)
        return taken

    far.write_some = count  # type: ignore[method-assign]
    server.supervisor.serve_transport(far)
    return Peer(near), writes


def waiting_bytes(peer: Peer) -> bytes:
    """Return the bytes that have arrived at a peer, without waiting."""
    taken = b""
    while True:
        try:
            chunk = peer.transport.read_some(1 << 20)
        except BlockingIOError:
            return taken
        if not chunk:
            return taken
        taken += chunk


async def settle() -> None:
    """Wait until every task waits for something, so that all messages have been handled."""
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], Any]) -> None:
    """Wait in real time for a condition; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110 - there is no event for what a kernel does
        await trio.sleep(0.005)


def break_transport(peer: Peer) -> None:
    assert isinstance(peer.transport, MemoryTransport)
    peer.transport.reset()


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_nothing_left(server: Server) -> None:
    """Assert that there is no connection, and that no table has one."""
    supervisor = server.supervisor
    assert server.hub.by_id == {}
    assert server.hub.by_user == {}
    assert server.hub.by_address == {}
    assert server.router.topics == {}
    assert server.router.subscriptions == 0
    assert server.parts.admission.admitted == 0
    assert len(server.parts.admission.handshakes) == 0
    statistics = supervisor.statistics
    assert statistics.connected == statistics.closed.total()


async def ended(server):
    """Wait until the last connection is over; return its cause and its code."""
    await server.supervisor.wait_empty()
    line = server.log.of("disconnected")[-1]
    return line["cause"], line["code"]


async def types_until_closed(peer):
    """Read until the Close frame; return the messages' types, and that frame's payload."""
    types = []
    while True:
        opcode, payload = await peer.receive_frame()
        if opcode == CLOSE:
            return types, payload
        types.append({PING: "PING", PONG: "PONG"}.get(opcode) or payload.split(b'"')[3].decode())


async def echo(connection):
    """Send back what comes, as the function of a raw endpoint."""
    async for message in connection:
        await connection.send(message)


def echo_app(path: str = "/raw", **options: Any) -> App:
    """Return a program with one raw endpoint, which sends back what comes."""
    app = App()
    app.add_endpoint(path, echo, raw=True, **options)
    return app


async def torrential(server: Server) -> tuple[Torrent, Peer]:
    """Connect and receive the welcome; return the transport of the server's side, too."""
    near, far = memory_connection()
    torrent = Torrent(far)
    server.supervisor.serve_transport(torrent)
    return torrent, await welcomed(Peer(near))


class Torrent:
    """A transport whose peer, once `chunks` is set, always has another full chunk."""

    def __init__(self, transport):
        self.transport = transport
        self.chunk = masked(PONG, b"x" * 122) * (CHUNK // 128)
        self.chunks = None

    def read_some(self, max_bytes):
        if self.chunks is None:
            return self.transport.read_some(max_bytes)
        assert max_bytes == len(self.chunk)
        self.chunks -= 1
        return self.chunk if self.chunks >= 0 else b""

    def __getattr__(self, name):
        return getattr(self.transport, name)


def code_of(message):
    assert message["type"] == "error", message
    return message["data"]["code"]


async def receive_all(peer, count):
    return [await peer.receive() for _ in range(count)]


def ids(messages):
    return [message.get("id") for message in messages]


def count_tasks():
    """Return the number of all tasks of this run, in whatever nursery they are."""
    waiting, count = [trio.lowlevel.current_root_task()], 0
    while waiting:
        task = waiting.pop()
        count += 1
        for nursery in task.child_nurseries:
            waiting += nursery.child_tasks
    return count


HALF_A_HEAD = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
OTHER_HALF = (
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def half_way_in(server: Server) -> Peer:
    """A client in the midst of its handshake; it comes in when it has sent OTHER_HALF."""
    peer = server.dial()
    await peer.send_bytes(HALF_A_HEAD)
    await settle()
    return peer
