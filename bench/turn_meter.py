"""What `moorage serve --app` runs for `bench/turns.py`: one endpoint, and a meter of the turns.

The meter is an instrument of Trio. It writes into a file that the harness has mapped as well, so
reading it costs the server nothing, and the last values outlive the server.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import ClassVar

import trio
from attrs import define, frozen

from moorage import App

FILE_VARIABLE = "BENCH_TURNS"
"""The variable that names the file."""

LONG = 0.020
"""Seconds: the goal. Longer turns are counted."""

_LAYOUT = struct.Struct("dddddd")
"""The number of the measurement asked for; then that of the values, and the values."""


@frozen
class Turns:
    """The turns of one measurement; times are in seconds."""

    longest: float = 0.0
    processor: float = 0.0
    """The processor time of the longest turn: less, if the machine was busy with something else."""
    long: int = 0
    """The number of turns that took longer than `LONG`."""
    turns: int = 0


@define
class Reader:
    """The harness's end of the file."""

    path: Path
    _memory: mmap.mmap
    _number: float = 0.0

    @classmethod
    def create(cls, path: Path) -> "Reader":
        path.write_bytes(bytes(_LAYOUT.size))
        return cls(path, _mapped(path))

    def begin(self) -> None:
        """Begin a new measurement with the server's next turn."""
        self._number += 1
        struct.pack_into("d", self._memory, 0, self._number)

    def read(self) -> Turns:
        """Return the measurement so far."""
        _, number, longest, processor, many, turns = _LAYOUT.unpack(self._memory)
        if number != self._number:
            return Turns()  # there was no turn yet
        return Turns(longest, processor, int(many), int(turns))


class Meter(trio.abc.Instrument):
    """Measures each turn of the event loop."""

    def __init__(self, path: Path) -> None:
        self._memory = _mapped(path)
        self._asked = memoryview(self._memory).cast("d")
        self._number = -1.0
        self._began: float | None = None
        self._processor = 0.0
        self._longest = (0.0, 0.0)
        self._long = self._turns = 0

    def after_io_wait(self, timeout: float) -> None:
        self._processor = time.thread_time()
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        if self._began is None:  # it was under way when this was added
            return
        took = time.perf_counter() - self._began
        if self._asked[0] != self._number:
            self._number = self._asked[0]
            self._longest = (0.0, 0.0)
            self._long = self._turns = 0
        self._turns += 1
        self._long += took > LONG
        if took > self._longest[0]:
            self._longest = (took, time.thread_time() - self._processor)
        self._asked[2], self._asked[3] = self._longest
        self._asked[4], self._asked[5] = self._long, self._turns
        self._asked[1] = self._number


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _LAYOUT.size)


class _Once:
    meter: ClassVar[Meter | None] = None


app = App()
app.add_endpoint("/ws", topics={"everyone"})


@app.connected
def start_the_meter(connection: object) -> None:
    if _Once.meter is None:
        _Once.meter = Meter(Path(os.environ[FILE_VARIABLE]))
        trio.lowlevel.add_instrument(_Once.meter)
