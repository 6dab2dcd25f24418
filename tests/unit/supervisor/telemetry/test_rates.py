"""Rates: averages of the last seconds, out of counters that only grow."""

from __future__ import annotations

import pytest

from moorage.supervisor.telemetry.rates import RateMeter
from moorage.supervisor.telemetry.statistics import Statistics


class Meter:
    """A meter whose clock and counters a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.statistics = Statistics(0.0)
        self.meter = RateMeter(self.statistics, lambda: self.now)

    def second(self, messages: int) -> None:
        """Let a second go by in which so many messages come, and then a turn begin."""
        self.statistics.traffic.messages_in += messages
        self.now += 1
        self.meter.sample()


def test_a_steady_stream_has_its_rate():
    meter = Meter()
    for _ in range(60):
        meter.second(250)
    rates = meter.meter.read()
    assert rates.messages_in == 250
    assert rates.seconds == pytest.approx(5)
    assert rates.bytes_in == 0


def test_what_was_longer_ago_than_some_seconds_does_not_count():
    meter = Meter()
    meter.second(1_000_000)
    for _ in range(8):
        meter.second(10)
    assert meter.meter.read().messages_in == 10


def test_a_loop_that_was_idle_has_an_average_over_all_of_that_time():
    meter = Meter()
    meter.second(0)
    meter.statistics.traffic.messages_in += 50
    meter.now += 99
    meter.meter.sample()  # the first turn after that begins
    rates = meter.meter.read()
    assert rates.messages_in == pytest.approx(50 / 99, abs=0.001)
    assert rates.seconds == 99


def test_asking_at_once_divides_by_no_nothing():
    meter = Meter()
    meter.statistics.traffic.messages_in += 1
    assert meter.meter.read().messages_in == 10


def test_asking_often_changes_nothing():
    meter = Meter()
    for _ in range(20):
        meter.second(100)
        for _ in range(10):
            meter.meter.read()
    assert meter.meter.read().messages_in == 100


def test_connections_that_come_and_go_are_counted():
    meter = Meter()
    for _ in range(10):
        meter.statistics.connected += 4
        meter.second(0)
    assert meter.meter.read().connected == 4
