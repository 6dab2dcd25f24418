"""A chat with message types of the program's own, beside those of the protocol.

Run it, and connect from two terminals:

    python examples/custom_messages.py
    moorage connect ws://127.0.0.1:8765/ws

Then type into each, one message a line:

    {"type": "join", "id": 1, "data": {"name": "Ann"}}
    {"type": "chat", "id": 2, "data": {"text": "Is anybody there?"}}
    {"type": "roll", "id": 3, "data": {"sides": 20}}

This example shows:

* `@app.on("chat")` handles one message type. A handler gets a `Context`, whose methods reply,
  publish and subscribe, and the message, an `Envelope`. `context.reply` sends the message's `id`
  back, so that a client can tell which of its requests is answered.
* A plain function runs at once, in the connection's own task, and must not block. An `async`
  handler may wait: it runs within `handler_timeout`, and its client's further messages wait, so
  that a client's messages are always handled in the order in which it sent them.
* A handler refuses a message by raising `RemoteProtocolError`: the client gets an `error` message
  with that text and code. Any other exception is a defect of the handler: it is logged, the client
  gets an `error` with the code `internal`, and the connection goes on.
"""

import random
import sys
from typing import Any

import trio

from moorage import (
    App,
    Context,
    Envelope,
    ErrorCode,
    RemoteProtocolError,
    Settings,
    open_supervisor,
)

ROOM = "chat_room"

app = App()


@app.on("join")
def join(context: Context, message: Envelope) -> None:
    name = field(message, "name", str)
    context.metadata["name"] = name  # the program's own notes about this connection
    context.subscribe(ROOM)
    others = context.broadcast_to_topic(
        ROOM, "joined", {"name": name}, exclude={context.connection.id}
    )
    context.reply("joined", {"name": name, "others": others})


@app.on("chat")
def chat(context: Context, message: Envelope) -> None:
    said = {"from": member(context), "text": field(message, "text", str)}
    context.broadcast_to_topic(ROOM, "chat_message", said)


@app.on("roll")
async def roll(context: Context, message: Envelope) -> None:
    """Roll a die, which takes half a second."""
    name, sides = member(context), field(message, "sides", int)
    await trio.sleep(0.5)
    context.broadcast_to_topic(ROOM, "rolled", {"from": name, "result": random.randint(1, sides)})


def member(context: Context) -> str:
    """Return the sender's name; refuse the message if there was no `join` before it."""
    try:
        return context.metadata["name"]
    except KeyError:
        raise RemoteProtocolError("send `join` first", ErrorCode.FORBIDDEN) from None


def field(message: Envelope, name: str, kind: type) -> Any:
    """Return a field of the message's data; refuse the message if the field is not as expected."""
    value = message.data.get(name) if isinstance(message.data, dict) else None
    if type(value) is not kind or not value:
        text = f"`{message.type}` needs `data.{name}`, and it is a {kind.__name__}"
        raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
    return value


async def main(port: int = 8765) -> None:
    async with open_supervisor(Settings(port=port), app) as supervisor:
        await supervisor.serve_until_signal()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
