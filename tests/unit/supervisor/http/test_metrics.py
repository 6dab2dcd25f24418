"""/metrics: what Prometheus reads, and that its numbers are the server's own."""

import re

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from moorage.protocol.closing import CloseCause
from moorage.supervisor.http.metrics import ServerCollector
from moorage.supervisor.telemetry.statistics import PUBLISH_BOUNDS, Histogram
from tests.fakes import open_server
from tests.fakes_http import client, serving
from tests.fakes_server import KEY, settle, token


@pytest.fixture
async def registry():
    """A server under virtual time, and what a scrape of it would read."""
    async with open_server(jwt_key=KEY) as server:
        found = CollectorRegistry()
        found.register(ServerCollector(server.parts, server.operations))
        yield server, found


@pytest.fixture
def value(registry):
    _, found = registry

    def read(name, **labels):
        return found.get_sample_value(f"moorage_{name}", labels)

    return read


async def test_connections_are_counted_by_state_and_by_the_cause_of_their_end(
    autojump_clock, registry, value
):
    server, _ = registry
    alice = await server.connect(token=token("alice"))
    await server.connect(token=token("bob"))
    assert value("connections", state="open") == 2
    assert value("users") == 2
    await alice.close()
    await settle()
    assert value("connections", state="open") == 1
    assert value("connections_opened_total") == 2
    assert value("connections_closed_total", cause="peer_closed") == 1
    assert value("connections_closed_total", cause="slow_consumer") == 0


async def test_a_client_in_its_handshake_counts_as_opening_and_takes_no_place(
    autojump_clock, registry, value
):
    server, _ = registry
    server.dial()
    await settle()
    assert value("connections", state="opening") == 1
    assert value("connections_headroom") == value("connections_limit")
    await server.connect(token=token("ann"))
    assert value("connections_headroom") == value("connections_limit") - 1


async def test_who_gave_way_and_who_got_no_answer_are_counted_apart_from_refusals(autojump_clock):
    async with open_server(max_handshakes=1) as server:
        found = CollectorRegistry()
        found.register(ServerCollector(server.parts, server.operations))
        server.dial()
        await settle()
        await server.connect()
        server.supervisor.suspend()
        server.dial()
        await trio.sleep(3)
        for name, number in (("limit", 1), ("gave_way_total", 1), ("unanswered_total", 2)):
            assert found.get_sample_value(f"moorage_handshakes_{name}") == number
        refused = found.get_sample_value("moorage_handshakes_refused_total", {"status": "503"})
        assert refused is None


async def test_messages_and_bytes_are_counted_in_both_directions(autojump_clock, registry, value):
    server, _ = registry
    peer = await server.connect(token=token("alice"))
    received, sent = value("received_bytes_total"), value("sent_bytes_total")
    await peer.request_reply({"type": "ping"})
    assert value("messages_received_total") == 1
    assert value("messages_sent_total") == 2  # `welcome` and `pong`
    assert value("received_bytes_total") > received
    assert value("sent_bytes_total") > sent


async def test_topics_and_publications_are_counted_and_timed(autojump_clock, registry, value):
    server, _ = registry
    peer = await server.connect(token=token("alice"))
    await peer.request_reply({"type": "subscribe", "topic": "news"})
    server.supervisor.broadcast_to_topic("news", "data", 1)
    await peer.receive()
    assert value("topics") == 1
    assert value("subscriptions") == 1
    assert value("topic_subscribers_largest") == 1
    assert value("publications_total") == 1
    assert value("publish_duration_seconds_count") == 1


async def test_handshakes_are_timed_and_refusals_counted_by_status(autojump_clock, registry, value):
    server, _ = registry
    await server.connect(token=token("alice"))
    assert value("handshake_duration_seconds_count") == 1
    status, _, _ = await server.dial().upgrade("/ws", {"Authorization": "Bearer x"})
    assert status == 401
    assert value("handshakes_refused_total", status="401") == 1
    assert value("handshake_duration_seconds_count") == 1


async def test_bytes_that_wait_and_for_how_long_can_be_seen(autojump_clock, registry, value):
    server, _ = registry
    await server.connect(token=token("slow"), capacity=600)
    (connection,) = server.actors()
    server.supervisor.send_to_user("slow", "x", "y" * 2000)
    await trio.sleep(2)
    assert value("mailbox_bytes") == connection.mailbox.size > 0
    assert value("mailbox_fullest_bytes") == connection.mailbox.size
    assert value("mailbox_oldest_seconds") == pytest.approx(2, abs=0.01)


async def test_readiness_is_a_metric(autojump_clock, registry, value):
    server, _ = registry
    assert value("ready") == 1
    server.supervisor.suspend()
    assert value("ready") == 0


def test_a_bucket_holds_what_is_as_long_as_its_bound_and_less():
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == pytest.approx(7.65)


def test_bounds_grow():
    assert list(PUBLISH_BOUNDS) == sorted(set(PUBLISH_BOUNDS))


async def test_a_scrape_can_be_parsed_in_both_formats():
    async with serving() as server:
        await client(server, "alice", "news")
        await server.post("/api/publish", {"topic": "news"})
        text = await server.get("/metrics")
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in parse(text.text)}
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        open_metrics = await server.get("/metrics", headers=accept)
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
        same = {family.name for family in parse_open(open_metrics.text)} | {"moorage_info"}
        assert same >= families.keys() - {"python_info"}
        assert {"process_open_fds", "process_resident_memory_bytes"} <= set(families)
        buckets = families["moorage_publish_duration_seconds"].samples
        counts = [sample.value for sample in buckets if sample.name.endswith("_bucket")]
        assert counts == sorted(counts)
        assert counts[-1] == 1


async def test_names_and_labels_follow_the_guidelines():
    async with serving() as server:
        families = [
            family
            for family in parse((await server.get("/metrics")).text)
            if family.name.startswith("moorage")
        ]
        labels = set()
        for family in families:
            assert re.fullmatch(r"moorage(_[a-z]+)*", family.name)
            assert family.documentation.endswith(".")
            for unit in ("millisecond", "minute", "kilobyte", "percent"):
                assert unit not in family.name
            for sample in family.samples:
                assert (family.type == "counter") == sample.name.endswith("_total")
                labels |= sample.labels.keys()
        # Nothing that clients choose, so that the number of series is bounded.
        assert labels <= {"state", "cause", "status", "le", "version"}


async def test_every_cause_of_closing_is_there_before_it_happens():
    async with serving() as server:
        text = (await server.get("/metrics")).text
        for cause in CloseCause:
            assert f'moorage_connections_closed_total{{cause="{cause.value}"}} 0.0' in text


async def test_metrics_need_no_token():
    async with serving() as server:
        assert (await server.get("/metrics", headers={"Authorization": ""})).status_code == 200
