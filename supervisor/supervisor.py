"""The supervisor: the handle by which a program holds a running server.

It shows what a program may see, and offers what a program may do, and nothing else. The server
itself is behind it, in `core.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

import attrs
import trio

from ..actors.connection.raw import RawConnection
from ..actors.session.session import Session, SessionActor
from ..actors.transports.transport import Transport
from ..protocol.closing import CloseCause
from .core import ServerCore
from .server_lifecycle import ServerState
from .telemetry.statistics import Statistics

ResultT = TypeVar("ResultT")


class Supervisor:
    """A running server, as a program holds it; made by `open_supervisor`.

    Its methods are synchronous unless they may wait, and few may. They must be called in the event
    loop's own thread; other threads use `from_thread`.
    """

    __slots__ = ("_core", "_hub")

    def __init__(self, core: ServerCore) -> None:
        """Take the running server; programs call `open_supervisor` instead."""
        self._core = core
        self._hub = core.parts.hub

    @property
    def state(self) -> ServerState:
        """The state of the server, such as `SERVING` or `DRAINING`."""
        return self._core.state

    @property
    def addresses(self) -> list[str]:
        """The URLs that the server listens on, with the path of the first endpoint."""
        return self._core.addresses

    @property
    def control_addresses(self) -> list[str]:
        """The URLs that operators connect to."""
        return list(self._core.control_addresses)

    @property
    def http_addresses(self) -> list[str]:
        """The base URLs of health, metrics, REST and dashboard; none if HTTP is off."""
        return list(self._core.http_addresses)

    @property
    def statistics(self) -> Statistics:
        """The counters since the start of the server, as they are now: a copy."""
        return self._core.parts.statistics.copy()

    @property
    def from_thread(self) -> BlockingSupervisor:
        """The same operations for synchronous code in another thread."""
        assert self._core.token is not None  # noqa: S101 - a server that runs has it
        return BlockingSupervisor(self, self._core.token)

    # Connections

    def connections(self) -> tuple[Session | RawConnection, ...]:
        """Return all connections, oldest first."""
        return tuple(connection.handle for connection in self._hub)

    def connection(self, connection_id: str) -> Session | RawConnection | None:
        """Return the connection of an id; None if there is none, or no longer."""
        connection = self._hub.by_id.get(connection_id)
        return None if connection is None else connection.handle

    def connections_of(self, user_id: str | int) -> tuple[Session | RawConnection, ...]:
        """Return all connections of a user, oldest first."""
        return tuple(connection.handle for connection in self._hub.of_user(user_id))

    def serve_transport(self, transport: Transport) -> None:
        """Serve a client that came by other means than a listener, such as a memory transport.

        The transport is closed at once if the server stops or has stopped.
        """
        self._core.serve_transport(transport)

    def disconnect_user(self, user_id: str | int, reason: str = "") -> int:
        """Close all connections of a user; return how many that were not ending already.

        Their clients are told to stay away. ValueError: no Close frame can carry the reason;
        nothing happens then.
        """
        connections = self._hub.of_user(user_id)
        return sum(one.end(CloseCause.DISCONNECTED, reason=reason or None) for one in connections)

    # Messages

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish to a topic's subscribers, except the connections whose ids are in `exclude`.

        Returns how many connections are addressed. LocalProtocolError: the topic, the type or the
        data cannot be sent.
        """
        return self._hub.broadcast_to_topic(topic, message_type, data, exclude=exclude)

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send a message to all sessions of a user; return how many there are.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self._hub.send_to_user(user_id, message_type, data)

    def send_to_connection(self, connection_id: str, message_type: str, data: Any = None) -> bool:
        """Send a message to one session; return False if there is none of that id.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self._hub.send_to_connection(connection_id, message_type, data)

    def subscribe_user(self, user_id: str | int, topic: str) -> int:
        """Subscribe all sessions of a user to a topic; return how many were not subscribed.

        RemoteProtocolError: a limit forbids it for one of them; sessions before that one stay
        subscribed. LocalProtocolError: the topic's name is illegal.
        """
        return sum(session.subscribe(topic) for session in self._sessions_of(user_id))

    def unsubscribe_user(self, user_id: str | int, topic: str) -> int:
        """End all subscriptions of a user to a topic; return how many there were."""
        return sum(session.unsubscribe(topic) for session in self._sessions_of(user_id))

    def _sessions_of(self, user_id: str | int) -> Iterable[SessionActor]:
        return (one for one in self._hub.of_user(user_id) if isinstance(one, SessionActor))

    # Draining

    def suspend(self) -> None:
        """Let no new clients in: they get 503. The connected ones stay."""
        self._core.suspend()

    def resume(self) -> None:
        """Let clients in again, and end a draining that is under way.

        ResumeRefused: the server has been told to stop; the text says by what.
        """
        self._core.resume()

    async def drain(self, timeout: float | None = None) -> int:  # noqa: ASYNC109 - part of what is asked for, and returns a result
        """Suspend, say goodbye to everyone in batches, and wait for them to leave.

        Every client gets a `reconnect_after` of its own, spread so that the fleet takes back
        `reconnect_rate` clients a second. Returns how many connections are left after `timeout`
        seconds, by default `drain_timeout`. If a draining is under way already, this waits for it,
        and `timeout` has no effect. If the server stops or has stopped, it returns at once.
        Cancelling is safe, and does not end the draining; `resume` does.
        """
        return await self._core.drain(timeout)

    async def wait_empty(self) -> None:
        """Wait until there are no connections. Cancelling is safe."""
        await self._hub.wait_empty()

    async def stop(self) -> None:
        """End everything: listeners at once, connections with a goodbye within `close_timeout`.

        Returns when all has ended, or after twice (`close_timeout` + 1 s); in that case a log line
        names the tasks that have not ended. The `async with` block of `open_supervisor` goes on,
        and ends in its own time. Cancelling is safe: the server stops all the same.
        """
        await self._core.stop()

    async def wait_stopped(self) -> None:
        """Wait until the server has stopped, for any reason. Cancelling is safe."""
        await self._core.stopped.wait()

    async def serve_until_signal(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGQUIT, then drain; a second signal ends the draining.

        Returns as well when the server has stopped. Leaving the block of `open_supervisor` then
        closes the connections that are left; after a second signal that takes less than a second.
        After the signal, `resume` is refused. SIGHUP, SIGUSR1, SIGUSR2 and SIGALRM are logged and
        do nothing, unless the program has handlers of its own for them. The signals are taken until
        the server has stopped. RuntimeError: this is not the main thread. Cancelling is safe.
        """
        await self._core.serve_until_signal()


@attrs.frozen
class BlockingSupervisor:
    """The supervisor's operations for other threads; each waits until the event loop has done it.

    trio.RunFinishedError: the server's event loop has ended. RuntimeError: it was called in the
    event loop's own thread; use the supervisor's own methods there.
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

    def stop(self) -> None:
        """Do what `Supervisor.stop` does."""
        trio.from_thread.run(self._supervisor.stop, trio_token=self._token)

    def drain(self, timeout: float | None = None) -> int:
        """Do what `Supervisor.drain` does."""
        return trio.from_thread.run(self._supervisor.drain, timeout, trio_token=self._token)
