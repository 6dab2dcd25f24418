"""Descriptors: the limit, what the settings need, the reserve, and what a shortage logs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

import pytest
import trio

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance import descriptors as descriptors_module
from moorage.supervisor.entrance.descriptors import (
    Shortage,
    check_room,
    descriptor_limit,
    has_room,
    lack_of_descriptors,
    open_descriptors,
    raise_descriptor_limit,
)
from moorage.supervisor.telemetry.statistics import Statistics
from tests.fakes import RecordingLogger


@pytest.fixture(autouse=True)
def limits_as_before():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def set_limit(soft: int) -> None:
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


@contextlib.contextmanager
def hoard(leave: int):
    """Open descriptors until only so many are left."""
    opened = []
    try:
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.dup(0))
        for _ in range(leave):
            os.close(opened.pop())
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_the_soft_limit_is_raised_to_the_hard_one():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    set_limit(300)
    assert raise_descriptor_limit() == (300, hard)
    assert descriptor_limit() == hard
    assert raise_descriptor_limit() == (hard, hard)


def test_a_system_that_refuses_leaves_the_limit_as_it_is(monkeypatch):
    def refuse(*_arguments):
        raise ValueError("not allowed to raise maximum limit")

    set_limit(300)
    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        assert raise_descriptor_limit() == (300, 300)


def test_no_limit_at_all_is_a_large_one(monkeypatch):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert descriptor_limit() > 1_000_000
    assert has_room()


@pytest.mark.parametrize(("left", "room"), [(70, True), (40, False), (0, False)])
def test_clients_leave_the_reserve_and_operators_may_use_it(left, room):
    set_limit(400)  # of which 64 are the reserve
    with hoard(left):
        assert has_room() is room
    assert has_room()


def test_of_a_low_limit_the_reserve_is_a_quarter():
    set_limit(100)
    with hoard(30):
        check_room(1.0)
    with hoard(20), pytest.raises(OSError, match="but for the reserve"):
        check_room(1.0)


def test_who_leaves_less_of_the_reserve_gets_further():
    set_limit(400)
    with hoard(40):
        check_room(0.5)
        with pytest.raises(OSError, match="but for the reserve") as caught:
            check_room(1.0)
        assert caught.value.errno == errno.EMFILE


def test_the_open_ones_are_counted_also_when_none_is_left():
    set_limit(200)
    with hoard(0):
        assert open_descriptors() >= 200


@pytest.mark.parametrize(
    ("number", "counted"), [(errno.EMFILE, 200), (errno.ENOENT, None), (errno.EACCES, None)]
)
def test_what_cannot_be_counted_is_said_and_no_error(monkeypatch, number, counted):
    # Before Linux 6.2 the folder has to be listed, which takes a descriptor.
    def fail(_path):
        raise OSError(number, os.strerror(number))

    set_limit(200)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        assert open_descriptors() == counted


def test_settings_that_fit_need_no_word(monkeypatch):
    monkeypatch.setattr(descriptors_module, "descriptor_limit", lambda: 16_384)
    assert lack_of_descriptors(Settings()) is None


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (4_096, "to 13024, or lower max_total_connections to 1072"),
        (1_024, "to 13024, or lower max_total_connections and max_handshakes"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_what_to_set(monkeypatch, limit, advice):
    monkeypatch.setattr(descriptors_module, "descriptor_limit", lambda: limit)
    lack = lack_of_descriptors(Settings())
    assert lack is not None
    assert (lack.limit, lack.needed) == (limit, 13_024)
    assert lack.advice.endswith(advice)


def shortage():
    log = RecordingLogger()
    statistics = Statistics(0.0)
    return Shortage(lambda level, event, **fields: log.log(0, event, **fields), statistics), log


async def test_a_shortage_is_logged_once_when_it_begins_and_once_when_it_is_over(autojump_clock):
    short, log = shortage()
    short.end_if_over()
    assert log.lines == []
    for _ in range(100):
        short.note(OSError(errno.EMFILE, "Too many open files"))
        await trio.sleep(0.1)
        short.end_if_over()
    (line,) = log.lines
    assert (line["event"], line["error"]) == ("accept_failed", "Too many open files")
    assert short.statistics.exhausted == 100
    await trio.sleep_until(short.over_at)
    short.end_if_over()
    line = log.lines[-1]
    assert (line["event"], line["failures"]) == ("accept_resumed", 100)
    assert line["seconds"] == pytest.approx(14.9)


async def test_after_a_shortage_the_next_one_is_logged_again(autojump_clock):
    short, log = shortage()
    for _ in range(2):
        short.note(OSError(errno.ENOMEM, "Cannot allocate memory"))
        await trio.sleep(6)
        short.end_if_over()
        short.end_if_over()
    assert [line["event"] for line in log.lines] == ["accept_failed", "accept_resumed"] * 2
    assert log.lines[-1]["failures"] == 1
