"""The transport over TLS on a non-blocking socket, with writing that stays synchronous.

`ssl.SSLObject` encrypts and decrypts between two memory buffers and touches no socket, so this
transport decides when bytes move. It adds one rule to those of a plain socket: as long as the
socket has not taken the ciphertext of some plaintext, the caller must regard that plaintext as not
written. So `write_some` counts bytes only once their ciphertext has left, and the caller offers the
rest again, as OpenSSL's own `SSL_write` demands.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from typing import Final

import trio

from .poller import Poller
from .sockets import SocketTransport
from .transport import COMMITTED

_RECORD: Final = COMMITTED
"""The largest plaintext of one TLS record, in bytes."""

_PIECE: Final = 16_384
"""Bytes that are taken from the socket at once. The buffer from which OpenSSL reads never becomes
smaller: with 64 KiB, a connection held 87 KB for the rest of its life after one large message."""


class _ClosedTls:
    """The TLS state of a closed connection: it fails as the socket does.

    OpenSSL's holds 17 to 60 KB, which a program would keep with its handle of the connection.
    """

    def read(self, _: int) -> bytes:
        raise OSError(errno.EBADF, "this end was closed")

    def write(self, _: bytes) -> int:
        raise OSError(errno.EBADF, "this end was closed")

    def do_handshake(self) -> None:
        raise OSError(errno.EBADF, "this end was closed")

    def unwrap(self) -> None:
        raise OSError(errno.EBADF, "this end was closed")

    def pending(self) -> int:
        return 0


_CLOSED: Final = _ClosedTls()


class TlsTransport:
    """The server's end of a TLS connection: a `Transport`."""

    __slots__ = ("_arrived", "_ciphertext", "_outgoing", "_socket", "_tls", "_uncounted", "peer")

    def __init__(
        self,
        connected: socket.socket,
        context: ssl.SSLContext,
        peer: str = "",
        poller: Poller | None = None,
    ) -> None:
        """Take over a connected socket; `handshake` must run before any other method."""
        self._socket = SocketTransport(connected, peer, poller)
        self._arrived = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | _ClosedTls = context.wrap_bio(
            self._arrived, self._outgoing, server_side=True
        )
        self._ciphertext = b""  # what the socket has not taken yet
        self._uncounted = 0  # bytes of plaintext in it that `write_some` has not counted
        self.peer = peer

    async def handshake(self) -> None:
        """Perform the TLS handshake; the caller sets the deadline.

        Raises ssl.SSLError or another OSError when it fails. After a cancelled handshake the
        connection can only be closed.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                await self._flush()  # the alert that says what was wrong
                raise
            else:
                await self._flush()
                return

    def read_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, decrypted. Raises what a socket raises.

        It reads every whole record that has arrived. So a result shorter than `max_bytes` means
        that the next byte must come from the network, as with a socket.
        """
        data = bytearray()
        more = True  # whether the socket may have more than what it has given so far
        while len(data) < max_bytes:
            try:
                plaintext = self._tls.read(max_bytes - len(data))
            except ssl.SSLWantReadError:
                if data and not more:
                    break
                try:
                    chunk = self._socket.read_some(_PIECE)
                except OSError:
                    if data:
                        break
                    raise
                more = len(chunk) == _PIECE
                if chunk:
                    self._arrived.write(chunk)
                else:
                    self._arrived.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break  # with or without close_notify: WebSocket has a Close frame of its own
            else:
                if not plaintext:  # Python reports a close_notify so before ours is sent
                    break
                data += plaintext
        return bytes(data)

    def write_some(self, data: bytes) -> int:
        """Encrypt and write what the socket takes. Raises what a socket raises."""
        self._write_ciphertext()
        written = self._uncounted
        self._uncounted = 0
        while written < len(data):
            record = self._tls.write(data[written : written + _RECORD])
            self._uncounted = record
            try:
                self._write_ciphertext()
            except BlockingIOError:
                if written:
                    return written
                raise
            self._uncounted = 0
            written += record
        return written

    async def wait_readable(self) -> None:
        """Wait until there is something to read. Cancelling is safe."""
        if self._tls.pending():
            await trio.lowlevel.checkpoint()
        else:
            await self._socket.wait_readable()

    async def wait_writable(self) -> None:
        """Wait until the socket has room. Cancelling is safe."""
        await self._socket.wait_writable()

    def end_output(self) -> None:
        """Send a close_notify if the socket takes it at once, and then FIN."""
        # unwrap() raises SSLWantReadError, since it waits for the peer's close_notify. If the
        # close_notify cannot be written, the peer still sees the end of the stream.
        with contextlib.suppress(OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._write_ciphertext()
        self._socket.end_output()

    def close(self) -> None:
        """Close the socket, wake the tasks that wait on it, and let go of all that is buffered."""
        self._socket.close()
        self._tls = _CLOSED
        self._arrived, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ciphertext = b""
        self._uncounted = 0

    def _write_ciphertext(self) -> None:
        """Give the socket all ciphertext, or keep the rest and raise BlockingIOError."""
        self._ciphertext += self._outgoing.read()
        while self._ciphertext:
            self._ciphertext = self._ciphertext[self._socket.write_some(self._ciphertext) :]

    async def _flush(self) -> None:
        while True:
            try:
                self._write_ciphertext()
            except BlockingIOError:
                await self._socket.wait_writable()
            else:
                return

    async def _receive(self) -> None:
        while True:
            try:
                chunk = self._socket.read_some(_RECORD)
            except BlockingIOError:
                await self._socket.wait_readable()
            else:
                break
        if chunk:
            self._arrived.write(chunk)
        else:
            self._arrived.write_eof()
