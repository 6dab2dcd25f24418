"""Structured log lines: one for each event of a connection's life, and for each failure.

The names of the events and their fields are documented in docs/operations/logs.md. A token is never
among the fields, and neither is a request's query.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TextIO, cast

import structlog

from ...actors.connection.limits import TokenBucket
from ...actors.containment import contain
from ..config.settings import Settings
from .line_writer import LineWriter, standard_error


class Logger(Protocol):
    """The interface of a logger; structlog's loggers have it."""

    def log(self, level: int, event: str, **fields: Any) -> Any:
        """Write one line, of a level as the standard library numbers them."""
        ...


_FLOODABLE: Final = frozenset(
    {
        "accept_failed",
        "authenticated",
        "bad_message",
        "callback_failed",
        "delivery_failed",
        "dropped",
        "connection_failed",
        "endpoint_failed",
        "event_failed",
        "gave_way",
        "handler_failed",
        "handler_timed_out",
        "handshake_failed",
        "http_full",
        "http_request_failed",
        "refused",
        "sampling_failed",
        "subscription_refused",
    }
)
"""Events that clients can cause at any rate."""

_LINES_PER_SECOND: Final = 10.0
_LINES_AT_ONCE: Final = 100.0
"""The limits for each of these events: enough to see what happens, and no load for a disk."""


class EventLog:
    """The log of events. Events that clients can cause at any rate are written at a limited rate.

    Lines that are not written are counted; the next line of the same event gives their number, as
    `suppressed`.
    """

    def __init__(
        self, logger: Logger, now: Callable[[], float], writer: LineWriter | None = None
    ) -> None:
        """Take the logger that writes the lines, and a clock in seconds.

        `writer` is what the logger writes to, as far as it is known: its losses are the log's.
        """
        # Is called with each event and its fields, also with suppressed ones; set while an operator
        # watches events.
        self.on_event: Callable[[str, Mapping[str, Any]], None] | None = None
        self._logger = logger
        self._now = now
        self._buckets: dict[str, TokenBucket] = {}  # by event, from its first line on
        self._suppressed: Counter[str] = Counter()
        self._writer = writer
        self._failed = 0  # lines at which the logger has raised

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Write one line, unless there have been too many of the event. Never raises."""
        self.show(event, fields)
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
        self.write_from_thread(level, event, **fields)

    def show(self, event: str, fields: Mapping[str, Any]) -> None:
        """Show an event to the operators who watch; nothing is logged. Never raises."""
        if self.on_event is not None:
            try:
                self.on_event(event, fields)
            except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                contain(error, self._on_watcher_failed)

    def write_from_thread(self, level: str, event: str, **fields: Any) -> None:
        """Write one line at once; any thread may call it. Never raises.

        The line is written without a limit, and operators who watch are not shown it.
        """
        try:
            self._logger.log(level_number(level), event, **fields)
        except BaseException as error:  # noqa: BLE001 - a broken log must not end a connection
            contain(error, self._on_lost)

    def _on_watcher_failed(self, error: BaseException) -> None:
        """Log, and not to the one who watches, that an event could not be shown."""
        watcher, self.on_event = self.on_event, None
        try:
            self.write("error", "event_failed", exc_info=error)
        finally:
            self.on_event = watcher

    def _on_lost(self, _error: BaseException) -> None:
        self._failed += 1

    @property
    def lost(self) -> int:
        """The number of lines lost: a full disk, a pipe whose reader is gone, or too slow."""
        return self._failed + (0 if self._writer is None else self._writer.lost)

    @property
    def waiting(self) -> int:
        """The bytes of lines that wait until standard error takes them."""
        return 0 if self._writer is None else self._writer.waiting


def configure_logging(settings: Settings) -> None:
    """Let structlog write to standard error, as the settings say; for programs, not for libraries.

    `log_format` `auto` means coloured text on a terminal, and otherwise one JSON object per line.
    Lines are written by a thread, so that nobody waits for whoever reads them. They wait in 8 MiB
    of memory; what finds no room there is lost, and counted.
    """
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not _is_terminal()
    )
    writer = standard_error()
    structlog.configure(
        processors=_processors(as_json=as_json),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=_factory(writer),
        cache_logger_on_first_use=True,
    )
    _report_losses(structlog.get_logger("moorage"), writer)


def default_logger() -> Logger:
    """Return structlog's logger, or one to standard error if structlog is not configured."""
    if structlog.is_configured():
        return structlog.get_logger("moorage")
    writer = standard_error()
    logger: Logger = structlog.wrap_logger(
        _factory(writer)(), processors=_processors(as_json=False)
    )
    _report_losses(logger, writer)
    return logger


def _factory(writer: LineWriter) -> structlog.WriteLoggerFactory:
    # The two methods that structlog calls are those of a LineWriter.
    return structlog.WriteLoggerFactory(cast("TextIO", writer))


def _report_losses(logger: Logger, writer: LineWriter) -> None:
    """Let the writer log how many lines it has lost."""

    def log(level: str, event: str, **fields: Any) -> None:
        logger.log(level_number(level), event, **fields)

    writer.on_lost = lambda lines: log("warning", "log_lines_lost", lines=lines)


def _processors(*, as_json: bool) -> list[Any]:
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        return [*processors, *rendering]
    # structlog's default prints every local variable in a traceback, tokens among them.
    console = structlog.dev.ConsoleRenderer(
        colors=_is_terminal(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*processors, console]


def _is_terminal() -> bool:
    """Tell whether standard error is a terminal; a process can be started without one."""
    return sys.stderr is not None and sys.stderr.isatty()


def level_number(name: str) -> int:
    """Return the standard library's number for a level's name, such as `info`."""
    return logging.getLevelNamesMapping()[name.upper()]
