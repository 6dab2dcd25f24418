import random
from datetime import UTC, datetime

import pytest

from moorage.actors.client.backoff import LONGEST_WAIT, Backoff, bounded_wait, parse_retry_after


@pytest.mark.parametrize("seed", range(20))
def test_every_delay_is_within_its_bound(seed):
    backoff = Backoff(0.5, 8, random=random.Random(seed))
    for bound in (0.5, 1, 2, 4, 8, 8, 8):
        assert 0 <= backoff.next() <= bound


def test_delays_use_the_whole_range():
    backoff = Backoff(8, 8, random=random.Random(1))
    delays = [backoff.next() for _ in range(1000)]
    assert min(delays) < 0.1
    assert max(delays) > 7.9


def test_the_same_seed_gives_the_same_delays():
    one, two = (Backoff(random=random.Random(5)) for _ in range(2))
    assert [one.next() for _ in range(9)] == [two.next() for _ in range(9)]


def test_reset_begins_again():
    backoff = Backoff(1, 64, random=random.Random(1))
    for _ in range(7):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_bounds_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="initial"):
        Backoff(initial=wrong)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("9" * 5000, LONGEST_WAIT),
        ("Sun, 01 Jan 2023 12:01:00 GMT", 60),
        ("Sun, 01 Jan 2023 11:00:00 GMT", 0),
        ("Sun, 01 Jan 2023 12:02:00 -0000", 120),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0665", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header, seconds):
    now = datetime(2023, 1, 1, 12, tzinfo=UTC)
    assert parse_retry_after(header, now) == seconds


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (2, 2),
        (2.5, 2.5),
        (-1, 0),
        (1e9, LONGEST_WAIT),
        (float("nan"), None),
        (True, None),
        ("5", None),
        (None, None),
        ([], None),
    ],
)
def test_a_wait_that_a_server_asks_for_is_bounded(said, wait):
    assert bounded_wait(said) == wait
