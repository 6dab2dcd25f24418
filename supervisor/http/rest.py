"""The REST face of the admin commands: what scripts ask for, answered by `Operations`.

Each row of `ENDPOINTS` is one request: where it goes, what it may say, what it is answered with.
The application's routes and the OpenAPI document are both made of these rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
from starlette.requests import Request
from starlette.responses import Response

from ...protocol.admin import answers, commands
from .bearer import Access
from .inputs import read_body, read_json, read_query
from .refusals import json_response

if TYPE_CHECKING:
    from ..operations.operations import Operations

BASE: Final = "/api/admin/websockets"

Do = Callable[["Operations", dict[str, Any], str], Any]
"""What does it: the operations, what is asked, and who asks; what it returns may be awaitable."""


@attrs.frozen
class Endpoint:
    """One request of the REST face."""

    method: str
    path: str
    summary: str
    # The payload class of the query (GET) or of the body (POST), and of the answer.
    asks: type[Any]
    answers: type[Any]
    do: Do

    @property
    def query(self) -> tuple[str, ...]:
        """The names of the query's parameters; what is in the path is none."""
        names = (attribute.name for attribute in attrs.fields(self.asks))
        return tuple(name for name in names if f"{{{name}}}" not in self.path)


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        f"{BASE}/stats",
        "All that is counted, at a glance.",
        commands.Nothing,
        answers.Stats,
        lambda operations, _asked, _by: operations.stats(),
    ),
    Endpoint(
        "GET",
        f"{BASE}/connections",
        "A page of connections, oldest first; the filters narrow each other.",
        commands.Connections,
        answers.ConnectionsPage,
        lambda operations, asked, _by: operations.connections(**asked),
    ),
    Endpoint(
        "GET",
        f"{BASE}/connections/{{connection_id}}",
        "One connection, whole.",
        commands.Connection,
        answers.ConnectionDetail,
        lambda operations, asked, _by: operations.connection(**asked),
    ),
    Endpoint(
        "GET",
        f"{BASE}/topics",
        "A page of the topics that have subscribers, by name.",
        commands.Topics,
        answers.TopicsPage,
        lambda operations, asked, _by: operations.topics(**asked),
    ),
    Endpoint(
        "GET",
        f"{BASE}/health",
        "Whether the server lives, whether it is ready for new clients, and why not.",
        commands.Nothing,
        answers.Health,
        lambda operations, _asked, _by: operations.health(),
    ),
    Endpoint(
        "POST",
        f"{BASE}/disconnect",
        "Close connections: those of `connection_ids`, of a `user_id`, or of a `topic`.",
        commands.Disconnect,
        answers.Disconnected,
        lambda operations, asked, by: operations.disconnect(**asked, by=by),
    ),
    Endpoint(
        "POST",
        f"{BASE}/cleanup",
        "Ask those who have been quiet for a sign of life, and close who gives none.",
        commands.Cleanup,
        answers.CleanedUp,
        lambda operations, asked, by: operations.cleanup(**asked, by=by),
    ),
    Endpoint(
        "POST",
        f"{BASE}/broadcast",
        "Send a message to the subscribers of a `topic`, to a `user_id`, or to `everyone`.",
        commands.Broadcast,
        answers.Broadcasted,
        lambda operations, asked, by: operations.broadcast(**asked, by=by),
    ),
)


def admin_endpoint(
    endpoint: Endpoint, operations: Operations, access: Access
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers one of the requests."""

    async def answer(request: Request) -> Response:
        identity = access.admin(request)
        if endpoint.method == "GET":
            asked = {**read_query(request, endpoint.query), **request.path_params}
        else:
            read_query(request, ())
            body = read_json(request, await read_body(request))
            payload = commands.read_command(body, endpoint.asks)
            asked = attrs.asdict(payload, recurse=False)
        address = request.client.host if request.client is not None else "HTTP"
        result = endpoint.do(operations, asked, f"{identity.user_id} at {address}")
        if inspect.isawaitable(result):
            result = await result
        return json_response(result)

    return answer
