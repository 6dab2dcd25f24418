"""The core: the tasks of all connections, and the verbs that change the state of the server.

    callbacks nursery         callbacks about connections that are over; each has its deadline
      connections nursery     one task for each connection, which has a nursery of its own
        listeners nursery     one accept loop for each listener; ends first, the others go on

Draining is three verbs, one after the other: `suspend` lets no new clients in, `drain` says goodbye
to all clients in batches, `stop` ends the connections that are left. The table in
`server_lifecycle.py` says which of them is possible in which state.

`server.py` runs what surrounds these nurseries: delivery tasks, operators' sessions, HTTP. The
tables are in `hub.py` and `topics/`, the way of one connection through the server is in
`entrance/admission.py`. A program holds the server by its `Supervisor`.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio

from ..actors.connection.connection import Connection
from ..actors.connection.pacer import in_turns
from ..actors.containment import Boundary, contain
from ..actors.transports.transport import Transport
from ..protocol.closing import CloseCause
from ..protocol.errors import MoorageError
from .config.exposure import exposures
from .drain import Drain
from .entrance.descriptors import LEAVE_TO_OPERATORS, Shortage, lack_of_descriptors
from .entrance.listeners import Listener
from .parts import Parts
from .server_lifecycle import ServerState
from .signals import ENDING, SignalHandlers
from .waiting import describe

CLIENT_OF: Final = "client of "
"""The beginning of the names of the clients' tasks; the name of the listener's task follows."""


_MOMENT: Final = 0.2
"""Seconds that goodbyes have after a second signal, and callbacks after that: enough for clients
that answer at once, and little for somebody who waits at a terminal."""


@attrs.define(eq=False)
class _Told:
    """What one call of `serve_until_signal` has been told by signals."""

    drain: Drain | None = None  # the one that the first signal has begun
    event: trio.Event = attrs.field(factory=trio.Event)  # set by the first signal


class ResumeRefused(MoorageError):
    """The server has not started, or has been told to stop; it cannot let clients in again."""


class ServerCore:
    """A running server. Its methods are synchronous unless they may wait."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.listeners: tuple[Listener, ...] = ()
        # The URLs for operators and for HTTP clients; `server.py` fills them in.
        self.control_addresses: tuple[str, ...] = ()
        self.http_addresses: tuple[str, ...] = ()
        # Lets the operators' goodbyes be over by that time, in trio's time; `server.py` sets it.
        self.hurry_operators: Callable[[float], None] = lambda _: None
        self.stop_requested = trio.Event()  # `server.py` waits for it
        self.stopped = trio.Event()
        self.token: trio.lowlevel.TrioToken | None = None  # of the event loop; set while serving
        self._hub = parts.hub
        self._lifecycle = parts.lifecycle
        self._log = parts.log.write
        self._shortage = Shortage(self._log, parts.statistics)
        self._drain: Drain | None = None  # the one under way, or else the latest one
        self._signals: SignalHandlers | None = None
        self._only_callbacks = False  # whether all connections are over, for good

    @property
    def state(self) -> ServerState:
        """The state of the server."""
        return self._lifecycle.state

    @property
    def addresses(self) -> list[str]:
        """The URLs that the server listens on, with the path of the first endpoint."""
        path = next(iter(self.parts.admission.authenticator.endpoints))
        return [listener.url + path for listener in self.listeners]

    def serve_transport(self, transport: Transport, name: str | None = None) -> None:
        """Serve a client, in a task of that name; close it if the server stops or has stopped."""
        if self.state.is_ending:
            transport.close()
            return
        connections = self.parts.nurseries.connections
        assert connections is not None  # noqa: S101 - `serving` has set it
        connections.start_soon(self.parts.admission.serve, transport, name=name)

    def start_service(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Start a task that serves the whole server, or must outlive its caller.

        If it fails, that is one log line, and ends nothing else.
        """
        services = self.parts.nurseries.services
        assert services is not None  # noqa: S101 - it is there while the server runs
        services.start_soon(self._run_service, function, name, name=name)

    async def _run_service(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        with Boundary(partial(self._on_service_failed, name)):
            await function()

    def _on_service_failed(self, name: str, error: BaseException) -> None:
        self._log("error", "service_failed", service=name, exc_info=error)

    # Draining

    def suspend(self) -> None:
        """Let no new clients in: they get 503. The connected ones stay."""
        if self.state is ServerState.SERVING:
            self._lifecycle.move(ServerState.SUSPENDED)
            self._log("info", "suspended", connections=len(self._hub))

    def resume(self) -> None:
        """Let clients in again, and end a draining that is under way.

        ResumeRefused: the server has not started, or has been told to stop; the text says which.
        """
        state = self.state
        if state is ServerState.SERVING:
            return
        if state in _RESUME_REFUSALS:
            raise ResumeRefused(_RESUME_REFUSALS[state])
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None  # it ends in its task's next turn; another may begin before that
        self._lifecycle.move(ServerState.SERVING)
        self._log("info", "resumed", connections=len(self._hub))

    async def drain(self, timeout: float | None = None) -> int:  # noqa: ASYNC109 - part of what is asked for, and returns a result
        """Do what `Supervisor.drain` says."""
        await self.start_drain(timeout).over.wait()
        return len(self._hub)

    def start_drain(self, timeout: float | None = None) -> Drain:
        """Begin to drain, as `drain` does, and return the draining, which can be waited for.

        ValueError: the timeout is negative, or not a number; nothing happens then.
        """
        drain = self._drain
        if drain is not None and drain.ended is None:
            return drain
        timeout = self.parts.settings.drain_timeout if timeout is None else timeout
        if not timeout >= 0:  # not a number fails this, too
            raise ValueError(f"a draining takes 0 seconds or more, not {timeout}")
        self.suspend()
        if self._lifecycle.may_move(ServerState.DRAINING):
            self._lifecycle.move(ServerState.DRAINING)
        drain = self._drain = Drain(self._hub, timeout)
        if self.state.is_ending:  # all clients have been told to leave, and tasks are ending
            drain.conclude()
            return drain
        self._log("info", "draining", connections=drain.total, timeout=timeout)
        self.start_service(partial(self._run_drain, drain), "drain")
        return drain

    async def _run_drain(self, drain: Drain) -> None:
        await drain.run()
        if not drain.finished:
            return  # it was ended by `resume`, by a second signal, or by `stop`
        if self.state is ServerState.DRAINING:
            self._lifecycle.move(ServerState.DRAINED)
        self._log("info", "drained", left=len(self._hub))

    async def stop(self) -> None:
        """End everything: listeners at once, connections with a goodbye within `close_timeout`.

        Returns when all has ended, or after twice (`close_timeout` + 1 s): if a task of the server
        itself calls it, such as a callback, it must not wait for its own end. In the latter case a
        log line names the tasks that have not ended. Cancelling is safe: the server stops all the
        same.
        """
        self.begin_stop()
        began = trio.current_time()
        with trio.move_on_after(2 * (self.parts.settings.close_timeout + 1)) as scope:
            await self.stopped.wait()
        if scope.cancelled_caught:
            seconds = round(trio.current_time() - began, 3)
            self._log("warning", "stop_overdue", seconds=seconds, tasks=describe(self._left()))

    def _left(self) -> list[trio.lowlevel.Task]:
        """Return the tasks for which a server that stops still waits."""
        nurseries = self.parts.nurseries
        # Services end last: they are waited for only when nothing else is left.
        for opened in ((nurseries.connections, self._hub.nursery), (nurseries.services,)):
            tasks = [task for one in opened if one is not None for task in one.child_tasks]
            if tasks:
                return tasks
        return []

    def begin_stop(self) -> None:
        """Close the listeners and ask `server.py` to end all tasks; a second call does nothing."""
        if not self._lifecycle.may_move(ServerState.STOPPING):
            return
        self._lifecycle.move(ServerState.STOPPING)
        self.stop_requested.set()
        if self._drain is not None:
            self._drain.cancel()
        for listener in self.listeners:
            listener.close()

    def note_stopped(self) -> None:
        """Enter the last state, after the last task has ended; for `server.py`."""
        self.begin_stop()
        self._lifecycle.move(ServerState.STOPPED)
        self._put_signals_back()
        self.stopped.set()

    # Signals

    async def serve_until_signal(
        self, observe: Callable[[signal.Signals], None] | None = None
    ) -> None:
        """Do what `Supervisor.serve_until_signal` says.

        `observe` is called with each signal by its handler, even if the event loop does not turn.
        """
        self._put_signals_back()
        if self.stopped.is_set():
            return
        told = _Told()
        self._signals = SignalHandlers(partial(self._hear, told), observe)
        drained = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when, self.stopped, nursery.cancel_scope)
                await told.event.wait()
                assert told.drain is not None  # noqa: S101 - the signal has begun it
                await told.drain.over.wait()
                drained = True
                nursery.cancel_scope.cancel()
        finally:
            if not drained:  # else the next signal is about the rest of the end
                self._put_signals_back()

    def _hear(self, told: _Told, number: signal.Signals) -> None:
        """Do what a signal asks for; `told` is about the signals of one call."""
        try:
            if number not in ENDING:
                self._log("info", "signal_ignored", signal=number.name)
            elif told.drain is None:
                self._log("info", "signal", signal=number.name)
                told.drain = self._terminate()
                told.event.set()
            else:
                self._log("warning", "stopping", signal=number.name)
                told.drain.cancel()
                self._hurry()
        except BaseException as error:  # noqa: BLE001 - Trio would end the whole run
            contain(error, partial(self._on_service_failed, "signals"))

    def _terminate(self) -> Drain:
        """Begin to drain for good."""
        self.suspend()
        if self._lifecycle.may_move(ServerState.TERMINATING):
            self._lifecycle.move(ServerState.TERMINATING)
        # A call that came before may have been cancelled while it drained: then this joins that
        # draining. A server that is stopping has nothing left to drain.
        drain = self.start_drain()
        drain.shorten(self.parts.settings.drain_timeout)
        return drain

    def _hurry(self) -> None:
        """Let all goodbyes be over in a moment, and all callbacks a moment after that."""
        if self._signals is not None:  # a further signal ends the process in the kernel's own way
            self._signals.put_back(ENDING)
        self._hub.end_by = deadline = trio.current_time() + _MOMENT
        for connection in self._hub:
            connection.hurry(deadline)
        self.hurry_operators(deadline)
        self._bound_callbacks()

    def _bound_callbacks(self) -> None:
        """If the server is in a hurry, and only callbacks are left, give them a moment."""
        nursery = self._hub.nursery
        if self._only_callbacks and nursery is not None:
            nursery.cancel_scope.deadline = self._hub.end_by + _MOMENT

    def _put_signals_back(self) -> None:
        if self._signals is not None:
            self._signals.put_back()
            self._signals = None

    @staticmethod
    async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    # The nurseries

    @asynccontextmanager
    async def serving(self, listeners: Iterable[Listener]) -> AsyncGenerator[None]:
        """Run the nurseries while the block runs; then end the listeners, then the connections.

        `server.py` runs what surrounds them.
        """
        nurseries = self.parts.nurseries
        self.listeners = tuple(listeners)
        self.token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._hub.nursery:  # waits for the last callbacks
            async with trio.open_nursery() as nurseries.connections:
                # What follows this nursery is outside: it would be cancelled with the listeners.
                async with trio.open_nursery() as nurseries.listeners:
                    for listener in self.listeners:
                        name = f"listener on {listener.url}"
                        nurseries.listeners.start_soon(self._accept, listener, name=name)
                    for address in self.addresses:
                        self._log("info", "listening", address=address)
                    self._warn_of_unreachable_endpoints()
                    self._warn_of_limits()
                    self._warn_of_exposures()
                    self._lifecycle.move(ServerState.SERVING)
                    try:
                        yield
                    finally:
                        self.begin_stop()  # also when this is cancelled: nobody is let in any more
                    nurseries.listeners.cancel_scope.cancel()
                await in_turns(self._hub, lambda one: one.end(CloseCause.STOPPED), Connection.fail)
                with trio.move_on_after(self.parts.settings.close_timeout + 1):
                    await self._hub.wait_empty()
                nurseries.connections.cancel_scope.cancel()
            self._only_callbacks = True
            self._bound_callbacks()

    def _warn_of_unreachable_endpoints(self) -> None:
        """Log the endpoints that let nobody in: they need a token, and no key can verify one."""
        if self.parts.settings.development:
            for path, endpoint in self.parts.admission.authenticator.endpoints.items():
                if endpoint.require_auth:
                    self._log("warning", "no_key", path=path)

    def _warn_of_limits(self) -> None:
        """Log the settings that cannot do what they say."""
        settings = self.parts.settings
        lack = lack_of_descriptors(settings)
        if lack is not None:
            self._log(
                "warning",
                "few_descriptors",
                limit=lack.limit,
                needed=lack.needed,
                max_total_connections=settings.max_total_connections,
                max_handshakes=settings.max_handshakes,
                advice=lack.advice,
            )
        if settings.connection_timeout <= settings.heartbeat_interval:
            self._log(
                "warning",
                "no_heartbeat",
                connection_timeout=settings.connection_timeout,
                heartbeat_interval=settings.heartbeat_interval,
                advice="quiet clients are closed before they are asked for a sign of life; let "
                "heartbeat_interval be the shorter one",
            )

    def _warn_of_exposures(self) -> None:
        """Log what can be abused: keys that can be guessed, and what the settings leave open."""
        for concern in self._hub.verifier.concerns:
            self._log("warning", "weak_key", concern=concern)
        for exposure in exposures(self.parts.settings):
            if exposure.serious:
                self._log("warning", "exposed", setting=exposure.setting, meaning=exposure.meaning)

    async def _accept(self, listener: Listener) -> None:
        name = f"{CLIENT_OF}listener on {listener.url}"

        def start(connected: socket.socket, peer: str) -> None:
            transport = self.parts.admission.transport(connected, peer, listener.tls)
            if transport is not None:
                self.serve_transport(transport, name)

        with Boundary(partial(self._on_listener_failed, listener)):
            await listener.accept_all(
                start,
                self._shortage,
                leave=LEAVE_TO_OPERATORS,
                make_room=self.parts.admission.handshakes.make_room,
            )

    def _on_listener_failed(self, listener: Listener, error: BaseException) -> None:
        self._log("error", "listener_failed", address=listener.url, exc_info=error)


_RESUME_REFUSALS: Final[dict[ServerState, str]] = {
    ServerState.STARTING: "this server has not started yet",
    ServerState.TERMINATING: "this server was told by a signal to stop, and is draining: it lets "
    "nobody in again; start it anew instead",
    ServerState.STOPPING: "this server is stopping; start it anew instead",
    ServerState.STOPPED: "this server has stopped; start it anew instead",
}
"""The states in which `resume` is refused, with the text of the refusal."""
