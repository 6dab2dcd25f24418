"""The transport over a plain socket: TCP or Unix."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable
from typing import Protocol

import trio

from .poller import Poller


class _ReadSome(Protocol):
    def __call__(self, max_bytes: int, /) -> bytes: ...


class _WriteSome(Protocol):
    def __call__(self, data: bytes, /) -> int: ...


class SocketTransport:
    """A connected stream socket: TCP or Unix."""

    __slots__ = ("_poller", "_socket", "peer", "read_some", "write_some")

    # These are the bound methods of the socket itself.
    read_some: _ReadSome
    write_some: _WriteSome

    def __init__(
        self, connected: socket.socket, peer: str = "", poller: Poller | None = None
    ) -> None:
        """Take over a connected socket: make it non-blocking, and close it in `close`.

        With a `poller`, as a server has it, that waits for the socket, and else Trio does.
        """
        connected.setblocking(False)  # noqa: FBT003 - the standard library's signature
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            # A small message must not wait for the acknowledgement of the one before it.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._poller = poller
        self.peer = peer
        self.read_some = connected.recv
        self.write_some = connected.send

    # Not `async def`: another coroutine around trio's would cost every idle connection a frame.
    def wait_readable(self) -> Awaitable[None]:
        """Wait until there is something to read. Cancelling is safe."""
        if self._poller is not None:
            return self._poller.wait_readable(self._socket.fileno())
        return trio.lowlevel.wait_readable(self._socket)  # noqa: ASYNC105 - the caller awaits it

    def wait_writable(self) -> Awaitable[None]:
        """Wait until the kernel's buffer has room. Cancelling is safe."""
        return trio.lowlevel.wait_writable(self._socket)  # noqa: ASYNC105 - the caller awaits it

    def end_output(self) -> None:
        """Tell the peer that nothing follows, as TCP does with FIN."""
        with contextlib.suppress(OSError):  # raised when the peer has gone already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, and wake the tasks that wait on it."""
        if self._socket.fileno() >= 0:
            if self._poller is not None:
                self._poller.forget(self._socket.fileno())
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
