"""Metrics for Prometheus, read off the server's counters at each scrape.

Nothing here runs between two scrapes. Names follow Prometheus' guidelines: one prefix, base units
(seconds, bytes), `_total` for what only grows. No label has a value that clients choose, such as a
topic or a user, so the number of time series is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from ...actors.connection.lifecycle import ConnectionState
from ...protocol.closing import CloseCause
from ...protocol.version import VERSION
from ..operations.operations import Operations
from ..parts import Parts
from ..telemetry.statistics import Histogram

_TRAFFIC: Final = {
    "messages_in": ("messages_received", "Messages received from clients."),
    "bytes_in": ("received_bytes", "Bytes received from clients, framing included."),
    "messages_out": ("messages_sent", "Messages sent to clients, or waiting to be."),
    "bytes_out": ("sent_bytes", "Bytes sent to clients, or waiting to be, framing included."),
    "published": ("publications", "Publications accepted, from clients and from the program."),
    "deliveries_failed": (
        "deliveries_failed",
        "Publications that a subscriber could not be given, since it was over or too slow.",
    ),
    "deliveries_dropped": (
        "deliveries_dropped",
        "Publications that a topic's overload policy dropped for a slow subscriber.",
    ),
    "bad_messages": ("bad_messages", "Messages from clients that the protocol does not allow."),
    "rate_limited": ("rate_limited_messages", "Messages refused since their client was too fast."),
    "handler_errors": ("handler_errors", "Failures of the program's handlers and callbacks."),
    "handler_timeouts": ("handler_timeouts", "Handlers given up after `handler_timeout`."),
}
"""The metric of each counter of `Traffic`: its name and its help."""


class ServerCollector(Collector):
    """The statistics and tables of a server, as metrics."""

    def __init__(self, parts: Parts, operations: Operations) -> None:
        self._parts = parts
        self._operations = operations

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering must not read the tables already."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; that takes some milliseconds with ten thousand connections."""
        for group in self.groups():
            yield from group

    def groups(self) -> tuple[Iterable[Metric], ...]:
        """Return all metrics in groups, each of which is computed when it is read."""
        about = InfoMetricFamily("moorage", "The software that runs here.", {"version": VERSION})
        return (
            (about,),
            self._life(),
            self._connections(),
            self._traffic(),
            self._topics(),
            self._capacity(),
        )

    def _life(self) -> Iterator[Metric]:
        statistics = self._parts.statistics
        health = self._operations.health()
        yield _gauge(
            "moorage_start_time_seconds",
            "When the server started, in seconds since 1970.",
            statistics.started_at,
        )
        yield _gauge(
            "moorage_ready",
            "Whether new clients should be sent here: 1, or 0 as /readyz explains.",
            health.ready,
        )
        yield _gauge(
            "moorage_event_loop_lag_seconds",
            "How late the event loop comes back to a task that is due, smoothed.",
            health.loop_lag,
        )
        yield _gauge(
            "moorage_event_loop_lag_max_seconds",
            "The largest event loop lag of the last ten seconds.",
            health.loop_lag_max,
        )
        yield CounterMetricFamily(
            "moorage_event_loop_turns",
            "Turns of the event loop.",
            self._parts.tick.turns,
        )
        yield CounterMetricFamily(
            "moorage_event_loop_slow_turns",
            "Turns of the event loop that took longer than the setting slow_turn allows.",
            self._parts.tick.slow_turns,
        )
        yield CounterMetricFamily(
            "moorage_log_lines_lost",
            "Log lines that standard error did not take, or not in time.",
            self._parts.log.lost,
        )
        yield _gauge(
            "moorage_log_waiting_bytes",
            "Bytes of log lines that standard error has not taken yet.",
            self._parts.log.waiting,
        )

    def _connections(self) -> Iterator[Metric]:
        statistics = self._parts.statistics
        states = Counter(connection.state for connection in self._parts.hub)
        admission = self._parts.admission
        states[ConnectionState.OPENING] += admission.handshaking
        yield _by_label(
            GaugeMetricFamily,
            "moorage_connections",
            "Connections at this moment; opening are those in their handshake.",
            "state",
            {
                state.value: states[state]
                for state in ConnectionState
                if state is not ConnectionState.CLOSED
            },
        )
        yield CounterMetricFamily(
            "moorage_sockets_accepted", "Sockets accepted.", statistics.accepted
        )
        yield CounterMetricFamily(
            "moorage_connections_opened",
            "Handshakes that led to a connection.",
            statistics.connected,
        )
        yield _by_label(
            CounterMetricFamily,
            "moorage_connections_closed",
            "Connections that ended, by the one cause that ended each.",
            "cause",
            {cause.value: statistics.closed[cause] for cause in CloseCause},
        )
        yield _by_label(
            CounterMetricFamily,
            "moorage_handshakes_refused",
            "Clients refused, by the HTTP status that they were told.",
            "status",
            {str(status): count for status, count in sorted(statistics.refused.items())},
        )
        yield CounterMetricFamily(
            "moorage_handshakes_abandoned",
            "Clients that went away before their handshake was complete.",
            statistics.left_early,
        )
        yield CounterMetricFamily(
            "moorage_handshakes_unanswered",
            "Clients whose sockets were closed before they had sent a request.",
            statistics.unanswered,
        )
        yield CounterMetricFamily(
            "moorage_handshakes_gave_way",
            "Handshakes that ended for newer ones, since there were as many as there may be.",
            admission.handshakes.gave_way,
        )
        yield _gauge(
            "moorage_handshakes_limit",
            "Handshakes that may be under way, clients that are to send a token included.",
            admission.max_handshakes,
        )
        yield CounterMetricFamily(
            "moorage_accept_failures",
            "Times that there was no file descriptor or memory left for a connection.",
            statistics.exhausted,
        )
        yield _histogram(
            "moorage_handshake_duration_seconds",
            "From an accepted socket to an accepted upgrade, TLS included.",
            statistics.handshakes,
        )

    def _traffic(self) -> Iterator[Metric]:
        traffic = self._parts.statistics.traffic
        for counter, (name, text) in _TRAFFIC.items():
            yield CounterMetricFamily(f"moorage_{name}", text, getattr(traffic, counter))
        yield _histogram(
            "moorage_publish_duration_seconds",
            "From the first publication of a turn of the event loop to the last write of it.",
            self._parts.router.durations,
        )

    def _topics(self) -> Iterator[Metric]:
        router = self._parts.router
        yield _gauge("moorage_topics", "Topics with a subscriber.", len(router.topics))
        yield _gauge("moorage_subscriptions", "Subscriptions of all topics.", router.subscriptions)
        yield _gauge(
            "moorage_users",
            "Users with a connection.",
            len(self._parts.hub.by_user),
        )

    def _capacity(self) -> Iterator[Metric]:
        settings = self._parts.settings
        now = self._parts.tick.now()
        mailboxes = [connection.mailbox for connection in self._parts.hub]
        waiting = [box.oldest for box in mailboxes if box.size]
        topics = self._parts.router.topics.values()
        yield _gauge(
            "moorage_mailbox_bytes",
            "Bytes that wait to be sent, of all connections.",
            sum(box.size for box in mailboxes),
        )
        yield _gauge(
            "moorage_mailbox_fullest_bytes",
            "Bytes that wait in the fullest mailbox.",
            max((box.size for box in mailboxes), default=0),
        )
        yield _gauge(
            "moorage_mailbox_oldest_seconds",
            "For how long the oldest bytes of any mailbox have waited.",
            max((now - since for since in waiting if since is not None), default=0.0),
        )
        yield _gauge(
            "moorage_mailbox_limit_bytes",
            "Bytes that may wait in one mailbox.",
            settings.max_mailbox_size,
        )
        limit, used = settings.max_total_connections, self._parts.admission.admitted
        yield _gauge("moorage_connections_limit", "Connections that there may be.", limit)
        yield _gauge(
            "moorage_connections_headroom",
            "Connections for which there is room.",
            max(0, limit - used),
        )
        yield _gauge(
            "moorage_topic_subscribers_limit",
            "Subscribers that one topic may have.",
            settings.max_connections_per_topic,
        )
        yield _gauge(
            "moorage_topic_subscribers_largest",
            "Subscribers of the topic that has most.",
            max((len(topic.subscribers) for topic in topics), default=0),
        )


def metrics_endpoint(
    parts: Parts, operations: Operations
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that answers a scrape, in the format that it asks for."""
    # A registry of its own: the program's metrics, in the default one, are the program's.
    python = CollectorRegistry()
    PlatformCollector(registry=python)
    GCCollector(registry=python)
    process = ProcessCollector(registry=None)
    server = ServerCollector(parts, operations)

    async def metrics(request: Request) -> Response:
        families: list[Metric] = []
        for group in (*server.groups(), python.collect()):
            families += group
            await trio.lowlevel.checkpoint()  # with 10,000 connections, a group may take 3 ms
        # It lists the folder of open descriptors, which takes another 5 ms then.
        families += await trio.to_thread.run_sync(lambda: list(process.collect()))
        registry = CollectorRegistry()
        registry.register(_Collected(families))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return metrics


class _Collected(Collector):
    """Metrics that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        """Return nothing, as there is no other collector that could have the same."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _by_label(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    metric = family(name, text, labels=(label,))
    for value, count in values.items():
        metric.add_metric((value,), count)
    return metric


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    """Return a histogram in Prometheus' form, in which each bucket includes the smaller ones."""
    bounds = (*map(str, histogram.bounds), "+Inf")
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets, histogram.total)
