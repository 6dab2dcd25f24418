"""The views of the answers."""

import re

from rich.console import Console

from moorage.protocol.admin import answers
from moorage.supervisor.cli.admin.views import topic_view, tree_view
from tests.fakes_admin_cli import client, eventually, stalled_client


def drawn(view, width=80):
    """The lines that a view has on a terminal."""
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


def topic_of(subscribers, name="news"):
    ids = tuple(f"connection{number:06}" for number in range(min(subscribers, 1_000)))
    return answers.TopicDetail(name, subscribers, ids, 0, "disconnect", None)


def test_a_topic_with_many_subscribers_shows_the_first_and_counts_the_rest():
    # A thousand ids were 334 lines.
    lines = drawn(topic_view(topic_of(1_254)))
    assert len(lines) < 24
    assert "connection000019" in "\n".join(lines)
    assert "connection000020" not in "\n".join(lines)
    assert " ".join(" ".join(lines).split()).endswith(
        "… and 1,234 more: `moorage admin connections --topic news --all` lists all"
    )


def test_a_topic_with_few_subscribers_shows_all_of_them():
    assert "more" not in "\n".join(drawn(topic_view(topic_of(20))))
    assert "… and 1 more" in "\n".join(drawn(topic_view(topic_of(21))))
    assert drawn(topic_view(topic_of(0)))[-1] == "  overload policy  disconnect"


def test_the_command_for_the_rest_can_be_pasted_whatever_the_topic_is_called():
    assert "--topic 'it'\"'\"'s' --all" in "\n".join(drawn(topic_view(topic_of(30, "it's")), 200))


def test_children_stand_below_their_parent():
    # Those of the root began in the same column as the root.
    writer = answers.Actor("writer", "task", "running")
    session = answers.Actor("ann", "connection", "open", children=(writer,))
    listener = answers.Actor("listener", "listener", "accepting", children=(session,))
    last = answers.Actor("delivery", "task", "running")
    root = answers.Actor("supervisor", "supervisor", "serving", children=(listener, last))
    assert drawn(tree_view(root)) == [
        "supervisor  serving",
        "├── listener  accepting",
        "│   └── ann  open",
        "│       └── writer",
        "└── delivery",
    ]


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
        listener = next(n for n, line in enumerate(lines) if "─ listener on ws://" in line)
        assert "accepting" in lines[listener]
        below = "\n".join(lines[listener:])
        assert re.search(rf"─ {ann.id}  open  deadline [\d.]+ s  \S+: wait_readable\n", below)
        assert re.search(
            rf"─ {re.escape(stalled)}  open  deadline .*\n"
            rf"[│ ]+[\d.]+ MB waiting, the oldest for .*\n"
            rf"[│ ]+└── writer of {re.escape(stalled)}  \S+: wait_writable",
            below,
        )
        assert "1 more connection" in admin("tree", "--limit", "1")
        assert stalled in admin("stats")  # among the slowest consumers
