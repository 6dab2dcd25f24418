"""What a connection owes its peer: the mailbox, acting on its verdicts, and the writer.

The writer is a task that exists only while the kernel's buffer is full. Everything else here is
synchronous.
"""

from __future__ import annotations

import abc
import secrets
from typing import Final

import trio

from ...protocol.closing import CloseCause
from ..ports import ActorPort
from ..transports.transport import Transport
from .mailbox import Mailbox, OverloadPolicy, Verdict

# Looking a member up in its Enum costs more than the comparison (Python 3.11).
_SENT: Final = Verdict.SENT
_WILL_ARRIVE: Final = (Verdict.SENT, Verdict.QUEUED)


class Writing(abc.ABC):
    """The writing side of a connection; `Connection` adds reading, time and the end."""

    __slots__ = (
        "__weakref__",
        "_written",
        "cause",
        "id",
        "mailbox",
        "nursery",
        "port",
        "transport",
    )

    def __init__(self, port: ActorPort, transport: Transport) -> None:
        self.port = port
        self.id = secrets.token_urlsafe(12)
        self.transport = transport
        self.mailbox = Mailbox(transport.write_some, port.mailbox, self._start_writer)
        self.nursery: trio.Nursery | None = None  # of all that the connection starts
        self.cause: CloseCause | None = None  # why it ends; the first one wins
        self._written: trio.Event | None = None  # set when nothing waits to be written any more

    @abc.abstractmethod
    def end(self, cause: CloseCause, *, code: int | None = None, reason: str | None = None) -> bool:
        """Begin the end of this connection; returns at once."""

    def put(
        self,
        data: bytes,
        messages: int = 1,
        topic: str | None = None,
        policy: OverloadPolicy = OverloadPolicy.DISCONNECT,
        latest: bytes | None = None,
    ) -> Verdict:
        """Owe the peer some whole frames, and act on the verdict. Never waits."""
        verdict = self.mailbox.put(data, messages, topic, policy, latest)
        if verdict is not _SENT:
            self.act_on(verdict)
        return verdict

    def owe(self, frames: list[bytes]) -> bool:
        """Owe the peer whole frames, behind all that it is owed already, and count them.

        False: the connection is over.
        """
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if self.put(data, len(frames)) not in _WILL_ARRIVE:
            return False
        self.port.traffic.messages_out += len(frames)
        self.port.traffic.bytes_out += len(data)
        return True

    def act_on(self, verdict: Verdict) -> bool:
        """Do what the mailbox's verdict demands; True if the peer will get what was put."""
        if verdict is Verdict.OVERFLOWED:
            self.end(CloseCause.SLOW_CONSUMER)
        elif verdict is Verdict.CLOSED:
            self.end(CloseCause.PEER_VANISHED)
        return verdict in _WILL_ARRIVE

    async def wait_written(self) -> None:
        """Wait until nothing is owed to the peer any more. Cancelling is safe.

        Returns as well when the connection ends before that.
        """
        while self.mailbox.size and self.cause is None:
            if self._written is None:
                self._written = trio.Event()
            await self._written.wait()

    def _start_writer(self) -> None:
        if self.nursery is not None and self.cause is None:
            self.nursery.start_soon(self._write_waiting, name=f"writer of {self.id}")

    async def _write_waiting(self) -> None:
        """Write what waits, as the socket takes it; something every `write_timeout` seconds."""
        try:
            while not self.mailbox.flush():
                with trio.move_on_after(self.port.limits.write_timeout) as scope:
                    await self.transport.wait_writable()
                if scope.cancelled_caught:
                    self.end(CloseCause.WRITE_TIMEOUT)
                    return
        except OSError:
            self.end(CloseCause.PEER_VANISHED)
        finally:  # when the connection is over, too: nobody waits for what will not come
            if self._written is not None:
                self._written.set()
                self._written = None
