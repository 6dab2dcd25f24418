"""The closing handshake, from the moment at which our Close frame is in the mailbox.

RFC 6455, section 7.1: both sides send a Close frame, and then the server ends the TCP connection
first. The caller bounds all of it by one deadline.

What the peer still sends is read until then, though nobody acts on it. To close a socket with
unread bytes resets the connection, and the peer may then lose the Close frame that it has not read.
But a peer that floods is read slowly: what it sends would else keep a core busy until the deadline.
"""

from __future__ import annotations

from typing import Final

import trio

from ...protocol.websocket.frames import FrameReader, Opcode
from ..transports.transport import CHUNK, Transport
from .mailbox import Mailbox

_UNDER_WAY: Final = 262_144
"""Bytes in which the peer's Close frame is looked for: what two kernels hold between them mostly.

Reading them takes 30 ms at most, in turns: as frames of six bytes.
"""

_PACE: Final = 0.05
"""Seconds between two reads of what follows: 1.3 MB/s, and twenty short turns."""


async def finish_closing(
    transport: Transport, mailbox: Mailbox, reader: FrameReader, *, peer_closed: bool
) -> None:
    """Write what is owed, and read until the peer has closed as well.

    The caller closes the transport afterwards. OSError: the peer is gone. Cancelling is safe, but
    leaves a transport that can only be closed.
    """
    while not mailbox.flush():
        await transport.wait_writable()
    if reader.finished:  # it reads no Close frame any more: end our side, and wait for the FIN
        transport.end_output()
    elif not peer_closed:
        peer_closed = await _read_close(reader, b"")  # it may be in what has been read already
    under_way = _UNDER_WAY
    while not peer_closed:
        try:
            chunk = transport.read_some(CHUNK)
        except BlockingIOError:
            await transport.wait_readable()
            continue
        if not chunk:
            return
        if under_way > 0:
            peer_closed = await _read_close(reader, chunk)
            under_way -= len(chunk)
            if under_way <= 0 and not peer_closed:
                transport.end_output()  # as above: from here on, only the FIN is waited for
        else:
            await trio.sleep(_PACE)
    transport.end_output()


async def _read_close(reader: FrameReader, chunk: bytes) -> bool:
    """Tell whether the peer's Close frame is in these bytes, or in those that are not read yet.

    Other tasks have turns, however fast the peer sends.
    """
    while True:
        if any(opcode == Opcode.CLOSE for opcode, _ in reader.feed(chunk)):
            return True
        await trio.lowlevel.checkpoint()
        if not reader.has_more:
            return False
        chunk = b""
