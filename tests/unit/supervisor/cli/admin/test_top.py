"""`moorage top`."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from rich.console import Console

from moorage.actors.client.client_errors import ConnectionLost, RequestError
from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode
from moorage.protocol.messages.codec import encode_value
from moorage.supervisor.cli.admin.top import Frames, repeat
from moorage.supervisor.cli.main import main
from tests.fakes import open_server
from tests.fakes_admin_cli import PATIENCE, client, open_terminal, running_server, stalled_client


def test_topics_are_listed_by_name_and_shown_one_by_one(server, admin):
    with client(server, "ann", "a.x", "a.y", "b") as ann:
        assert re.findall(r"^(\S+) +1 +0$", admin("topics"), re.MULTILINE) == ["a.x", "a.y", "b"]
        assert "b" not in re.findall(r"^\S+", admin("topics", "--prefix", "a."), re.MULTILINE)
        out = admin("topic", "b")
    assert ann.id in out
    assert re.search(r"overload policy +disconnect", out)


def test_top_once_prints_one_frame(server, moorage):
    with client(server, "ann", "news"), stalled_client(server):
        code, out, err = moorage("top", "--once")
    assert (code, err) == (0, "")
    assert re.match(r"Moorage \S+  up .*  ready\n", out)
    assert re.search(r"^connections +2 +0\.0 % of 10,000$", out, re.MULTILINE)
    for label in ("in", "out", "loop lag", "mailboxes"):
        assert re.search(rf"^{label} +\d", out, re.MULTILINE)
    assert "slowest consumers" in out
    assert "sleepy" in out
    assert "closed by cause" in out
    assert re.search(r"news +1$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) < 120


def test_top_takes_the_terminal_and_gives_it_back():
    def person(terminal):
        try:
            shown = terminal.read_until("q ends")
        finally:
            terminal.press("q")
        return shown + terminal.read_until("\x1b[?1049l")

    # The command stays in the main thread, the only one that may wait for signals.
    with open_terminal() as terminal, ThreadPoolExecutor(1) as threads:
        seen = threads.submit(person, terminal)
        code = main(["top", "--interval", "0.1"])
        shown = seen.result(PATIENCE)
    assert code == 0
    assert "\x1b[?1049h" in shown  # the alternate screen


def test_top_says_so_when_the_server_has_gone_and_shows_the_latest_numbers(tmp_path):
    def person(terminal, server):
        try:
            terminal.read_until("q ends")
            server.stop()
            terminal.read_until("waiting for the server to come back")
            terminal.read_until("connections")
        finally:
            terminal.press("q")

    with (
        running_server(tmp_path / "c.sock") as server,
        open_terminal() as terminal,
        ThreadPoolExecutor(1) as threads,
    ):
        seen = threads.submit(person, terminal, server)
        flags = ("--interval", "0.1", "--patience", "0.2")
        assert main(["top", *flags, "--control-socket", server.control_socket]) == 0
        seen.result(PATIENCE)


@attrs.define
class Answering:
    """A client whose server answers as told; only `request` is used of it."""

    stats: Any
    health: Any
    # What happens to the next requests: seconds until the answer, or what is raised.
    takes: list[float | Exception] = attrs.field(factory=list)

    async def request(self, name, request, timeout):  # noqa: ASYNC109 - as the client has it
        takes = self.takes.pop(0) if self.takes else 0.0
        if isinstance(takes, Exception):
            raise takes
        with trio.move_on_after(5.0):  # the patience of the command
            await trio.sleep(takes)
            return SimpleNamespace(data=self.stats if name == "stats" else self.health)
        raise RequestError(f"no answer to `{name}` in time", ErrorCode.TIMEOUT, retryable=True)


@pytest.fixture
async def looking():
    """Let `top` look at a server; return what it painted until the given second, with the time."""
    async with open_server() as server:
        stats = json.loads(encode_value(server.operations.stats()))
        health = json.loads(encode_value(server.operations.health()))

    async def look(*takes, until, terminal=True):
        console = Console(
            file=io.StringIO(), force_terminal=terminal, width=100, height=40, color_system=None
        )
        client, painted, began = Answering(stats, health, list(takes)), [], trio.current_time()

        def paint(frame):
            with console.capture() as captured:
                console.print(frame)
            painted.append((round(trio.current_time() - began, 1), captured.get()))

        with trio.move_on_after(until):
            async with trio.open_nursery() as nursery:
                await repeat(client, nursery, Frames(console, lives=True), paint, 1.0)
        return painted

    return look


async def test_a_server_that_stops_answering_is_not_shown_as_ready(looking, autojump_clock):
    # It said `ready` until the patience of the command was over: for 5 to 10 s.
    painted = await looking(0.0, 0.0, 60.0, until=4.9)
    assert [when for when, _ in painted] == [0.0, 2.5, 3.5, 4.5]
    assert "  ready  q ends" in painted[0][1]
    for when, frame in painted[1:]:
        assert "ready" not in frame
        assert f"Moorage  no answer for {round(when)} s  q ends" in frame
        assert "connections" in frame  # the last numbers


async def test_when_a_server_answers_again_it_is_shown_as_before(looking, autojump_clock):
    painted = await looking(0.0, 0.0, 3.0, until=4.9)
    assert [when for when, frame in painted if "no answer" in frame] == [2.5, 3.5]
    assert painted[-1][0] == 4.0
    assert "  ready  " in painted[-1][1]


async def test_a_lost_connection_is_told_at_once_and_then_for_how_long(looking, autojump_clock):
    lost = ConnectionLost("it is gone")
    painted = await looking(0.0, 0.0, lost, 60.0, until=4.9)
    assert [when for when, _ in painted] == [0.0, 1.0, 3.5, 4.5]
    for _, frame in painted[1:]:
        assert "ready" not in frame
        assert "(it is gone); waiting for the server to come back" in frame


async def test_into_a_pipe_silence_is_one_line(looking, autojump_clock):
    painted = await looking(0.0, 0.0, 60.0, until=2.9, terminal=False)
    assert painted[-1][1] == "no answer for 2 s; waiting for the server to come back\n"


async def test_a_short_delay_is_no_silence(looking, autojump_clock):
    painted = await looking(0.0, 0.0, 1.4, until=3.0)
    assert not [frame for _, frame in painted if "no answer" in frame]


def test_top_ends_with_the_reason_when_its_session_is_over_for_good(server):
    # The reason was lost in a group of exceptions.
    def end_sessions():
        for session in server.server.admin_sessions.sessions.values():
            session.end(CloseCause.DISCONNECTED)

    def person(terminal):
        terminal.read_until("q ends")
        server.call(end_sessions)
        terminal.read_until("has ended the session: an administrator ended it")

    with open_terminal() as terminal, ThreadPoolExecutor(1) as threads:
        seen = threads.submit(person, terminal)
        assert main(["top", "--interval", "0.1"]) == 1
        seen.result(PATIENCE)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_an_interval_must_be_one(moorage, interval):
    code, _, err = moorage("top", "--once", f"--interval={interval}")
    assert code == 2
    assert "seconds, 0.1 or more" in err
