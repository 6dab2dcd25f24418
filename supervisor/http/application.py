"""The application that Hypercorn serves: routes, and what is done about errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from ...protocol.errors import ProtocolError
from ...protocol.messages.codec import encode_value
from .bearer import Access
from .headers import PAGE_POLICY, SecureHeaders
from .idempotency import IdempotencyMemory
from .metrics import metrics_endpoint
from .openapi import document
from .probes import healthz, readyz
from .publishing import publish_endpoint
from .refusals import Refused, on_failure, on_http_exception, on_protocol_error, on_refused
from .relay import control_endpoint
from .rest import ENDPOINTS, admin_endpoint

if TYPE_CHECKING:
    from ..supervisor import Supervisor

_STATIC: Final = Path(__file__).parent / "static"

_FILES: Final = {
    "/dashboard": ("index.html", "text/html"),
    "/dashboard/style.css": ("style.css", "text/css"),
    "/dashboard/main.js": ("main.js", "text/javascript"),
    "/dashboard/session.js": ("session.js", "text/javascript"),
    "/dashboard/charts.js": ("charts.js", "text/javascript"),
    "/dashboard/views.js": ("views.js", "text/javascript"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The dashboard: every file by name, so that no path of a request ever reaches the disk."""


def application(supervisor: Supervisor) -> Starlette:
    """Return the application for one server."""
    origins = {origin.lower() for origin in supervisor.settings.allowed_origins}
    access = Access(supervisor.harbor.verify, frozenset(origins - {"*", "null"}))
    memory = IdempotencyMemory(trio.current_time)
    routes: list[BaseRoute] = [
        Route("/healthz", healthz(supervisor), methods=["GET"]),
        Route("/readyz", readyz(supervisor), methods=["GET"]),
        Route("/metrics", metrics_endpoint(supervisor), methods=["GET"]),
        Route("/openapi.json", _constant(encode_value(document()), "application/json")),
        Route("/api/publish", publish_endpoint(supervisor, access, memory), methods=["POST"]),
        WebSocketRoute("/control", control_endpoint(supervisor, access)),
        Route("/", _to_dashboard, methods=["GET"]),
    ]
    routes += [
        Route(row.path, admin_endpoint(row, supervisor.operations, access), methods=[row.method])
        for row in ENDPOINTS
    ]
    routes += [
        Route(path, _constant((_STATIC / name).read_bytes(), kind), methods=["GET"])
        for path, (name, kind) in _FILES.items()
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(SecureHeaders)],
        exception_handlers={
            Refused: on_refused,
            ProtocolError: on_protocol_error,
            HTTPException: on_http_exception,
            Exception: on_failure,
        },
    )


def _constant(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers with the same content every time."""
    headers = {"Content-Security-Policy": PAGE_POLICY} if media_type == "text/html" else None

    async def constant(_request: Request) -> Response:
        return Response(content, 200, headers, media_type)

    return constant


async def _to_dashboard(_request: Request) -> Response:
    return RedirectResponse("/dashboard")
