"""`trio-websocket`, as in its documentation: one awaited `send_message` for each subscriber."""

import sys

import trio
from envelope import Envelope, decode, message, publication, subscribed, topics_of, welcome
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

subscribers: dict[str, set[WebSocketConnection]] = {}


async def fan_out(request: Envelope) -> None:
    """Send one publication to all subscribers of its topic, except those that have gone."""
    text = publication(request).decode()
    for subscriber in tuple(subscribers.get(request.topic, ())):
        try:
            await subscriber.send_message(text)
        except ConnectionClosed:
            continue


async def answer(connection: WebSocketConnection, request: Envelope) -> None:
    """Act on one message."""
    if request.type == "data":
        await fan_out(request)
    elif request.type == "ping":
        await connection.send_message(message("pong", request).decode())
    elif request.type == "subscribe":
        for topic in topics_of(request):
            subscribers.setdefault(topic, set()).add(connection)
            await connection.send_message(subscribed(request, topic).decode())


async def handle(request: WebSocketRequest) -> None:
    """Serve one connection until it ends."""
    connection = await request.accept()
    try:
        await connection.send_message(welcome().decode())
        while True:
            await answer(connection, decode(await connection.get_message()))
    except ConnectionClosed:
        pass
    finally:
        for members in subscribers.values():
            members.discard(connection)


trio.run(serve_websocket, handle, "127.0.0.1", int(sys.argv[-1]), None)
