"""The smallest server: one endpoint, and a greeting for everyone who comes.

Run it, and talk to it from a second terminal:

    python examples/minimal_endpoint.py
    moorage connect ws://127.0.0.1:8765/ws/notifications

What to see here:

* An endpoint is a path. Its `topics` are subscribed to on every client's behalf, so that a client
  need not know them: its welcome lists them.
* The decorated function runs beside each connection, in that connection's own nursery. It may wait
  as long as it likes: when the connection ends, it is cancelled, and there is nothing to clean up.
* `async with open_supervisor(...)` is the server. Leaving the block stops it.
"""

import sys

import trio

from moorage.actors.session.session import Session
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.supervisor import open_supervisor

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
        await supervisor.serve_until_signal()  # Ctrl-C or SIGTERM: says goodbye to everyone first


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
