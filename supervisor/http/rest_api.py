"""The REST interface: the commonest admin commands as HTTP requests, done by `Operations`.

Each row of `ROUTES` gives one command a path; everything else is in the command's own row. The
application's routes and the OpenAPI document are made of both.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, get_type_hints

import attrs
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...actors.session.admin_session import encode_answer
from ...protocol.admin import commands
from ...protocol.admin.commands import Command, read_raw_request, read_request
from ...protocol.messages.codec import check_raw
from ..operations.operations import Caller, Operations
from .authorization import Authorizer
from .request_data import check_json_text, read_body, read_query

BASE: Final = "/api/admin/websockets"


@attrs.frozen
class RestRoute:
    """One admin command as a request: a GET with a query, or a POST with a body."""

    command: Command[Any, Any]
    # Fields of the command's request may be in the path, in braces.
    path: str

    @property
    def method(self) -> str:
        """The HTTP method: GET for what changes nothing."""
        return "POST" if self.command.changes else "GET"

    @property
    def query(self) -> Mapping[str, Any]:
        """The types of the query's parameters, by name: what is neither in the path nor a body."""
        if self.method == "POST":
            return {}
        fields = get_type_hints(self.command.request)
        return {name: kind for name, kind in fields.items() if f"{{{name}}}" not in self.path}


ROUTES: Final = (
    RestRoute(commands.STATS, f"{BASE}/stats"),
    RestRoute(commands.CONNECTIONS, f"{BASE}/connections"),
    RestRoute(commands.CONNECTION, f"{BASE}/connections/{{connection_id}}"),
    RestRoute(commands.TOPICS, f"{BASE}/topics"),
    RestRoute(commands.HEALTH, f"{BASE}/health"),
    RestRoute(commands.DISCONNECT, f"{BASE}/disconnect"),
    RestRoute(commands.CLEANUP, f"{BASE}/cleanup"),
    RestRoute(commands.BROADCAST, f"{BASE}/broadcast"),
)
"""The commands that are requests too; the others are on the control socket only."""


def rest_endpoint(
    route: RestRoute, operations: Operations, authorizer: Authorizer
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that answers one of the requests."""
    command, known = route.command, route.query

    async def answer(request: Request) -> Response:
        identity = authorizer.admin(request)
        query = read_query(request, known)
        if route.method == "GET":
            asked = read_request({**query, **request.path_params}, command.request)
        else:
            body = await read_body(request)
            check_json_text(request, body)
            check_raw(msgspec.Raw(body))
            asked = read_raw_request(body, command.request)
        address = request.client.host if request.client is not None else "HTTP"
        caller = Caller(by=f"{identity.user_id} at {address}")
        result = operations.run(command, asked, caller)
        if inspect.isawaitable(result):
            result = await result
        return Response(await encode_answer(result), media_type="application/json")

    return answer
