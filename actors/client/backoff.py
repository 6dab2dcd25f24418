"""How long a client waits before it tries again."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from attrs import Attribute, define, field

# No server may send a client away for longer than this, whatever its Retry-After or its goodbye
# says: a typing error there would otherwise cost the whole fleet.
LONGEST_WAIT = 3600.0


def _positive(_: Backoff, attribute: Attribute[float], value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{attribute.name}` must be a number of seconds above 0, not {value!r}")


@define
class Backoff:
    """Random delays between attempts, whose upper bound doubles with every failure.

    The n-th delay is drawn evenly from 0 to `min(maximum, initial * 2 ** n)` seconds ("full
    jitter"): after an outage the clients of a fleet come back spread out, not in waves, and no
    other scheme that was compared there needs less work in total. Source: M. Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    # Seconds; upper bound of the first delay.
    initial: float = field(default=0.5, validator=_positive)
    # Seconds; upper bound of every delay.
    maximum: float = field(default=30.0, validator=_positive)
    # Seconds that a connection must have lasted before earlier failures are forgotten: without
    # this, a server that accepts and at once closes would be called on without a pause.
    forget_after: float = field(default=10.0, validator=_positive)
    # Where the jitter comes from; one with a fixed seed makes a run repeatable.
    random: random.Random = field(factory=random.Random)
    # The upper bound of the next delay.
    _bound: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    def next(self) -> float:
        """Return how many seconds to wait now, and widen the range of the next wait."""
        delay = self.random.uniform(0.0, self._bound)
        self._bound = min(self.maximum, self._bound * 2)
        return delay

    def reset(self) -> None:
        """Begin again with `initial`: the trouble is over."""
        self._bound = min(self.initial, self.maximum)


def parse_retry_after(value: str, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for; None if it cannot be read.

    Takes both forms, seconds and an HTTP date. Never negative and never above `LONGEST_WAIT`.
    Source: RFC 9110 section 10.2.3.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Ten digits are 300 years; more of them need not become a number first.
        return bounded_wait(float(text[:10]))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return bounded_wait((moment - (now or datetime.now(UTC))).total_seconds())


def bounded_wait(seconds: object) -> float | None:
    """Return what a server asked for as a wait of 0 to `LONGEST_WAIT` seconds; None if not one."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        return None
    return min(max(float(seconds), 0.0), LONGEST_WAIT)
