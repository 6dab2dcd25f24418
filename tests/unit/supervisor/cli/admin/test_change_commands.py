"""The commands that change something."""

import json

import pytest

from tests.fakes_admin_cli import (
    PATIENCE,
    client,
    closed,
    eventually,
)


def test_disconnect_ends_a_users_connections_with_reason_and_code(server, admin):
    with client(server, "ann") as ann, client(server, "bea") as bea:
        assert (
            admin("disconnect", "--user", "ann", "--reason", "bye") == "1 connection disconnected\n"
        )
        eventually(lambda: closed(ann))
        assert (ann.close_code, ann.close_reason) == (4503, "bye")
        admin("disconnect", "--id", bea.id, "--code", "4999")
        eventually(lambda: closed(bea))
        assert bea.close_code == 4999


def test_disconnect_may_tell_a_topics_subscribers_to_come_back(server, asked):
    with client(server, "ann", "news") as ann:
        assert asked("disconnect", "--topic", "news", "--reconnect")["connection_ids"] == [ann.id]
        eventually(lambda: closed(ann))
        assert ann.close_code == 4007


def test_disconnecting_what_is_not_there_ends_with_1(moorage):
    code, out, err = moorage("admin", "disconnect", "--id", "-nobody-")
    assert (code, out) == (1, "0 connections disconnected\n")
    assert "there is no connection -nobody-" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["disconnect"], "one of --user, --topic, --id"),
        (["disconnect", "--user", "a", "--topic", "b"], "several flags say whom"),
        (["broadcast", "--type", "x"], "one of --topic, --user, --everyone"),
        (["broadcast", "--everyone", "--type", "x", "--data", "{"], "this is not JSON"),
        (["stats", "--url", "ws://x", "--control-socket", "y"], "were both given"),
        (["stats", "--url", "http://x"], "URL: expected a URL such as ws://"),
        (["connection"], "ID"),
    ],
)
def test_a_wrong_usage_ends_with_2_and_a_sentence(moorage, arguments, said):
    code, out, err = moorage("admin", *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_broadcast_reaches_a_topic_a_user_or_everyone_less_those_excluded(server, admin):
    with client(server, "ann", "news") as ann, client(server, "bea") as bea:
        data = '{"text": "hi"}'
        out = admin("broadcast", "--topic", "news", "--type", "notice", "--data", data)
        assert out == "sent to 1 connection\n"
        message = json.loads(ann.recv(PATIENCE))
        assert (message["type"], message["data"]) == ("notice", {"text": "hi"})
        admin("broadcast", "--user", "bea", "--type", "notice")
        assert json.loads(bea.recv(PATIENCE))["type"] == "notice"
        out = admin("broadcast", "--everyone", "--type", "all", "--exclude", ann.id)
        assert out == "sent to 1 connection\n"
        assert json.loads(bea.recv(PATIENCE))["type"] == "all"


def test_cleanup_tells_the_living_from_the_dead(server, admin):
    with client(server, "ann"):  # answers pings in a thread of its own
        assert admin("cleanup", "--quiet-for", "0") == "1 probed, 1 alive, 0 closed\n"
