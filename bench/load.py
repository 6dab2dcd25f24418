"""The load generator's driver: its options, its process, its results."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
from attrs import asdict, frozen

from .cores import pinned
from .installing import HERE, OWN, compiled

_SOURCES = tuple(sorted((HERE / "load").glob("*.c")))


class LoadFailed(Exception):
    """The load generator failed; the text says why."""


@frozen
class Load:
    """One run of the load generator. Field by field these are its options; see load/load.h."""

    mode: str = "traffic"
    subscribers: int = 1
    publishers: int = 0
    """Connections that only publish; 0: the subscribers themselves do."""
    topics: int = 1
    topics_each: int = 1
    in_flight: int = 1
    """For each publisher; the next is sent when one has arrived at all subscribers."""
    payload: int = 64
    """Bytes of JSON in `data`."""
    stalled: int = 0
    """Subscribers that stop reading."""
    ping: bool = False
    zipf: bool = False
    concurrency: int = 64
    """Opening handshakes under way at a time, for each load process."""
    warmup: float = 0.2
    seconds: float = 1.0
    drain: float = 20.0
    """Seconds to wait, when time is up, until everything sent has arrived."""
    rest: float = 0.0
    """Seconds between dropping all clients and connecting them again."""
    most: int = 50_000_000
    """The highest number of publications."""

    @property
    def connections(self) -> int:
        """The number of all connections."""
        return self.subscribers + self.publishers

    def options(self) -> list[str]:
        """Return the command line."""
        options: list[str] = []
        for name, value in asdict(self).items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                options.append(flag)
            elif value is not False:
                options += [flag, str(value)]
        return options


@frozen
class Result:
    """The results of the generator; times are in seconds."""

    seconds: float
    publications: int
    deliveries: int
    other: int
    """Messages that were no deliveries, such as heartbeats."""
    retries: int
    """Connections that had to be tried again."""
    cpu: tuple[float, ...]
    """Each load process's share of its core: near 1 the generator itself was the limit."""
    p50: float
    p99: float
    max: float
    histogram: list[tuple[float, int]]


@frozen
class Generator:
    """A running load generator, which connects, then waits for `finish`."""

    process: subprocess.Popen[str]
    plan: Load

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise LoadFailed("the load generator ended without output")
        answer = json.loads(line)
        if "failure" in answer:
            raise LoadFailed(answer["failure"])
        return answer

    def wait_connected(self) -> int:
        """Wait until all clients are connected and subscribed; return their number."""
        return self._answer()["connected"]

    def finish(self) -> Result:
        """Start the measurement, and wait for the result. Raises LoadFailed."""
        if self.process.stdin is None:
            raise LoadFailed("the load generator has no input")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        answer["cpu"] = tuple(answer["cpu"])
        return Result(**answer)


@contextmanager
def connected(
    plan: Load,
    *,
    port: int,
    dialect: str,
    tokens: Path,
    processes: int,
    cores: frozenset[int],
) -> Iterator[Generator]:
    """Start the generator, pinned; it ends with the block. Raises LoadFailed, Unavailable."""
    program = compiled("load", *_SOURCES)
    command = [
        *(str(program), "--port", str(port), "--dialect", dialect, "--tokens", str(tokens)),
        *("--processes", str(min(processes, plan.connections))),
        *plan.options(),
    ]
    with (
        pinned(cores),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            generator = Generator(process, plan)
            generator.wait_connected()
            yield generator
        finally:
            process.kill()  # without effect on one that has ended


@frozen
class Credentials:
    """An HS256 secret for the server, and a file of tokens signed with it for the load."""

    key: str
    tokens: Path


@contextmanager
def credentials(count: int, lifetime: float = 24 * 3600) -> Iterator[Credentials]:
    """Mint a token for each connection, with a user of its own; `lifetime` in seconds."""
    key = secrets.token_hex(32)
    expires = int(time.time() + lifetime)
    OWN.mkdir(exist_ok=True)
    file = OWN / f"tokens.{secrets.token_hex(4)}"
    claims = ({"sub": f"user-{number}", "exp": expires} for number in range(count))
    file.write_text("".join(jwt.encode(each, key, algorithm="HS256") + "\n" for each in claims))
    try:
        yield Credentials(key, file)
    finally:
        file.unlink()
