import tracemalloc
from collections import Counter

import pytest
import trio

from moorage.actors.connection.lifecycle import ConnectionState
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, masked, open_server
from tests.fakes_containment import errors, is_served, onlooker
from tests.fakes_server import counting, ended, settle, torrential, types_until_closed, welcomed

EARLY = 1.5  # seconds: half of what the heartbeats of the default interval are spread over

ERROR = 40  # the log's level for what nobody expects


def never(max_bytes):
    raise BlockingIOError


async def test_a_connection_goes_through_its_states(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        assert (connection.state, connection.is_open) == (ConnectionState.OPEN, True)
        connection.end(CloseCause.RECONNECT)
        assert (connection.state, connection.is_open) == (ConnectionState.CLOSING, False)
        assert await peer.close_code() == 4007
        peer.transport.close()
        await server.supervisor.wait_empty()
        assert connection.state is ConnectionState.CLOSED


# --- quiet, and silence ----------------------------------------------------------------------


async def test_after_a_quiet_interval_a_ping_and_a_heartbeat_leave_in_one_write(autojump_clock):
    async with open_server() as server:
        peer, writes = counting(server)
        await welcomed(peer)
        began, written = trio.current_time(), len(writes)
        assert (await peer.receive_frame())[0] == PING
        assert trio.current_time() - began == pytest.approx(30 - EARLY, abs=EARLY)
        opcode, payload = await peer.receive_frame()
        assert (opcode, b'"type":"heartbeat"' in payload) == (TEXT, True)
        assert len(writes) == written + 1
        assert server.supervisor.statistics.traffic.heartbeats == 1


async def test_a_pong_puts_the_next_heartbeat_off_and_measures_the_way(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        assert connection.rtt is None
        began = trio.current_time()
        for number in range(1, 4):
            _, payload = await peer.receive_frame()
            await peer.receive_frame()
            expected = 31 * number - 1 - EARLY * number
            assert trio.current_time() - began == pytest.approx(expected, abs=EARLY * number)
            await trio.sleep(1)
            await peer.send_frame(PONG, payload)
        await settle()
        assert connection.rtt == pytest.approx(1)


async def test_a_pong_that_was_not_asked_for_is_life_and_nothing_else(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send_frame(PONG, b"unasked")
        await settle()
        connection = server.actor(peer.id)
        assert (connection.rtt, connection.is_open) == (None, True)


async def test_while_the_peer_talks_there_is_no_heartbeat(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(5):
            await trio.sleep(20)
            await peer.send({"type": "ping"})
            assert (await peer.receive())["type"] == "pong"
        began = trio.current_time()
        assert (await peer.receive_frame())[0] == PING
        assert trio.current_time() - began == pytest.approx(30 - EARLY, abs=EARLY)


async def test_a_peer_that_leaves_a_heartbeat_unanswered_is_closed(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        began = trio.current_time()
        assert await types_until_closed(peer) == (
            ["PING", "heartbeat"],
            b"\x0f\xa1heartbeat unanswered",
        )
        assert trio.current_time() - began == pytest.approx(40 - EARLY, abs=EARLY)
        assert await ended(server) == ("heartbeat_timeout", 4001)
        assert trio.current_time() - began == pytest.approx(45 - EARLY, abs=EARLY)  # close_timeout


async def test_peers_that_were_heard_at_the_same_time_are_not_all_probed_at_the_same_time(
    autojump_clock,
):
    probes: Counter[float] = Counter()
    async with open_server() as server:
        for _ in range(200):
            await server.connect()
        heard = {actor.last_heard for actor in server.actors()}
        assert len(heard) == 1
        for actor in server.actors():
            probes[actor.next_deadline()] += 1
        await trio.sleep(27 - 0.001)
        assert server.supervisor.statistics.traffic.heartbeats == 0
        await trio.sleep(3.1)
        assert server.supervisor.statistics.traffic.heartbeats == 200
    assert max(probes.values()) < 20  # once it was one turn for all 200


async def test_any_bytes_of_the_peer_count_as_life(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        frame = masked(TEXT, b'{"type":"ping"}')
        for byte in frame[:-1]:
            await trio.sleep(36)
            await peer.send_bytes(bytes([byte]))
        await peer.send_bytes(frame[-1:])
        assert (await peer.receive_type("pong"))["type"] == "pong"


async def test_a_peer_that_is_silent_for_too_long_is_closed(autojump_clock):
    settings = {"heartbeat_interval": 250, "pong_timeout": 100, "connection_timeout": 300}
    async with open_server(**settings) as server:
        peer = await server.connect()
        began = trio.current_time()
        assert await types_until_closed(peer) == (
            ["PING", "heartbeat"],
            b"\x0f\xa2silent for too long",
        )
        assert trio.current_time() - began == pytest.approx(300)
        assert await ended(server) == ("connection_timeout", 4002)


async def test_asking_again_does_not_put_the_end_off(autojump_clock):
    """Whoever asked every few seconds kept a dead peer alive."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        began = trio.current_time()
        await trio.sleep(1)
        while connection.is_open:
            connection.probe()
            assert connection.next_deadline() == pytest.approx(began + 11)
            await trio.sleep(3)
        assert connection.cause is CloseCause.HEARTBEAT_TIMEOUT
        assert trio.current_time() - began == pytest.approx(13)


async def test_a_peer_that_is_not_read_because_of_its_work_is_not_taken_for_dead(autojump_clock):
    """While a full inbox stopped the reading, the pong stayed unread and the peer was closed."""
    app = App()

    @app.on("work")
    async def work(context, message):
        await trio.sleep(25)
        context.reply("done")

    async with open_server(app, max_inbox_size=1) as server:
        peer = await server.connect()
        await peer.send(*({"type": "work"} for _ in range(16)))
        began = trio.current_time()
        heartbeats = done = 0
        while done < 16:
            match (await peer.receive())["type"]:
                case "done":
                    done += 1
                case "heartbeat":
                    heartbeats += 1
        assert trio.current_time() - began == pytest.approx(16 * 25)
        assert heartbeats > 5  # so that the peer does not take the server for dead
        assert server.actor(peer.id).is_open


# --- writing ---------------------------------------------------------------------------------


async def test_a_peer_that_takes_nothing_is_ended_without_a_close_frame(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=1_000)
        server.actor(peer.id).handle.send("big", "x" * 5_000)
        began = trio.current_time()
        assert await ended(server) == ("write_timeout", None)
        assert trio.current_time() - began == pytest.approx(10)


async def test_a_peer_that_takes_a_little_now_and_then_is_kept(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=1_000)
        connection = server.actor(peer.id)
        connection.handle.send("big", "x" * 5_000)
        connection.handle.send("last")
        received = b""
        while b'"last"' not in received:
            await trio.sleep(9)
            await peer.send_frame(PONG)
            chunk = peer.transport.read_some(500)
            assert chunk
            received += chunk
        assert connection.is_open
        assert connection.mailbox.size == 0


async def test_the_writer_exists_only_while_something_waits(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=1_000)
        connection = server.actor(peer.id)
        assert len(connection.nursery.child_tasks) == 0
        connection.handle.send("big", "x" * 5_000)
        connection.handle.send("more")
        assert [task.name for task in connection.nursery.child_tasks] == [f"writer of {peer.id}"]
        await peer.receive_type("more")
        await settle()
        assert len(connection.nursery.child_tasks) == 0


async def test_a_slow_consumer_is_closed_behind_what_is_in_flight(autojump_clock):
    async with open_server(max_mailbox_size=20_000) as server:
        peer = await server.connect(capacity=5_000)
        connection = server.actor(peer.id)
        sent = 0
        while connection.handle.send("numbered", "x" * 2_000):
            sent += 1
        assert 9 < sent < 13
        await settle()
        types, payload = await types_until_closed(peer)
        assert types == ["numbered"] * len(types)
        assert 0 < len(types) < sent
        assert payload == b"\x0f\xa3reading too slowly"
        assert await ended(server) == ("slow_consumer", 4003)


async def test_sending_to_a_slow_consumer_that_is_closed_for_it_says_so(autojump_clock):
    """The message that did not fit was reported as sent."""
    async with open_server(max_mailbox_size=1_000) as server:
        peer = await server.connect(capacity=100)
        connection = server.actor(peer.id)
        before = server.supervisor.statistics.traffic.messages_out
        assert connection.handle.send("fits", "x" * 200)
        assert not connection.handle.send("too_much", "x" * 2_000)
        assert connection.cause is CloseCause.SLOW_CONSUMER
        assert server.supervisor.statistics.traffic.messages_out == before + 1


async def test_a_peer_that_asks_and_does_not_read_is_a_slow_consumer(autojump_clock):
    async with open_server(max_mailbox_size=10_000) as server:
        peer = await server.connect(capacity=2_000)
        with trio.move_on_after(1):
            while True:
                await peer.send_frame(PING, b"x" * 125)
        assert await ended(server) == ("slow_consumer", 4003)


# --- every ending has its cause and its code -------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer", "cause"),
    [
        pytest.param(masked(CLOSE, b"\x03\xe8bye"), b"\x03\xe8", "peer_closed", id="closed"),
        pytest.param(masked(CLOSE, b"\x0b\xb8"), b"\x0b\xb8", "peer_closed", id="closed with 3000"),
        pytest.param(masked(CLOSE), b"", "peer_closed", id="closed without a code"),
        pytest.param(masked(TEXT, b"x", first=0xC1), b"\x03\xea", "protocol_error", id="rsv1"),
        pytest.param(b"\x81\x01x", b"\x03\xea", "protocol_error", id="not masked"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"\x03\xea", "protocol_error", id="http"),
        pytest.param(
            masked(CLOSE, b"\x03\xed"), b"\x03\xea", "protocol_error", id="closed with 1005"
        ),
        pytest.param(masked(BINARY, b"x"), b"\x03\xeb", "unsupported_data", id="binary"),
        pytest.param(masked(TEXT, b"\xff"), b"\x03\xef", "invalid_payload", id="not utf-8"),
        pytest.param(masked(TEXT, b"x" * 70_000), b"\x03\xf1", "message_too_big", id="too big"),
        pytest.param(masked(TEXT, b"no") * 20, b"\x11\x95", "bad_messages", id="bad messages"),
    ],
)
async def test_what_the_peer_does_wrong_or_right_has_its_close_code(
    autojump_clock, sent, answer, cause
):
    async with open_server() as server:
        peer = await server.connect(capacity=100_000)
        began = trio.current_time()
        await peer.send_bytes(sent)
        _, payload = await types_until_closed(peer)
        assert payload[:2] == answer
        peer.transport.close()
        code = int.from_bytes(answer) if answer else None
        assert await ended(server) == (cause, code)
        assert trio.current_time() - began == pytest.approx(0, abs=0.1)
        assert not [line for line in server.log.lines if line["level"] >= ERROR]


@pytest.mark.parametrize("leave", ["close", "end_output", "reset"])
async def test_a_peer_that_just_goes_has_vanished(autojump_clock, leave):
    async with open_server() as server:
        peer = await server.connect()
        getattr(peer.transport, leave)()
        assert await ended(server) == ("peer_vanished", None)


@pytest.mark.parametrize("cause", [cause for cause in CloseCause if cause.code is not None])
async def test_each_cause_has_its_code_and_reason_in_the_close_frame(autojump_clock, cause):
    async with open_server() as server:
        peer = await server.connect()
        if cause is CloseCause.PEER_CLOSED:
            await peer.send_frame(CLOSE, b"\x03\xe8")
        else:
            server.actor(peer.id).end(cause)
        _, payload = await types_until_closed(peer)
        reason = b"" if cause is CloseCause.PEER_CLOSED else cause.reason.encode()
        assert payload == cause.code.to_bytes(2) + reason
        peer.transport.close()
        assert await ended(server) == (cause.value, cause.code)
        (line,) = server.log.of("disconnected")
        assert (line["level"] >= ERROR) == (not cause.expected)
        assert server.supervisor.statistics.closed == {cause: 1}


@pytest.mark.parametrize("cause", [CloseCause.PEER_VANISHED, CloseCause.WRITE_TIMEOUT])
async def test_where_nothing_can_be_sent_there_is_no_goodbye(autojump_clock, cause):
    async with open_server() as server:
        peer = await server.connect()
        server.actor(peer.id).end(cause)
        assert await ended(server) == (cause.value, None)
        with pytest.raises(EOFError):
            await peer.receive_frame()


async def test_the_first_cause_wins(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        assert connection.end(CloseCause.DISCONNECTED, code=4999, reason="first")
        assert not connection.end(CloseCause.RECONNECT)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await types_until_closed(peer) == ([], b"\x13\x87first")
        assert await ended(server) == ("disconnected", 4999)


@pytest.mark.parametrize(
    ("code", "reason", "match"),
    [
        pytest.param(1005, "", "1005", id="1005"),
        pytest.param(1006, "", "1006", id="1006"),
        pytest.param(70_000, "", "70000", id="too large"),
        pytest.param(1000, "\ud800", "surrogates", id="surrogate"),
    ],
)
async def test_what_no_close_frame_can_carry_is_refused_and_changes_nothing(
    autojump_clock, code, reason, match
):
    """It was found out during the goodbye, and took the whole server down."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        with pytest.raises(ValueError, match=match):
            connection.end(CloseCause.ENDPOINT_FINISHED, code=code, reason=reason)
        assert connection.is_open
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_a_peer_that_breaks_while_it_is_written_to_has_vanished(autojump_clock):
    async with open_server() as server:
        peer = await server.connect(capacity=500)
        connection = server.actor(peer.id)
        connection.handle.send("big", "x" * 2_000)
        await settle()
        far = connection.transport
        far.read_some = never  # so that it is the writer that finds out
        peer.transport.reset()
        assert await ended(server) == ("peer_vanished", None)


# --- containment -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["wait_readable", "write_some", "end_output"])
async def test_an_actor_that_breaks_takes_nobody_along(autojump_clock, part):
    def broken(*arguments):
        raise RuntimeError("broken")

    async with open_server() as server:
        other, peer = await server.connect(), await server.connect()
        connection = server.actor(peer.id)
        if part == "write_some":
            connection.mailbox._write = broken
        else:
            setattr(connection.transport, part, broken)
        await peer.send_frame(CLOSE if part == "end_output" else PING, b"")
        await trio.sleep(20)
        (failed,) = server.log.of("connection_failed")
        assert isinstance(failed["exc_info"], Exception)
        assert failed["level"] >= ERROR
        (line,) = server.log.of("disconnected")
        assert line["cause"] == ("peer_closed" if part == "end_output" else "internal_error")
        await other.send({"type": "ping"})
        assert (await other.receive())["type"] == "pong"


async def test_a_hundred_that_break_at_once_are_not_noticed_by_the_others(autojump_clock):
    app = App()

    @app.endpoint("/bad")
    async def bad(connection):
        await trio.sleep(1)
        raise ExceptionGroup("broken", [RuntimeError("one"), ValueError("two")])

    app.add_endpoint("/ws")
    async with open_server(app) as server:
        good = [await server.connect() for _ in range(5)]
        bad = [await server.connect("/bad") for _ in range(100)]
        assert {await peer.close_code() for peer in bad} == {1011}
        for peer in good:
            await peer.send({"type": "ping"})
            assert (await peer.receive())["type"] == "pong"
        assert server.supervisor.statistics.traffic.handler_errors == 100


async def test_an_idle_connection_holds_nothing_of_what_came_last(autojump_clock):
    """It kept the last chunk, up to 64 KiB, for as long as it was idle."""
    async with open_server() as server:
        peer = await server.connect()
        await peer.request_reply({"type": "ping"})
        tracemalloc.start()
        try:
            await peer.send({"type": "ping", "data": "x" * 60_000})
            assert (await peer.receive())["type"] == "pong"
            await settle()
            held, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 30_000


async def test_a_peer_that_never_stops_sending_leaves_others_their_turns(autojump_clock):
    async with open_server() as server:
        torrent, peer = await torrential(server)
        connection = server.actor(peer.id)
        turns, torrent.chunks = 0, 30
        await peer.send_frame(PONG)
        while connection.is_open:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns >= 30
        assert connection.messages_in == 30 * 512
        assert connection.cause is CloseCause.PEER_VANISHED


async def test_a_hundred_actors_that_break_take_nobody_along(autojump_clock):
    async with open_server() as server:
        other = await onlooker(server)
        peers = [await server.connect() for _ in range(100)]
        for peer in peers:
            connection = server.actor(peer.id)
            connection._reader = None  # a bug of this package, whichever
        for peer in peers:
            await peer.send({"type": "ping"})
        assert [await peer.close_code() for peer in peers] == [1011] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        lines = server.log.of("connection_failed")
        assert {line["connection_id"] for line in lines} == {peer.id for peer in peers}
        assert len(lines) == 100
        assert all(line["exc_info"] is not None for line in lines)
        lines = server.log.of("disconnected")
        assert [line["cause"] for line in lines] == ["internal_error"] * 100
        assert await is_served(other)


async def test_expected_endings_are_no_errors(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        endings = {}
        for code, frame in {
            "peer_closed": b"\x88\x80\0\0\0\0",
            "protocol_error": b"\xff\xff\0\0\0\0",
            "invalid_payload": b"\x81\x81\0\0\0\0\xff",
            "unsupported_data": b"\x82\x81\0\0\0\0x",
            "message_too_big": b"\x81\xfe\x10\x00\0\0\0\0",
        }.items():
            peer = await server.connect()
            await peer.send_bytes(frame)
            endings[code] = await peer.close_code()
            peer.transport.close()
        await settle()
        assert endings == {
            "peer_closed": 0,  # a Close frame without a code is answered by another
            "protocol_error": 1002,
            "invalid_payload": 1007,
            "unsupported_data": 1003,
            "message_too_big": 1009,
        }
        assert [line["cause"] for line in server.log.of("disconnected")] == list(endings)
        assert errors(server) == []
