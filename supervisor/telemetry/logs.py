"""Structured log lines: one for each event of a connection's life, and for each failure.

The names of the events and their fields are documented in docs/operations/logs.md. A token is never
among the fields, and neither is a request's query.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from ...actors.connection.limits import TokenBucket
from ..config.settings import Settings


class Logger(Protocol):
    """What log lines are written to; structlog's loggers have this shape."""

    def log(self, level: int, event: str, **fields: Any) -> Any:
        """Write one line."""
        ...


_FLOODABLE: Final = frozenset(
    {
        "accept_failed",
        "bad_message",
        "callback_failed",
        "delivery_failed",
        "dropped",
        "endpoint_failed",
        "handler_failed",
        "handler_timed_out",
        "handshake_failed",
        "refused",
        "subscription_refused",
    }
)
"""Events that one client, or a crowd of them, can make happen at any rate."""

_LINES_PER_SECOND: Final = 10.0
_LINES_AT_ONCE: Final = 100.0
"""For each of these events: enough to see what happens, and no more than a disk can take."""


class EventLog:
    """Writes events as log lines; of those that clients can flood it with, a limited rate.

    What was not written is counted, and the next line of that event says how many: `suppressed`.
    """

    def __init__(self, logger: Logger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._buckets: dict[str, TokenBucket] = {}  # by event, from its first line on
        self._suppressed: Counter[str] = Counter()
        self.lost = 0  # lines that could not be written: a full disk, a pipe that nobody reads

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write one line, unless there have been too many of its kind."""
        if event.removeprefix("control_") in _FLOODABLE:
            now = self._now()
            bucket = self._buckets.get(event)
            if bucket is None:
                bucket = TokenBucket(_LINES_PER_SECOND, _LINES_AT_ONCE, now)
                self._buckets[event] = bucket
            if not bucket.take(1, now):
                self._suppressed[event] += 1
                return
            if suppressed := self._suppressed.pop(event, 0):
                fields = {**fields, "suppressed": suppressed}
        try:
            self._logger.log(level_number(level), event, **fields)
        except Exception:  # noqa: BLE001 - containment: no connection ends with the log's reader
            self.lost += 1


def configure_logging(settings: Settings) -> None:
    """Let structlog write to standard error, as the settings say; for programs, not for libraries.

    `auto` means a console's colours on a terminal, and one JSON object a line elsewhere.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    structlog.configure(
        processors=_processors(as_json=as_json),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def default_logger() -> Logger:
    """Return structlog's logger; where a program has not configured it, one to standard error."""
    if structlog.is_configured():
        return structlog.get_logger("moorage")
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), processors=_processors(as_json=False)
    )


def _processors(*, as_json: bool) -> list[Any]:
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        return [*processors, *rendering]
    # structlog's own choice prints every local variable of a traceback: tokens are among them.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*processors, console]


def level_number(name: str) -> int:
    """Return the standard library's number for a level's name, such as `info`."""
    return logging.getLevelNamesMapping()[name.upper()]
