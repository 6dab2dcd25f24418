"""The closing handshake, from the moment that our Close frame stands in the mailbox.

RFC 6455, section 7.1: both sides send a Close frame, and then the server ends the TCP connection
first. Whoever calls bounds all of it by one deadline.
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

    OSError: the peer is gone. Cancelling is safe; the transport can only be closed then, as it
    can be afterwards.
    """
    while not mailbox.flush():
        await transport.wait_writable()
    if reader.finished:  # the peer's Close frame would not be understood: wait for its FIN
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
        await trio.lowlevel.checkpoint()  # whatever it goes on sending, others have turns
    transport.end_output()
