"""The numbers of a server: they add up."""

from __future__ import annotations

import json

import attrs
import pytest
import trio

from moorage.actors.connection.traffic import Traffic
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from moorage.supervisor.telemetry.statistics import (
    HANDSHAKE_BOUNDS,
    PUBLISH_BOUNDS,
    Histogram,
    Statistics,
)
from tests.fakes import open_server
from tests.fakes_server import KEY, settle, subscribed, token


def test_a_histogram_counts_into_the_bucket_whose_bound_is_not_exceeded():
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.0, 1.0, 1.5, 2.0, 3.0, 100.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 107.5


@pytest.mark.parametrize("bounds", [HANDSHAKE_BOUNDS, PUBLISH_BOUNDS])
def test_the_bounds_of_the_buckets_rise(bounds):
    assert list(bounds) == sorted(set(bounds))


def test_statistics_begin_at_nothing_and_are_ready_for_json():
    statistics = Statistics(12.5)
    told = json.loads(json.dumps(statistics.as_dict()))
    assert told.pop("started_at") == 12.5
    assert (told.pop("refused"), told.pop("closed")) == ({}, {})
    assert set(told.values()) == {0}


def test_refusals_are_told_by_status_and_ends_by_the_name_of_their_cause():
    statistics = Statistics(0.0)
    statistics.refused[503] += 2
    statistics.closed[CloseCause.PEER_CLOSED] += 1
    told = statistics.as_dict()
    assert (told["refused"], told["closed"]) == ({"503": 2}, {"peer_closed": 1})


def test_all_that_is_counted_is_told():
    told = Statistics(0.0).as_dict().keys()
    own = attrs.fields_dict(Statistics).keys() - {"traffic", "handshakes"}
    assert told == own | attrs.fields_dict(Traffic).keys()


async def test_the_numbers_add_up(autojump_clock):
    app = App()

    @app.on("broken")
    def broken(context, message):
        raise ValueError

    async with open_server(app, jwt_key=KEY, anonymous=True, max_connections_per_user=1) as server:
        statistics = server.parts.statistics
        traffic = statistics.traffic
        peers = [await subscribed(await server.connect(), "t") for _ in range(4)]
        await server.dial().upgrade("/nowhere")
        server.dial().transport.close()
        wrong = server.dial()
        await wrong.upgrade(headers={"Authorization": "Bearer nonsense"})
        wrong.transport.reset()
        await server.connect(token=token("ann"))
        extra = server.dial()
        await extra.upgrade(headers={"Authorization": f"Bearer {token('ann')}"})
        await extra.close_code()
        extra.transport.close()
        before = traffic.messages_out, traffic.published
        server.supervisor.broadcast_to_topic("t", "x", 1, exclude={peers[0].id})
        await peers[0].send({"type": "data", "topic": "t", "data": 1}, {"type": "broken"}, "{")
        await settle()
        # 3 of the broadcast, 4 of the publication, and 2 errors.
        assert traffic.messages_out - before[0] == 9
        assert traffic.published - before[1] == 2
        assert traffic.handler_errors == 1
        assert traffic.bad_messages == 1
        await peers[0].close()
        peers[1].transport.reset()
        peers[2].transport.close()
        await settle()
        assert statistics.accepted == 9
        assert statistics.refused == {404: 1, 401: 1}
        assert statistics.left_early == 1
        assert statistics.connected == 6
        server.supervisor.suspend()
        server.dial()
        await trio.sleep(3)
        assert statistics.unanswered == 1
        assert statistics.accepted == (
            statistics.connected
            + statistics.refused.total()
            + statistics.left_early
            + statistics.unanswered
        )
        assert statistics.closed == {
            CloseCause.PEER_CLOSED: 1,
            CloseCause.PEER_VANISHED: 2,
            CloseCause.TOO_MANY_CONNECTIONS: 1,
        }
        live = len(server.supervisor.connections())
        assert statistics.connected == statistics.closed.total() + live
        assert server.router.subscriptions == 1
        mailboxes = [one.mailbox for one in server.actors()]
        assert sum(mailbox.messages_out for mailbox in mailboxes) <= traffic.messages_out
        json.dumps(statistics.as_dict())


async def test_a_program_gets_a_copy_of_all_counters(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.close()
        await server.supervisor.wait_empty()
        copied, own = server.supervisor.statistics, server.parts.statistics
        assert copied == own
        copied.closed.clear()
        copied.refused[503] += 1
        copied.traffic.messages_in += 1
        copied.handshakes.observe(1.0)
        assert copied.closed != own.closed
        assert copied.refused != own.refused
        assert copied.traffic != own.traffic
        assert copied.handshakes != own.handshakes
        assert server.supervisor.statistics == own
