"""The composition of a server: the nesting of its nurseries, and the order in which they end.

    open_server
      services nursery          delivery, HTTP; outermost, so that goodbyes are still delivered
        operators' nursery      admin sessions; operators can watch the end of all that follows
          callbacks, connections, listeners: the core's own nurseries; see `core.py`

The server shuts down from the inside out, in the order of the nesting. All of it runs in a task of
its own, beside the program's `async with` block. So the server can stop while the block goes on,
and the server stops when the block ends.

This module stands above HTTP, the operators' side and the core. HTTP knows the other two, the
operators' side knows the core, and the core knows neither of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import attrs
import trio

from .app import App
from .config.extras import require_http
from .config.settings import Settings
from .core import ServerCore
from .entrance.listeners import Listener, open_control_listeners, open_listeners
from .operations.admin_sessions import CONTROL_PATH, AdminSessions
from .operations.operations import Operations
from .parts import Parts, make_parts
from .supervisor import Supervisor
from .telemetry.logs import Logger, default_logger
from .telemetry.watchdog import TurnWatchdog

if TYPE_CHECKING:
    from .http.service import HttpService


@attrs.frozen
class Server:
    """A server and all that belongs to it, for this module and for tests."""

    core: ServerCore
    operations: Operations
    admin_sessions: AdminSessions
    http: HttpService | None  # None unless `http_port` is set
    listeners: tuple[Listener, ...]
    control_listeners: tuple[Listener, ...]
    supervisor: Supervisor  # for the program
    watchdog: TurnWatchdog

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until a stop is requested, and then end everything, from the inside out.

        Reports `task_status` when clients are let in. Cancelling is safe: every connection still
        gets its goodbye, within `close_timeout`.
        """
        core = self.core
        parts = core.parts
        trio.lowlevel.add_instrument(parts.tick)
        self.watchdog.start()
        try:
            async with trio.open_nursery() as services:
                parts.nurseries.services = services
                core.start_service(parts.admission.poller.run, "poller")
                core.start_service(parts.router.deliver, "delivery")
                core.start_service(self.operations.events.deliver, "delivery of events")
                core.start_service(parts.endings.watch, "watch of endings")
                if self.http is not None:
                    core.start_service(self.http.run, "HTTP")
                async with (
                    self.admin_sessions.serving(self.control_listeners),
                    core.serving(self.listeners),
                ):
                    for address in core.control_addresses:
                        parts.log.write("info", "control_listening", address=address)
                    for address in core.http_addresses:
                        parts.log.write("info", "http_listening", address=address)
                    task_status.started()
                    await core.stop_requested.wait()
                services.cancel_scope.cancel()
        finally:
            self.watchdog.end()
            trio.lowlevel.remove_instrument(parts.tick)
            core.note_stopped()

    def close(self) -> None:
        """Close all listening sockets."""
        for listener in (*self.listeners, *self.control_listeners):
            listener.close()
        if self.http is not None:
            self.http.close()


@asynccontextmanager
async def open_server(
    settings: Settings | None = None, app: App | None = None, *, logger: Logger | None = None
) -> AsyncGenerator[Server]:
    """Serve as `open_supervisor` does, and yield the server with all that belongs to it."""
    server = await _compose(settings or Settings(), app or App(), logger or default_logger())
    failure: BaseException | None = None  # of the block: the nursery must not wrap it in a group
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            try:
                yield server
            except BaseException as error:
                failure = _without_cancellations(error)
                if failure is None:
                    raise
            await server.core.stop()
    finally:
        server.close()
        if failure is not None:
            raise failure  # unchanged, also if the block was cancelled meanwhile


@asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None, app: App | None = None, *, logger: Logger | None = None
) -> AsyncGenerator[Supervisor]:
    """Serve for as long as the `async with` block lasts; yield the running `Supervisor`.

    Leaving the block stops the server: every connection gets a goodbye, within `close_timeout`.
    Call `drain` before, so that clients move to other servers. A program may also call `stop` in
    the block; the block then goes on. Without a `logger`, structlog's is used, which writes to
    standard error unless the program has configured it.

    ConfigurationError: a setting cannot be used, such as a port that is taken. An exception of the
    block comes out unchanged. Cancelling is safe: every connection still gets its goodbye.
    """
    async with open_server(settings, app, logger=logger) as server:
        yield server.supervisor


def _without_cancellations(error: BaseException) -> BaseException | None:
    """Return an exception without the cancellations in it; None if nothing else is in it.

    A GeneratorExit says that nobody waits for the block's end any more: it must pass at once.
    """
    if isinstance(error, trio.Cancelled | GeneratorExit):
        return None
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        cancelled, others = group.split(trio.Cancelled)
        return group if cancelled is None else others
    return error


async def _compose(settings: Settings, app: App, logger: Logger) -> Server:
    """Make a server's parts and open its sockets. ConfigurationError: a setting cannot be used."""
    core = ServerCore(make_parts(settings, app, logger))
    operations = Operations(core)
    admin_sessions = AdminSessions(core.parts, operations)
    opened: list[Listener] = []
    try:
        listeners = await open_listeners(settings, core.parts.log.write)
        opened += listeners
        control_listeners = await open_control_listeners(settings, core.parts.log.write)
        opened += control_listeners
        http = await _open_http(core, operations, admin_sessions)
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    core.hurry_operators = admin_sessions.hurry
    core.control_addresses = tuple(listener.url + CONTROL_PATH for listener in control_listeners)
    core.http_addresses = () if http is None else tuple(http.urls)
    return Server(
        core,
        operations,
        admin_sessions,
        http,
        tuple(listeners),
        tuple(control_listeners),
        Supervisor(core),
        _watchdog(core.parts, operations),
    )


def _watchdog(parts: Parts, operations: Operations) -> TurnWatchdog:
    """Return the watchdog of the loop; it looks for culprits among all connections."""
    return TurnWatchdog(
        parts.tick,
        parts.settings.slow_turn,
        parts.log,
        lambda: (*parts.hub.by_id.values(), *operations.sessions.values()),
    )


async def _open_http(
    core: ServerCore, operations: Operations, admin_sessions: AdminSessions
) -> HttpService | None:
    """Open the HTTP listener if `http_port` is set; ConfigurationError if it cannot be opened."""
    if core.parts.settings.http_port is None:
        return None
    require_http("http_port")
    # Imported when needed: the ASGI stack takes longer to import than all the rest together, and is
    # installed only with the extra `server`.
    from .http.service import HttpService  # noqa: PLC0415

    return await HttpService.open(core, operations, admin_sessions)
