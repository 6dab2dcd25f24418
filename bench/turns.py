"""The longest turn: for how long Moorage's event loop is held while much happens at once.

    python -m bench turns [--connections N] [--quick | --toy] [--json FILE]

One task of an event loop runs at a time, so the longest turn is what every other client may have to
wait. The server is `moorage serve` with a meter (`turn_meter.py`); the clients are a crowd in one
process (`crowd.py`). This is about Moorage alone: other servers have no such meter.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
from attrs import asdict, define, evolve, field, frozen

from .cores import Cores, pinned, share_out
from .installing import CURRENT
from .load import Credentials, credentials
from .report import machine
from .roster import Contestant, Demands
from .rounds import raise_descriptor_limit
from .server import Server, free_port, running
from .turn_meter import FILE_VARIABLE, Reader, Turns

_DEADLINE = 120.0
"""Seconds that any single step may take."""


@frozen
class Sizes:
    """How many connections there are, and for how long each case lasts, in seconds."""

    connections: int = 10_000
    seconds: int = 5
    heartbeat: float = 30.0
    """The interval of heartbeats, in the one case that has any."""


QUICK = Sizes(1_000, 2, 5.0)
TOY = Sizes(30, 1, 2.0)


@define
class _Bench:
    """A server under the load of a crowd."""

    server: Server
    meter: Reader
    http_port: int
    token: str
    credentials: Credentials
    cores: Cores
    crowd: subprocess.Popen[str] | None = field(default=None)

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """Make one HTTP request of an operator; return the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=_DEADLINE)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:200]!r}")
        return text

    def command(self, line: str) -> None:
        """Have the crowd do something, and wait until it has."""
        if self.crowd is None or self.crowd.stdin is None or self.crowd.stdout is None:
            raise SystemExit("there is no crowd")
        self.crowd.stdin.write(line + "\n")
        self.crowd.stdin.flush()
        if not self.crowd.stdout.readline():
            raise SystemExit("the crowd has ended")

    def arrive(self, connections: int) -> None:
        with pinned(self.cores.load):
            self.crowd = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bench.crowd", str(self.server.port)),
                    str(self.credentials.tokens),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.command(f"connect {connections}")

    def die(self) -> None:
        """Kill all clients at once, and wait until the server has noticed."""
        self.end_crowd()
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if not json.loads(self.ask("GET", "/api/admin/websockets/stats"))["active_connections"]:
                return
        raise SystemExit("the server still has connections")

    def end_crowd(self) -> None:
        if self.crowd is not None:
            self.crowd.kill()
            self.crowd.communicate()
            self.crowd = None

    def every_second(self, seconds: int, do: Callable[[], object]) -> None:
        for _ in range(seconds):
            began = time.monotonic()
            do()
            time.sleep(max(0.0, began + 1.0 - time.monotonic()))

    def pages(self) -> None:
        """Read all connections, as a dashboard or a script does."""
        cursor = ""
        while cursor is not None:
            query = "?limit=1000" + (f"&cursor={cursor}" if cursor else "")
            page = json.loads(self.ask("GET", f"/api/admin/websockets/connections{query}"))
            cursor = page["cursor"]

    def signal_and_wait(self, *signals: int) -> None:
        """Send the server some signals, and wait until it has ended."""
        for number in signals:
            self.server.process.send_signal(number)
            time.sleep(0.05)
        self.server.process.wait(_DEADLINE)


@contextmanager
def _serving(
    sizes: Sizes, secret: Credentials, cores: Cores, heartbeat: float = 600.0
) -> Iterator[_Bench]:
    http_port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        meter = Reader.create(Path(folder) / "turns")
        flags = [
            *("--app", "bench.turn_meter:app", "--jwt-key", secret.key),
            *("--max-total-connections", str(2 * sizes.connections + 100)),
            *("--max-connections-per-topic", str(2 * sizes.connections)),
            *("--heartbeat-interval", str(heartbeat), "--http-port", str(http_port)),
            *("--control-socket", str(Path(folder) / "control.sock")),
        ]
        moorage = Contestant(
            "moorage",
            "with a meter",
            lambda _environment, _demands: [
                str(Path(sys.executable).with_name("moorage")), "serve", *flags
            ],
            lambda _environment: None,
            port_flag=("--port",),
        )  # fmt: skip
        os.environ[FILE_VARIABLE] = str(meter.path)
        folder_of_bench = Path(__file__).resolve().parent.parent
        with running(moorage, CURRENT, Demands(), cores.server, folder_of_bench) as server:
            claims = {"sub": "bench", "role": "admin", "exp": int(time.time()) + 3600}
            token = jwt.encode(claims, secret.key, algorithm="HS256")
            bench = _Bench(server, meter, http_port, token, secret, cores)
            try:
                yield bench
            finally:
                bench.end_crowd()


def _first(bench: _Bench, sizes: Sizes) -> Iterator[tuple[str, Turns]]:
    """Yield what the first server's loop did, case by case."""
    connections, seconds = sizes.connections, sizes.seconds

    def measured(name: str, do: Callable[[], object]) -> tuple[str, Turns]:
        bench.meter.begin()
        do()
        return name, bench.meter.read()

    def everyone() -> None:
        data = {"topic": "everyone", "message_type": "news", "data": "x" * 64}
        bench.ask("POST", "/api/admin/websockets/broadcast", data)

    bench.arrive(1)  # the meter begins with the first
    yield measured("all arrive", lambda: bench.command(f"connect {connections}"))
    yield measured("nothing happens", lambda: time.sleep(seconds))
    yield measured(
        "a publication to all, every second", lambda: bench.every_second(seconds, everyone)
    )
    yield measured(
        "admin: all pages of connections, every second",
        lambda: bench.every_second(seconds, bench.pages),
    )
    yield measured(
        "admin: `stats` and `topics`, every second",
        lambda: bench.every_second(
            seconds,
            lambda: (
                bench.ask("GET", "/api/admin/websockets/stats"),
                bench.ask("GET", "/api/admin/websockets/topics"),
            ),
        ),
    )
    yield measured(
        "a scrape of /metrics, every second",
        lambda: bench.every_second(seconds, lambda: bench.ask("GET", "/metrics")),
    )
    yield measured("all die at once", bench.die)
    bench.arrive(connections)
    yield measured("a drain, then the end", lambda: bench.signal_and_wait(signal.SIGTERM))


def _second(bench: _Bench, sizes: Sizes) -> Iterator[tuple[str, Turns]]:
    """Yield what the second server's loop did: it is told to stop while all are connected."""
    bench.arrive(sizes.connections)
    bench.meter.begin()
    bench.signal_and_wait(signal.SIGTERM, signal.SIGTERM)
    yield "the end, without a drain", bench.meter.read()


def _third(bench: _Bench, sizes: Sizes) -> Iterator[tuple[str, Turns]]:
    """Yield what the third server's loop did: all clients were heard at the same time before."""
    bench.arrive(sizes.connections)
    bench.meter.begin()
    bench.command("ping")
    time.sleep(sizes.heartbeat / 8)
    yield "all send a message at once", bench.meter.read()
    bench.meter.begin()
    time.sleep(sizes.heartbeat)
    yield "heartbeats of all are due at once", bench.meter.read()


def measure(sizes: Sizes) -> Iterator[tuple[str, Turns]]:
    """Yield each case with its turns, as it is over."""
    raise_descriptor_limit()
    cores = share_out()
    with credentials(sizes.connections) as secret:
        with _serving(sizes, secret, cores) as bench:
            yield from _first(bench, sizes)
        with _serving(sizes, secret, cores) as bench:
            yield from _second(bench, sizes)
        with _serving(sizes, secret, cores, sizes.heartbeat) as bench:
            yield from _third(bench, sizes)


def main(argv: list[str]) -> int:
    """Measure, and print a line for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench turns", description=__doc__)
    parser.add_argument("--connections", type=int, metavar="N", help="default: 10,000")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="1,000 connections, and short")
    size.add_argument("--toy", action="store_true", help="a test that all of it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    chosen = parser.parse_args(argv)
    sizes = TOY if chosen.toy else QUICK if chosen.quick else Sizes()
    if chosen.connections:
        sizes = evolve(sizes, connections=chosen.connections)
    about = machine(share_out().note)
    print(" · ".join(str(value) for value in about.values()))
    what = f"{sizes.connections:,} connections"
    print(f"{what:46}longest ms  processor ms  over 20 ms      turns")
    results: dict[str, Turns] = {}
    for name, turns in measure(sizes):
        results[name] = turns
        print(
            f"  {name:44}{turns.longest * 1e3:12.1f}{turns.processor * 1e3:14.1f}"
            f"{turns.long:12,}{turns.turns:11,}",
            flush=True,
        )
    if chosen.json:
        kept = {name: asdict(turns) for name, turns in results.items()}
        chosen.json.write_text(json.dumps({"machine": about, "turns": kept}, indent=1) + "\n")
    return 0
