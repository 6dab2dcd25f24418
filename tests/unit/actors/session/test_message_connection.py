"""Connections of the message protocol: order, the worker, errors, and the token's time."""

from __future__ import annotations

import gc
import tracemalloc

import attrs
import pytest
import trio

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, TEXT, masked, open_server
from tests.fakes_containment import Bug, errors, failing, is_served, onlooker
from tests.fakes_server import (
    KEY,
    assert_nothing_left,
    code_of,
    counting,
    ended,
    ids,
    receive_all,
    settle,
    subscribed,
    token,
    waiting_bytes,
    welcomed,
)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type":5}', "bad_message"),
        ('{"type":"ping","id":1.5}', "bad_message"),
        ('{"type":"data","data":1}', "bad_message"),
        ('{"type":"subscribe"}', "bad_message"),
        ('{"type":"subscribe","topic":"a","data":{"topics":["b"]}}', "bad_message"),
        ('{"type":"unsubscribe","data":{"topics":[]}}', "bad_message"),
        ('{"type":"authenticate"}', "bad_message"),
        ('{"type":"authenticate","data":{"token":5}}', "bad_message"),
        ('{"type":"authenticate","data":{"token":"x"}}', "unauthorized"),
        ('{"type":"data","topic":"a b"}', "bad_topic"),
        ('{"type":"subscribe","topic":"a..b"}', "bad_topic"),
        ('{"type":"data","topic":"$x"}', "forbidden"),
        ('{"type":"subscribe","topic":"user:8"}', "forbidden"),
    ],
)
async def test_what_cannot_be_done_is_answered_and_the_connection_lives(
    autojump_clock, message, code
):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(message)
        error = await peer.receive()
        assert code_of(error) == code
        assert error["error"]
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_twenty_bad_messages_within_ten_seconds_are_too_many(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(3):
            await peer.send(*["bad"] * 19)
            await receive_all(peer, 19)
            await trio.sleep(10.1)
        await peer.send(*["bad"] * 25)
        await receive_all(peer, 20)
        assert await peer.close_code() == 4501
        assert server.supervisor.statistics.traffic.bad_messages == 3 * 19 + 20


async def test_replies_come_in_the_order_of_the_requests_and_in_one_write(autojump_clock):
    async with open_server() as server:
        peer, writes = counting(server)
        await welcomed(peer)
        before = len(writes)
        requests = [{"type": "ping"}, {"type": "subscribe", "topic": "a"}, {"type": "x"}]
        await peer.send(*({**request, "id": n} for n, request in enumerate(requests * 5)))
        assert ids(await receive_all(peer, 15)) == list(range(15))
        assert len(writes) == before + 1


async def test_beyond_the_message_rate_messages_are_refused_in_order_and_with_their_ids(
    autojump_clock,
):
    """The refusals came before the replies to what had been sent earlier, and without an id."""
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        await peer.send(*({"type": "ping", "id": number} for number in range(5)), "not json")
        replies = [await peer.receive() for _ in range(6)]
        assert [reply.get("id") for reply in replies] == [0, 1, 2, 3, 4, None]
        assert [reply["type"] for reply in replies] == ["pong"] * 3 + ["error"] * 3
        assert {reply["data"]["code"] for reply in replies[3:]} == {"rate_limited"}
        assert server.supervisor.statistics.traffic.rate_limited == 3
        await trio.sleep(1)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_after_the_cause_nothing_of_the_same_chunk_is_acted_on(autojump_clock):
    async with open_server() as server:
        listener, peer = await server.connect(), await server.connect()
        await listener.request_reply({"type": "subscribe", "topic": "a"})
        publication = masked(TEXT, b'{"type":"data","topic":"a"}')
        await peer.send_bytes(publication + masked(BINARY, b"x") + publication)
        assert await peer.close_code() == 1003
        assert (await listener.receive())["type"] == "data"
        await settle()
        assert waiting_bytes(listener) == b""


async def test_many_requests_in_one_chunk_are_answered_within_the_mailbox(autojump_clock):
    """What one chunk is answered with may be more than a slow peer's mailbox holds."""
    async with open_server(max_mailbox_size=1_000) as server:
        peer = await server.connect(capacity=20_000)
        await peer.send(*({"type": "ping", "id": number} for number in range(400)))
        await settle()
        assert server.log.of("disconnected") == []
        assert server.actor(peer.id).cause is CloseCause.SLOW_CONSUMER


async def test_one_connection_too_many_of_an_address_hears_no_welcome(autojump_clock):
    async with open_server(max_connections_per_address=1) as server:
        await server.connect()
        peer = server.dial()
        assert (await peer.upgrade())[0] == 101
        assert (await peer.receive_frame())[0] == CLOSE


# What takes its time


@attrs.define
class Log:
    """What handlers did, in order."""

    lines: list = attrs.field(factory=list)


def working_app(log, *, seconds=1.0):
    app = App()

    @app.on("now")
    def now(context, message):
        log.lines.append(("now", message.data))
        context.reply("done", message.data)

    @app.on("slow")
    async def slow(context, message):
        await trio.sleep(seconds)
        log.lines.append(("slow", message.data))
        context.reply("done", message.data)

    return app


async def test_messages_behind_an_async_handler_wait_their_turn_but_ping_does_not(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        await peer.send(
            {"type": "now", "data": 0, "id": 0},
            {"type": "slow", "data": 1, "id": 1},
            {"type": "now", "data": 2, "id": 2},
            {"type": "slow", "data": 3, "id": 3},
            {"type": "subscribe", "topic": "a", "id": 4},
            {"type": "data", "topic": "a", "id": 5},
            {"type": "ping", "id": "ping"},
        )
        messages = await receive_all(peer, 8)
        assert ids(messages) == [0, "ping", 1, 2, 3, 4, 5, None]
        assert [data for _, data in log.lines] == [0, 1, 2, 3]


async def test_the_worker_exists_only_while_there_is_work(autojump_clock):
    async with open_server(working_app(Log())) as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        for _ in range(2):
            await peer.send({"type": "slow"}, {"type": "slow"})
            await settle()
            assert [t.name for t in connection.nursery.child_tasks] == [f"handlers of {peer.id}"]
            await receive_all(peer, 2)
            await settle()
            assert not connection.nursery.child_tasks
            assert connection._inbox is None


async def test_a_full_inbox_holds_the_sender_back_and_loses_nothing(autojump_clock):
    log = Log()
    app = working_app(log, seconds=0.1)
    async with open_server(app, max_inbox_size=2_000, max_message_size=1_000) as server:
        peer = await server.connect(capacity=2_000)
        connection = server.actor(peer.id)
        most = 0

        async def send():
            for number in range(300):
                await peer.send({"type": "slow", "data": [number, "x" * 100]})

        async def receive():
            nonlocal most
            for number in range(300):
                assert (await peer.receive_type("done"))["data"][0] == number
                inbox = connection._inbox
                most = max(most, inbox.size if inbox else 0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
        assert [data[0] for _, data in log.lines] == list(range(300))
        # The limit and a chunk, in which each message has about 140 bytes, and holds 500.
        assert 1_000 < most < 2_000 + 4 * 2_000


@pytest.mark.parametrize("fields", [{}, {"id": "x" * 30, "topic": "y" * 50, "data": {"z": 1}}])
async def test_messages_that_wait_are_charged_with_what_they_hold(autojump_clock, fields):
    """Small messages held six times what was charged for them: 1.6 MB in an inbox of 256 KiB."""
    limit = 2_000_000
    async with open_server(working_app(Log()), max_inbox_size=limit) as server:
        peer = await server.connect()
        tracemalloc.start()
        try:
            await peer.send({"type": "slow"})
            with trio.move_on_after(0.5):
                while True:
                    await peer.send(*[{"type": "now", **fields}] * 100)
            gc.collect()
            held, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        charged = server.actor(peer.id)._inbox.size
        assert limit < charged < 1.3 * limit
        assert charged / 2 < held < charged + 300_000  # with what the pipes and buffers hold


async def test_a_handler_that_takes_too_long_is_given_up_and_the_next_one_runs(autojump_clock):
    app = App()

    @app.on("forever")
    async def forever(context, message):
        await trio.sleep_forever()

    app.on("next")(lambda context, message: context.reply("done"))
    async with open_server(app, handler_timeout=3, heartbeat_interval=100) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send({"type": "forever", "id": 1, "topic": "t"}, {"type": "next", "id": 2})
        error = await peer.receive()
        assert (code_of(error), error["id"], error["topic"]) == ("timeout", 1, "t")
        assert trio.current_time() - began == pytest.approx(3)
        assert (await peer.receive())["id"] == 2
        assert server.supervisor.statistics.traffic.handler_timeouts == 1


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("secret"), "internal"),
        (ExceptionGroup("secret", [ValueError()]), "internal"),
        (LocalProtocolError("secret", ErrorCode.BAD_MESSAGE), "internal"),
        (RemoteProtocolError("told", ErrorCode.BAD_MESSAGE), "bad_message"),
        (RemoteProtocolError("told", ErrorCode.UNAVAILABLE), "unavailable"),
    ],
)
async def test_what_a_handler_raises_is_answered_and_contained(
    autojump_clock, asynchronous, error, code
):
    app = App()

    def fail(context, message):
        raise error

    async def fail_later(context, message):
        await trio.sleep(1)
        raise error

    app.on("fail")(fail_later if asynchronous else fail)
    async with open_server(app) as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": "fail"})
        assert code_of(reply) == code
        assert "secret" not in reply["error"]
        failures = server.log.of("handler_failed")
        assert len(failures) == (1 if code == "internal" else 0)
        assert server.supervisor.statistics.traffic.handler_errors == len(failures)
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_an_error_that_says_so_ends_the_connection_behind_its_answer(autojump_clock):
    app = App()

    @app.on("leave")
    def leave(context, message):
        raise RemoteProtocolError("go", ErrorCode.FORBIDDEN, close=CloseCause.FORBIDDEN)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "leave"}, {"type": "ping"})
        assert code_of(await peer.receive()) == "forbidden"
        assert await peer.close_code() == 4502


async def test_what_was_asked_for_before_the_close_frame_is_done(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        requests = [{"type": "slow", "id": 1}, {"type": "now", "id": 2}, {"type": "slow", "id": 3}]
        await peer.send(*requests)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert ids(await receive_all(peer, 3)) == [1, 2, 3]
        assert await peer.close_code() == 1000


async def test_what_was_asked_for_before_the_close_frame_has_only_so_long(autojump_clock):
    log = Log()
    async with open_server(working_app(log, seconds=20), close_timeout=4) as server:
        peer = await server.connect()
        await peer.send({"type": "slow"})
        await peer.send_frame(CLOSE, b"\x03\xe8")
        began = trio.current_time()
        assert await peer.close_code() == 1000
        assert trio.current_time() - began == pytest.approx(4)
        assert log.lines == []


async def test_handlers_die_with_their_connection_and_what_waits_is_not_begun(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        await peer.send({"type": "slow"}, {"type": "now"}, {"type": "slow"})
        await settle()
        peer.transport.close()
        await trio.sleep(10)
        assert log.lines == []


async def test_after_a_handler_has_ended_the_connection_nothing_that_waits_is_done(autojump_clock):
    """The worker went on with its inbox until it met a checkpoint."""
    app = App()

    @app.on("leave")
    async def leave(context, message):
        await trio.sleep(1)
        context.connection.disconnect()

    async with open_server(app) as server:
        peer, other = await server.connect(), await subscribed(await server.connect(), "a")
        await peer.send({"type": "leave"}, {"type": "data", "topic": "a"})
        assert await peer.close_code() == 4503
        await settle()
        assert waiting_bytes(other) == b""


async def test_a_message_whose_topic_is_none_reaches_no_handler(autojump_clock):
    async with open_server(working_app(Log())) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": "now", "topic": "a b"})) == "bad_topic"


# Containment


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_that_raises_is_answered_and_logged_once(autojump_clock, asynchronous):
    app = App()
    app.on("break")(failing(asynchronous, Bug("why")))
    async with open_server(app) as server:
        peer, other = await server.connect(), await onlooker(server)
        reply = await peer.request_reply({"type": "break", "topic": "t"})
        assert reply["data"] == {"code": "internal", "retryable": False}
        assert "why" not in str(reply)  # what is in an exception is not for clients
        (line,) = errors(server)
        assert line["event"] == "handler_failed"
        assert line["connection_id"] == peer.id
        assert line["message_type"] == "break"
        assert isinstance(line["exc_info"], Bug)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        assert await is_served(other)


async def test_a_hundred_handlers_that_raise_at_once(autojump_clock):
    app = App()
    app.on("break")(failing(True, Bug()))
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect() for _ in range(100)]
        for peer in peers:
            await peer.send({"type": "break"})
        for peer in peers:
            assert (await peer.receive())["data"]["code"] == "internal"
        assert {line["connection_id"] for line in errors(server)} == {peer.id for peer in peers}
        assert len(errors(server)) == 100
        assert await is_served(other)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_message_after_one_that_failed_is_acted_on(autojump_clock, asynchronous):
    app, seen = App(), []
    app.on("break")(failing(asynchronous, Bug()))
    app.on("note")(lambda context, message: seen.append(message.data))
    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "break"}, {"type": "note", "data": 1}, {"type": "break"})
        await peer.send({"type": "note", "data": 2})
        await trio.sleep(5)
        assert seen == [1, 2]


async def test_an_exception_group_of_a_handler_is_its_error(autojump_clock):
    app = App()

    @app.on("break")
    async def several(context, message):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing(True, Bug("one")))
            nursery.start_soon(failing(True, Bug("two")))

    async with open_server(app) as server:
        peer = await server.connect()
        assert (await peer.request_reply({"type": "break"}))["data"]["code"] == "internal"
        (line,) = errors(server)
        assert isinstance(line["exc_info"], ExceptionGroup)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_a_handler_that_never_ends_is_given_up_and_its_client_served_on(autojump_clock):
    app = App()

    @app.on("hang")
    async def hang(context, message):
        await trio.sleep_forever()

    async with open_server(app, handler_timeout=3.0) as server:
        peer = await server.connect()
        await peer.send({"type": "hang", "id": 1}, {"type": "hang", "id": 2})
        started = trio.current_time()
        replies = [await peer.receive(), await peer.receive()]
        assert [(reply["id"], reply["data"]["code"]) for reply in replies] == [
            (1, "timeout"),
            (2, "timeout"),
        ]
        assert trio.current_time() - started == pytest.approx(6.0)
        assert server.supervisor.statistics.traffic.handler_timeouts == 2
        assert len(server.log.of("handler_timed_out")) == 2


async def test_a_connection_that_leaves_during_an_async_handler_leaves_nothing(autojump_clock):
    app, ends = App(), []

    @app.on("wait")
    async def wait(context, message):
        try:
            await trio.sleep(1)
        finally:
            ends.append(message.data)

    async with open_server(app) as server:
        peers = [await server.connect() for _ in range(50)]
        for number, peer in enumerate(peers):
            await peer.send({"type": "wait", "data": number}, {"type": "wait", "data": "second"})
        await settle()
        for number, peer in enumerate(peers):
            if number % 3 == 0:
                peer.transport.reset()
            elif number % 3 == 1:
                peer.transport.close()
            else:
                await peer.send_frame(CLOSE, b"")
        await trio.sleep(20)
        # Who said goodbye has all of it done; of the others, what was begun was cancelled.
        assert sorted(end for end in ends if end != "second") == list(range(50))
        assert ends.count("second") == 16
        assert errors(server) == []
        assert_nothing_left(server)


# The token, and its time


def patient_app(**options):
    """An endpoint that takes the token in the first message."""
    app = App()

    @app.endpoint("/ws", authenticate_by_message=True, topics=("of.{user_id}",), **options)
    async def endpoint(connection):
        connection.send("running", connection.user_id)
        await trio.sleep_forever()

    return app


async def test_until_the_token_comes_only_ping_and_authenticate_are_answered(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY) as server:
        peer = await server.connect()
        assert (peer.welcome["data"]["user_id"], peer.welcome["data"]["topics"]) == (None, [])
        await peer.send({"type": "ping", "id": 0})
        assert (await peer.receive())["type"] == "pong"
        for request in ({"type": "subscribe", "topic": "a"}, {"type": "data", "topic": "a"}):
            assert code_of(await peer.request_reply(request)) == "unauthorized"
        bad = {"type": "authenticate", "data": {"token": "bad"}}
        assert code_of(await peer.request_reply(bad)) == "unauthorized"
        await peer.send({"type": "authenticate", "data": {"token": token("7")}, "id": "auth"})
        messages = await receive_all(peer, 3)
        assert [m["type"] for m in messages] == ["authenticated", "subscribed", "running"]
        assert messages[0]["data"]["user_id"] == "7"
        assert messages[0]["data"]["expires_at"].endswith("Z")
        assert (messages[0]["id"], messages[1]["topic"], messages[2]["data"]) == (
            "auth",
            "of.7",
            "7",
        )
        await subscribed(peer, "a")


async def test_without_a_token_in_time_the_connection_is_closed(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY, handshake_timeout=10) as server:
        peer = await server.connect()
        began = trio.current_time()
        await trio.sleep(9)
        await peer.send({"type": "ping"})
        assert await peer.close_code() == 4500
        assert trio.current_time() - began == pytest.approx(10)
        peer.transport.close()
        await server.supervisor.wait_empty()
        assert server.log.of("disconnected")[0]["cause"] == "unauthorized"


async def test_after_the_token_its_deadline_is_gone(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY, handshake_timeout=10) as server:
        peer = await server.connect()
        await peer.request_reply({"type": "authenticate", "data": {"token": token("7")}})
        await trio.sleep(20)
        assert server.actor(peer.id).is_open


async def test_a_token_in_the_request_opens_such_an_endpoint_at_once(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        assert peer.welcome["data"]["topics"] == ["of.7"]
        assert (await peer.receive())["type"] == "running"


async def test_an_expired_token_has_a_grace_and_then_the_connection_ends(autojump_clock):
    async with open_server(jwt_key=KEY, token_grace=25) as server:
        peer = await server.connect(token=token("7", ttl=60))
        began = trio.current_time()
        error = await peer.receive_type("error")
        assert error["data"] == {"code": "token_expired", "retryable": False}
        assert "within 25 s" in error["error"]
        assert trio.current_time() - began == pytest.approx(60, abs=1.1)
        assert await peer.close_code() == 4004
        assert trio.current_time() - began == pytest.approx(85, abs=1.1)
        assert await ended(server) == ("token_expired", 4004)


async def test_a_token_can_be_renewed_before_it_expires_and_in_its_grace(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7", ttl=60))
        began = trio.current_time()
        await peer.receive_type("error")
        await trio.sleep(10)
        fresh = {"type": "authenticate", "data": {"token": token("7", ttl=100)}}
        reply = await peer.request_reply(fresh)
        assert (reply["type"], reply["data"]["user_id"]) == ("authenticated", "7")
        await peer.receive_type("error")
        assert trio.current_time() - began == pytest.approx(170, abs=2.1)
        fresh["data"]["token"] = token("7", ttl=None)
        assert (await peer.request_reply(fresh))["data"] == {"user_id": "7", "expires_at": None}
        with trio.move_on_after(1_000):
            while True:
                assert (await peer.receive())["type"] == "heartbeat"
        assert server.actor(peer.id).is_open


async def test_a_token_that_expires_sooner_moves_the_deadline_nearer(autojump_clock):
    async with open_server(jwt_key=KEY, token_grace=5) as server:
        peer = await server.connect(token=token("7", ttl=10_000))
        fresh = {"type": "authenticate", "data": {"token": token("7", ttl=10)}}
        began = trio.current_time()
        await peer.request_reply(fresh)
        assert await peer.close_code() == 4004
        assert trio.current_time() - began == pytest.approx(15, abs=1.1)
