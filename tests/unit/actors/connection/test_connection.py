import contextlib
import tracemalloc
from collections import Counter

import pytest
import trio

from moorage.actors.connection.lifecycle import ConnectionState
from moorage.actors.transports.transport import CHUNK
from moorage.protocol.closing import CloseCause
from moorage.protocol.websocket.frames import MAX_FRAMES
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, masked, open_server
from tests.fakes_containment import errors, is_served, onlooker
from tests.fakes_server import (
    HALF_A_HEAD,
    OTHER_HALF,
    counting,
    echo_app,
    ended,
    settle,
    torrential,
    types_until_closed,
    upgraded,
    welcomed,
)

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
    async with open_server(message_timeout=1_000) as server:
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


# --- messages that go on ---------------------------------------------------------------------

PING_TEXT = masked(TEXT, b'{"type":"ping"}')


HALF_TEXT = masked(TEXT, b'{"type":', first=TEXT)


@pytest.mark.parametrize(
    ("first", "data", "between"),
    [
        pytest.param(b"", masked(TEXT, b"x" * 60_000), b"", id="a frame byte by byte"),
        pytest.param(b"", masked(TEXT, b"x" * 60_000)[:2], b"", id="a header"),
        pytest.param(HALF_TEXT, masked(0, b"x" * 100, first=0), b"", id="a fragment"),
        pytest.param(HALF_TEXT, b"", masked(PONG), id="pongs amid a fragmented message"),
    ],
)
async def test_a_message_that_does_not_become_complete_ends_its_connection(
    autojump_clock, first, data, between
):
    """A frame that came byte by byte lived for ever, since any bytes are a sign of life."""
    async with open_server(message_timeout=35) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send_bytes(first)

        async def send():
            with contextlib.suppress(trio.BrokenResourceError):
                for byte in data:
                    await peer.send_bytes(bytes([byte]))
                    await trio.sleep(1)
                while between:
                    await peer.send_bytes(between)
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            _, payload = await types_until_closed(peer)
            nursery.cancel_scope.cancel()
        assert payload == b"\x0f\xa8a message took too long"
        assert 35 <= trio.current_time() - began < 36
        peer.transport.close()
        assert await ended(server) == ("message_timeout", 4008)


@pytest.mark.parametrize("message_timeout", [5, 45, 100])
async def test_the_time_of_a_message_begins_with_its_first_byte(autojump_clock, message_timeout):
    settings = {"pong_timeout": 200, "connection_timeout": 1_000}
    async with open_server(message_timeout=message_timeout, **settings) as server:
        peer = await server.connect()
        for _ in range(20):
            await trio.sleep(7)
            await peer.send_bytes(PING_TEXT)
        began = trio.current_time()
        await peer.send_bytes(PING_TEXT[:-1])
        await types_until_closed(peer)
        assert trio.current_time() - began == pytest.approx(message_timeout)


async def test_messages_that_are_always_cut_are_not_one_that_takes_too_long(autojump_clock):
    async with open_server(message_timeout=10) as server:
        peer = await server.connect()
        stream = PING_TEXT * 100
        for start in range(0, len(stream), 13):
            await peer.send_bytes(stream[start : start + 13])
            await trio.sleep(1)
        assert server.actor(peer.id).is_open
        assert server.actor(peer.id).messages_in == 100


async def test_fragmented_messages_one_after_the_other_have_their_time_each(autojump_clock):
    async with open_server(message_timeout=10) as server:
        peer = await server.connect()
        for _ in range(20):
            await peer.send_bytes(masked(TEXT, b'{"type":', first=TEXT))
            await trio.sleep(8)
            await peer.send_bytes(masked(0, b'"ping"}'))
        await trio.sleep(20)
        assert server.actor(peer.id).is_open


async def test_time_in_which_we_do_not_read_is_not_that_of_a_message(autojump_clock):
    app = App()

    @app.on("work")
    async def work(context, message):
        await trio.sleep(25)
        context.reply("done")

    async with open_server(app, max_inbox_size=1, message_timeout=10) as server:
        peer = await server.connect()
        await peer.send(*({"type": "work"} for _ in range(16)))
        await peer.send_bytes(PING_TEXT[:-1])
        await settle()
        await trio.sleep(15 * 25 + 5)
        assert server.actor(peer.id).is_open
        await peer.send_bytes(PING_TEXT[-1:])
        assert (await peer.receive_type("pong"))["type"] == "pong"


# --- turns -----------------------------------------------------------------------------------


async def test_a_chunk_of_tiny_frames_is_acted_on_in_turns_and_in_order(autojump_clock):
    """Its 10,922 frames held the loop for 28 to 44 ms."""
    async with open_server() as server:
        peer, writes = counting(server, capacity=1_000_000)
        await welcomed(peer)
        written = len(writes)
        count = CHUNK // 8
        await peer.send_bytes(b"".join(masked(PING, n.to_bytes(2)) for n in range(count)))
        frames = [await peer.receive_frame() for _ in range(count)]
        assert frames == [(PONG, n.to_bytes(2)) for n in range(count)]
        assert writes[written:] == [4 * MAX_FRAMES] * (count // MAX_FRAMES)


class CountingReader:
    """A reader that notes how many frames it has read in each turn of the loop."""

    def __init__(self, reader, tick):
        self._reader = reader
        self._tick = tick
        self.frames = Counter()

    def feed(self, chunk):
        messages = self._reader.feed(chunk)
        fragments = 0 if self._reader.settled else self._reader.fragments
        self.frames[self._tick.turns] += len(messages) + fragments
        return messages

    def __getattr__(self, name):
        return getattr(self._reader, name)


@pytest.mark.parametrize(
    "frame",
    [masked(PONG), masked(0, b"", first=0), masked(BINARY)],
    ids=["pong", "fragment", "binary"],
)
async def test_no_turn_of_the_loop_has_more_than_so_many_frames_of_a_connection(
    autojump_clock, frame
):
    async with open_server(echo_app(max_message_size=10_000_000)) as server:
        peer = await upgraded(server.dial(capacity=3 * CHUNK), "/raw")
        (connection,) = server.actors()
        reader = connection._reader = CountingReader(connection._reader, server.parts.tick)
        if frame[0] == 0:
            await peer.send_bytes(masked(TEXT, b"x" * 500_000, first=TEXT))
            await settle()
        # Chunks with a last turn of every size: whole ones, and some that end within a turn.
        for count in (2 * CHUNK // 6, MAX_FRAMES + 400, 2 * MAX_FRAMES, MAX_FRAMES - 1):
            await peer.send_bytes(frame * count)
            await settle()
            assert connection.is_open
        assert max(reader.frames.values()) == MAX_FRAMES
        assert reader.frames.total() > 2 * CHUNK // 6 + 4 * MAX_FRAMES - 200


async def test_a_full_inbox_stops_a_chunk_between_its_turns(autojump_clock):
    app, done = App(), []

    @app.on("work")
    async def work(context, message):
        await trio.sleep(1)
        done.append(message.data)

    async with open_server(app, max_inbox_size=1) as server:
        peer = await server.connect()
        count = 2 * MAX_FRAMES
        await peer.send(*({"type": "work", "data": n} for n in range(count)))
        await settle()
        assert server.actor(peer.id).messages_in == MAX_FRAMES
        with trio.move_on_after(count + 1):
            while True:
                await peer.receive()
        assert done == list(range(count))


async def test_bytes_are_counted_once_in_whatever_turns_they_are_read(autojump_clock):
    async with open_server(byte_rate=65_536, max_message_size=65_536 - 14) as server:
        peer = await server.connect(capacity=200_000)
        await peer.send_bytes(masked(PONG) * (2 * CHUNK // 6))
        await settle()
        await peer.send({"type": "ping"})
        assert (await peer.receive())["data"]["code"] == "rate_limited"
        assert server.actor(peer.id).bytes_in == 2 * CHUNK // 6 * 6 + len(PING_TEXT) + 1


# --- asking again ----------------------------------------------------------------------------


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


async def test_many_frames_behind_the_upgrade_request_are_all_acted_on(autojump_clock):
    """The loop spun for ever: the frames left for other turns were taken for an old message."""
    async with open_server() as server:
        await trio.sleep(3600)
        peer = server.dial()
        await peer.send_bytes(HALF_A_HEAD + OTHER_HALF + masked(PONG) * (2 * MAX_FRAMES + 1))
        for _ in range(100):  # no deadline could end the spinning: virtual time stands still
            await trio.lowlevel.checkpoint()
        assert [one.messages_in for one in server.actors()] == [2 * MAX_FRAMES + 1]


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
