"""The cores of the machine: the server runs on one, the load on the others."""

import contextlib
import os
from collections.abc import Iterator

from attrs import frozen


@frozen
class Cores:
    """The machine's cores, divided between server and load."""

    server: frozenset[int]
    """One core: every contestant is a single process, so none gains by more."""
    load: frozenset[int]
    """The other cores. The harness waits there too, which costs nothing."""

    @property
    def note(self) -> str:
        """The division, in words for the report."""
        if self.server & self.load:
            return "ONE CORE: server and load share it, so these are not the numbers of either"
        listed = ", ".join(str(core) for core in sorted(self.load))
        return f"server on core {min(self.server)}, load on core {listed}"


def share_out() -> Cores:
    """Give the first core to the server and the others to the load; a single one to both."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) == 1:
        return Cores(server=frozenset(available), load=frozenset(available))
    return Cores(server=frozenset(available[:1]), load=frozenset(available[1:]))


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Pin this process for the block: processes that it starts are pinned from the beginning."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
