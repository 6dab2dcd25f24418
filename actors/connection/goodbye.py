"""The closing handshake, from the moment at which our Close frame is in the mailbox.

RFC 6455, section 7.1: both sides send a Close frame, and then the server ends the TCP connection
first. The caller bounds all of it by one deadline.
"""

from __future__ import annotations

import trio

from ...protocol.websocket.frames import FrameReader, Opcode
from ..transports.transport import CHUNK, Transport
from .mailbox import Mailbox


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
    while not peer_closed:
        try:
            chunk = transport.read_some(CHUNK)
        except BlockingIOError:
            await transport.wait_readable()
            continue
        if not chunk:
            return
        peer_closed = any(opcode == Opcode.CLOSE for opcode, _ in reader.feed(chunk))
        await trio.lowlevel.checkpoint()  # other tasks have turns, however fast the peer sends
    transport.end_output()
