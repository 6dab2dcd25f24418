import math

from hypothesis import given
from hypothesis import strategies as st

from moorage.actors.connection.limits import ConnectionLimits, RateLimit, Strikes, TokenBucket

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


def test_a_rate_limit_counts_messages_and_bytes():
    limit = RateLimit(ConnectionLimits(message_rate=5, byte_rate=1_000), 0.0)
    assert limit.allow(3, 100, 0.0) == (3, False)
    assert limit.allow(3, 100, 0.0) == (2, True)
    assert limit.allow(1, 2_000, 10.0) == (0, True)


def test_bytes_that_complete_no_message_count_too():
    limit = RateLimit(ConnectionLimits(byte_rate=1_000), 0.0)
    assert limit.allow(0, 1_000, 0.0) == (0, False)
    assert limit.allow(0, 1, 0.0) == (0, True)
