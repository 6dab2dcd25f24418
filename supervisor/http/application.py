"""The application that Hypercorn serves: its routes, and the responses to errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from ...protocol.errors import ProtocolError
from ...protocol.loopback import LOOPBACK
from ...protocol.messages.codec import encode_value
from ..core import ServerCore
from ..operations.admin_sessions import AdminSessions
from ..operations.operations import Operations
from .authorization import Authorizer, OfThisMachine
from .control_websocket import control_endpoint
from .headers import PAGE_POLICY, SecureHeaders
from .idempotency import IdempotencyMemory
from .metrics import metrics_endpoint
from .openapi import document
from .probes import healthz, readyz
from .publishing import publish_endpoint
from .responses import (
    RequestRefused,
    on_failure,
    on_http_exception,
    on_protocol_error,
    on_refused,
)
from .rest_api import ROUTES, rest_endpoint

_STATIC: Final = Path(__file__).parent / "static"

_FILES: Final = {
    "/dashboard": ("index.html", "text/html"),
    "/dashboard/style.css": ("style.css", "text/css"),
    "/dashboard/main.js": ("main.js", "text/javascript"),
    "/dashboard/session.js": ("session.js", "text/javascript"),
    "/dashboard/freshness.js": ("freshness.js", "text/javascript"),
    "/dashboard/charts.js": ("charts.js", "text/javascript"),
    "/dashboard/views.js": ("views.js", "text/javascript"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the dashboard, by path: no path of a request ever reaches the disk."""


def application(
    core: ServerCore, operations: Operations, admin_sessions: AdminSessions
) -> Starlette:
    """Return the application of one server."""
    origins = core.parts.settings.origins
    # `*` and `loopback` are for clients, and a sandboxed page calls itself `null`: none of them
    # names a page.
    authorizer = Authorizer(core.parts.hub.verify, origins - {"*", LOOPBACK, "null"})
    middleware = [Middleware(SecureHeaders)]
    if LOOPBACK in origins:
        middleware.append(Middleware(OfThisMachine, origins - {"*"}))
    memory = IdempotencyMemory(trio.current_time)
    routes: list[BaseRoute] = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz(operations), methods=["GET"]),
        Route("/metrics", metrics_endpoint(core.parts, operations), methods=["GET"]),
        Route("/openapi.json", _constant(encode_value(document()), "application/json")),
        Route("/api/publish", publish_endpoint(core.parts, authorizer, memory), methods=["POST"]),
        WebSocketRoute("/control", control_endpoint(admin_sessions, authorizer)),
        Route("/", _to_dashboard, methods=["GET"]),
    ]
    routes += [
        Route(row.path, rest_endpoint(row, operations, authorizer), methods=[row.method])
        for row in ROUTES
    ]
    routes += [
        Route(path, _constant((_STATIC / name).read_bytes(), kind), methods=["GET"])
        for path, (name, kind) in _FILES.items()
    ]
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            RequestRefused: on_refused,
            ProtocolError: on_protocol_error,
            HTTPException: on_http_exception,
            Exception: on_failure,
        },
    )


def _constant(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that always answers with this content."""
    headers = {"Content-Security-Policy": PAGE_POLICY} if media_type == "text/html" else None

    async def constant(_request: Request) -> Response:
        return Response(content, 200, headers, media_type)

    return constant


async def _to_dashboard(_request: Request) -> Response:
    return RedirectResponse("/dashboard")
