"""The smallest server: one endpoint, which greets everyone who connects.

Run it, and connect from a second terminal:

    python examples/minimal_endpoint.py
    moorage connect ws://127.0.0.1:8765/ws/notifications

This example shows:

* An endpoint is a path. Every client that connects there is subscribed to its `topics`, so a client
  need not know them: its `welcome` lists them.
* The decorated function runs beside each connection, in that connection's own nursery. It may wait
  for any time: when the connection ends, it is cancelled, and there is nothing to clean up.
* `async with open_supervisor(...)` is the server. Leaving the block stops it.
"""

import sys

import trio

from moorage import App, Session, Settings, open_supervisor

app = App()


@app.endpoint("/ws/notifications", topics={"notifications"})
async def greet(connection: Session) -> None:
    connection.send("greeting", {"message": "Welcome aboard!"})
    minutes = 0
    while True:
        await trio.sleep(60)
        minutes += 1
        connection.send("reminder", {"message": f"You have been here for {minutes} min."})


async def main(port: int = 8765) -> None:
    async with open_supervisor(Settings(port=port), app) as supervisor:
        await supervisor.serve_until_signal()  # Ctrl-C or SIGTERM; then clients are sent away


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
