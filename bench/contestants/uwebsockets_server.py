"""uWebSockets (C++) through `socketify`, with its native subscriptions and fan-out."""

import sys

from envelope import decode, message, publication, subscribed, topics_of, welcome
from socketify import App, AppListenOptions, CompressOptions, OpCode, WebSocket

app = App()


def greet(socket: WebSocket) -> None:
    """Send the welcome."""
    socket.send(welcome(), OpCode.TEXT)


def answer(socket: WebSocket, payload: str, _opcode: OpCode) -> None:
    """Act on one message."""
    request = decode(payload)
    if request.type == "data":
        app.publish(request.topic, publication(request), OpCode.TEXT)
    elif request.type == "ping":
        socket.send(message("pong", request), OpCode.TEXT)
    elif request.type == "subscribe":
        for topic in topics_of(request):
            socket.subscribe(topic)
            socket.send(subscribed(request, topic), OpCode.TEXT)


app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 65_536,
        "max_backpressure": 64 * 1024 * 1024,  # its default of 64 KiB silently drops messages
        "idle_timeout": 120,
        "send_pings_automatically": True,
        "open": greet,
        "message": answer,
    },
)
app.listen(AppListenOptions(port=int(sys.argv[-1]), host="127.0.0.1"))
app.run()
