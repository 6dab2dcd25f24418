"""Transports: bytes in and out of one connection, without waiting.

An actor reads and writes through four methods. `read_some` and `write_some` are synchronous, and
raise BlockingIOError when nothing can be read or written now. `wait_readable` and `wait_writable`
are the only places where the actor waits. For a plain socket (`sockets.py`) the first two *are* the
bound C methods of the socket, so this layer costs nothing there. TLS (`tls.py`) and the in-memory
network (`memory.py`) have the same methods.

Every transport has the errors of sockets: BlockingIOError means "try again later", any other
OSError means that the connection is broken, and an empty read means that the peer has ended its
side.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

CHUNK: Final = 65_536
"""How many bytes one read asks for: mostly all that a busy peer has sent; more was not faster."""


COMMITTED: Final = 16_384
"""How many bytes behind those that `write_some` has counted must follow unchanged: the largest
plaintext of one TLS record, which is encrypted as a whole (RFC 8446, section 5.1)."""


class Transport(Protocol):
    """One connection's bytes, as an actor reads and writes them."""

    def read_some(self, max_bytes: int, /) -> bytes:
        """Return at most `max_bytes` bytes that have arrived, or b"" at the end of the stream.

        Raises BlockingIOError when nothing has arrived yet, and OSError when the connection is
        broken.
        """
        ...

    def write_some(self, data: bytes, /) -> int:
        """Write as many of the bytes as fit now, and return how many that were.

        Raises BlockingIOError when none fit, and OSError when the connection is broken. After a
        call that did not take all bytes, the next call must offer the remaining ones first, at
        least `COMMITTED` of them unchanged: TLS depends on it, as OpenSSL does.
        """
        ...

    @property
    def peer(self) -> str:
        """The network address of the peer, or "" where it has none."""
        ...

    def wait_readable(self) -> Awaitable[None]:
        """Wait until `read_some` would not raise BlockingIOError. Cancelling is safe."""
        ...

    def wait_writable(self) -> Awaitable[None]:
        """Wait until `write_some` would not raise BlockingIOError. Cancelling is safe."""
        ...

    def end_output(self) -> None:
        """Tell the peer, without waiting, that nothing follows; reading is still possible."""
        ...

    def close(self) -> None:
        """Close the connection without waiting; a second call does nothing.

        Tasks that wait in `wait_readable` or `wait_writable` get trio.ClosedResourceError.
        """
        ...
