import math
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from moorage.actors.connection.limits import (
    REFUSALS_PER_STRIKE,
    STRIKES,
    ConnectionLimits,
    RateLimit,
    Strikes,
    TokenBucket,
    sort_turn,
)
from moorage.actors.transports.transport import CHUNK
from moorage.protocol.websocket.frames import MAX_FRAMES
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, masked, open_server
from tests.fakes_server import (
    code_of,
    echo_app,
    ended,
    settle,
    types_until_closed,
    upgraded,
    waiting_bytes,
)

steps = st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=40)


@given(steps, st.floats(0.1, 20), st.floats(0, 40))
def test_never_more_comes_out_of_a_bucket_than_its_burst_and_what_flowed_in(taken, rate, burst):
    bucket = TokenBucket(rate, burst, 0.0)
    now = total = 0
    for units, pause in taken:
        now += pause
        got = bucket.take(units, now)
        assert 0 <= got <= units
        total += got
        assert total <= max(burst or rate, 1.0) + now * rate + 1e-6


@given(st.floats(0.1, 20), st.floats(0, 40))
def test_a_patient_taker_gets_the_whole_rate(rate, burst):
    bucket = TokenBucket(rate, burst, 0.0)
    got = sum(bucket.take(1, second / rate) for second in range(1, 101))
    assert got >= 99


def test_a_bucket_starts_full_and_holds_one_second_unless_told_otherwise():
    bucket = TokenBucket(10.0, 0.0, 0.0)
    assert bucket.take(25, 0.0) == 10
    assert bucket.take(1, 0.05) == 0
    assert bucket.take(1, 0.1) == 1
    assert bucket.take(25, 100.0) == 10
    assert TokenBucket(10.0, 25.0, 0.0).take(30, 0.0) == 25


def test_a_rate_below_one_a_second_still_lets_something_through():
    """The bucket for half a message a second held half a message, and so never gave one."""
    bucket = TokenBucket(0.5, 0.0, 0.0)
    assert bucket.take(1, 0.0) == 1
    assert bucket.take(1, 1.0) == 0
    assert bucket.take(1, 2.0) == 1


def test_twenty_mistakes_within_ten_seconds_are_one_too_many():
    strikes = Strikes()
    verdicts = [strikes.strike(now * 10 / 19) for now in range(20)]
    assert verdicts == [False] * 19 + [True]


def test_mistakes_that_are_spread_out_are_forgiven():
    strikes = Strikes()
    assert not any(strikes.strike(second * 0.53) for second in range(1_000))


@given(st.lists(st.floats(0, 3), max_size=60))
def test_strikes_count_the_last_ten_seconds_wherever_they_begin(pauses):
    """A window that began with the first mistake let 38 in ten seconds pass, 19 on each side."""
    strikes = Strikes()
    times = []
    for pause in pauses:
        times.append(math.fsum([times[-1] if times else 0.0, pause]))
        recent = [time for time in times if times[-1] - time <= 10.0]
        assert strikes.strike(times[-1]) == (len(recent) >= 20)


def test_ten_refusals_weigh_as_much_as_one_mistake():
    strikes = Strikes()
    assert not any(strikes.refusal(0.0) for _ in range(STRIKES * REFUSALS_PER_STRIKE - 1))
    assert strikes.refusal(10.0)
    assert not strikes.refusal(10.1)
    mixed = Strikes()
    assert not any(mixed.refusal(0.0) for _ in range(REFUSALS_PER_STRIKE))
    verdicts = [mixed.strike(1.0) for _ in range(STRIKES - 1)]
    assert verdicts == [False] * (STRIKES - 2) + [True]


def test_messages_inside_of_one_are_paid_for_like_others():
    limit = RateLimit(ConnectionLimits(message_rate=5), 1_000, 0.0)
    assert limit.pay(3, 0.0) == 3
    assert limit.pay(3, 0.0) == 2
    assert limit.allow(1, 10, 0.0) == (0, 0)
    assert RateLimit(ConnectionLimits(), 1_000, 0.0).pay(1_000, 0.0) == 1_000


@given(steps, st.floats(0.1, 20))
def test_what_is_owed_is_paid_back_before_a_unit_is_whole(taken, rate):
    bucket = TokenBucket(rate, 5.0, 0.0)
    now = 0.0
    for units, pause in taken:
        now += pause
        short = units - bucket.take(units, now)
        if short:
            wait = bucket.owe(short)
            assert wait <= 10 + 1 / rate + 1e-6
            assert bucket.take(1, now + wait * 0.99) == 0
            now += wait
            assert bucket.take(1, now) == 1


def test_a_rate_limit_counts_frames_and_bytes():
    limit = RateLimit(ConnectionLimits(message_rate=5, byte_rate=100_000), 1_000, 0.0)
    assert limit.allow(3, 100, 0.0) == (3, 0)
    assert limit.allow(3, 100, 0.0) == (2, 0)
    assert limit.allow(1, 100_500, 10.0) == (0, 500)


def test_bytes_that_complete_no_message_count_too():
    limit = RateLimit(ConnectionLimits(byte_rate=100_000), 1_000, 0.0)
    assert limit.allow(0, 100_000, 0.0) == (0, 0)
    assert limit.allow(0, 1, 0.0) == (0, 1)


@pytest.mark.parametrize("burst", [0, 1, 50_000])
def test_a_burst_has_room_for_one_message_and_one_read(burst):
    """With less, a legal message was refused each time that it came, and called retryable."""
    limits = ConnectionLimits(byte_rate=1_000, byte_burst=burst)
    least = 70_000 + 14 + CHUNK
    assert RateLimit(limits, 70_000, 0.0).allow(1, least, 0.0) == (1, 0)
    assert RateLimit(limits, 70_000, 0.0).allow(1, least + 1, 0.0) == (0, 1)


def test_a_larger_burst_is_as_large_as_it_is_set():
    limits = ConnectionLimits(byte_rate=1_000, byte_burst=500_000)
    assert RateLimit(limits, 70_000, 0.0).allow(1, 500_000, 0.0) == (1, 0)


PINGS = [(PING, b"%d" % number) for number in range(3)]
TEXTS = [(TEXT, b"%d" % number) for number in range(3)]


def test_without_a_rate_nothing_is_owed():
    limit = RateLimit(ConnectionLimits(), 1_000, 0.0)
    assert limit.allow(10**9, 10**12, 0.0) == (10**9, 0)
    assert limit.owe(sort_turn(PINGS, 0), 10**9, 0) == 0.0
    assert limit.owe(sort_turn([], 0), 0, 10**12) == 0.0


def test_frames_beyond_the_rate_that_cannot_be_refused_are_owed():
    limit = RateLimit(ConnectionLimits(message_rate=10), 1_000, 0.0)
    limit.allow(25, 0, 0.0)
    assert limit.owe(sort_turn(TEXTS, 10), 7, 0) == 0.0  # 7 were left for them
    assert limit.owe(sort_turn(TEXTS, 10), 8, 0) == pytest.approx(0.2)
    limit.allow(25, 0, 10.0)
    assert limit.owe(sort_turn(PINGS, 0), 6, 0) == pytest.approx(1.0)


def test_bytes_beyond_the_rate_are_owed_unless_a_message_was_refused_for_them():
    limit = RateLimit(ConnectionLimits(byte_rate=100_000), 1_000, 0.0)
    limit.allow(3, 150_000, 0.0)
    assert limit.owe(sort_turn(TEXTS, 0), 0, 50_000) == 0.0
    assert limit.owe(sort_turn(PINGS, 0), 0, 50_000) == pytest.approx(0.5, abs=0.001)


def test_in_a_turn_beyond_the_rate_data_comes_first_and_the_latest_ping_is_kept():
    pong, close = (PONG, b""), (CLOSE, b"")
    turn = sort_turn([*PINGS, *TEXTS, pong, close], 2)
    assert turn.kept == [*TEXTS[:2], pong, PINGS[-1]]
    assert (turn.refused, turn.close) == (TEXTS[2:], [close])
    assert (turn.controls, turn.left) == (5, 0)
    assert sort_turn(TEXTS, 10).left == 7


# Connections that are held to them


async def test_a_peer_that_goes_on_beyond_the_rate_is_closed(autojump_clock):
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "ping"}] * 40)
        types, payload = await types_until_closed(peer)
        assert types == ["pong"] * 3 + ["error"] * 19
        assert payload == b"\x0f\xa5sending too fast"


BYTES = {"byte_rate": 10_000, "max_message_size": 60_000}
BURST = 60_000 + 14 + CHUNK


async def test_bytes_beyond_the_rate_refuse_the_whole_chunk(autojump_clock):
    async with open_server(**BYTES) as server:
        peer = await server.connect(capacity=CHUNK)
        big = {"type": "ping", "data": "x" * 59_000}
        for _ in range(BURST // 59_000):
            assert (await peer.request_reply(big))["type"] == "pong"
        await peer.send(*[{"type": "ping", "data": "x" * 29_000}] * 2)
        for _ in range(2):
            assert code_of(await peer.receive()) == "rate_limited"
        await trio.sleep(1)
        await peer.send({"type": "ping", "data": "x" * 9_000})
        assert (await peer.receive())["type"] == "pong"


async def test_a_message_of_the_largest_size_is_never_refused_for_good(autojump_clock):
    """With a rate below its size it was refused each time, and the answer said to try again."""
    async with open_server(byte_rate=1_000, byte_burst=1, heartbeat_interval=250) as server:
        peer = await server.connect()
        biggest = '{"type":"ping","data":"' + "x" * (65_536 - 25) + '"}'
        for _ in range(3):
            await peer.send(biggest)
            assert (await peer.receive_type("pong"))["type"] == "pong"
            await trio.sleep(66)


async def test_an_endpoints_own_message_size_counts_for_the_burst(autojump_clock):
    async with open_server(echo_app(max_message_size=300_000), byte_rate=1_000) as server:
        peer = await upgraded(server.dial(), "/raw")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_frame, BINARY, b"x" * 300_000)
            assert await peer.receive_frame() == (BINARY, b"x" * 300_000)


async def test_bytes_that_complete_no_message_are_read_no_faster_than_the_rate(autojump_clock):
    """They were free of all limits, or closed who sent a large message in small pieces."""
    async with open_server(**BYTES) as server:
        peer = await server.connect()
        began = trio.current_time()
        with trio.move_on_after(60):
            while True:
                await peer.send_bytes(masked(PONG, b"x" * 119))
        connection = server.actor(peer.id)
        assert connection.is_open
        allowance = BURST + (trio.current_time() - began) * 10_000
        assert allowance / 2 < connection.bytes_in <= allowance + CHUNK


async def test_a_flood_of_empty_fragments_is_refused(autojump_clock):
    """It passed the rate of messages, since it completed none: 686,000 frames a second."""
    async with open_server() as server:
        peer = await server.connect()
        await peer.send_bytes(masked(TEXT, b"", first=TEXT) + masked(0, b"", first=0) * 1_100)
        _, payload = await types_until_closed(peer)
        assert payload == b"\x03\xf0a message of 0 bytes may have at most 1024 frames"
        peer.transport.close()
        assert await ended(server) == ("too_many_fragments", 1008)


async def test_fragments_are_read_no_faster_than_the_rate_of_messages(autojump_clock):
    """Frames that completed no message passed it."""
    async with open_server(message_rate=100, max_message_size=1_000_000) as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        began = trio.current_time()
        await peer.send_bytes(masked(TEXT, b"x", first=TEXT))
        with trio.move_on_after(60):
            while True:
                await peer.send_bytes(masked(0, b"x" * 100, first=0))
        allowance = 100 + (trio.current_time() - began) * 100 + MAX_FRAMES
        assert allowance / 2 < connection.bytes_in / 106 <= allowance + CHUNK / 106


async def test_a_message_in_more_fragments_than_the_rate_has_messages_is_slow_and_not_refused(
    autojump_clock,
):
    async with open_server(message_rate=5) as server:
        peer = await server.connect()
        began = trio.current_time()
        parts = [masked(0, b" ", first=0)] * 20
        for _ in range(3):
            await peer.send_bytes(masked(TEXT, b'{"type":', first=TEXT) + b"".join(parts))
            await peer.send_bytes(masked(0, b'"ping"}'))
            assert (await peer.receive())["type"] == "pong"
            await trio.sleep(0.2)  # until it may send a message again
        assert trio.current_time() - began > 8
        assert server.supervisor.statistics.traffic.rate_limited == 0


async def test_pings_beyond_the_rate_are_no_mistakes_and_the_latest_is_answered(autojump_clock):
    """RFC 6455, 5.5.2 and 5.5.3: they were answered with an `error`, and twenty closed the peer."""
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        for number in range(10):
            await peer.send_bytes(
                b"".join(masked(PING, bytes([number, index])) for index in range(30))
            )
            assert await peer.receive_frame() == (PONG, bytes([number, 29]))
            await trio.sleep(2)
        assert waiting_bytes(peer) == b""
        assert server.supervisor.statistics.traffic.rate_limited == 0
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_pings_within_the_rate_are_all_answered(autojump_clock):
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        await peer.send_bytes(masked(PING, b"1") + masked(PING, b"2") + masked(PING, b"3"))
        assert [await peer.receive_frame() for _ in range(3)] == [
            (PONG, b"1"),
            (PONG, b"2"),
            (PONG, b"3"),
        ]


async def test_messages_among_too_many_pings_are_acted_on_as_far_as_the_rate_goes(autojump_clock):
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        frames = [masked(PING, b"p")] * 5
        for number in range(4):
            frames.append(masked(TEXT, b'{"type":"ping","id":%d}' % number))
            frames.append(masked(PING, b"q%d" % number))
        await peer.send_bytes(b"".join(frames))
        types = [await peer.receive_frame() for _ in range(5)]
        assert [opcode for opcode, _ in types] == [TEXT, TEXT, TEXT, PONG, TEXT]
        assert types[3] == (PONG, b"q3")
        assert b"rate_limited" in types[4][1]
        assert server.supervisor.statistics.traffic.rate_limited == 1


async def test_a_flood_of_pings_is_read_no_faster_than_the_rate(autojump_clock):
    async with open_server(message_rate=100) as server:
        peer = await server.connect()
        connection = server.actor(peer.id)
        began = trio.current_time()

        async def flood():
            while True:
                await peer.send_bytes(masked(PING) * 100)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            while trio.current_time() < began + 60:
                waiting_bytes(peer)  # the pongs, and our own heartbeats
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert connection.is_open
        allowance = 100 + (trio.current_time() - began) * 100
        assert allowance / 2 < connection.messages_in <= allowance + MAX_FRAMES


async def test_a_peer_that_is_read_slowly_is_not_taken_for_dead(autojump_clock):
    async with open_server(message_rate=0.01) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send_bytes(masked(PING, b"1") + masked(PING, b"2"))
        await settle()
        await peer.send({"type": "ping"})
        assert (await peer.receive_type("pong"))["type"] == "pong"
        assert trio.current_time() - began == pytest.approx(110)
        assert server.actor(peer.id).is_open


async def test_frames_that_have_to_wait_for_room_are_not_given_up_for_an_older_message(
    autojump_clock,
):
    """The connection got stuck, and kept the core busy, at the first deadline meanwhile."""
    app, acted_on = App(), []

    @app.on("slow")
    async def slow(context, _message):
        await trio.sleep(0.5)
        acted_on.append(context)

    async with open_server(app, max_inbox_size=4000, handler_timeout=1000.0) as server:
        peer = await server.connect()
        frame = masked(TEXT, b'{"type":"ping"}')
        await peer.send_bytes(frame[:8])
        await trio.sleep(1)
        await peer.send_bytes(frame[8:])
        for seconds in (100, 0.5 * (MAX_FRAMES + 44) + 2):
            with trio.move_on_after(seconds):
                while True:
                    await peer.receive()  # answers heartbeats
            if not acted_on:
                await peer.send_bytes(masked(TEXT, b'{"type":"slow"}') * (MAX_FRAMES + 44))
        assert len(acted_on) == MAX_FRAMES + 44


async def test_a_close_frame_is_heard_beyond_the_rate(autojump_clock):
    async with open_server(message_rate=1) as server:
        peer = await server.connect()
        close = masked(CLOSE, b"\x03\xe8")
        await peer.send_bytes(masked(PING) * 3 + close)
        assert await peer.close_code() == 1000
        assert await ended(server) == ("peer_closed", 1000)


async def test_a_message_beyond_the_size_closes_only_its_sender(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        big, other = await server.connect(), await server.connect()
        await big.send('{"type":"ping","data":"' + "x" * 1000 + '"}')
        assert await big.close_code() == 1009
        assert (await other.request_reply({"type": "ping"}))["type"] == "pong"


async def test_the_head_of_a_big_message_is_enough_to_refuse_it(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        peer = await server.connect()
        await peer.send_bytes(masked(TEXT, b"x" * 70_000)[:14])
        assert await peer.close_code() == 1009


async def test_messages_beyond_the_rate_are_refused_and_then_their_sender(autojump_clock):
    async with open_server(message_rate=5.0) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "ping"}] * (5 + 3))
        kinds = Counter([(await peer.receive())["type"] for _ in range(8)])
        assert kinds == {"pong": 5, "error": 3}
        await trio.sleep(1.0)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await peer.send(*[{"type": "ping"}] * (5 + STRIKES))
        assert await peer.close_code() == 4005
        assert server.supervisor.statistics.traffic.rate_limited >= STRIKES


async def test_who_goes_on_beyond_the_rate_of_bytes_is_closed(autojump_clock):
    async with open_server(byte_rate=1_000, max_message_size=5_000) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "ping", "data": "x" * 4_000}] * 60)
        assert await peer.close_code() == 4005
