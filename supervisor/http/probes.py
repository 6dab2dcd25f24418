"""The probes of orchestrators and load balancers: `/healthz` for life, `/readyz` for readiness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ..operations.operations import Operations
from .responses import json_response

Probe = Callable[[Request], Awaitable[Response]]


async def healthz(_request: Request) -> Response:
    """Answer that the event loop turns; a process that cannot should be restarted."""
    return json_response({"status": "alive"})


def readyz(operations: Operations) -> Probe:
    """Return the endpoint that answers 200, or 503 with the reasons why not."""

    async def ready(_request: Request) -> Response:
        health = operations.health()
        if health.ready:
            return json_response({"status": "ready", "reasons": []})
        return json_response({"status": "not ready", "reasons": health.reasons}, 503)

    return ready
