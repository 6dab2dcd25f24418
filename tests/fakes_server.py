"""More ways to a server under test: over real sockets, and with a token.

What `fakes.py` does over the in-memory network, this does over sockets, for the facts that only a
kernel can confirm. No virtual time here: the clock would jump while the kernel is at work.
"""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from moorage.actors.transports.memory import MemoryTransport, memory_connection
from moorage.actors.transports.transport import SocketTransport
from moorage.supervisor.entrance.tokens import mint_token
from tests.fakes import Peer, Server

KEY = "a secret of the tests, which is long enough"


def token(user: str, **claims: Any) -> str:
    """A token of that user, good for a server whose `jwt_key` is KEY."""
    return mint_token(KEY, user=user, **claims)


def port_of(server: Server) -> int:
    return server.supervisor.listeners[0].socket.getsockname()[1]


async def dial_tcp(server: Server, *, receive_buffer: int = 0) -> Peer:
    """Connect over TCP, without saying anything yet."""
    family, address = socket.AF_INET, server.supervisor.listeners[0].socket.getsockname()
    if len(address) == 4:
        family = socket.AF_INET6
    return await _dial(socket.socket(family), address, receive_buffer)


async def dial_port(port: int) -> Peer:
    return await _dial(socket.socket(), ("127.0.0.1", port), 0)


async def dial_unix(path: Path) -> Peer:
    return await _dial(socket.socket(socket.AF_UNIX), str(path), 0)


async def _dial(connecting: socket.socket, address: Any, receive_buffer: int) -> Peer:
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
    """Upgrade, and take the welcome."""
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
    """Connect in memory; the list gets the size of every write that the server makes."""
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
    """What has arrived at a peer, taken without waiting."""
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
    """Wait until every task waits for something, so that all that was said has been done."""
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], Any]) -> None:
    """Wait, for as long as a real kernel takes; the caller sets the deadline."""
    while not condition():  # noqa: ASYNC110 - there is no event for what a kernel does
        await trio.sleep(0.005)


def break_transport(peer: Peer) -> None:
    assert isinstance(peer.transport, MemoryTransport)
    peer.transport.reset()


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_nothing_left(server: Server) -> None:
    """There is no connection, and no table knows of one."""
    supervisor = server.supervisor
    assert supervisor.harbor.registry.by_id == {}
    assert supervisor.harbor.registry.by_user == {}
    assert supervisor.harbor.registry.by_address == {}
    assert supervisor.harbor.router.topics == {}
    assert supervisor.harbor.router.subscriptions == 0
    assert supervisor.admission.admitted == 0
    statistics = supervisor.statistics
    assert statistics.connected == statistics.closed.total()
