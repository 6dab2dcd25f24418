"""The supervisor's operations for synchronous code in other threads, by `trio.from_thread`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

if TYPE_CHECKING:
    from .supervisor import Supervisor

ResultT = TypeVar("ResultT")


@attrs.frozen
class ThreadPort:
    """What another thread may do; every method waits for the event loop to have done it.

    trio.RunFinishedError: the server's event loop is over. RuntimeError: called from the event
    loop's own thread, where the supervisor's own methods are right.
    """

    _supervisor: Supervisor
    _token: trio.lowlevel.TrioToken

    def run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Run any synchronous function in the event loop's thread, and return what it returns."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Do what `Supervisor.broadcast_to_topic` does."""
        return self.run(
            lambda: self._supervisor.broadcast_to_topic(topic, message_type, data, exclude=exclude)
        )

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Do what `Supervisor.send_to_user` does."""
        return self.run(self._supervisor.send_to_user, user_id, message_type, data)

    def send_to_connection(self, connection_id: str, message_type: str, data: Any = None) -> bool:
        """Do what `Supervisor.send_to_connection` does."""
        return self.run(self._supervisor.send_to_connection, connection_id, message_type, data)

    def subscribe_user(self, user_id: str | int, topic: str) -> int:
        """Do what `Supervisor.subscribe_user` does."""
        return self.run(self._supervisor.subscribe_user, user_id, topic)

    def unsubscribe_user(self, user_id: str | int, topic: str) -> int:
        """Do what `Supervisor.unsubscribe_user` does."""
        return self.run(self._supervisor.unsubscribe_user, user_id, topic)

    def disconnect_user(self, user_id: str | int, reason: str = "") -> int:
        """Do what `Supervisor.disconnect_user` does."""
        return self.run(self._supervisor.disconnect_user, user_id, reason)

    def suspend(self) -> None:
        """Do what `Supervisor.suspend` does."""
        self.run(self._supervisor.suspend)

    def resume(self) -> None:
        """Do what `Supervisor.resume` does."""
        self.run(self._supervisor.resume)

    def drain(self, timeout: float | None = None) -> int:
        """Do what `Supervisor.drain` does."""
        return trio.from_thread.run(self._supervisor.drain, timeout, trio_token=self._token)
