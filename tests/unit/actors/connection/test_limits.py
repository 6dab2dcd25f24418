import contextlib
import math
from collections import Counter

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
)
from tests.fakes import CLOSE, PING, TEXT, masked, open_server
from tests.fakes_server import ended, types_until_closed

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
    limit = RateLimit(ConnectionLimits(message_rate=5), 0.0)
    assert limit.pay(3, 0.0) == 3
    assert limit.pay(3, 0.0) == 2
    assert limit.allow(1, 10, 0.0) == (0, True)
    assert RateLimit(ConnectionLimits(), 0.0).pay(1_000, 0.0) == 1_000


def test_a_rate_limit_counts_messages_and_bytes():
    limit = RateLimit(ConnectionLimits(message_rate=5, byte_rate=1_000), 0.0)
    assert limit.allow(3, 100, 0.0) == (3, False)
    assert limit.allow(3, 100, 0.0) == (2, True)
    assert limit.allow(1, 2_000, 10.0) == (0, True)


def test_bytes_that_complete_no_message_count_too():
    limit = RateLimit(ConnectionLimits(byte_rate=1_000), 0.0)
    assert limit.allow(0, 1_000, 0.0) == (0, False)
    assert limit.allow(0, 1, 0.0) == (0, True)


# Connections that are held to them


async def test_a_peer_that_goes_on_beyond_the_rate_is_closed(autojump_clock):
    async with open_server(message_rate=3) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "ping"}] * 40)
        types, payload = await types_until_closed(peer)
        assert types == ["pong"] * 3 + ["error"] * 19
        assert payload == b"\x0f\xa5sending too fast"


async def test_bytes_beyond_the_rate_refuse_the_whole_chunk(autojump_clock):
    async with open_server(byte_rate=1_000) as server:
        peer = await server.connect()
        await peer.send({"type": "ping", "data": "x" * 1_500})
        assert (await peer.receive())["data"]["code"] == "rate_limited"
        await trio.sleep(2)
        await peer.send({"type": "ping", "data": "x" * 500})
        assert (await peer.receive())["type"] == "pong"


async def test_bytes_that_complete_no_message_are_limited_too(autojump_clock):
    """Empty fragments without end were free of all limits, and cost the server its processor."""
    async with open_server(byte_rate=1_000) as server:
        peer = await server.connect()
        await peer.send_bytes(masked(TEXT, b"", first=TEXT))
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.send_bytes(masked(0, b"", first=0) * 100)
                await trio.sleep(0.01)
        assert server.log.of("disconnected")[-1]["cause"] == "rate_limited"


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


async def test_bytes_beyond_the_rate_are_refused(autojump_clock):
    async with open_server(byte_rate=2000.0) as server:
        peer = await server.connect()
        big = {"type": "ping", "data": "x" * 1500}
        assert (await peer.request_reply(big))["type"] == "pong"
        await peer.send(big)
        assert (await peer.receive())["data"]["code"] == "rate_limited"
