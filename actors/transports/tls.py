"""TLS over a non-blocking socket, with writing that stays synchronous.

`ssl.SSLObject` encrypts and decrypts between two memory buffers and never touches a socket, so the
transport decides when bytes move. What it adds to a plain socket is one rule: ciphertext that the
socket has not taken yet stands for plaintext that the caller must regard as not written.
`write_some` therefore counts bytes only once their ciphertext has left, and the caller offers the
rest again, as OpenSSL's own `SSL_write` wants it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

import trio

from .transport import SocketTransport

_RECORD: Final = 16_384
"""Bytes of plaintext in one TLS record, at most (RFC 8446, section 5.1)."""


class TlsTransport:
    """The server's end of a TLS connection; has the shape of `Transport`."""

    __slots__ = ("_arrived", "_ciphertext", "_outgoing", "_socket", "_tls", "_uncounted", "peer")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, peer: str = "") -> None:
        """Take over a connected socket; `handshake` must run before anything else."""
        self._socket = SocketTransport(connected, peer)
        self._arrived = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._outgoing, server_side=True)
        self._ciphertext = b""  # encrypted, and not taken by the socket yet
        self._uncounted = 0  # bytes of plaintext in it, which `write_some` has not counted
        self.peer = peer

    async def handshake(self) -> None:
        """Perform the TLS handshake; give it a deadline.

        ssl.SSLError or another OSError: it failed. A cancelled handshake leaves the connection of
        no use but to be closed.
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
        """Return what has arrived, decrypted; the errors are those of a socket.

        Every whole record that is at hand is read: a result shorter than `max_bytes` means that
        the next must come from the network, as it does with a socket.
        """
        data = bytearray()
        while len(data) < max_bytes:
            try:
                plaintext = self._tls.read(max_bytes - len(data))
            except ssl.SSLWantReadError:
                if data:
                    break
                chunk = self._socket.read_some(max_bytes)
                if chunk:
                    self._arrived.write(chunk)
                else:
                    self._arrived.write_eof()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break  # with or without close_notify: WebSocket has its own goodbye
            else:
                if not plaintext:  # a close_notify, as Python tells it before ours is sent
                    break
                data += plaintext
        return bytes(data)

    def write_some(self, data: bytes) -> int:
        """Encrypt and write what the socket takes; the errors are those of a socket."""
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
        # unwrap() "fails" with SSLWantReadError, as it hopes for the peer's close_notify; and what
        # cannot be written is a courtesy missed, since the peer sees the stream's end anyway.
        with contextlib.suppress(OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._write_ciphertext()
        self._socket.end_output()

    def close(self) -> None:
        """Close the socket, and wake whoever waits on it."""
        self._socket.close()

    def _write_ciphertext(self) -> None:
        """Give the socket all ciphertext, or raise BlockingIOError with the rest kept."""
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
