"""Events: what operators watch, what it costs, and what happens to those who read too slowly."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from moorage.protocol.admin.commands import BroadcastRequest
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from moorage.supervisor.operations.events import Events
from moorage.supervisor.operations.operations import Caller
from moorage.supervisor.telemetry.logs import EventLog
from tests.fakes import TEXT, Peer, RecordingLogger, Server, masked, open_server
from tests.fakes_control import ADMIN, ask, connect_admin, refused
from tests.fakes_server import (
    KEY,
    break_transport,
    settle,
    subscribed,
    token,
    waiting_bytes,
)


async def watching(server: Server, *patterns: str, **options: Any) -> Peer:
    admin = await connect_admin(server, **options)
    await ask(admin, "watch", events=list(patterns))
    return admin


async def event(admin: Peer) -> dict[str, Any]:
    message = await admin.receive_type("event")
    assert message["topic"].startswith("$events")
    assert message["timestamp"].endswith("Z")
    return message["data"]


async def events(admin: Peer, count: int) -> list[str]:
    return [(await event(admin))["event"] for _ in range(count)]


# What can be watched


async def test_the_life_of_a_connection_can_be_watched(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "**")
        ann = await subscribed(await server.connect(token=token("ann")), "news")
        await ann.request_reply({"type": "unsubscribe", "topic": "news"})
        await ann.close()
        connected = await event(admin)
        assert connected == {
            "event": "connected",
            "connection_id": ann.id,
            "user_id": "ann",
            "address": "192.0.2.1",
            "path": "/ws",
        }
        subscription = {"connection_id": ann.id, "user_id": "ann", "topic": "news"}
        assert await event(admin) == {"event": "subscribed", **subscription}
        assert await event(admin) == {"event": "unsubscribed", **subscription}
        disconnected = await event(admin)
        assert disconnected["event"] == "disconnected"
        assert disconnected["cause"] == "peer_closed"
        assert disconnected["code"] == 1000
        assert disconnected["seconds"] >= 0


async def test_a_late_token_can_be_watched(autojump_clock):
    app = App()
    app.add_endpoint("/ws", authenticate_by_message=True)
    async with open_server(app, **ADMIN) as server:
        admin = await watching(server, "authenticated")
        peer = await server.connect()
        await peer.request_reply({"type": "authenticate", "data": {"token": token("ann")}})
        authenticated = await event(admin)
        assert authenticated["user_id"] == "ann"
        assert authenticated["expires_at"].endswith("Z")


async def test_refusals_and_bad_messages_can_be_watched(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        admin = await watching(server, "refused", "bad_message")
        assert (await server.dial().upgrade())[0] == 401
        refusal = await event(admin)
        assert (refusal["event"], refusal["status"], refusal["peer"]) == (
            "refused",
            401,
            "192.0.2.1",
        )
        ann = await server.connect(token=token("ann"))
        await ann.send("nonsense")
        bad = await event(admin)
        assert (bad["event"], bad["connection_id"]) == ("bad_message", ann.id)
        assert "JSON" in bad["error"]


async def test_a_handler_that_fails_can_be_watched_with_its_error(autojump_clock):
    app = App()

    @app.on("boom")
    def boom(context, message):
        raise LookupError("no such ship")

    async with open_server(app, **ADMIN) as server:
        admin = await watching(server, "handler_*")
        peer = await server.connect()
        await peer.send({"type": "boom"})
        failed = await event(admin)
        assert failed["event"] == "handler_failed"
        assert failed["message_type"] == "boom"
        assert failed["error"] == "LookupError: no such ship"


async def test_an_event_whose_text_json_cannot_carry_is_told_all_the_same(autojump_clock):
    app = App()

    @app.on("boom")
    def boom(context, message):
        raise LookupError("half a pair: \ud800")

    async with open_server(app, **ADMIN) as server:
        admin = await watching(server, "handler_failed")
        await (await server.connect()).send({"type": "boom"})
        assert "half a pair" in (await event(admin))["error"]


async def test_what_a_slow_consumer_loses_can_be_watched(autojump_clock):
    settings = {"topics": {"news": {"overload": "drop_oldest"}}, "max_mailbox_size": 4000}
    async with open_server(**ADMIN, **settings) as server:
        admin = await watching(server, "dropped", "disconnected")
        slow = await subscribed(await server.connect(capacity=1000), "news")
        for _ in range(20):
            server.supervisor.broadcast_to_topic("news", "x", "y" * 500)
            await settle()
        dropped = await event(admin)
        assert dropped["event"] == "dropped"
        assert dropped["connection_id"] == slow.id
        assert dropped["topic"] == "news"
        assert dropped["messages"] >= 1


async def test_a_slow_consumer_that_is_closed_is_told_with_its_cause(autojump_clock):
    async with open_server(**ADMIN, max_mailbox_size=4000) as server:
        admin = await watching(server, "disconnected")
        slow = await subscribed(await server.connect(capacity=1000), "news")
        for _ in range(20):
            server.supervisor.broadcast_to_topic("news", "x", "y" * 500)
            await settle()
        break_transport(slow)
        disconnected = await event(admin)
        assert disconnected["cause"] == "slow_consumer"


async def test_a_drain_can_be_watched_to_its_end(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "suspended", "drain*", "resumed", "disconnected", "admin.*")
        ann = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.supervisor.drain)
            await ann.close_code()
            ann.transport.close()
        server.supervisor.resume()
        assert await events(admin, 5) == [
            "suspended",
            "draining",
            "disconnected",
            "drained",
            "resumed",
        ]


async def test_what_another_operator_does_can_be_watched(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "admin.*")
        other = await connect_admin(server, "pete")
        await ask(other, "suspend")
        did = await event(admin)
        assert (did["event"], did["by"]) == ("admin.suspend", "pete at 198.51.100.7")


# Patterns and streams


async def test_only_what_the_patterns_name_is_sent(autojump_clock):
    async with open_server(**ADMIN) as server:
        narrow = await watching(server, "disconnected")
        wide = await watching(server, "connected", "dis*")
        ann = await server.connect()
        await ann.close()
        assert await events(wide, 2) == ["connected", "disconnected"]
        assert await events(narrow, 1) == ["disconnected"]


async def test_watching_again_replaces_what_was_watched_and_nothing_ends_it(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "connected")
        result = await ask(admin, "watch", events=["disconnected"])
        assert result == {"events": ["disconnected"], "topic": "$events:disconnected"}
        await (await server.connect()).close()
        assert await events(admin, 1) == ["disconnected"]
        assert await ask(admin, "watch", events=[]) == {"events": [], "topic": None}
        assert server.operations.events.streams == {}
        await server.connect()
        await settle()
        assert waiting_bytes(admin) == b""


async def test_without_patterns_everything_is_watched(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        assert await ask(admin, "watch") == {"events": ["**"], "topic": "$events"}


async def test_a_wrong_pattern_is_refused_and_what_was_watched_goes_on(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "connected")
        code, text = await refused(admin, "watch", events=["a**b"])
        assert code == "bad_message"
        assert "a**b" in text
        code, text = await refused(admin, "watch", events=[f"x{n}" for n in range(21)])
        assert "at most 20 patterns" in text
        await server.connect()
        assert await events(admin, 1) == ["connected"]


async def test_a_client_cannot_subscribe_to_the_events(autojump_clock):
    async with open_server(**ADMIN) as server:
        await watching(server, "**")
        ann = await server.connect()
        reply = await ann.request_reply({"type": "subscribe", "topic": "$events"})
        assert reply["data"]["code"] == "forbidden"
        assert await ask(await connect_admin(server), "topics") == {
            "topics": [],
            "total": 0,
            "cursor": None,
        }


# What it costs


async def test_while_nobody_watches_nothing_is_encoded(autojump_clock, monkeypatch):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "**")
        await admin.close()
        await settle()
        assert server.operations.events.streams == {}
        emitted: list[str] = []
        monkeypatch.setattr(Events, "emit", lambda self, name, fields: emitted.append(name))
        await subscribed(await server.connect(), "news")
        assert emitted == []


async def test_the_events_of_one_turn_reach_a_watcher_in_one_write(autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, "subscribed")
        ann = await server.connect()
        writes: list[int] = []
        (session,) = server.admin_sessions.sessions.values()
        write_some = session.mailbox._write

        def count(data: bytes) -> int:
            writes.append(len(data))
            return write_some(data)

        session.mailbox._write = count
        topics = [f"topic{n}" for n in range(20)]  # fewer than are acted on in one turn
        await ann.send({"type": "subscribe", "data": {"topics": topics}})
        assert await events(admin, 20) == ["subscribed"] * 20
        assert len(writes) == 1


async def test_a_stuck_watcher_loses_the_oldest_events_and_is_told(autojump_clock):
    async with open_server(**ADMIN, write_timeout=1e6, heartbeat_interval=1e6) as server:
        admin = await watching(server, "admin.broadcast", capacity=2000)
        reason = "x" * 60_000
        for n in range(200):  # 12 MB
            server.operations.broadcast(BroadcastRequest("x", topic=f"t{n}"), Caller(reason))
            await settle()
        (session,) = server.admin_sessions.sessions.values()
        assert session.mailbox.size < 4_500_000
        assert session.is_open
        told: list[int] = []
        gaps = 0
        while not told or told[-1] != 199:
            message = await admin.receive()
            if message["type"] == "gap":
                gaps += message["data"]["dropped"]
                assert message["topic"] == "$events:admin.broadcast"
            elif message["type"] == "event":
                told.append(int(message["data"]["topic"].removeprefix("t")))
        assert gaps > 0
        assert gaps + len(told) == 200
        assert told[0] == 0  # was on its way already
        assert told[1:] == list(range(1 + gaps, 200))


async def test_a_stuck_watcher_slows_nobody_and_is_closed_in_the_end(autojump_clock):
    async with open_server(**ADMIN) as server:
        await watching(server, "**", capacity=300)
        fine = await watching(server, "connected")
        for _ in range(30):
            peer = await server.connect()
            assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        assert await events(fine, 30) == ["connected"] * 30
        await trio.sleep(11)  # write_timeout
        lines = server.log.of("control_disconnected")
        assert [line["cause"] for line in lines] == ["write_timeout"]


async def test_what_a_watcher_loses_is_no_event_itself(autojump_clock):
    """Or a stuck watcher of everything would keep the server busy for ever."""
    async with open_server(**ADMIN, write_timeout=1e6) as server:
        await watching(server, "**", capacity=300)
        for _ in range(200):
            server.operations.broadcast(BroadcastRequest("x", topic="t"), Caller("x" * 60_000))
            await settle()
        assert server.log.of("dropped") == []


# The log beside it


async def test_of_what_clients_can_flood_the_log_with_only_some_is_written(autojump_clock):
    async with open_server(**ADMIN) as server:
        peer = await server.connect()
        for _ in range(12):
            peer = await server.connect()
            await peer.send_bytes(b"".join(masked(TEXT, b"nonsense") for _ in range(15)))
            await settle()
        assert len(server.log.of("bad_message")) == 100
        await trio.sleep(1)
        await (await server.connect()).send("nonsense")
        await settle()
        line = server.log.of("bad_message")[-1]
        assert line["suppressed"] == 12 * 15 - 100
        await (await server.connect()).send("nonsense")
        await settle()
        assert "suppressed" not in server.log.of("bad_message")[-1]


def test_each_event_has_a_limit_of_its_own_and_lifecycle_events_have_none():
    logger = RecordingLogger()
    log = EventLog(logger, lambda: 0.0)
    for _ in range(500):
        log.write("info", "connected")
        log.write("info", "refused")
        log.write("error", "handler_failed")
        log.write("info", "authenticated")  # one client once wrote 8,471 of them a second
    assert len(logger.of("connected")) == 500
    assert len(logger.of("authenticated")) == 100
    assert len(logger.of("refused")) == 100
    assert len(logger.of("handler_failed")) == 100


@pytest.mark.parametrize("seconds", [1, 5])
def test_ten_lines_a_second_come_through(seconds):
    now = 0.0
    logger = RecordingLogger()
    log = EventLog(logger, lambda: now)
    for _ in range(1000):
        log.write("info", "refused")
    logger.lines.clear()
    now += seconds
    for _ in range(1000):
        log.write("info", "refused")
    assert len(logger.lines) == 10 * seconds
    assert logger.lines[0]["suppressed"] == 900


@pytest.mark.parametrize("patterns", [(), ("**",), ("refused", "connected")])
async def test_who_watches_gets_a_close_code_like_everybody_else(patterns, autojump_clock):
    async with open_server(**ADMIN) as server:
        admin = await watching(server, *patterns)
        (session,) = server.admin_sessions.sessions.values()
        session.end(CloseCause.DISCONNECTED, reason="that is all")
        assert await admin.close_code() == 4503
        admin.transport.close()
        await settle()
        (line,) = server.log.of("control_disconnected")
        assert "exc_info" not in line
        assert server.operations.events.streams == {}


class Unspeakable(Exception):
    """An exception of a program that fails even when it is asked what it says."""

    def __str__(self):
        raise ValueError


async def test_an_exception_that_cannot_be_shown_harms_neither_server_nor_watcher(autojump_clock):
    """It ended the whole server, if it came out of a callback while an operator watched."""
    app = App()

    @app.disconnected
    def left(connection, cause):
        raise Unspeakable

    async with open_server(app, **ADMIN) as server:
        admin = await watching(server, "callback_failed")
        peer = await server.connect()
        await peer.close()
        assert "Unspeakable: its text cannot be had: ValueError" in (await event(admin))["error"]


async def test_a_watcher_that_fails_loses_the_event_and_nobody_else_notices():
    def fail(*_event):
        raise RuntimeError

    logger = RecordingLogger()
    log = EventLog(logger, lambda: 0.0)
    log.on_event = fail
    log.write("info", "connected")
    assert logger.of("connected")
    (line,) = logger.of("event_failed")
    assert isinstance(line["exc_info"], RuntimeError)
    assert log.on_event is fail


async def test_a_pattern_with_a_comma_is_refused_since_no_event_has_one(autojump_clock):
    """Joined by commas, `a,b` and `a` with `b` were one stream, of whoever came first."""
    async with open_server(**ADMIN) as server:
        admin = await connect_admin(server)
        assert "comma" in (await refused(admin, "watch", events=["a,b"]))[1]
