"""The writer: what a connection runs while its peer's socket does not take everything at once."""

from __future__ import annotations

import trio

from ..protocol.closing import CloseCause
from .mailbox import Mailbox
from .transport import Transport


async def write_waiting(
    mailbox: Mailbox, transport: Transport, write_timeout: float
) -> CloseCause | None:
    """Write until nothing waits; return why the connection has to end, if it has to.

    The peer has to take something every `write_timeout` seconds. Cancelling is safe for the
    mailbox, which stays the owner of what was not written.
    """
    try:
        while not mailbox.flush():
            with trio.move_on_after(write_timeout) as scope:
                await transport.wait_writable()
            if scope.cancelled_caught:
                return CloseCause.WRITE_TIMEOUT
    except OSError:
        return CloseCause.PEER_VANISHED
    return None
