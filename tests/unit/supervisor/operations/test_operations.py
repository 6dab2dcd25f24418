"""The operations: every command has one, and what those do that change something."""

from __future__ import annotations

import inspect
import logging
import math
from typing import Any, get_type_hints

import pytest
import trio

from moorage.protocol.admin import answers
from moorage.protocol.admin.commands import (
    COMMANDS,
    EMPTY,
    BroadcastRequest,
    CleanupRequest,
    ConnectionsRequest,
    DisconnectRequest,
    DrainRequest,
    TopicRequest,
    TopicsRequest,
    TreeRequest,
    WatchRequest,
)
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.supervisor.app import App
from moorage.supervisor.operations.operations import Caller, Operations
from tests.fakes import Peer, Server, open_server
from tests.fakes_control import ADMIN
from tests.fakes_operations import OLGA, PETE, client, refusal
from tests.fakes_server import KEY, echo_app, settle, token, upgraded


async def left(peer: Peer) -> int | None:
    """Leave as the server wants it to; return the code that it said."""
    code = await peer.close_code()
    peer.transport.close()
    return code


def only_line(server: Server, event: str) -> dict[str, Any]:
    (line,) = server.log.of(event)
    return line


# The table


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_a_method_of_its_name_and_of_its_classes(command):
    method = getattr(Operations, command.name)
    request, caller = list(inspect.signature(method).parameters)[1:]
    hints = get_type_hints(method)
    assert (hints[request], hints[caller]) == (command.request, Caller)
    assert hints["return"] is command.answer
    # Others are coroutines because they have turns for others in between.
    assert inspect.iscoroutinefunction(method) or not command.takes_time


def test_every_public_method_is_a_command():
    methods = {name for name in vars(Operations) if not name.startswith("_")}
    assert methods - {"run"} == set(COMMANDS)


async def test_events_are_for_callers_with_a_connection(autojump_clock):
    async with open_server() as server:
        text = refusal(ErrorCode.BAD_MESSAGE, server.operations.watch, WatchRequest(), OLGA)
        assert "control socket" in text


# Disconnecting


async def test_by_user_all_connections_of_that_user_are_closed(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann, ann_too = await client(server, "ann"), await client(server, "ann")
        bob = await client(server, "bob")
        result = server.operations.disconnect(
            DisconnectRequest(user_id="ann", reason="moved"), OLGA
        )
        assert result.disconnected == 2
        assert set(result.connection_ids) == {ann.id, ann_too.id}
        assert await ann.close_code() == 4503
        assert await ann_too.close_code() == 4503
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_by_topic_all_its_subscribers_are_closed(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        bob = await client(server, "bob", "sport")
        result = server.operations.disconnect(DisconnectRequest(topic="news"), OLGA)
        assert result.connection_ids == (ann.id,)
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"


async def test_many_are_closed_with_turns_for_others_in_between(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await server.connect(token=token("ann")) for _ in range(450)]
        assert (
            server.operations.disconnect(DisconnectRequest(user_id="ann"), OLGA).disconnected == 450
        )
        ended = sum(not connection.is_open for connection in server.actors())
        assert ended == 100
        for peer in peers:
            assert await left(peer) == 4503


async def test_by_id_those_that_there_are_not_are_told(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann")
        result = server.operations.disconnect(
            DisconnectRequest(connection_ids=[ann.id, "gone", ann.id]), OLGA
        )
        assert result == answers.Disconnected(1, (ann.id,), ("gone",))
        again = server.operations.disconnect(DisconnectRequest(connection_ids=[ann.id]), OLGA)
        assert again == answers.Disconnected(0, (), (ann.id,))  # it is closing already


async def test_the_client_reads_the_reason_and_whether_to_come_back(autojump_clock):
    async with open_server(**ADMIN) as server:
        for options, expected in (
            ({"reconnect": True}, (4007, "please reconnect")),
            ({"reason": "new release", "reconnect": True}, (4007, "new release")),
            ({"code": 4100, "reason": "shard moved"}, (4100, "shard moved")),
        ):
            ann = await client(server, "ann")
            server.operations.disconnect(DisconnectRequest(user_id="ann", **options), OLGA)
            with pytest.raises(EOFError) as ended:
                await ann.receive()
            assert ended.value.args == expected
            ann.transport.close()


@pytest.mark.parametrize(
    "whom", [{}, {"user_id": "ann", "topic": "news"}, {"connection_ids": [], "user_id": 1}]
)
async def test_exactly_one_of_the_three_says_whom(whom, autojump_clock):
    async with open_server() as server:
        request = DisconnectRequest(**whom)
        text = refusal(ErrorCode.BAD_MESSAGE, server.operations.disconnect, request, OLGA)
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
            request = DisconnectRequest(user_id="ann", **options)
            found = refusal(ErrorCode.BAD_MESSAGE, server.operations.disconnect, request, OLGA)
            assert text in found


# Broadcasting


async def test_a_broadcast_reaches_a_topic_a_user_or_everyone(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann", "news")
        bob = await client(server, "bob")
        ops = server.operations
        sent = {"message_type": "alert", "data": {"n": 1}}
        assert ops.broadcast(BroadcastRequest(topic="news", **sent), OLGA).recipients == 1
        assert (await ann.receive())["topic"] == "news"
        assert ops.broadcast(BroadcastRequest(user_id="bob", **sent), OLGA).recipients == 1
        assert (await bob.receive())["data"] == {"n": 1}
        assert ops.broadcast(BroadcastRequest(everyone=True, **sent), OLGA).recipients == 2
        for peer in (ann, bob):
            assert (await peer.receive())["type"] == "alert"


async def test_those_excluded_do_not_get_it(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann, bob = await client(server, "ann", "news"), await client(server, "bob", "news")
        ops = server.operations
        for whom in ({"topic": "news"}, {"everyone": True}):
            sent = ops.broadcast(
                BroadcastRequest(**whom, message_type="x", exclude=[ann.id, "gone"]), OLGA
            )
            assert sent.recipients == 1
            assert (await bob.receive())["type"] == "x"
        assert (await ann.request_reply({"type": "ping"}))["type"] == "pong"


async def test_broadcasts_to_everyone_arrive_in_order_however_many_they_are(autojump_clock):
    async with open_server(**ADMIN) as server:
        peers = [await server.connect() for _ in range(250)]
        for n in range(3):
            server.operations.broadcast(
                BroadcastRequest(everyone=True, message_type="n", data=n), OLGA
            )
        for peer in (peers[0], peers[-1]):
            assert [(await peer.receive())["data"] for _ in range(3)] == [0, 1, 2]


async def test_who_has_shown_no_token_yet_is_not_everyone(autojump_clock):
    """A broadcast to everyone reached whoever had opened a socket."""
    app = App()
    app.add_endpoint("/ws", authenticate_by_message=True)
    async with open_server(app, jwt_key=KEY) as server:
        ann, stranger = await server.connect(token=token("ann")), await server.connect()
        request = BroadcastRequest(everyone=True, message_type="x")
        assert server.operations.broadcast(request, OLGA).recipients == 1
        assert (await ann.receive())["type"] == "x"
        shown = {"type": "authenticate", "data": {"token": token("bob")}}
        await stranger.send(shown)
        assert (await stranger.receive())["type"] == "authenticated"
        assert server.operations.broadcast(request, OLGA).recipients == 2
        assert (await stranger.receive())["type"] == "x"


async def test_a_raw_connection_gets_no_broadcast(autojump_clock):
    async with open_server(echo_app()) as server:
        await upgraded(server.dial(), "/raw")
        await settle()
        sent = server.operations.broadcast(BroadcastRequest(everyone=True, message_type="x"), OLGA)
        assert sent.recipients == 0


@pytest.mark.parametrize("whom", [{}, {"everyone": False}, {"everyone": True, "user_id": "ann"}])
async def test_exactly_one_says_to_whom(whom, autojump_clock):
    async with open_server() as server:
        request = BroadcastRequest("x", **whom)
        text = refusal(ErrorCode.BAD_MESSAGE, server.operations.broadcast, request, OLGA)
        assert text == "`data` needs exactly one of `topic`, `user_id`, `everyone`"


@pytest.mark.parametrize("whom", [{"topic": "news"}, {"everyone": True}, {"user_id": "ann"}])
async def test_a_type_or_data_that_cannot_be_sent_is_the_askers_mistake(whom, autojump_clock):
    async with open_server() as server:
        broadcast = server.operations.broadcast
        request = BroadcastRequest("a b", **whom)
        assert "`type`" in refusal(ErrorCode.BAD_MESSAGE, broadcast, request, OLGA)
        request = BroadcastRequest("x", **whom, data=math.nan)
        assert "nan" in refusal(ErrorCode.BAD_MESSAGE, broadcast, request, OLGA)


# Cleaning up


async def test_cleanup_closes_who_gives_no_sign_of_life_and_tells_how_many(autojump_clock):
    async with open_server(**ADMIN, heartbeat_interval=600, connection_timeout=900) as server:
        alive, dead, fresh = [await client(server, name) for name in ("alive", "dead", "fresh")]
        await trio.sleep(100)
        await fresh.request_reply({"type": "ping"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alive.receive)  # heartbeat, and a Pong in answer to the Ping
            started = trio.current_time()
            result = await server.operations.cleanup(CleanupRequest(60), OLGA)
            assert trio.current_time() - started == pytest.approx(10)  # pong_timeout
        assert result == answers.CleanedUp(probed=2, alive=1, closed=1, closed_ids=(dead.id,))
        assert await left(dead) == 4001
        await settle()
        stats = server.operations.stats()
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
        assert (await server.operations.cleanup(CleanupRequest(), OLGA)).probed == 0
        await trio.sleep(11)
        assert (await server.operations.cleanup(CleanupRequest(), OLGA)).probed == 1


async def test_cleanup_does_not_prolong_a_probe_that_is_under_way(autojump_clock):
    async with open_server() as server:
        await server.connect()
        await trio.sleep(35)  # probed after 30
        result = await server.operations.cleanup(CleanupRequest(0), OLGA)
        assert result.closed == 1
        assert server.supervisor.statistics.traffic.heartbeats == 1


async def test_who_leaves_during_a_cleanup_was_not_closed_by_it(autojump_clock):
    """A client that closed by itself was counted as dead, and named in `closed_ids`."""
    async with open_server(heartbeat_interval=600, connection_timeout=900) as server:
        peer = await server.connect()
        await trio.sleep(20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.close)
            result = await server.operations.cleanup(CleanupRequest(), OLGA)
        assert result == answers.CleanedUp(probed=1, alive=0, closed=0, closed_ids=())
        assert server.supervisor.statistics.cleanup_closed == 0


@pytest.mark.parametrize("seconds", [-1, math.nan])
async def test_a_negative_time_is_refused(seconds, autojump_clock):
    async with open_server() as server:
        for function, request in (
            (server.operations.cleanup, CleanupRequest(seconds)),
            (server.operations.drain, DrainRequest(seconds)),
        ):
            with pytest.raises(RemoteProtocolError, match="0 or more") as caught:
                await function(request, OLGA)
            assert caught.value.code is ErrorCode.BAD_MESSAGE


# Suspend, resume, drain


async def test_a_server_is_ready_until_it_is_suspended_and_again_when_resumed(autojump_clock):
    async with open_server() as server:
        ops = server.operations
        health = ops.health()
        assert (health.live, health.ready, health.reasons) == (True, True, ())
        assert ops.suspend(EMPTY, OLGA) == answers.Suspended(suspended=True, connections=0)
        assert ops.health().reasons == ("suspended",)
        assert (await server.dial().upgrade())[0] == 503
        assert ops.resume(EMPTY, OLGA) == answers.Suspended(suspended=False, connections=0)
        assert ops.health().ready
        await server.connect()


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
            caller = Caller("olga", on_progress=progress.append)
            result = await server.operations.drain(DrainRequest(60), caller)
        assert (result.total, result.left, result.done) == (2, 0, True)
        assert [step.left for step in progress] == [2, 1, 1, 1, 1]
        assert result.seconds == pytest.approx(2.2, abs=0.1)
        assert server.operations.health().reasons == ("suspended",)


async def test_a_drain_gives_up_after_its_timeout_and_tells_who_is_left(autojump_clock):
    async with open_server(close_timeout=100) as server:
        await server.connect()
        result = await server.operations.drain(DrainRequest(3), OLGA)
        assert (result.left, result.seconds, result.done) == (1, 3, True)


async def test_while_it_drains_a_server_says_so(autojump_clock):
    async with open_server(close_timeout=100) as server, trio.open_nursery() as nursery:
        await server.connect()
        nursery.start_soon(lambda: server.operations.drain(DrainRequest(50), OLGA))
        await settle()
        assert server.operations.health().reasons == ("draining",)
        await trio.sleep(51)
        assert server.operations.health().reasons == ("suspended",)


async def test_a_drain_outlives_who_asked_for_it_and_who_asks_next_joins(autojump_clock):
    async with open_server(close_timeout=100) as server:
        await server.connect()
        with trio.move_on_after(2):
            await server.operations.drain(DrainRequest(10), OLGA)
        joined = await server.operations.drain(DrainRequest(1000), PETE)
        assert (joined.seconds, joined.timeout) == (10, 10)


async def test_resume_ends_a_drain_that_has_not_had_its_first_turn(autojump_clock):
    async with open_server(**ADMIN) as server:
        ann = await client(server, "ann")
        ops = server.operations
        caller = Caller("olga", on_progress=lambda _: ops.resume(EMPTY, PETE))
        result = await ops.drain(DrainRequest(50), caller)
        assert not result.done
        assert ops.health().ready
        assert (await ann.request_reply({"type": "ping"}))["type"] == "pong"


async def test_resume_ends_a_drain(autojump_clock):
    async with open_server(close_timeout=100) as server, trio.open_nursery() as nursery:
        await server.connect()
        results: list[answers.DrainProgress] = []

        async def drain() -> None:
            results.append(await server.operations.drain(DrainRequest(50), OLGA))

        nursery.start_soon(drain)
        await trio.sleep(1)
        server.operations.resume(EMPTY, PETE)
        await settle()
        (result,) = results
        assert (result.done, result.left) == (False, 1)
        assert server.operations.health().ready
        await server.connect()


# Who did it


async def test_what_changes_something_is_logged_with_who_did_it(autojump_clock):
    async with open_server(**ADMIN) as server:
        ops = server.operations
        await client(server, "ann", "news")
        ops.broadcast(BroadcastRequest(topic="news", message_type="x"), OLGA)
        ops.disconnect(DisconnectRequest(user_id="ann", reason="abuse"), PETE)
        await trio.sleep(6)
        await ops.cleanup(CleanupRequest(), OLGA)
        ops.suspend(EMPTY, OLGA)
        ops.resume(EMPTY, OLGA)
        await ops.drain(DrainRequest(), PETE)
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
        ops = server.operations
        ops.stats()
        ops.health()
        await ops.connections(ConnectionsRequest())
        ops.topics(TopicsRequest())
        ops.topic(TopicRequest("x"))
        await ops.tree(TreeRequest())
        assert len(server.log.lines) == before


async def test_a_connection_that_breaks_while_a_broadcast_is_sent_keeps_none_from_others(
    autojump_clock, monkeypatch
):
    """The broadcast stayed the first in the queue: no later one was ever sent."""
    async with open_server() as server:
        broken, other = await server.connect(), await server.connect()

        def fail(_data):
            raise SystemExit

        server.actor(broken.id).mailbox._write = fail
        for number in range(2):
            request = BroadcastRequest(everyone=True, message_type="x", data=number)
            server.operations.broadcast(request, OLGA)
            await settle()
        assert [(await other.receive())["data"] for _ in range(2)] == [0, 1]
        (line,) = server.log.of("connection_failed")
        assert line["connection_id"] == broken.id
