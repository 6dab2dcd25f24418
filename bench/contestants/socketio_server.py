"""`python-socketio` under uvicorn: topics are its rooms, an envelope is one `message` event.

Its packets are JSON of its own, so it decodes and encodes with the standard library, its default.
"""

import sys
from typing import Any

import socketio
import uvicorn
from envelope import timestamp

io = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], cors_allowed_origins="*")


@io.event
async def connect(sid: str, _environ: dict[str, Any]) -> None:
    """Send the welcome, from another task: sent here, it would come before the connect packet."""
    io.start_background_task(io.emit, "message", {"type": "welcome", "timestamp": timestamp()}, sid)


@io.event
async def message(sid: str, request: dict[str, Any]) -> None:
    """Act on one message."""
    stamped = {**request, "timestamp": timestamp()}
    if request["type"] == "data":
        await io.emit("message", stamped, room=request["topic"])
    elif request["type"] == "ping":
        await io.emit("message", stamped | {"type": "pong"}, to=sid)
    elif request["type"] == "subscribe":
        for topic in request["data"]["topics"]:
            await io.enter_room(sid, topic)
            reply = {"type": "subscribed", "topic": topic, "timestamp": timestamp()}
            await io.emit("message", reply, to=sid)


config = uvicorn.Config(
    socketio.ASGIApp(io),
    "127.0.0.1",
    int(sys.argv[-1]),
    backlog=1024,
    log_level="warning",
    ws_per_message_deflate=False,
)
uvicorn.Server(config).run()
