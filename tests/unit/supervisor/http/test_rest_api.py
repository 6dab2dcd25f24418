"""The REST interface: the commands that are requests too."""

import re
from pathlib import Path

import attrs
import pytest

from moorage.protocol.admin import answers
from moorage.protocol.admin.commands import COMMANDS
from moorage.supervisor.http.rest_api import BASE, ROUTES
from tests.fakes_http import client, serving

PAGE = Path(__file__).resolve().parents[4] / "docs" / "http.md"


def test_no_command_has_two_requests_and_each_takes_its_fields_from_one_place():
    assert len({route.command.name for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        assert COMMANDS[route.command.name] is route.command
        in_path = set(re.findall(r"{(\w+)}", route.path))
        fields = set(attrs.fields_dict(route.command.request))
        assert in_path | set(route.query) == (fields if route.method == "GET" else set())
        assert in_path.isdisjoint(route.query)


def test_the_page_about_http_lists_the_requests_with_their_queries():
    text = PAGE.read_text(encoding="utf-8")
    listed = re.findall(rf"^\| `([A-Z]+) ({BASE}/[^`]*)` \|[^|]*\| (.*) \|$", text, re.MULTILINE)
    found = {
        (method, path): re.findall(r"`(\w+)`", answer.partition("query:")[2])
        for method, path, answer in listed
    }
    assert found == {(row.method, row.path): list(row.query) for row in ROUTES}


def test_the_page_about_http_names_the_commands_that_are_no_requests():
    (sentence,) = re.findall(
        r"[^.]* are on the\s+control\s+socket\s+only[.]", PAGE.read_text("utf-8")
    )
    requests = {route.command.name for route in ROUTES}
    assert set(re.findall(r"`(\w+)`", sentence)) == set(COMMANDS) - requests


async def test_connections_are_listed_filtered_paged_and_shown_whole():
    async with serving() as server:
        alice = await client(server, "alice", "news")
        await client(server, "bob", "news", "sport")
        everyone = (await server.get(f"{BASE}/connections")).json()
        assert [entry["user_id"] for entry in everyone["connections"]] == ["alice", "bob"]
        assert everyone["total"] == 2
        by_user = (await server.get(f"{BASE}/connections?user_id=alice&topic=news")).json()
        assert [entry["connection_id"] for entry in by_user["connections"]] == [alice.id]
        by_topic = (await server.get(f"{BASE}/connections?user_id=&topic=sport")).json()
        assert [entry["user_id"] for entry in by_topic["connections"]] == ["bob"]
        first = (await server.get(f"{BASE}/connections?limit=1")).json()
        following = {"cursor": first["cursor"], "limit": 1}
        second = (await server.get(f"{BASE}/connections", params=following)).json()
        assert [page["connections"][0]["user_id"] for page in (first, second)] == ["alice", "bob"]
        whole = (await server.get(f"{BASE}/connections/{alice.id}")).json()
        assert whole["topics"] == ["news"]
        assert set(whole) == {field.name for field in attrs.fields(answers.ConnectionDetail)}


async def test_stats_topics_and_health_say_what_the_operations_say():
    async with serving() as server:
        await client(server, "alice", "news")
        stats = (await server.get(f"{BASE}/stats")).json()
        assert (stats["active_connections"], stats["subscriptions"]) == (1, 1)
        topics = (await server.get(f"{BASE}/topics?prefix=ne")).json()
        assert topics["topics"] == [{"topic": "news", "subscribers": 1, "published": 0}]
        health = (await server.get(f"{BASE}/health")).json()
        assert health["ready"]
        assert health["connections"]["used"] == 1


async def test_disconnecting_a_user_closes_its_connections_with_the_reason():
    async with serving() as server:
        alice, bob = await client(server, "alice"), await client(server, "bob")
        body = {"user_id": "alice", "reason": "maintenance"}
        answer = (await server.post(f"{BASE}/disconnect", body)).json()
        assert answer == {"disconnected": 1, "connection_ids": [alice.id], "missing": []}
        with pytest.raises(EOFError) as closed:
            await alice.receive()
        assert closed.value.args == (4503, "maintenance")
        assert (await bob.request_reply({"type": "ping"}))["type"] == "pong"
        (line,) = server.log.of("admin.disconnect")
        assert line["by"] == "root at 127.0.0.1"


async def test_cleanup_probes_and_reports():
    async with serving(pong_timeout=0.3) as server:
        await client(server)  # which does not answer
        answer = (await server.post(f"{BASE}/cleanup", {"quiet_for": 0})).json()
        assert (answer["probed"], answer["alive"], answer["closed"]) == (1, 0, 1)


async def test_cleanup_needs_no_body():
    async with serving(pong_timeout=0.1) as server:
        answer = (await server.http.post(f"{BASE}/cleanup")).json()
        assert answer == {"probed": 0, "alive": 0, "closed": 0, "closed_ids": []}


async def test_a_broadcast_reaches_the_topics_subscribers():
    async with serving() as server:
        alice = await client(server, "alice", "news")
        body = {"topic": "news", "message_type": "headline", "data": {"n": 1}}
        assert (await server.post(f"{BASE}/broadcast", body)).json() == {"recipients": 1}
        message = await alice.receive()
        assert (message["type"], message["topic"], message["data"]) == (
            "headline",
            "news",
            {"n": 1},
        )
