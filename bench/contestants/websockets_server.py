"""`websockets` on asyncio, with the fan-out that its documentation recommends: `broadcast()`.

With `--jwt-key` it verifies the token of each opening handshake, for the comparison in `connect`.
"""

import argparse
import asyncio
import http

import jwt
from envelope import Envelope, decode, message, publication, subscribed, topics_of, welcome
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

subscribers: dict[str, set[ServerConnection]] = {}


async def answer(connection: ServerConnection, request: Envelope) -> None:
    """Act on one message."""
    if request.type == "data":
        text = publication(request).decode()
        broadcast(subscribers.get(request.topic, ()), text)
    elif request.type == "ping":
        await connection.send(message("pong", request), text=True)
    elif request.type == "subscribe":
        for topic in topics_of(request):
            subscribers.setdefault(topic, set()).add(connection)
            await connection.send(subscribed(request, topic), text=True)


async def handle(connection: ServerConnection) -> None:
    """Serve one connection until it ends."""
    try:
        await connection.send(welcome(), text=True)
        async for payload in connection:
            await answer(connection, decode(payload))
    except ConnectionClosed:
        pass  # dropped without a Close frame: that needs no traceback in the log
    finally:
        for members in subscribers.values():
            members.discard(connection)


async def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jwt-key")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()

    def verify(connection: ServerConnection, request: Request) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            jwt.decode(token, arguments.jwt_key, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "bad token\n")
        return None

    async with serve(
        handle,
        "127.0.0.1",
        arguments.port,
        compression=None,
        backlog=1024,
        process_request=verify if arguments.jwt_key else None,
    ) as server:
        await server.serve_forever()


asyncio.run(main())
