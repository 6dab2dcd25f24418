"""The probes of an orchestrator or load balancer: is it alive, and may clients be sent here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from .refusals import json_response

if TYPE_CHECKING:
    from ..supervisor import Supervisor

Probe = Callable[[Request], Awaitable[Response]]


def healthz(_supervisor: Supervisor) -> Probe:
    """Return what answers that the event loop turns: a process that cannot should be restarted."""

    async def alive(_request: Request) -> Response:
        return json_response({"status": "alive"})

    return alive


def readyz(supervisor: Supervisor) -> Probe:
    """Return what answers 200, or 503 and why not: suspended, draining, full, loop lag."""

    async def ready(_request: Request) -> Response:
        health = supervisor.operations.health()
        if health.ready:
            return json_response({"status": "ready", "reasons": []})
        return json_response({"status": "not ready", "reasons": health.reasons}, 503)

    return ready
