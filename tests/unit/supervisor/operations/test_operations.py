"""The operations: what an operator can see and do, whichever way it was asked for."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio

from moorage.protocol.admin import answers
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.messages.codec import encode_value
from moorage.supervisor.app import App
from moorage.supervisor.operations.operations import Operations
from moorage.supervisor.operations.snapshots import NotFound
from tests.fakes import Peer, Server, open_server
from tests.fakes_control import ADMIN
from tests.fakes_server import settle, subscribed, token, upgraded


def operations(server: Server) -> Operations:
    return server.supervisor.operations


async def client(server: Server, user: str, *topics: str) -> Peer:
    return await subscribed(await server.connect(token=token(user)), *topics)


def refusal(expected: ErrorCode, function, /, *arguments, **options) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        function(*arguments, **options)
    assert caught.value.code is expected
    return caught.value.message


async def left(peer: Peer) -> int | None:
    """Leave as the server wants it to; return the code that it said."""
    code = await peer.close_code()
    peer.transport.close()
    return code


def only_line(server: Server, event: str) -> dict[str, Any]:
    (line,) = server.log.of(event)
    return line


# Statistics


async def test_the_statistics_count_connections_messages_and_topics(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news", "sport")
        await client(server, "bob", "news")
        await ann.request_reply({"type": "data", "topic": "news", "data": 1})
        await settle()
        stats = operations(server).stats()
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
        stats = operations(server).stats()
        assert stats.handshaking == 1
        assert stats.refused == {"401": 1}
        assert stats.closed_by_cause == {"peer_closed": 1}
        assert stats.uptime >= 0
        assert stats.started_at.endswith("Z")


async def test_no_more_than_twenty_topics_are_told_the_largest_first(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "ann", *(f"topic{n}" for n in range(30)))
        await client(server, "bob", "topic29")
        by_topic = operations(server).stats().connections_by_topic
        assert len(by_topic) == 20
        assert next(iter(by_topic.items())) == ("topic29", 2)


async def test_slow_consumers_are_told_with_what_waits_for_them(autojump_clock):
    async with open_server(**ADMIN, write_timeout=1000) as server:
        slow = await server.connect(token=token("slow"), capacity=2000)
        fast = await client(server, "fast")
        for _ in range(10):
            server.supervisor.send_to_user("slow", "x", "y" * 1000)
        stats = operations(server).stats()
        (entry,) = stats.slowest_consumers
        assert entry.connection_id == slow.id
        assert stats.mailbox_bytes == entry.mailbox_bytes > 8000
        assert fast.id != slow.id


async def test_rates_are_averages_of_the_last_seconds(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=1e6, connection_timeout=1e6) as server:
        ann = await client(server, "ann")
        await trio.sleep(3600)
        operations(server).stats()
        await trio.sleep(5)
        for _ in range(50):
            await ann.request_reply({"type": "ping"})
        rates = operations(server).stats().rates
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
            rates = operations(server).stats().rates
            await trio.sleep(2)
        assert rates.messages_in == 0


# Connections


async def test_connections_come_oldest_first_and_by_pages(autojump_clock):
    async with open_server(**ADMIN) as server:
        ids = [(await client(server, f"user{n}")).id for n in range(7)]
        found: list[str] = []
        cursor = None
        while True:
            page = operations(server).connections(limit=3, cursor=cursor)
            assert page.total == 7
            found += [entry.connection_id for entry in page.connections]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == ids


async def test_a_page_goes_on_where_the_one_before_ended_whatever_left_meanwhile(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await client(server, f"user{n}") for n in range(6)]
        first = operations(server).connections(limit=3)
        for peer in peers[1:4]:
            await peer.close()
        await settle()
        second = operations(server).connections(limit=3, cursor=first.cursor)
        assert [entry.connection_id for entry in second.connections] == [p.id for p in peers[4:]]
        assert second.cursor is None


async def test_the_filters_narrow_each_other(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        ann_too = await client(server, "ann", "sport")
        bob = await client(server, "bob", "news")

        def ids(**filters: Any) -> set[str]:
            page = operations(server).connections(**filters)
            assert page.total == len(page.connections)
            return {entry.connection_id for entry in page.connections}

        assert ids(user_id="ann") == {ann.id, ann_too.id}
        assert ids(topic="news") == {ann.id, bob.id}
        assert ids(user_id="ann", topic="news") == {ann.id}
        assert ids(state="open") == {ann.id, ann_too.id, bob.id}
        assert ids(user_id="ann", state="closing") == set()
        assert ids(user_id="nobody") == ids(topic="nothing") == set()


async def test_a_user_whose_id_is_a_number_is_found_by_either_form(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "42")
        assert operations(server).connections(user_id=42).total == 1
        assert operations(server).connections(user_id="42").total == 1


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_bounds_is_refused_with_the_bounds(limit, autojump_clock):
    async with open_server() as server:
        ops = operations(server)
        for function in (ops.connections, ops.topics, ops.tree):
            assert "from 1 to 1000" in refusal(ErrorCode.BAD_MESSAGE, function, limit=limit)


async def test_a_state_that_there_is_not_is_refused_with_those_that_there_are(autojump_clock):
    async with open_server() as server:
        text = refusal(ErrorCode.BAD_MESSAGE, operations(server).connections, state="asleep")
        assert "authenticating, open, closing" in text


@pytest.mark.parametrize("cursor", ["", "x", "nan", "1e5"])
async def test_a_cursor_that_no_page_gave_is_refused_or_ends_nothing(cursor, autojump_clock):
    async with open_server() as server:
        await server.connect()
        if cursor in ("", "x"):
            text = refusal(ErrorCode.BAD_MESSAGE, operations(server).connections, cursor=cursor)
            assert "the `cursor` of the page before" in text
        else:
            operations(server).connections(cursor=cursor)


async def test_an_illegal_topic_is_refused_everywhere(autojump_clock):
    async with open_server() as server:
        ops = operations(server)
        for function in (
            lambda: ops.connections(topic="a b"),
            lambda: ops.topic("a b"),
            lambda: ops.disconnect(topic="a b", by="test"),
            lambda: ops.broadcast(topic="a b", message_type="x", by="test"),
        ):
            refusal(ErrorCode.BAD_TOPIC, function)


async def test_one_connection_is_shown_whole(autojump_clock):
    app = App()
    app.connected(lambda connection: connection.metadata.update(plan="gold", lock=object()))
    async with open_server(app, **ADMIN) as server:
        ann = await client(server, "ann", "news")
        await ann.send("no message")
        await ann.receive_type("error")
        await trio.sleep(4)
        shown = operations(server).connection(ann.id)
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
        assert shown.next_deadline == pytest.approx(26)
        assert (shown.messages_in, shown.messages_out, shown.errors) == (2, 3, 1)
        assert (shown.mailbox_bytes, shown.mailbox_oldest, shown.dropped) == (0, None, 0)
        assert shown.token_expires_at is not None
        assert encode_value(shown)


async def test_the_age_of_what_waits_in_a_mailbox_is_shown(autojump_clock):
    async with open_server(**ADMIN, write_timeout=1000) as server:
        slow = await server.connect(capacity=500)
        server.supervisor.send_to_connection(slow.id, "x", "y" * 1000)
        await trio.sleep(3)
        shown = operations(server).connection(slow.id)
        assert shown.mailbox_bytes > 500
        assert shown.mailbox_oldest == pytest.approx(3)


async def test_a_raw_connection_is_shown_as_such(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with open_server(app) as server:
        await upgraded(server.dial(), "/raw")
        await settle()
        (entry,) = operations(server).connections().connections
        assert entry.path == "/raw"
        assert operations(server).connection(entry.connection_id).kind == "raw"


async def test_a_connection_that_there_is_not_is_not_found(autojump_clock):
    async with open_server() as server:
        with pytest.raises(NotFound, match="there is no connection 'gone'"):
            operations(server).connection("gone")


# Topics


async def test_topics_come_by_name_by_prefix_and_by_pages(autojump_clock):
    async with open_server(**ADMIN) as server:
        await client(server, "ann", "b.2", "a.1", "b.1", "b.3")
        await client(server, "bob", "b.1")
        page = operations(server).topics(prefix="b.", limit=2)
        assert [(t.topic, t.subscribers) for t in page.topics] == [("b.1", 2), ("b.2", 1)]
        assert page.total == 3
        page = operations(server).topics(prefix="b.", limit=2, cursor=page.cursor)
        assert [t.topic for t in page.topics] == ["b.3"]
        assert page.cursor is None
        assert operations(server).topics().total == 4


async def test_one_topic_is_shown_with_its_subscribers_policy_and_rate(autojump_clock):
    async with open_server(**ADMIN, overload={"news": "latest"}) as server:
        ann = await client(server, "ann", "news")
        before = operations(server).topic("news")
        assert before.publish_rate is None
        for _ in range(10):
            server.supervisor.broadcast_to_topic("news", "x")
        await trio.sleep(5)
        shown = operations(server).topic("news")
        assert shown.subscribers == 1
        assert shown.connection_ids == (ann.id,)
        assert shown.published == 10
        assert shown.overload_policy == "latest"
        assert shown.publish_rate == pytest.approx(2)


async def test_a_topic_without_subscribers_has_none_of_anything(autojump_clock):
    async with open_server() as server:
        shown = operations(server).topic("silence")
        assert (shown.subscribers, shown.published, shown.overload_policy) == (0, 0, "disconnect")


# Disconnecting


async def test_by_user_all_connections_of_that_user_are_closed(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann, ann_too = await client(server, "ann"), await client(server, "ann")
        bob = await client(server, "bob")
        result = operations(server).disconnect(user_id="ann", reason="moved", by="olga")
        assert result.disconnected == 2
        assert set(result.connection_ids) == {ann.id, ann_too.id}
        assert await ann.close_code() == 4503
        assert await ann_too.close_code() == 4503
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_by_topic_all_its_subscribers_are_closed(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        bob = await client(server, "bob", "sport")
        result = operations(server).disconnect(topic="news", by="olga")
        assert result.connection_ids == (ann.id,)
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_many_are_closed_with_turns_for_others_in_between(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await server.connect(token=token("ann")) for _ in range(450)]
        assert operations(server).disconnect(user_id="ann", by="olga").disconnected == 450
        ended = sum(not connection.is_open for connection in server.supervisor.connections())
        assert ended == 200
        for peer in peers:
            assert await left(peer) == 4503


async def test_by_id_those_that_there_are_not_are_told(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann")
        result = operations(server).disconnect(connection_ids=[ann.id, "gone", ann.id], by="olga")
        assert result == answers.Disconnected(1, (ann.id,), ("gone",))
        again = operations(server).disconnect(connection_ids=[ann.id], by="olga")
        assert again == answers.Disconnected(0, (), (ann.id,))  # it is closing already


async def test_the_client_reads_the_reason_and_whether_to_come_back(autojump_clock):
    async with open_server(**ADMIN) as server:
        for options, expected in (
            ({"reconnect": True}, (4007, "please reconnect")),
            ({"reason": "new release", "reconnect": True}, (4007, "new release")),
            ({"code": 4100, "reason": "shard moved"}, (4100, "shard moved")),
        ):
            ann = await client(server, "ann")
            operations(server).disconnect(user_id="ann", **options, by="olga")
            with pytest.raises(EOFError) as ended:
                await ann.receive()
            assert ended.value.args == expected
            ann.transport.close()


@pytest.mark.parametrize(
    "whom", [{}, {"user_id": "ann", "topic": "news"}, {"connection_ids": [], "user_id": 1}]
)
async def test_exactly_one_of_the_three_says_whom(whom, autojump_clock):
    async with open_server() as server:
        text = refusal(ErrorCode.BAD_MESSAGE, operations(server).disconnect, **whom, by="olga")
        assert text == "`data` needs exactly one of `connection_ids`, `user_id`, `topic`"
        assert server.log.of("admin.disconnect") == []


async def test_a_code_or_reason_that_cannot_be_sent_is_refused(autojump_clock):
    async with open_server() as server:
        for options, text in (
            ({"code": 1006}, "1006 cannot be sent"),
            ({"code": 99}, "99 cannot be sent"),
            ({"reason": "é" * 62}, "123 bytes"),
            ({"code": 4503, "reconnect": True}, "stay away"),
        ):
            found = refusal(
                ErrorCode.BAD_MESSAGE,
                operations(server).disconnect,
                user_id="ann",
                **options,
                by="olga",
            )
            assert text in found


# Broadcasting


async def test_a_broadcast_reaches_a_topic_a_user_or_everyone(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        bob = await client(server, "bob")
        ops = operations(server)
        sent = {"message_type": "alert", "data": {"n": 1}, "by": "olga"}
        assert ops.broadcast(topic="news", **sent).recipients == 1
        assert (await ann.receive())["topic"] == "news"
        assert ops.broadcast(user_id="bob", **sent).recipients == 1
        assert (await bob.receive())["data"] == {"n": 1}
        assert ops.broadcast(everyone=True, **sent).recipients == 2
        for peer in (ann, bob):
            assert (await peer.receive())["type"] == "alert"


async def test_those_excluded_do_not_get_it(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann, bob = await client(server, "ann", "news"), await client(server, "bob", "news")
        ops = operations(server)
        for whom in ({"topic": "news"}, {"everyone": True}):
            sent = ops.broadcast(**whom, message_type="x", exclude=[ann.id, "gone"], by="olga")
            assert sent.recipients == 1
            assert (await bob.receive())["type"] == "x"
        assert (await ann.request_reply({"type": "ping"}))["type"] == "pong"


async def test_broadcasts_to_everyone_arrive_in_order_however_many_they_are(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await server.connect() for _ in range(250)]
        for n in range(3):
            operations(server).broadcast(everyone=True, message_type="n", data=n, by="olga")
        for peer in (peers[0], peers[-1]):
            assert [(await peer.receive())["data"] for _ in range(3)] == [0, 1, 2]


async def test_a_raw_connection_gets_no_broadcast(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with open_server(app) as server:
        await upgraded(server.dial(), "/raw")
        await settle()
        sent = operations(server).broadcast(everyone=True, message_type="x", by="olga")
        assert sent.recipients == 0


@pytest.mark.parametrize("whom", [{}, {"everyone": False}, {"everyone": True, "user_id": "ann"}])
async def test_exactly_one_says_to_whom(whom, autojump_clock):
    async with open_server() as server:
        text = refusal(
            ErrorCode.BAD_MESSAGE,
            operations(server).broadcast,
            **whom,
            message_type="x",
            by="olga",
        )
        assert text == "`data` needs exactly one of `topic`, `user_id`, `everyone`"


@pytest.mark.parametrize("whom", [{"topic": "news"}, {"everyone": True}, {"user_id": "ann"}])
async def test_a_type_or_data_that_cannot_be_sent_is_the_askers_mistake(whom, autojump_clock):
    async with open_server() as server:
        broadcast = operations(server).broadcast
        text = refusal(ErrorCode.BAD_MESSAGE, broadcast, **whom, message_type="a b", by="olga")
        assert "`type`" in text
        text = refusal(
            ErrorCode.BAD_MESSAGE, broadcast, **whom, message_type="x", data=math.nan, by="olga"
        )
        assert "nan" in text


# Cleaning up


async def test_cleanup_closes_who_gives_no_sign_of_life_and_tells_how_many(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=600, connection_timeout=900) as server:
        alive, dead, fresh = [await client(server, name) for name in ("alive", "dead", "fresh")]
        await trio.sleep(100)
        await fresh.request_reply({"type": "ping"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alive.receive)  # heartbeat, and a Pong in answer to the Ping
            started = trio.current_time()
            result = await operations(server).cleanup(60, by="olga")
            assert trio.current_time() - started == pytest.approx(10)  # pong_timeout
        assert result == answers.CleanedUp(probed=2, alive=1, closed=1, closed_ids=(dead.id,))
        assert await left(dead) == 4001
        await settle()
        stats = operations(server).stats()
        assert stats.active_connections == 2
        assert stats.closed_by_cause == {"heartbeat_timeout": 1}
        assert stats.cleanup == answers.CleanupStats(
            runs=1,
            probed=2,
            closed=1,
            heartbeats=2,
            closed_by_timeout=1,
            closed_by_failed_delivery=0,
            delivery_success_rate=1.0,
        )


async def test_cleanup_by_default_asks_those_quiet_for_longer_than_a_pong_may_take(autojump_clock):
    async with open_server(heartbeat_interval=600, connection_timeout=900) as server:
        await server.connect()
        assert (await operations(server).cleanup(by="olga")).probed == 0
        await trio.sleep(11)
        assert (await operations(server).cleanup(by="olga")).probed == 1


async def test_cleanup_does_not_prolong_a_probe_that_is_under_way(autojump_clock):
    async with open_server() as server:
        await server.connect()
        await trio.sleep(35)  # probed after 30
        result = await operations(server).cleanup(0, by="olga")
        assert result.closed == 1
        assert server.supervisor.statistics.traffic.heartbeats == 1


async def test_who_leaves_during_a_cleanup_counts_as_closed(autojump_clock):
    async with open_server(heartbeat_interval=600, connection_timeout=900) as server:
        peer = await server.connect()
        await trio.sleep(20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.close)
            result = await operations(server).cleanup(by="olga")
        assert (result.alive, result.closed) == (0, 1)


@pytest.mark.parametrize("seconds", [-1, math.nan])
async def test_a_negative_time_is_refused(seconds, autojump_clock):
    async with open_server() as server:
        for function in (operations(server).cleanup, operations(server).drain):
            with pytest.raises(RemoteProtocolError, match="0 or more") as caught:
                await function(seconds, by="olga")
            assert caught.value.code is ErrorCode.BAD_MESSAGE


# Health, suspend, resume, drain


async def test_a_server_is_ready_until_it_is_suspended_and_again_when_resumed(autojump_clock):
    async with open_server() as server:
        ops = operations(server)
        health = ops.health()
        assert (health.live, health.ready, health.reasons) == (True, True, ())
        assert ops.suspend(by="olga") == answers.Suspended(suspended=True, connections=0)
        assert ops.health().reasons == ("suspended",)
        assert (await server.dial().upgrade())[0] == 503
        assert ops.resume(by="olga") == answers.Suspended(suspended=False, connections=0)
        assert ops.health().ready
        await server.connect()


async def test_a_full_server_is_not_ready_and_tells_its_headroom(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        await server.connect()
        assert operations(server).health().connections == answers.Headroom(2, 1, 1)
        await server.connect()
        health = operations(server).health()
        assert health.reasons == ("full",)
        assert health.connections.left == 0
        assert health.limits["max_total_connections"] == 2
        assert health.descriptors.limit > health.descriptors.used > 0


async def test_a_server_whose_loop_lags_is_not_ready(autojump_clock):
    async with open_server(max_loop_lag=0.000_001) as server:
        tick = server.supervisor.harbor.tick
        tick.before_io_wait(0)
        tick._second_began -= 1  # as if a second had passed
        health = operations(server).health()
        assert health.reasons == ("loop_lag",)
        assert health.loop_lag_max >= health.loop_lag > 0


async def test_a_drain_tells_its_progress_and_ends_when_all_have_left(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann, bob = await client(server, "ann"), await client(server, "bob")
        progress: list[answers.DrainProgress] = []

        async def leave_later() -> None:
            await trio.sleep(2.2)
            assert await left(bob) == 4000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(left, ann)
            nursery.start_soon(leave_later)
            result = await operations(server).drain(60, by="olga", on_progress=progress.append)
        assert (result.total, result.left, result.done) == (2, 0, True)
        assert [step.left for step in progress] == [2, 1, 1, 1, 1]
        assert result.seconds == pytest.approx(2.2, abs=0.1)
        assert operations(server).health().reasons == ("suspended",)


async def test_a_drain_gives_up_after_its_timeout_and_tells_who_is_left(autojump_clock):
    async with open_server(close_timeout=100) as server:
        await server.connect()
        result = await operations(server).drain(3, by="olga")
        assert (result.left, result.seconds, result.done) == (1, 3, True)


async def test_while_it_drains_a_server_says_so(autojump_clock):
    async with open_server(close_timeout=100) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(lambda: operations(server).drain(50, by="olga"))
        await settle()
        assert operations(server).health().reasons == ("draining",)
        await trio.sleep(51)
        assert operations(server).health().reasons == ("suspended",)


async def test_a_drain_outlives_who_asked_for_it_and_who_asks_next_joins(autojump_clock):
    async with open_server(close_timeout=100) as server:
        await server.connect()
        with trio.move_on_after(2):
            await operations(server).drain(10, by="olga")
        joined = await operations(server).drain(1000, by="pete")
        assert (joined.seconds, joined.timeout) == (10, 10)


async def test_resume_ends_a_drain_that_has_not_had_its_first_turn(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann")
        ops = operations(server)
        result = await ops.drain(50, by="olga", on_progress=lambda _: ops.resume(by="pete"))
        assert not result.done
        assert ops.health().ready
        assert (await ann.request_reply({"type": "ping"}))["type"] == "pong"


async def test_resume_ends_a_drain(autojump_clock):
    async with open_server(close_timeout=100) as server, trio.open_nursery() as nursery:
        await server.connect()
        results: list[answers.DrainProgress] = []

        async def drain() -> None:
            results.append(await operations(server).drain(50, by="olga"))

        nursery.start_soon(drain)
        await trio.sleep(1)
        operations(server).resume(by="pete")
        await settle()
        (result,) = results
        assert (result.done, result.left) == (False, 1)
        assert operations(server).health().ready
        await server.connect()


# Who did it


async def test_what_changes_something_is_logged_with_who_did_it(autojump_clock):
    async with open_server(**ADMIN) as server:
        ops = operations(server)
        await client(server, "ann", "news")
        ops.broadcast(topic="news", message_type="x", by="olga")
        ops.disconnect(user_id="ann", reason="abuse", by="pete")
        await trio.sleep(6)
        await ops.cleanup(by="olga")
        ops.suspend(by="olga")
        ops.resume(by="olga")
        await ops.drain(by="pete")
        for event, by in (
            ("admin.broadcast", "olga"),
            ("admin.disconnect", "pete"),
            ("admin.cleanup", "olga"),
            ("admin.cleaned_up", "olga"),
            ("admin.suspend", "olga"),
            ("admin.resume", "olga"),
            ("admin.drain", "pete"),
        ):
            line = only_line(server, event)
            assert line["by"] == by
            assert line["level"] == logging.INFO
        line = only_line(server, "admin.disconnect")
        assert (line["for_user"], line["disconnected"], line["reason"]) == ("ann", 1, "abuse")


async def test_looking_is_not_logged(autojump_clock):
    async with open_server() as server:
        before = len(server.log.lines)
        ops = operations(server)
        ops.stats(), ops.connections(), ops.topics(), ops.topic("x"), ops.health(), ops.tree()
        assert len(server.log.lines) == before


# The tree


async def test_the_tree_shows_listeners_connections_and_what_each_waits_for(autojump_clock):
    app = App()

    @app.endpoint("/ws")
    async def beside(connection):
        await trio.sleep_forever()

    async with open_server(app, write_timeout=1000) as server:
        slow = await server.connect(capacity=500)
        server.supervisor.send_to_connection(slow.id, "x", "y" * 1000)
        await trio.sleep(2)
        tree = operations(server).tree()
        assert (tree.kind, tree.state) == ("supervisor", "serving")
        names = [child.name for child in tree.children]
        assert "delivery" in names
        listener = next(child for child in tree.children if child.kind == "listener")
        assert listener.name.startswith("listener on ws://127.0.0.1:")
        assert listener.waits_for == "Listener.accept_all: wait_readable"
        (connection,) = tree.children[-1].children  # it came by no listener, but from this test
        assert connection.name == slow.id
        assert connection.mailbox_bytes > 500
        assert connection.mailbox_oldest == pytest.approx(2)
        assert connection.next_deadline == pytest.approx(28)
        kinds = {child.kind: child for child in connection.children}
        assert set(kinds) == {"writer", "endpoint"}
        assert kinds["endpoint"].waits_for.endswith("beside: sleep_forever")
        assert encode_value(tree)


async def test_the_tree_leaves_out_connections_beyond_the_limit_and_says_how_many(autojump_clock):
    async with open_server() as server:
        for _ in range(5):
            await server.connect()
        tree = operations(server).tree(limit=2)
        assert len(tree.children[-1].children) == 2
        assert tree.omitted == 3
