"""The waits of a client between two attempts to connect."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from attrs import Attribute, define, field

# Seconds. A server cannot send a client away for longer than this, whatever its Retry-After or its
# goodbye says: otherwise one typing error there would keep all clients away.
LONGEST_WAIT = 3600.0


def _positive(_: Backoff, attribute: Attribute[float], value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{attribute.name}` must be a number of seconds above 0, not {value!r}")


@define
class Backoff:
    """Random delays between attempts, whose upper bound doubles with every failure.

    The n-th delay, counted from 0, is drawn evenly from 0 to `min(maximum, initial * 2 ** n)`
    seconds ("full jitter"). So the clients of a server that was away come back spread over time
    and not in waves; none of the schemes compared in the source needs fewer attempts in total.
    Raises `ValueError` for a bound that is not a number of seconds above 0. Source: M. Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    # The upper bound of the first delay, in seconds.
    initial: float = field(default=0.5, validator=_positive)
    # The upper bound of every delay, in seconds.
    maximum: float = field(default=30.0, validator=_positive)
    # Seconds that a connection must last before earlier failures are forgotten. Without this, a
    # client would call without a pause on a server that accepts connections and closes them at
    # once.
    forget_after: float = field(default=10.0, validator=_positive)
    # The source of the jitter; a fixed seed makes a run repeatable.
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
        """Begin again with `initial`, after a success."""
        self._bound = min(self.initial, self.maximum)


def parse_retry_after(value: str, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, or None if it cannot be read.

    The header may give seconds or an HTTP date. The result is from 0 to `LONGEST_WAIT`.
    Source: RFC 9110 section 10.2.3.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Ten digits of seconds are 300 years; `float` need not read more of them.
        return bounded_wait(float(text[:10]))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return bounded_wait((moment - (now or datetime.now(UTC))).total_seconds())


def bounded_wait(seconds: object) -> float | None:
    """Return the wait that a server asked for, cut to 0 to `LONGEST_WAIT` seconds.

    None: what the server said is not a number of seconds.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        return None
    return min(max(float(seconds), 0.0), LONGEST_WAIT)
