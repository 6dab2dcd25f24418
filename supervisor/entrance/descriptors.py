"""Descriptors: how many this process may have open, how many it needs, and the reserve of them.

Each connection takes a descriptor. When clients have taken all of them, operators could not connect
any more to see why. So clients leave a reserve. The kernel gives every new descriptor the lowest
number that is free: clients are accepted only while that number is below the reserve's first one.
So no client ever has a number of the reserve, and nothing needs to be counted.
"""

from __future__ import annotations

import errno
import math
import os
import resource
from collections.abc import Callable
from typing import Final

import attrs
import trio

from ..config.settings import Settings
from ..telemetry.statistics import Statistics

_RESERVE: Final = 64
"""Descriptors that clients leave to operators, to HTTP and to the program; of a low limit less."""

LEAVE_TO_OPERATORS: Final = 1.0
"""The part of the reserve that clients leave: all of it."""

LEAVE_TO_LOCAL_OPERATORS: Final = 0.5
"""The part of it that HTTP and operators by TCP leave: only the server's user can open the Unix
socket for operators, so that one is never out of reach."""

_OTHERS: Final = 768
"""Descriptors for what no setting limits: 600 operators at most (100 sessions, 100 handshakes and
100 refusals, by each of two ways), 32 HTTP clients that are refused, listeners, logs, and what the
program opens."""

_CALM: Final = 5.0
"""Seconds without a failure after which a shortage is over: clients come and go all the time."""


def raise_descriptor_limit() -> tuple[int, int]:
    """Let this process have as many descriptors open as the system allows it.

    It raises the soft limit of RLIMIT_NOFILE to the hard one, for this process and for those that
    it starts from then on. `moorage serve` calls it; a program that serves in its own process may.
    Returns the limit before and after; both are the same if it could not be raised.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a system that allows less than it says
        return before, before
    return before, hard


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else (1 << 31) - 1


def open_descriptors() -> int | None:
    """Return how many descriptors are open; None if that cannot be found out."""
    try:
        # Since Linux 6.2 the folder's size is the number; before, it is 0, and the entries are
        # counted. Only the latter takes a descriptor.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - of paths that are no files
    except OSError as error:
        return descriptor_limit() if error.errno == errno.EMFILE else None


def check_room(leave: float) -> None:
    """Raise OSError if there is no descriptor but those of the reserve.

    `leave` is the part of the reserve that must be left.
    """
    limit = descriptor_limit()
    lowest = os.open("/", os.O_PATH)  # which needs no permission to read it
    os.close(lowest)
    if lowest >= limit - int(leave * min(_RESERVE, limit // 4)):
        raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}, but for the reserve")


def has_room() -> bool:
    """Tell whether there is a descriptor for another client."""
    try:
        check_room(LEAVE_TO_OPERATORS)
    except OSError:
        return False
    return True


@attrs.frozen
class LackOfDescriptors:
    """What is wrong if the settings allow more than the limit of descriptors."""

    limit: int
    needed: int
    advice: str


def lack_of_descriptors(settings: Settings) -> LackOfDescriptors | None:
    """Return what is wrong if the settings allow more than the limit of descriptors, or None."""
    limit = descriptor_limit()
    # Twice: the refusals have the same limit.
    rest = 2 * settings.max_handshakes + settings.max_http_connections + _OTHERS
    needed = settings.max_total_connections + rest
    if limit >= needed:
        return None
    advice = f"raise the limit (`LimitNOFILE` of the unit, or `ulimit -n`) to {needed}"
    if limit > rest:
        advice += f", or lower max_total_connections to {limit - rest}"
    else:
        advice += ", or lower max_total_connections and max_handshakes"
    return LackOfDescriptors(limit, needed, advice)


@attrs.define(eq=False)
class Shortage:
    """A shortage of descriptors or memory for connections: one log line at its begin and its end.

    Several listeners share one.
    """

    log_event: Callable[..., None]  # level, event, and fields by name
    statistics: Statistics
    _began: float = attrs.field(default=0.0, init=False)  # trio's time, as the next one
    _latest: float = attrs.field(default=math.inf, init=False)  # the latest failure; inf: none
    _failures: int = attrs.field(default=0, init=False)

    @property
    def over_at(self) -> float:
        """The time at which the shortage is over unless it goes on, in trio's time."""
        return self._latest + _CALM

    def note(self, error: OSError) -> None:
        """Note that a connection could not be accepted."""
        self.statistics.exhausted += 1
        now = trio.current_time()
        if self._latest == math.inf:
            self._began = now
            self._failures = 0
            self.log_event("error", "accept_failed", error=error.strerror)
        self._failures += 1
        self._latest = now

    def end_if_over(self) -> None:
        """Log the end of a shortage, if there was one and it is over."""
        now = trio.current_time()
        if now < self.over_at:
            return
        seconds = round(now - self._began, 3)
        self._latest = math.inf
        self.log_event("info", "accept_resumed", seconds=seconds, failures=self._failures)
