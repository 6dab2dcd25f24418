"""Lines are written without waiting, within a bound, and what is lost is counted and told."""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

import attrs
import pytest

from moorage.supervisor.telemetry.line_writer import LineWriter, descriptor_of, standard_error

_PATIENCE = 10.0  # seconds for which a test waits for the thread


@attrs.define
class Pipe:
    """A pipe, of which the writer has the one end and the test the other."""

    out: TextIO
    reading: int

    def read(self, size: int = 1_048_576) -> bytes:
        return os.read(self.reading, size)


@contextmanager
def open_pipe() -> Generator[Pipe]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(writing, "w") as out:
        try:
            yield Pipe(out, reading)
        finally:
            os.close(reading)


@contextmanager
def writing_to(pipe: Pipe, **options: object) -> Generator[LineWriter]:
    writer = LineWriter(pipe.out, **options)
    try:
        yield writer
    finally:
        writer.end()


def stuck(writer: LineWriter, pipe: Pipe) -> int:
    """Fill the pipe and the queue until a line is lost; return how many were taken."""
    lines = 0
    while not writer.lost:
        writer.write(f"line {lines:06}\n")
        lines += 1
    return lines - 1


def test_lines_arrive_in_their_order():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        for number in range(100):
            writer.write(f"{number}\n")
        assert writer.close(_PATIENCE)
        assert pipe.read().split() == [str(number).encode() for number in range(100)]
        assert (writer.waiting, writer.lost) == (0, 0)


def test_nobody_waits_for_a_pipe_that_nobody_reads():
    """Such a pipe once stopped the server after 150 connections, signals and all."""
    with open_pipe() as pipe, writing_to(pipe, limit=10_000) as writer:
        taken = stuck(writer, pipe)
        assert taken >= 10_000 // len("line 000000\n")
        assert writer.waiting <= 10_000
        lost = writer.lost
        writer.write("one more\n")
        assert writer.lost == lost + 1


def test_what_was_lost_is_told_when_lines_flow_again():
    with open_pipe() as pipe, writing_to(pipe, limit=10_000) as writer:
        told: list[int] = []
        flowing = threading.Event()

        def on_lost(lines: int) -> None:
            told.append(lines)
            flowing.set()

        writer.on_lost = on_lost
        taken = stuck(writer, pipe)
        writer.write("one more\n")
        received = b""
        while received.count(b"\n") < taken:
            received += pipe.read()
        assert flowing.wait(_PATIENCE)
        assert writer.close(_PATIENCE)
        assert sum(told) == writer.lost == 2
        assert received.split(b"\n")[:-1] == [b"line %06d" % number for number in range(taken)]


def test_a_reader_that_stays_too_slow_does_not_fill_the_log_with_reports_of_it():
    now = 0.0
    with open_pipe() as pipe, writing_to(pipe, limit=1000, clock=lambda: now) as writer:
        told: list[int] = []
        writer.on_lost = told.append
        for _ in range(50):
            stuck(writer, pipe)
            pipe.read(8)
        assert len(told) <= 1


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        os.dup2(os.open(os.devnull, os.O_RDONLY), pipe.reading)
        for _ in range(100):
            writer.write("to nobody\n")
        assert writer.close(_PATIENCE)
        assert (writer.lost, writer.waiting) == (100, 0)


def test_a_closed_stream_costs_the_lines_and_nothing_else():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        writer.write("before\n")
        assert writer.close(_PATIENCE)
        pipe.out.close()
        writer.write("after\n")
        assert writer.close(_PATIENCE)
        assert (pipe.read(), writer.lost) == (b"before\n", 1)


def test_a_pipe_that_somebody_has_made_non_blocking_is_waited_for():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        os.set_blocking(pipe.out.fileno(), False)
        for _ in range(1000):
            writer.write("x" * 99 + "\n")
        received = 0
        while received < 100_000:
            received += len(pipe.read())
        assert writer.close(_PATIENCE)
        assert writer.lost == 0


def test_closing_waits_no_longer_than_it_is_told():
    with open_pipe() as pipe, writing_to(pipe, limit=10_000) as writer:
        stuck(writer, pipe)
        started = time.monotonic()
        assert not writer.close(0.05)
        assert time.monotonic() - started < _PATIENCE


def test_a_line_that_is_longer_than_a_pipe_takes_at_once_arrives_whole():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        line = "é" * 20_000 + "\n"
        writer.write(line)
        received = b""
        while not received.endswith(b"\n"):
            received += pipe.read()
        assert received.decode() == line


def test_text_that_utf_8_cannot_hold_is_written_with_escapes():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        writer.write("a\udc80b\n")
        assert writer.close(_PATIENCE)
        assert pipe.read() == b"a\\udc80b\n"


def test_a_line_after_the_end_of_the_thread_starts_another():
    with open_pipe() as pipe, writing_to(pipe) as writer:
        before = set(threading.enumerate())
        writer.write("one\n")
        assert writer.close(_PATIENCE)
        (thread,) = set(threading.enumerate()) - before
        writer.end()
        thread.join(_PATIENCE)
        assert not thread.is_alive()
        writer.write("two\n")
        assert writer.close(_PATIENCE)
        assert pipe.read() == b"one\ntwo\n"


def test_a_stream_in_memory_is_written_to_directly():
    stream = io.StringIO()
    writer = LineWriter(stream)
    writer.write("at once\n")
    writer.flush()
    assert stream.getvalue() == "at once\n"
    assert writer.close(0)


def test_standard_error_has_one_writer_until_it_is_another_stream(monkeypatch):
    with open_pipe() as pipe, open_pipe() as other:
        monkeypatch.setattr(sys, "stderr", pipe.out)
        writer = standard_error()
        assert standard_error() is writer
        monkeypatch.setattr(sys, "stderr", other.out)
        assert standard_error() is not writer


def test_without_a_stream_lines_are_lost():
    writer = LineWriter(None)
    writer.write("to nobody\n")
    writer.flush()
    assert writer.lost == 1


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_a_stream_may_have_no_descriptor(stream):
    assert descriptor_of(stream) is None
