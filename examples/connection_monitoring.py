"""Watching the connections: who comes, who goes and why, and how each of them is doing.

Run it, and connect from other terminals; every few seconds it prints what it sees:

    python examples/connection_monitoring.py
    moorage connect ws://127.0.0.1:8765/ws --topic news

What to see here:

* `connected` and `disconnected` callbacks. Every connection that has arrived will be gone one day,
  and both are called exactly once for it. A callback may be `async`; it then gets a task, and
  `handler_timeout`, and never delays the connection.
* Why a connection ended is one `CloseCause` out of a closed set, the first that there was. That is
  enough to tell a closed laptop (`heartbeat_timeout`) from a user who left (`peer_closed`).
* Everything that is counted is a plain integer, so looking costs nothing: `supervisor.statistics`
  for the whole server, attributes of a connection for the one.
"""

import sys
from collections import Counter

import trio

from moorage.actors.connection.connection import Connection
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.supervisor import Supervisor, open_supervisor

app = App()
endings: Counter[CloseCause] = Counter()


@app.connected
def arrived(connection: Connection) -> None:
    print(f"+ {connection.id} from {connection.address} at {connection.endpoint.path}", flush=True)


@app.disconnected
def left(connection: Connection, cause: CloseCause) -> None:
    endings[cause] += 1
    print(f"- {connection.id}: {cause.value} (close code {connection.close_code})", flush=True)


async def report_regularly(supervisor: Supervisor, interval: float) -> None:
    """Report every so many seconds."""
    while True:
        report(supervisor)
        await trio.sleep(interval)


def report(supervisor: Supervisor) -> None:
    """Print one line for the server, and one for each connection."""
    counted = supervisor.statistics.traffic
    causes = ", ".join(f"{count} {cause.value}" for cause, count in endings.items())
    print(
        f"{len(supervisor.connections())} connected, {counted.messages_in} messages in, "
        f"{counted.messages_out} out; ended: {causes or 'none'}"
    )
    now = trio.current_time()
    for connection in supervisor.connections():
        rtt = "?" if connection.rtt is None else f"{connection.rtt * 1000:.1f} ms"
        print(
            f"  {connection.id} {connection.user_id or 'anonymous'} {connection.state.value}, "
            f"topics {list(connection.topics)}, heard {now - connection.last_heard:.1f} s ago, "
            f"round trip {rtt}, {connection.mailbox.size} bytes waiting"
        )
    sys.stdout.flush()


async def main(port: int = 8765, interval: int = 5) -> None:
    # A heartbeat after two quiet seconds, so that there are round trips to be seen.
    settings = Settings(port=port, heartbeat_interval=2.0)
    async with open_supervisor(settings, app) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(report_regularly, supervisor, interval)
        await supervisor.serve_until_signal()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
