"""`moorage top`."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from moorage.supervisor.cli.main import main
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


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_an_interval_must_be_one(moorage, interval):
    code, _, err = moorage("top", "--once", f"--interval={interval}")
    assert code == 2
    assert "seconds, 0.1 or more" in err
