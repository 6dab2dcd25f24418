"""The layout of lists, and of texts that others have chosen."""

import re

from tests.fakes_admin_cli import client


def test_a_narrow_terminal_gets_fewer_columns_and_is_told(server, admin, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    with client(server, "ann") as ann:
        out = admin("connections")
    assert max(map(len, out.splitlines())) <= 60
    assert ann.id in out
    assert re.search("^No room for: .*, path[.]$", out, re.MULTILINE)


def test_what_others_have_chosen_cannot_steer_the_terminal(server, admin):
    with client(server, "ann[bold]x[/]", session="a\x1b[2Jb") as ann:
        out = admin("connection", ann.id)
    assert "\x1b" not in out
    assert re.search(r"^ +session +a\\x1b\[2Jb$", out, re.MULTILINE)
    assert re.search(r"^ +user +ann\[bold\]x\[/\]$", out, re.MULTILINE)
