"""The commands that show, and change nothing."""

import json
import re

import attrs

from moorage.protocol.admin import answers, commands
from tests.fakes_admin_cli import (
    client,
)


def test_json_is_one_document_with_what_the_protocol_says(server, asked):
    with client(server, "ann", "news") as peer:
        for kind, *command in (
            (answers.Stats, "stats"),
            (answers.Health, "health"),
            (answers.ConnectionsPage, "connections"),
            (answers.ConnectionDetail, "connection", peer.id),
            (answers.TopicsPage, "topics"),
            (answers.TopicDetail, "topic", "news"),
            (answers.Actor, "tree"),
        ):
            assert asked(*command).keys() == attrs.fields_dict(kind).keys()


def test_connections_are_listed_whole_and_narrowed_by_filters(server, admin, asked):
    with client(server, "ann", "news") as ann, client(server, "bea", "news", "other") as bea:
        out = admin("connections")
        assert ann.id in out
        assert bea.id in out
        assert "2 connections" in out

        def ids(*filters):
            found = asked("connections", *filters)["connections"]
            return [one["connection_id"] for one in found]

        assert ids("--user", "ann") == [ann.id]
        assert ids("--topic", "other") == [bea.id]
        assert ids("--topic", "news", "--state", "open") == [ann.id, bea.id]
        assert ids("--state", "closing") == []
    assert admin("connections", "--user", "ann") == "no connections\n"


def test_pages_are_turned_by_the_cursor_or_joined_into_one(server, admin, asked):
    with client(server, "ann") as ann, client(server, "bea") as bea:
        out = admin("connections", "--limit", "1")
        assert "1 of 2 connections" in out
        cursor = re.search(r"--cursor (\S+),", out)[1]
        assert bea.id in admin("connections", "--limit", "1", "--cursor", cursor)
        found = asked("connections", "--all")
        assert [one["connection_id"] for one in found["connections"]] == [ann.id, bea.id]
        assert found["cursor"] is None


def test_many_pages_are_joined_into_one(server, asked, monkeypatch):
    monkeypatch.setattr(commands, "MAX_PAGE", 2)
    with client(server, "ann", *(f"t{n}" for n in range(5))):
        found = asked("topics", "--all")
    assert [one["topic"] for one in found["topics"]] == [f"t{n}" for n in range(5)]


def test_health_ends_with_1_when_the_server_is_not_ready(moorage, admin):
    assert re.search(r"^status +ready$", admin("health"), re.MULTILINE)
    assert "no new clients" in admin("suspend")
    code, out, _ = moorage("admin", "health")
    assert code == 1
    assert "not ready: suspended" in out
    code, out, _ = moorage("admin", "health", "--json")
    assert (code, json.loads(out)["reasons"]) == (1, ["suspended"])
    assert "open to new clients" in admin("resume")
    admin("health")
