"""The end of a process whose server does not end in time."""

from __future__ import annotations

import queue
import signal
import threading

import pytest
from structlog.testing import capture_logs

from moorage.supervisor.cli import exit_timer
from moorage.supervisor.cli.exit_timer import AT_ONCE, GRACE, ExitTimer, SignalledEnd
from moorage.supervisor.cli.exits import Exit
from moorage.supervisor.config.settings import Settings

pytestmark = pytest.mark.usefixtures("structlog_as_it_comes")

PATIENCE = 10.0


@pytest.fixture
def ended():
    """A queue with the statuses with which the process would have ended."""
    return queue.SimpleQueue()


@pytest.fixture
def timer(ended):
    timer = ExitTimer(ended.put)
    yield timer
    timer.cancel()


def test_a_process_that_is_late_is_ended_and_a_line_says_where_its_thread_is(timer, ended):
    with capture_logs() as lines:
        timer.end_within(0.01)
        assert ended.get(timeout=PATIENCE) == Exit.CUT_OFF
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("cut_off", "error")
    assert "test_a_process_that_is_late" in "".join(line["stack"])


def test_the_earliest_time_counts(timer, ended):
    with capture_logs():
        for seconds in (1000, 0.01, 1000):
            timer.end_within(seconds)
        assert ended.get(timeout=PATIENCE) == Exit.CUT_OFF


def test_a_process_that_has_ended_in_time_is_left_alone(ended):
    before = threading.active_count()
    timer = ExitTimer(ended.put)
    timer.end_within(0.2)
    timer.cancel()
    with pytest.raises(queue.Empty):
        ended.get(timeout=0.5)
    assert threading.active_count() == before


def test_a_log_that_nobody_takes_does_not_keep_the_process(monkeypatch, timer, ended):
    taken = threading.Event()
    monkeypatch.setattr(exit_timer, "_PATIENCE", 0.05)
    monkeypatch.setattr(timer, "_write_last_line", lambda _seconds: taken.wait(PATIENCE))
    timer.end_within(0.01)
    assert ended.get(timeout=PATIENCE) == Exit.CUT_OFF
    taken.set()


# The times


class Noted:
    """A timer that notes the times that it is given."""

    def __init__(self):
        self.seconds = []

    def end_within(self, seconds):
        self.seconds.append(seconds)


SETTINGS = Settings(drain_timeout=30, close_timeout=5, handler_timeout=20)


def test_after_a_signal_there_is_time_to_drain_and_to_stop():
    noted = Noted()
    ending = SignalledEnd(noted, SETTINGS, has_callbacks=False)
    ending.observe(signal.SIGHUP)
    ending.observe(signal.SIGTERM)
    ending.begin_stop()
    assert noted.seconds == [30 + 12 + GRACE, 12 + GRACE]


def test_callbacks_about_connections_that_are_over_have_their_time():
    noted = Noted()
    SignalledEnd(noted, SETTINGS, has_callbacks=True).begin_stop()
    assert noted.seconds == [12 + 20 + GRACE]


def test_after_a_second_signal_there_is_no_time():
    noted = Noted()
    ending = SignalledEnd(noted, SETTINGS, has_callbacks=True)
    ending.observe(signal.SIGTERM)
    ending.observe(signal.SIGINT)
    assert noted.seconds[1] == AT_ONCE + GRACE
