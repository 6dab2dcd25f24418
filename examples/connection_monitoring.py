"""A monitor of connections: who connects, who leaves and why, and the state of each connection.

Run it, and connect from other terminals; every few seconds it prints a report:

    python examples/connection_monitoring.py
    moorage connect ws://127.0.0.1:8765/ws --topic news

This example shows:

* The callbacks `connected` and `disconnected` are each called exactly once for every connection
  that has arrived. A callback may be `async`; it then runs in a task of its own, within
  `handler_timeout`, and does not delay the connection.
* A connection ends for one reason, a `CloseCause`: the first that occurred. It tells a closed
  laptop (`heartbeat_timeout`) from a user who left (`peer_closed`), for example.
* All counters are plain integers, so reading them costs nothing: `supervisor.statistics` has those
  of the server, and the attributes of a connection those of that connection.
"""

import sys
from collections import Counter

import trio

from moorage import App, CloseCause, RawConnection, Session, Settings, Supervisor, open_supervisor

app = App()
endings: Counter[CloseCause] = Counter()


@app.connected
def arrived(connection: Session | RawConnection) -> None:
    print(f"+ {connection.id} from {connection.address} at {connection.path}", flush=True)


@app.disconnected
def left(connection: Session | RawConnection, cause: CloseCause) -> None:
    endings[cause] += 1
    print(f"- {connection.id}: {cause.value} (close code {connection.close_code})", flush=True)


async def report_regularly(supervisor: Supervisor, interval: float) -> None:
    """Print a report every `interval` seconds."""
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
        # A raw endpoint's connection has no topics; here there is no such endpoint.
        topics = list(connection.topics) if isinstance(connection, Session) else []
        rtt = "?" if connection.rtt is None else f"{connection.rtt * 1000:.1f} ms"
        print(
            f"  {connection.id} {connection.user_id or 'anonymous'} {connection.state.value}, "
            f"topics {topics}, heard {now - connection.last_heard:.1f} s ago, "
            f"round trip {rtt}, {connection.waiting_bytes} bytes waiting"
        )
    sys.stdout.flush()


async def main(port: int = 8765, interval: int = 5) -> None:
    # Heartbeats after two quiet seconds, so that the reports soon have round trips.
    settings = Settings(port=port, heartbeat_interval=2.0)
    async with open_supervisor(settings, app) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(report_regularly, supervisor, interval)
        await supervisor.serve_until_signal()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
