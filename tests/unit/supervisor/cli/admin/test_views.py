"""The views of the answers."""

import re

from tests.fakes_admin_cli import client, eventually, stalled_client


def test_stats_tells_who_is_there_and_what_is_said(server, admin):
    with client(server, "ann", "news"), client(server, "bea", "news"):
        out = admin("stats")
    assert re.search(r"^ +now +2 of 2 users$", out, re.MULTILINE)
    assert re.search(r"^news +2$", out, re.MULTILINE)
    assert re.search(r"^ +loop lag +[\d.]+ ", out, re.MULTILINE)


def test_a_connection_is_shown_whole(server, admin):
    with client(server, "ann", "news", "other") as ann:
        out = admin("connection", ann.id)
    assert f"connection {ann.id}" in out
    for label, value in (("user", "ann"), ("state", "open"), ("topics", "news, other")):
        assert re.search(rf"^ +{label} +{value}$", out, re.MULTILINE)
    assert re.search(r"next deadline +in [\d.]+ s", out)


def test_the_tree_shows_what_a_stalled_writer_waits_for(server, admin, asked):
    with client(server, "ann") as ann, stalled_client(server):
        stalled = eventually(
            lambda: [
                one["connection_id"]
                for one in asked("connections", "--user", "sleepy")["connections"]
                if one["mailbox_bytes"]
            ]
        )[0]
        lines = admin("tree").splitlines()
        listener = next(n for n, line in enumerate(lines) if line.startswith("listener on ws://"))
        assert "accepting" in lines[listener]
        below = "\n".join(lines[listener:])
        assert re.search(rf"─ {ann.id}  open  deadline [\d.]+ s  \S+: wait_readable\n", below)
        assert re.search(
            rf"─ {re.escape(stalled)}  open  deadline .*\n"
            rf" +[\d.]+ MB waiting, the oldest for .*\n"
            rf" +└── writer of {re.escape(stalled)}  \S+: wait_writable",
            below,
        )
        assert "1 more connection" in admin("tree", "--limit", "1")
        assert stalled in admin("stats")  # among the slowest consumers
