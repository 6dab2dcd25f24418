"""A transport in the shape of a Trio stream."""

from __future__ import annotations

import trio

from .transport import CHUNK, Transport


class TransportStream(trio.abc.Stream):
    """A transport as a Trio stream: for the handshake, and to relay web pages to a session.

    Every method raises trio.ClosedResourceError after `aclose`, and trio.BrokenResourceError when
    the connection breaks.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the data. After a cancelled call the stream can only be closed."""
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
        """Wait until some bytes can be written. Cancelling is safe."""
        await self._transport.wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, at least one byte, or b"" at the end of the stream.

        By default it is at most `CHUNK` bytes. Cancelling loses no bytes.
        """
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
        """Tell our own closing (Closed) from a failure of the connection (Broken)."""
        if self._closed:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError("the connection broke")
