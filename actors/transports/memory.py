"""The transport in memory, with limits and faults, for tests and simulation.

Two pipes of bounded size join two ends, so that a reader that does not read makes the writer wait,
as it does with sockets. Each end can fail as networks do: after `stall` nothing arrives any more
and neither end learns of it, `reset` breaks both ends, and `close` ends the connection.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

_PIPE_SIZE: Final = 65_536
"""How many bytes may be under way in one direction by default: about a kernel's socket buffer."""


@attrs.define(eq=False)
class _Pipe:
    """One direction of a connection."""

    capacity: int
    data: bytearray = attrs.field(factory=bytearray)
    ended: bool = False  # the writer will write nothing more
    stalled: bool = False  # bytes stay where they are
    broken: bool = False
    changed: trio.Event = attrs.field(factory=trio.Event)

    def notify(self) -> None:
        """Wake the tasks that wait for this pipe to change."""
        self.changed.set()
        self.changed = trio.Event()

    def can_read(self) -> bool:
        return self.broken or (not self.stalled and (bool(self.data) or self.ended))

    def can_write(self) -> bool:
        return self.broken or self.ended or len(self.data) < self.capacity


class MemoryTransport:
    """One end of an in-memory connection: a `Transport`, with the faults of networks."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, peer: str) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False
        self.peer = peer

    def read_some(self, max_bytes: int) -> bytes:
        """Return what has arrived. Raises what a socket raises."""
        pipe = self._incoming
        self._check(pipe)
        if not pipe.can_read():
            raise BlockingIOError
        chunk = bytes(pipe.data[:max_bytes])
        del pipe.data[:max_bytes]
        pipe.notify()
        return chunk

    def write_some(self, data: bytes) -> int:
        """Write what fits into the pipe. Raises what a socket raises."""
        pipe = self._outgoing
        self._check(pipe)
        if pipe.ended:
            raise BrokenPipeError
        room = pipe.capacity - len(pipe.data)
        if room <= 0:
            raise BlockingIOError
        pipe.data += data[:room]
        pipe.notify()
        return min(room, len(data))

    async def wait_readable(self) -> None:
        """Wait until there is something to read. Cancelling is safe."""
        await trio.lowlevel.checkpoint()
        while not self._closed and not self._incoming.can_read():
            await self._incoming.changed.wait()
        self._check_open()

    async def wait_writable(self) -> None:
        """Wait until the pipe has room. Cancelling is safe."""
        await trio.lowlevel.checkpoint()
        while not self._closed and not self._outgoing.can_write():
            await self._outgoing.changed.wait()
        self._check_open()

    def end_output(self) -> None:
        """Tell the other end that nothing follows; reading is still possible."""
        self._outgoing.ended = True
        self._outgoing.notify()

    def close(self) -> None:
        """End both directions: the other end reads what is left, and then the end of the stream."""
        self._closed = True
        self._outgoing.ended = True
        self._incoming.ended = True
        self._outgoing.notify()
        self._incoming.notify()

    def stall(self, stalled: bool = True) -> None:  # noqa: FBT001, FBT002 - reads as a sentence
        """Hold back what this end writes, or let it arrive again."""
        self._outgoing.stalled = stalled
        self._outgoing.notify()

    def reset(self) -> None:
        """Break the connection for both ends, as a TCP reset does."""
        for pipe in (self._incoming, self._outgoing):
            pipe.broken = True
            pipe.notify()

    def _check(self, pipe: _Pipe) -> None:
        if self._closed:
            raise OSError(9, "this end was closed")
        if pipe.broken:
            raise ConnectionResetError

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end was closed")


def memory_connection(
    capacity: int = _PIPE_SIZE, peers: tuple[str, str] = ("client", "server")
) -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a new connection.

    At most `capacity` bytes are under way in each direction. `peers` are the names of the two ends;
    each end has the other's name as its `peer`.
    """
    forth, back = _Pipe(capacity), _Pipe(capacity)
    first = MemoryTransport(back, forth, peers[1])
    second = MemoryTransport(forth, back, peers[0])
    return first, second
