"""A contestant's process: it is started on its core, watched through /proc, and stopped."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import define, frozen

from .cores import pinned
from .installing import Environment
from .roster import FILES, Contestant, Demands

START_TIMEOUT = 30
STOP_TIMEOUT = 10
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerFailed(Exception):
    """A contestant's process did not start, or ended by itself; the text has its last output."""


@frozen
class KernelMemory:
    """The kernel's memory for sockets, on the whole machine: both ends of every connection."""

    slab: int
    buffers: int

    @property
    def total(self) -> int:
        """Slabs and buffers together, in bytes."""
        return self.slab + self.buffers

    @classmethod
    def now(cls) -> "KernelMemory":
        """Read the slabs from meminfo, and the buffers' pages from sockstat."""
        slab = 0
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Slab":
                slab = int(value.split()[0]) * 1024
        tcp = Path("/proc/net/sockstat").read_text().partition("TCP:")[2].split("\n")[0].split()
        return cls(slab=slab, buffers=int(tcp[tcp.index("mem") + 1]) * _PAGE)


@define
class Server:
    """A running contestant."""

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    def _status(self, field: str) -> int:
        """Return a field of /proc/<pid>/status that is in kB, as bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise ServerFailed(self.last_words())

    def resident(self) -> int:
        """Return the memory that it has now, in bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Return the most memory that it ever had, in bytes."""
        return self._status("VmHWM")

    def processor_seconds(self) -> float:
        """Return the processor time that it has used, user and system, in steps of 10 ms."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        after_name = text.rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_SECOND

    def last_words(self) -> str:
        """Return the last line of its output that has letters, for an error."""
        self.log.seek(0)
        said = self.log.read()[-4096:].decode(errors="replace").splitlines()
        lines = [line.strip(" |") for line in said if any(map(str.isalpha, line))]
        state = "ended" if self.process.poll() is not None else "runs"
        return f"it {state}; its last line: {lines[-1][:200]}" if lines else f"it {state}, silent"

    def wait_until_listening(self) -> None:
        """Try its port until it answers; ServerFailed if it does not in START_TIMEOUT seconds."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise ServerFailed(self.last_words())

    def stop(self) -> None:
        """Stop it by SIGTERM, and by SIGKILL if it has not ended a second later."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT)


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    contestant: Contestant,
    environment: Environment,
    demands: Demands,
    cores: frozenset[int],
    folder: Path = FILES,
) -> Iterator[Server]:
    """Run a contestant, pinned, on a free port of loopback, for as long as the block lasts.

    `folder` is the one in which it runs.
    Raises ServerFailed if it does not start, Unavailable if its program cannot be installed.
    """
    port = free_port()
    command = [*contestant.command(environment, demands), *contestant.port_flag, str(port)]
    with tempfile.TemporaryFile() as log:
        with pinned(cores):
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment.variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        server = Server(process, port, log)
        try:
            server.wait_until_listening()
            yield server
        finally:
            server.stop()
