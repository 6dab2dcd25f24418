"""The views of a running server: statistics, connections, topics, health."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from typing import Any

import pytest
import trio

from moorage.protocol.admin import answers
from moorage.protocol.admin.commands import (
    BroadcastRequest,
    ConnectionRequest,
    ConnectionsRequest,
    DisconnectRequest,
    TopicRequest,
    TopicsRequest,
    TreeRequest,
)
from moorage.protocol.errors import ErrorCode
from moorage.protocol.messages.codec import encode_value
from moorage.supervisor.app import App
from moorage.supervisor.operations import snapshots
from moorage.supervisor.operations.snapshots import NotFound
from moorage.supervisor.telemetry.line_writer import LineWriter
from tests.fakes import open_server
from tests.fakes_control import ADMIN, connect_admin
from tests.fakes_operations import OLGA, client, refusal
from tests.fakes_server import echo_app, settle, token, upgraded

# Statistics


async def test_the_statistics_count_connections_messages_and_topics(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news", "sport")
        await client(server, "bob", "news")
        await ann.request_reply({"type": "data", "topic": "news", "data": 1})
        await settle()
        stats = server.operations.stats()
        assert (stats.total_connections, stats.active_connections, stats.handshaking) == (2, 2, 0)
        assert stats.connections_by_state == {"authenticating": 0, "open": 2, "closing": 0}
        assert stats.connections_by_topic == {"news": 2, "sport": 1}
        assert (stats.topics, stats.subscriptions, stats.users) == (2, 3, 2)
        assert stats.messages_received == 4
        assert stats.messages_sent == 2 + 3 + 1 + 2  # welcomes, subscribed, published, data
        assert stats.published == 1
        assert stats.bytes_received > 0
        assert stats.bytes_sent > 0
        assert stats.cleanup.delivery_success_rate == 1.0
        assert encode_value(stats)  # ready for JSON


async def test_the_statistics_tell_handshakes_refusals_and_closes_by_cause(autojump_clock):
    async with open_server(jwt_key=ADMIN["jwt_key"]) as server:
        server.dial()
        turned_away = server.dial()
        assert (await turned_away.upgrade())[0] == 401
        turned_away.transport.close()
        ann = await client(server, "ann")
        await ann.close()
        await settle()
        stats = server.operations.stats()
        assert stats.handshaking == 1
        assert stats.refused == {"401": 1}
        assert stats.closed_by_cause == {"peer_closed": 1}
        assert stats.uptime >= 0
        assert stats.started_at.endswith("Z")


async def test_no_more_than_twenty_topics_are_told_the_largest_first(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "ann", *(f"topic{n}" for n in range(30)))
        await client(server, "bob", "topic29")
        by_topic = server.operations.stats().connections_by_topic
        assert len(by_topic) == 20
        assert next(iter(by_topic.items())) == ("topic29", 2)


async def test_slow_consumers_are_told_with_what_waits_for_them(autojump_clock):
    async with open_server(**ADMIN, write_timeout=1000) as server:
        slow = await server.connect(token=token("slow"), capacity=2000)
        fast = await client(server, "fast")
        for _ in range(10):
            server.supervisor.send_to_user("slow", "x", "y" * 1000)
        stats = server.operations.stats()
        (entry,) = stats.slowest_consumers
        assert entry.connection_id == slow.id
        assert stats.mailbox_bytes == entry.mailbox_bytes > 8000
        assert fast.id != slow.id


async def test_rates_are_averages_of_the_last_seconds(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=1e6, connection_timeout=1e6) as server:
        ann = await client(server, "ann")
        await trio.sleep(3600)
        server.operations.stats()
        await trio.sleep(5)
        for _ in range(50):
            await ann.request_reply({"type": "ping"})
        rates = server.operations.stats().rates
        assert rates.seconds == pytest.approx(5, abs=0.5)
        assert rates.messages_in == pytest.approx(10, rel=0.2)
        assert rates.messages_out == pytest.approx(10, rel=0.2)
        assert rates.connected == 0


async def test_rates_go_back_to_zero_when_nothing_happens(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=1e6, connection_timeout=1e6) as server:
        ann = await client(server, "ann")
        for _ in range(50):
            await ann.request_reply({"type": "ping"})
        for _ in range(10):
            rates = server.operations.stats().rates
            await trio.sleep(2)
        assert rates.messages_in == 0


# Connections


async def test_connections_come_oldest_first_and_by_pages(autojump_clock):
    async with open_server(**ADMIN) as server:
        ids = [(await client(server, f"user{n}")).id for n in range(7)]
        found: list[str] = []
        cursor = None
        while True:
            page = await server.operations.connections(ConnectionsRequest(limit=3, cursor=cursor))
            assert page.total == 7
            found += [entry.connection_id for entry in page.connections]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == ids


async def test_a_page_goes_on_where_the_one_before_ended_whatever_left_meanwhile(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await client(server, f"user{n}") for n in range(6)]
        first = await server.operations.connections(ConnectionsRequest(limit=3))
        for peer in peers[1:4]:
            await peer.close()
        await settle()
        second = await server.operations.connections(
            ConnectionsRequest(limit=3, cursor=first.cursor)
        )
        assert [entry.connection_id for entry in second.connections] == [p.id for p in peers[4:]]
        assert second.cursor is None


async def test_the_filters_narrow_each_other(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        ann_too = await client(server, "ann", "sport")
        bob = await client(server, "bob", "news")

        async def ids(**filters: Any) -> set[str]:
            page = await server.operations.connections(ConnectionsRequest(**filters))
            assert page.total == len(page.connections)
            return {entry.connection_id for entry in page.connections}

        assert await ids(user_id="ann") == {ann.id, ann_too.id}
        assert await ids(topic="news") == {ann.id, bob.id}
        assert await ids(user_id="ann", topic="news") == {ann.id}
        assert await ids(state="open") == {ann.id, ann_too.id, bob.id}
        assert await ids(user_id="ann", state="closing") == set()
        assert await ids(user_id="nobody") == await ids(topic="nothing") == set()


async def test_a_user_whose_id_is_a_number_is_found_by_either_form(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "42")
        assert (await server.operations.connections(ConnectionsRequest(user_id=42))).total == 1
        assert (await server.operations.connections(ConnectionsRequest(user_id="42"))).total == 1


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_bounds_is_refused_with_the_bounds(limit, autojump_clock):
    async with open_server() as server:
        ops = server.operations
        for function, request in (
            (ops.connections, ConnectionsRequest(limit=limit)),
            (ops.topics, TopicsRequest(limit=limit)),
            (ops.tree, TreeRequest(limit=limit)),
        ):
            assert "from 1 to 1000" in refusal(ErrorCode.BAD_MESSAGE, function, request)


async def test_a_state_that_there_is_not_is_refused_with_those_that_there_are(autojump_clock):
    async with open_server() as server:
        request = ConnectionsRequest(state="asleep")
        text = refusal(ErrorCode.BAD_MESSAGE, server.operations.connections, request)
        assert "authenticating, open, closing" in text


@pytest.mark.parametrize("cursor", ["", "x", "nan", "1e5"])
async def test_a_cursor_that_no_page_gave_is_refused_or_ends_nothing(cursor, autojump_clock):
    async with open_server() as server:
        await server.connect()
        request = ConnectionsRequest(cursor=cursor)
        if cursor in ("", "x"):
            text = refusal(ErrorCode.BAD_MESSAGE, server.operations.connections, request)
            assert "the `cursor` of the page before" in text
        else:
            await server.operations.connections(request)


async def test_an_illegal_topic_is_refused_everywhere(autojump_clock):
    async with open_server() as server:
        ops = server.operations
        for function, request in (
            (ops.connections, ConnectionsRequest(topic="a b")),
            (ops.topic, TopicRequest("a b")),
            (ops.disconnect, DisconnectRequest(topic="a b")),
            (ops.broadcast, BroadcastRequest(topic="a b", message_type="x")),
        ):
            refusal(ErrorCode.BAD_TOPIC, function, request, OLGA)


async def test_one_connection_is_shown_whole(autojump_clock):
    app = App()
    app.connected(lambda connection: connection.metadata.update(plan="gold", lock=object()))
    async with open_server(app, **ADMIN) as server:
        ann = await client(server, "ann", "news")
        await ann.send("no message")
        await ann.receive_type("error")
        await trio.sleep(4)
        shown = server.operations.connection(ConnectionRequest(ann.id))
        assert shown.user_id == "ann"
        assert shown.address == "192.0.2.1"
        assert shown.path == "/ws"
        assert shown.kind == "session"
        assert shown.state == "open"
        assert shown.close_cause is None
        assert shown.topics == ("news",)
        assert shown.metadata["plan"] == "gold"
        assert "object" in shown.metadata["lock"]  # what JSON cannot say is shown as text
        assert shown.quiet_for == pytest.approx(4)
        assert shown.next_deadline == pytest.approx(24.5, abs=1.5)
        assert (shown.messages_in, shown.messages_out, shown.errors) == (2, 3, 1)
        assert (shown.mailbox_bytes, shown.mailbox_oldest, shown.dropped) == (0, None, 0)
        assert shown.token_expires_at is not None
        assert encode_value(shown)


async def test_the_age_of_what_waits_in_a_mailbox_is_shown(autojump_clock):
    async with open_server(**ADMIN, write_timeout=1000) as server:
        slow = await server.connect(capacity=500)
        server.supervisor.send_to_connection(slow.id, "x", "y" * 1000)
        await trio.sleep(3)
        shown = server.operations.connection(ConnectionRequest(slow.id))
        assert shown.mailbox_bytes > 500
        assert shown.mailbox_oldest == pytest.approx(3)


async def test_a_raw_connection_is_shown_as_such(autojump_clock):
    async with open_server(echo_app()) as server:
        await upgraded(server.dial(), "/raw")
        await settle()
        (entry,) = (await server.operations.connections(ConnectionsRequest())).connections
        assert entry.path == "/raw"
        assert server.operations.connection(ConnectionRequest(entry.connection_id)).kind == "raw"


async def test_a_connection_that_there_is_not_is_not_found(autojump_clock):
    async with open_server() as server:
        with pytest.raises(NotFound, match="there is no connection 'gone'"):
            server.operations.connection(ConnectionRequest("gone"))


# Topics


async def test_topics_come_by_name_by_prefix_and_by_pages(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "ann", "b.2", "a.1", "b.1", "b.3")
        await client(server, "bob", "b.1")
        page = server.operations.topics(TopicsRequest(prefix="b.", limit=2))
        assert [(t.topic, t.subscribers) for t in page.topics] == [("b.1", 2), ("b.2", 1)]
        assert page.total == 3
        page = server.operations.topics(TopicsRequest(prefix="b.", limit=2, cursor=page.cursor))
        assert [t.topic for t in page.topics] == ["b.3"]
        assert page.cursor is None
        assert server.operations.topics(TopicsRequest()).total == 4


async def test_one_topic_is_shown_with_its_subscribers_policy_and_rate(autojump_clock):
    async with open_server(**ADMIN, topics={"news": {"overload": "latest"}}) as server:
        ann = await client(server, "ann", "news")
        before = server.operations.topic(TopicRequest("news"))
        assert before.publish_rate is None
        for _ in range(10):
            server.supervisor.broadcast_to_topic("news", "x")
        await trio.sleep(5)
        shown = server.operations.topic(TopicRequest("news"))
        assert shown.subscribers == 1
        assert shown.connection_ids == (ann.id,)
        assert shown.published == 10
        assert shown.overload_policy == "latest"
        assert shown.publish_rate == pytest.approx(2)


async def test_a_topic_without_subscribers_has_none_of_anything(autojump_clock):
    async with open_server() as server:
        shown = server.operations.topic(TopicRequest("silence"))
        assert (shown.subscribers, shown.published, shown.overload_policy) == (0, 0, "disconnect")


# Health


async def test_a_full_server_is_not_ready_and_tells_its_headroom(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        await server.connect()
        assert server.operations.health().connections == answers.Headroom(2, 1, 1)
        await server.connect()
        health = server.operations.health()
        assert health.reasons == ("full",)
        assert health.connections.left == 0
        assert health.limits["max_total_connections"] == 2
        assert health.descriptors.limit > health.descriptors.used > 0


async def test_lines_that_the_log_has_lost_are_told_and_leave_the_server_ready(autojump_clock):
    async with open_server() as server:
        server.parts.log._writer = LineWriter(None)
        server.parts.log._writer.write("to nobody\n")
        health = server.operations.health()
        assert (health.log, health.ready) == (answers.LogHealth(1, 0), True)
        assert server.operations.stats().log_lines_lost == 1


async def test_health_tells_the_handshakes_under_way(autojump_clock):
    async with open_server(max_handshakes=5) as server:
        peers = [server.dial() for _ in range(2)]
        await settle()
        assert server.operations.health().handshakes == answers.Headroom(5, 2, 3)
        assert len(peers) == 2


async def test_a_server_without_a_descriptor_for_clients_is_not_ready(autojump_clock, monkeypatch):
    # Once it was ready with none left.
    async with open_server() as server:
        monkeypatch.setattr(snapshots, "has_room", lambda: False)
        assert server.operations.health().reasons == ("descriptors",)


async def test_descriptors_that_cannot_be_counted_are_not_known(autojump_clock, monkeypatch):
    async with open_server() as server:
        monkeypatch.setattr(snapshots, "open_descriptors", lambda: None)
        health = server.operations.health()
        assert health.descriptors is None
        assert health.ready


async def test_health_and_stats_need_no_descriptor():
    # Once both failed with EMFILE: one listed a folder, the other read the package's metadata.
    async with open_server() as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        hoard = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
            with contextlib.suppress(OSError):
                while True:
                    hoard.append(os.dup(0))
            health, stats = server.operations.health(), server.operations.stats()
        finally:
            for descriptor in hoard:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert health.descriptors.left == 0
        assert "descriptors" in health.reasons
        assert stats.version


async def test_a_server_whose_loop_lags_is_not_ready(autojump_clock):
    async with open_server(max_loop_lag=0.000_001) as server:
        tick = server.parts.tick
        tick.before_io_wait(0)
        tick._second_began -= 1  # as if a second had passed
        health = server.operations.health()
        assert health.reasons == ("loop_lag",)
        assert health.loop_lag_max >= health.loop_lag > 0


@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_metadata_that_cannot_even_be_shown_does_not_hide_the_connection(
    error, autojump_clock
):
    class Unshowable:
        def __repr__(self):
            raise error

    async with open_server() as server:
        peer = await server.connect()
        server.actor(peer.id).metadata["odd"] = Unshowable()
        detail = server.operations.connection(ConnectionRequest(peer.id))
        assert detail.metadata == {"odd": "a Unshowable that cannot be shown"}


@pytest.mark.parametrize(
    ("name", "request_"),
    [("connections", ConnectionsRequest(limit=1000)), ("tree", TreeRequest(limit=1000))],
)
async def test_others_have_turns_while_many_connections_are_read(name, request_, autojump_clock):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_server() as server:
        for _ in range(350):
            await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await getattr(server.operations, name)(request_)
            nursery.cancel_scope.cancel()
    assert turns >= 1  # once all rows of a page were made in one turn


async def test_a_wall_clock_that_jumps_back_makes_no_duration_negative(autojump_clock):
    """`uptime` and `seconds` were differences of the wall clock's readings."""
    async with open_server(**ADMIN) as server:
        operator, peer = await connect_admin(server), await server.connect()
        await trio.sleep(5)
        server.parts.tick._wall_clock = lambda: time.time() - 86_400
        assert 0 <= server.operations.stats().uptime < 60
        assert 0 <= server.operations.health().uptime < 60
        await peer.close()
        await operator.close()
        await settle()
        (line,) = server.log.of("disconnected")
        assert line["seconds"] == pytest.approx(5, abs=0.1)
        (line,) = server.log.of("control_disconnected")
        assert line["seconds"] == pytest.approx(5, abs=0.1)
