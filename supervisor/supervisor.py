"""The supervisor: it owns the nurseries, and with them every task there is.

    open_supervisor
      services nursery            the delivery tasks; outermost, so a goodbye is still delivered
        callbacks nursery         callbacks about connections that are over; each has its deadline
          control nursery         admin sessions, and what they started; they see the end of all
            connections nursery   one task for each connection; what it starts is its own
              listeners nursery   one accept loop for each listener; ends first, leaves the others

No one else starts tasks outside of a connection. Draining is three verbs that compose: `suspend`
lets nobody in any more, `drain` says goodbye to everyone in batches, `stop` ends what is left.

The tables are in `harbor.py`, and the way of one connection through the server in `admission.py`.
"""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import AsyncGenerator, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ..actors.connection.connection import Connection
from ..actors.session.session import Session
from ..actors.transports.transport import Transport
from ..protocol.closing import CloseCause
from .app import App
from .config.settings import Settings
from .entrance.admission import Admission, doorkeeper
from .entrance.listeners import Listener, open_control_listeners, open_listeners
from .hub import Harbor
from .operations.admin_sessions import CONTROL_PATH, ControlRoom
from .operations.operations import Operations
from .operations.tree import CLIENT_OF
from .telemetry.logs import Logger, default_logger
from .telemetry.statistics import Statistics
from .threads import ThreadPort

if TYPE_CHECKING:
    from .http.service import HttpService

_GOODBYES_PER_TURN: Final = 200
"""Connections that are told to leave before others have a turn."""


class Supervisor:
    """A running server, made by `open_supervisor`.

    Its methods are synchronous where they cannot block, which is nearly all of them. They are for
    the event loop's own thread; another thread uses `from_thread`.
    """

    def __init__(self, settings: Settings, app: App, logger: Logger) -> None:
        self.settings = settings
        self.harbor = Harbor(settings, app, logger)
        self.admission = Admission(
            self.harbor.port,
            doorkeeper(settings, app, self.harbor.verify),
            self.harbor.statistics,
            settings.max_total_connections,
            settings.handshake_timeout,
        )
        self.control = ControlRoom(self.harbor)
        self.operations = Operations(self)
        self.control.operations = self.operations
        self.harbor.tick.every_second = self.operations.snapshots.rates.sample
        self.listeners: list[Listener] = []
        self.http: HttpService | None = None  # there is one where `http_port` is set
        self._services: trio.Nursery | None = None
        self._connections: trio.Nursery | None = None
        self._listening: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def addresses(self) -> list[str]:
        """The URLs that are listened on, with the path of the first endpoint."""
        path = next(iter(self.admission.door.endpoints))
        return [listener.url + path for listener in self.listeners]

    @property
    def control_addresses(self) -> list[str]:
        """The URLs that operators connect to."""
        return [listener.url + CONTROL_PATH for listener in self.control.listeners]

    @property
    def http_addresses(self) -> list[str]:
        """The URLs of health, metrics, REST and dashboard; none where HTTP is off."""
        return [] if self.http is None else self.http.urls

    @property
    def statistics(self) -> Statistics:
        """What has been counted since the start; live, not a copy."""
        return self.harbor.statistics

    @property
    def from_thread(self) -> ThreadPort:
        """The same operations for synchronous code in another thread."""
        assert self._token is not None  # noqa: S101 - `open_supervisor` has set it
        return ThreadPort(self, self._token)

    # Connections

    def connections(self) -> tuple[Connection, ...]:
        """Return all connections, oldest first."""
        return tuple(self.harbor.registry)

    def connection(self, connection_id: str) -> Connection | None:
        """Return a connection by its id; None if there is none, or no longer."""
        return self.harbor.registry.by_id.get(connection_id)

    def connections_of(self, user_id: str | int) -> tuple[Connection, ...]:
        """Return all connections of a user, oldest first."""
        return self.harbor.registry.of_user(str(user_id))

    def serve_transport(self, transport: Transport) -> None:
        """Serve a client that came by other means than a listener, such as a memory transport."""
        assert self._connections is not None  # noqa: S101 - `open_supervisor` has set it
        self._connections.start_soon(self.admission.serve, transport)

    def serve_control(self, transport: Transport) -> None:
        """Serve an operator that came by other means than a listener; needs an admin's token."""
        self.control.serve(transport)

    def tasks(self) -> tuple[list[trio.lowlevel.Task], list[trio.lowlevel.Task]]:
        """Return the tasks that listen, and those that serve everybody; for the tree of actors."""
        listening = () if self._listening is None else self._listening.child_tasks
        services = () if self._services is None else self._services.child_tasks
        return list(listening), list(services)

    def disconnect_user(
        self, user_id: str | int, reason: str = "", *, cause: CloseCause = CloseCause.DISCONNECTED
    ) -> int:
        """Close all connections of a user; returns how many those are."""
        connections = self.connections_of(user_id)
        return sum(connection.end(cause, reason=reason or None) for connection in connections)

    # Messages

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish a message to a topic's subscribers, but the connections of the ids in `exclude`.

        Returns how many are addressed. ProtocolError: the topic, the type or the data cannot be
        sent.
        """
        return self.harbor.broadcast_to_topic(topic, message_type, data, exclude=exclude)

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send a message to all connections of a user; returns how many those are.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self.harbor.send_to_user(user_id, message_type, data)

    def send_to_connection(self, connection_id: str, message_type: str, data: Any = None) -> bool:
        """Send a message to one connection; returns False if there is none of that id.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self.harbor.send_to_connection(connection_id, message_type, data)

    def subscribe_user(self, user_id: str | int, topic: str) -> int:
        """Subscribe all connections of a user to a topic; returns how many are new to it.

        RemoteProtocolError: a limit. Those before it stay subscribed.
        """
        return sum(session.subscribe(topic) for session in self._sessions_of(user_id))

    def unsubscribe_user(self, user_id: str | int, topic: str) -> int:
        """Undo all subscriptions of a user to a topic; returns how many there were."""
        return sum(session.unsubscribe(topic) for session in self._sessions_of(user_id))

    def _sessions_of(self, user_id: str | int) -> Iterator[Session]:
        connections = self.connections_of(user_id)
        return (connection for connection in connections if isinstance(connection, Session))

    # Draining

    def suspend(self) -> None:
        """Let nobody in any more: newcomers get 503. What is connected stays."""
        if not self.admission.suspended:
            self.admission.suspended = True
            self._log("info", "suspended", connections=len(self.harbor.registry))

    def resume(self) -> None:
        """Let clients in again."""
        self.harbor.on_late_arrival = None
        if self.admission.suspended:
            self.admission.suspended = False
            self._log("info", "resumed", connections=len(self.harbor.registry))

    async def drain(self, timeout: float | None = None) -> int:  # noqa: ASYNC109 - part of what is asked for, and returns a result
        """Suspend, say goodbye to everyone in batches, and wait for them to leave.

        Every client is told its own `reconnect_after`, spread so that the fleet takes back
        `reconnect_rate` a second. Returns how many are left after `timeout` seconds, by default
        `drain_timeout`. Cancelling is safe: those told to leave still go.
        """
        timeout = self.settings.drain_timeout if timeout is None else timeout
        self.suspend()
        connections = self.connections()
        self._log("info", "draining", connections=len(connections), timeout=timeout)
        send_away = partial(_send_away, max(1.0, len(connections) / self.settings.reconnect_rate))
        self.harbor.on_late_arrival = send_away
        with trio.move_on_after(timeout):
            for count, connection in enumerate(connections, 1):
                send_away(connection)
                if count % _GOODBYES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            await self.wait_empty()
        self._log("info", "drained", left=len(self.harbor.registry))
        return len(self.harbor.registry)

    async def wait_empty(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        await self.harbor.wait_empty()

    async def stop(self) -> None:
        """End everything: listeners at once, connections with a goodbye within `close_timeout`.

        It cannot be cancelled, and takes no longer than `close_timeout` and a second, twice. The
        `async with open_supervisor` block is ended too: what follows there is cancelled at its
        next checkpoint.
        """
        # The nurseries that are cancelled here surround the caller too, in most programs.
        with trio.CancelScope(shield=True):
            await self._stop()

    async def _stop(self) -> None:
        self.suspend()
        for listener in (*self.listeners, *self.control.listeners):
            listener.close()
        if self._listening is not None:
            self._listening.cancel_scope.cancel()
        self.harbor.on_late_arrival = _stop
        for connection in self.connections():
            _stop(connection)
        with trio.move_on_after(self.settings.close_timeout + 1):
            await self.wait_empty()
        if self._connections is not None:
            self._connections.cancel_scope.cancel()
        await self.control.stop()

    async def serve_until_signal(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the draining short."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                self._log("info", "signal", signal=signal.Signals(number).name)
                break
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain_within, nursery.cancel_scope)
                async for number in signals:
                    self._log("warning", "stopping", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
                    break

    async def _drain_within(self, scope: trio.CancelScope) -> None:
        await self.drain()
        scope.cancel()

    # The nurseries

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the nurseries, with listeners open; leaving it stops the server."""
        failure: Exception | None = None  # of the `async with` block, which asked for no nursery
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self.harbor.tick)
        try:
            self.listeners = await open_listeners(self.settings)
            self.control.listeners = await open_control_listeners(self.settings)
            self.http = await _open_http(self)
            async with trio.open_nursery() as services:
                self._services = services
                services.start_soon(self.harbor.router.deliver, name="delivery")
                services.start_soon(self.harbor.events.deliver, name="delivery of events")
                if self.http is not None:
                    services.start_soon(self.http.run, name="HTTP")
                async with (
                    trio.open_nursery() as self.harbor.nursery,  # waits for the last callbacks
                    trio.open_nursery() as self.control.nursery,
                    trio.open_nursery() as self._connections,
                    trio.open_nursery() as self._listening,
                ):
                    for listener in self.listeners:
                        name = f"listener on {listener.url}"
                        self._listening.start_soon(self._accept, listener, name=name)
                    for listener in self.control.listeners:
                        name = f"control listener on {listener.url}"
                        self._listening.start_soon(self.control.accept, listener, name=name)
                    for address in self.addresses:
                        self._log("info", "listening", address=address)
                    self._warn_of_closed_doors()
                    for address in self.control_addresses:
                        self._log("info", "control_listening", address=address)
                    for address in self.http_addresses:
                        self._log("info", "http_listening", address=address)
                    try:
                        yield
                    except Exception as error:  # noqa: BLE001 - raised again below, as it was
                        failure = error
                    await self.stop()
                services.cancel_scope.cancel()
        finally:
            for listener in (*self.listeners, *self.control.listeners):
                listener.close()
            if self.http is not None:
                self.http.close()
            trio.lowlevel.remove_instrument(self.harbor.tick)
        if failure is not None:
            raise failure

    def _warn_of_closed_doors(self) -> None:
        """Say which endpoints let nobody in: they need a token, and no key can verify one."""
        if self.settings.development:
            for path, endpoint in self.admission.door.endpoints.items():
                if endpoint.require_auth:
                    self._log("warning", "no_key", path=path)

    async def _accept(self, listener: Listener) -> None:
        assert self._connections is not None  # noqa: S101 - `running` has set it
        connections = self._connections
        name = f"{CLIENT_OF}listener on {listener.url}"

        def start(connected: socket.socket, peer: str) -> None:
            transport = self.admission.transport(connected, peer, listener.tls)
            if transport is not None:
                connections.start_soon(self.admission.serve, transport, name=name)

        await listener.accept_all(start, self._on_exhausted)

    def _on_exhausted(self, error: OSError) -> None:
        self.statistics.exhausted += 1
        self._log("error", "accept_failed", error=error.strerror)

    def _log(self, level: str, event: str, **fields: Any) -> None:
        self.harbor.log_event(level, event, **fields)


@asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None, app: App | None = None, *, logger: Logger | None = None
) -> AsyncGenerator[Supervisor]:
    """Serve, for as long as the `async with` block lasts; yields the running `Supervisor`.

    Leaving the block stops the server: every connection gets a goodbye, within `close_timeout`.
    Call `drain` before, to let clients move over. `logger` is structlog's where none is given, and
    writes to standard error where structlog is not configured.
    ConfigurationError: a setting cannot be used, such as a port that is taken.
    """
    settings = settings or Settings()
    supervisor = Supervisor(settings, app or App(), logger or default_logger())
    async with supervisor.running():
        yield supervisor


def _send_away(spread: float, connection: Connection) -> None:
    """Let a connection end, and its client come back at some time within `spread` seconds."""
    if isinstance(connection, Session):
        after = round(random.uniform(0.0, spread), 3)  # noqa: S311 - spreads a load
        connection.disconnect(cause=CloseCause.DRAINED, reconnect_after=after)
    else:
        connection.end(CloseCause.DRAINED)


def _stop(connection: Connection) -> None:
    connection.end(CloseCause.STOPPED)


async def _open_http(supervisor: Supervisor) -> HttpService | None:
    """Open the HTTP listener, where there is to be one."""
    if supervisor.settings.http_port is None:
        return None
    # Imported when needed: the ASGI stack takes longer to import than all the rest together.
    from .http.service import HttpService  # noqa: PLC0415

    return await HttpService.open(supervisor)
