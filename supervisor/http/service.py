"""The HTTP listener: Hypercorn and its application, as a service beside the connections.

It ends with the supervisor, and ends nothing else when it fails: that is one log line, and it is
started again on the same sockets a moment later.

Hypercorn shields what it writes from being cancelled, so a client that takes nothing could hold a
task for as long as it likes. The kernel ends that: `TCP_USER_TIMEOUT`, set on the listening socket
and inherited by what it accepts, breaks a connection on which nothing was taken for so long.
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import Any, Final

import attrs
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from ...actors.containment import Boundary, contain
from ..config.settings import Settings
from ..core import ServerCore
from ..entrance.descriptors import Shortage
from ..entrance.listeners import Listener, open_tcp_listeners
from ..operations.admin_sessions import MAX_COMMAND, AdminSessions
from ..operations.operations import Operations
from ..parts import Parts
from ..telemetry.logs import EventLog
from .application import application
from .http_connections import HttpConnections

_RESTART_DELAYS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between a failure and the next start; the last one for all further failures."""

_STEADY: Final = 60.0
"""Seconds without a failure, after which the next one counts as the first."""

_READ_TIMEOUT_IDLE: Final = 15
"""Seconds that a kept-alive connection may wait for its next request."""

_MAX_HEAD: Final = 16_384
"""Bytes of a request's line and headers."""


@attrs.define(eq=False)
class HttpService:
    """Serves health, metrics, REST and dashboard, where `http_port` is set."""

    parts: Parts
    listeners: list[Listener]
    # Made once: a restart must not forget the answers to requests with an `Idempotency-Key`.
    _app: Starlette
    connections: HttpConnections = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.parts.settings
        self.connections = HttpConnections(
            self._contained_app,
            _config(settings, _Forwarder(self.parts.log)),
            limit=settings.max_http_connections,
            on_full=self._note_full,
            shortage=Shortage(self._log_event, self.parts.statistics),
            on_failure=self._note_failure,
        )

    @classmethod
    async def open(
        cls, core: ServerCore, operations: Operations, admin_sessions: AdminSessions
    ) -> HttpService:
        """Listen where the settings say; ConfigurationError names a setting that cannot be used."""
        settings = core.parts.settings
        assert settings.http_port is not None  # noqa: S101 - the caller has looked
        listeners = await open_tcp_listeners(
            settings.http_host,
            settings.http_port,
            settings.backlog,
            "https" if settings.http_tls else "http",
            prefix="http_",
            log_event=core.parts.log.write,
        )
        for listener in listeners:
            _bound_writes(listener.socket, settings.write_timeout)
        return cls(core.parts, listeners, application(core, operations, admin_sessions))

    @property
    def urls(self) -> list[str]:
        """The URLs that are listened on, without a final slash."""
        return [listener.url for listener in self.listeners]

    def close(self) -> None:
        """Stop listening."""
        for listener in self.listeners:
            listener.close()

    async def run(self) -> None:
        """Serve until cancelled. No failure leaves this method."""
        task = trio.lowlevel.current_task()
        failures = 0
        while True:
            started = trio.current_time()
            try:
                await self.connections.serve(self.listeners)
                continue
            except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                if trio.current_time() - started > _STEADY:
                    failures = 0
                delay = _RESTART_DELAYS[min(failures, len(_RESTART_DELAYS) - 1)]
                failures += 1
                contain(error, partial(self._on_failure, delay), task)
            await trio.sleep(delay)

    def _on_failure(self, delay: float, error: BaseException) -> None:
        self.parts.log.write("error", "http_failed", exc_info=error, restart_after=delay)

    async def _contained_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Hypercorn would end the connection for what is no `Exception`."""
        with Boundary(partial(self._on_request_failed, scope)):
            await self._app(scope, receive, send)

    def _on_request_failed(self, scope: Scope, error: BaseException) -> None:
        path = scope.get("path")
        text = f"the request failed: {type(error).__name__}"
        self.parts.log.write("error", "http_request_failed", error=text, path=path, exc_info=error)

    def _note_full(self) -> None:
        self.parts.log.write("warning", "http_full", connections=len(self.connections))

    def _log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line; `http_` tells it from lines about clients."""
        self.parts.log.write(level, f"http_{event}", **fields)

    def _note_failure(self, error: BaseException) -> None:
        self.parts.log.write("error", "http_request_failed", error=str(error), exc_info=error)


def _config(settings: Settings, handler: logging.Handler) -> Config:
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.h11_max_incomplete_size = _MAX_HEAD
    config.include_server_header = False
    config.keep_alive_timeout = _READ_TIMEOUT_IDLE
    config.ssl_handshake_timeout = settings.handshake_timeout
    config.websocket_max_message_size = MAX_COMMAND  # the one WebSocket route is `/control`
    if settings.http_tls:
        config.certfile = str(settings.tls_certificate)
        config.keyfile = str(settings.tls_key or settings.tls_certificate)
    logger = logging.Logger("moorage.http", logging.WARNING)  # noqa: LOG001 - nobody else's
    logger.addHandler(handler)
    config.errorlog = logger
    return config


class _Forwarder(logging.Handler):
    """Writes Hypercorn's log records to the server's own log."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {}
        if record.exc_info is not None and record.exc_info[1] is not None:
            fields["exc_info"] = record.exc_info[1]
        level = record.levelname.lower()
        self._log.write(level, "http_request_failed", error=record.getMessage(), **fields)


def _bound_writes(listening: socket.socket, seconds: float) -> None:
    """Let the kernel break connections that take no bytes, or whose peer is gone."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds)))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 3)))
