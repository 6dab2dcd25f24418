"""Transports: bytes in and out of one connection, without waiting.

An actor reads and writes through four things: `read_some` and `write_some`, which are synchronous
and raise BlockingIOError when there is nothing to be had; and `wait_readable` and `wait_writable`,
the only places where it waits. For a plain socket the first two *are* the bound C methods of the
socket, so that this layer costs nothing there. TLS (`tls.py`) and the in-memory network
(`memory.py`) have the same shape.

The errors are those of sockets on every transport: BlockingIOError means later, any other OSError
means that the connection is broken, and an empty read means that the peer has ended its side.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable
from typing import Final, Protocol

import trio

CHUNK: Final = 65_536
"""Bytes asked for in one read: all that a busy peer has sent, mostly; more were not faster."""


class Transport(Protocol):
    """What an actor reads and writes through."""

    def read_some(self, max_bytes: int, /) -> bytes:
        """Return at most so many bytes that have arrived; b"" at the end of the stream.

        BlockingIOError: nothing there yet. OSError: broken.
        """
        ...

    def write_some(self, data: bytes, /) -> int:
        """Take as many of the bytes as fit now, and return how many that were.

        BlockingIOError: none fit. OSError: broken. After a call that took less than everything,
        the next must offer the same bytes from there on (TLS depends on it, as OpenSSL does).
        """
        ...

    @property
    def peer(self) -> str:
        """The network address of the peer, or "" where it has none."""
        ...

    def wait_readable(self) -> Awaitable[None]:
        """Wait until `read_some` has something to say. Cancelling is safe."""
        ...

    def wait_writable(self) -> Awaitable[None]:
        """Wait until `write_some` takes something. Cancelling is safe."""
        ...

    def end_output(self) -> None:
        """Tell the peer that nothing follows, without waiting; what it sends can still be read."""
        ...

    def close(self) -> None:
        """Let the connection go, without waiting; doing it again is harmless.

        Who waits in `wait_readable` or `wait_writable` gets trio.ClosedResourceError.
        """
        ...


class _ReadSome(Protocol):
    def __call__(self, max_bytes: int, /) -> bytes: ...


class _WriteSome(Protocol):
    def __call__(self, data: bytes, /) -> int: ...


class SocketTransport:
    """A connected stream socket: TCP or Unix."""

    __slots__ = ("_socket", "peer", "read_some", "write_some")

    # The socket's own bound methods, with nothing in between.
    read_some: _ReadSome
    write_some: _WriteSome

    def __init__(self, connected: socket.socket, peer: str = "") -> None:
        """Take over a connected socket; it is made non-blocking, and closed by `close`."""
        connected.setblocking(False)  # noqa: FBT003 - the standard library's signature
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            # A small message must not wait for the acknowledgement of the one before it.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self.peer = peer
        self.read_some = connected.recv
        self.write_some = connected.send

    # Not `async def`: a coroutine of ours around trio's would cost every idle connection a frame.
    def wait_readable(self) -> Awaitable[None]:
        """Wait until there is something to read. Cancelling is safe."""
        return trio.lowlevel.wait_readable(self._socket)  # noqa: ASYNC105 - the caller awaits it

    def wait_writable(self) -> Awaitable[None]:
        """Wait until the kernel's buffer has room. Cancelling is safe."""
        return trio.lowlevel.wait_writable(self._socket)  # noqa: ASYNC105 - the caller awaits it

    def end_output(self) -> None:
        """Tell the peer that nothing follows, as TCP does with FIN."""
        with contextlib.suppress(OSError):  # the peer may be gone already, which is as good
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, and wake whoever waits on it."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TransportStream(trio.abc.Stream):
    """A transport as a Trio stream: for the handshake, and for the relay of pages to a session."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the data; after a cancelled call the stream is of no more use."""
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        while rest:
            try:
                rest = rest[self._transport.write_some(rest) :]
            except BlockingIOError:
                await self._transport.wait_writable()
            except OSError as error:
                raise self._error() from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until some bytes can be written."""
        await self._transport.wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, at least one byte, or b"" at the end of the stream."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._transport.read_some(max_bytes or CHUNK)
            except BlockingIOError:
                await self._transport.wait_readable()
            except OSError as error:
                raise self._error() from error

    async def aclose(self) -> None:
        """Close the transport."""
        self._closed = True
        self._transport.close()
        await trio.lowlevel.checkpoint()

    def _error(self) -> Exception:
        """Say whose doing it was: Closed is ours, Broken the world's."""
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError("the connection broke")
