"""A draining of the server: it tells all clients to leave, in batches, and waits for them."""

from __future__ import annotations

import trio

from ..actors.connection.pacer import PER_TURN
from ..actors.containment import contain
from .hub import Hub


class Drain:
    """A draining that has begun; it runs in a task of the server.

    Every client gets a `reconnect_after` of its own. These are spread over as many seconds as the
    rest of the fleet needs to take back `reconnect_rate` clients a second.
    """

    def __init__(self, hub: Hub, timeout: float) -> None:
        """Take the hub whose connections are drained, and the seconds that they have to leave."""
        self._hub = hub
        self.timeout = timeout
        self.began = trio.current_time()
        self.ended: float | None = None
        self.total = len(hub)  # connections at the beginning
        self.finished = False  # stays False if it is cancelled
        self.over = trio.Event()
        self._deadline = self.began + timeout
        self._waiting = trio.CancelScope()
        self._cancelled = False
        hub.reconnect_spread = max(1.0, self.total / hub.settings.reconnect_rate)

    async def run(self) -> None:
        """Tell all clients to leave, and wait until they have left or the time is over."""
        try:
            for count, connection in enumerate(self._hub, 1):
                if self._cancelled:
                    break  # for example by `resume`: clients that have not been told may stay
                try:
                    self._hub.send_away(connection)
                except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                    contain(error, connection.fail)
                if count % PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            # All are told, however little time there is; it only bounds the waiting.
            self._waiting.deadline = self._deadline
            with self._waiting:
                await self._hub.wait_empty()
            self.finished = not self._cancelled
        finally:
            self.conclude()

    def conclude(self) -> None:
        """Take note that it is over: nobody is waited for any more."""
        self.ended = trio.current_time()
        self.over.set()

    def cancel(self) -> None:
        """End the draining: no more clients are told to leave, and none is waited for."""
        self._cancelled = True
        self._waiting.cancel()

    def shorten(self, timeout: float) -> None:
        """Give the clients no more than `timeout` seconds from now."""
        self._deadline = min(self._deadline, trio.current_time() + timeout)
        self._waiting.deadline = min(self._waiting.deadline, self._deadline)

    @property
    def seconds(self) -> float:
        """The seconds that it has taken so far, or took in all."""
        return (trio.current_time() if self.ended is None else self.ended) - self.began
