"""The permissions of users for topics: the rules, and the server that obeys them."""

from __future__ import annotations

import pytest

from moorage.protocol.access import AccessRules, topic_of_user
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.identity import ANONYMOUS, identity_from_claims
from moorage.protocol.messages.topics import PatternSet
from tests.fakes import open_server
from tests.fakes_server import KEY, token

BOTH = ("subscribe", "publish")
EVERYTHING = AccessRules()


def identity(user="ann", **topics):
    return identity_from_claims({"sub": user, "topics": topics})


def allowed(rules, action, who, topic) -> bool:
    refusal = None
    try:
        rules.check(action, who, topic)
    except RemoteProtocolError as error:
        refusal = error
    assert refusal is None or (refusal.code, refusal.topic) == (ErrorCode.FORBIDDEN, topic)
    return refusal is None


@pytest.mark.parametrize("action", BOTH)
def test_by_default_every_plain_topic_is_everyones(action):
    assert allowed(EVERYTHING, action, ANONYMOUS, "news")
    assert allowed(EVERYTHING, action, identity(), "news")


@pytest.mark.parametrize("action", BOTH)
@pytest.mark.parametrize("topic", ["$SYS", "$", "$share.x"])
def test_the_servers_topics_are_nobodys(action, topic):
    assert not allowed(EVERYTHING, action, identity(subscribe=["**"], publish=["**"]), topic)


@pytest.mark.parametrize("topic", ["user:bob", "user:", "user:ann2", "user:ann.x", "user:ANN"])
@pytest.mark.parametrize("action", BOTH)
def test_a_users_topic_is_closed_to_all_others_whatever_their_token_says(action, topic):
    assert not allowed(EVERYTHING, action, identity(subscribe=["**"], publish=["**"]), topic)
    assert not allowed(EVERYTHING, action, ANONYMOUS, topic)


def test_a_users_own_topic_can_be_subscribed_to_whatever_the_patterns_say():
    rules = AccessRules(PatternSet(("news",)), PatternSet(("news",)))
    assert allowed(rules, "subscribe", identity(subscribe=["orders"]), "user:ann")


def test_publishing_to_ones_own_topic_needs_what_any_publishing_needs():
    assert allowed(EVERYTHING, "publish", identity(), "user:ann")
    assert not allowed(EVERYTHING, "publish", identity(publish=["orders"]), "user:ann")


@pytest.mark.parametrize("action", BOTH)
def test_a_token_narrows_what_the_settings_allow_and_never_widens_it(action):
    rules = AccessRules(PatternSet(("orders.**",)), PatternSet(("orders.**",)))
    assert allowed(rules, action, identity(), "orders.eu.paid")
    assert not allowed(rules, action, identity(**{action: ["**"]}), "news")
    narrowed = identity(**{action: ["orders.eu.*"]})
    assert allowed(rules, action, narrowed, "orders.eu.paid")
    assert not allowed(rules, action, narrowed, "orders.us.paid")


@pytest.mark.parametrize("action", BOTH)
def test_a_token_with_an_empty_list_allows_nothing(action):
    assert not allowed(EVERYTHING, action, identity(**{action: []}), "news")


@pytest.mark.parametrize("action", BOTH)
def test_what_a_token_does_not_speak_of_it_does_not_restrict(action):
    other = "publish" if action == "subscribe" else "subscribe"
    assert allowed(EVERYTHING, action, identity(**{other: []}), "news")


@pytest.mark.parametrize(
    ("template", "user", "topic"),
    [
        ("of.{user_id}", "ann", "of.ann"),
        ("{user_id}", "ann", "ann"),
        ("of.{user_id}.new", "a/b", "of.a/b.new"),
        ("user:{user_id}", "ann@example.org", "user:ann@example.org"),
        ("user:{user_id}", "user:bob", "user:user:bob"),
        ("$own.{user_id}", "ann", "$own.ann"),  # the program's own decision
        ("of.{user_id}", "$x", "of.$x"),
    ],
)
def test_a_topic_of_a_user_has_the_id_in_its_place(template, user, topic):
    assert topic_of_user(template, identity(user)) == topic


@pytest.mark.parametrize(
    ("template", "user", "code"),
    [
        ("{user_id}", "user:bob", ErrorCode.FORBIDDEN),
        ("{user_id}.x", "user:bob", ErrorCode.FORBIDDEN),
        ("use{user_id}", "r:bob", ErrorCode.FORBIDDEN),
        ("user:{user_id}.x", "bob", ErrorCode.FORBIDDEN),
        ("{user_id}", "$SYS", ErrorCode.FORBIDDEN),
        ("{user_id}.x", "$SYS", ErrorCode.FORBIDDEN),
        ("notes.of.{user_id}", "x" * 250, ErrorCode.BAD_TOPIC),
    ],
)
def test_no_id_of_a_user_reaches_a_topic_of_others(template, user, code):
    """`sub: "user:bob"` and the topic `{user_id}` were a subscription to bob's own topic."""
    with pytest.raises(RemoteProtocolError) as caught:
        topic_of_user(template, identity(user))
    assert caught.value.code is code


async def test_a_client_is_told_what_it_may_not_and_stays_connected(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann", subscribe=["news"], publish=["chat"]))
        for message, may in (
            ({"type": "subscribe", "topic": "news"}, True),
            ({"type": "subscribe", "topic": "chat"}, False),
            ({"type": "subscribe", "topic": "user:bob"}, False),
            ({"type": "subscribe", "topic": "$SYS"}, False),
            ({"type": "data", "topic": "chat", "data": 1}, True),
            ({"type": "data", "topic": "news", "data": 1}, False),
            ({"type": "data", "topic": "chat", "data": 1}, True),  # remembered, and still right
        ):
            reply = await peer.request_reply(message)
            assert (reply["type"] != "error") is may, reply
            if not may:
                assert reply["data"] == {"code": "forbidden", "retryable": False}
                assert reply["topic"] == message["topic"]


async def test_of_several_topics_those_that_are_allowed_are_subscribed_to(autojump_clock):
    async with open_server(subscribe_patterns=["open.*"]) as server:
        peer = await server.connect()
        topics = ["open.1", "closed", "open.2"]
        await peer.send({"type": "subscribe", "id": 7, "data": {"topics": topics}})
        replies = [await peer.receive() for _ in topics]
        assert [reply["type"] for reply in replies] == ["subscribed", "error", "subscribed"]
        assert all(reply["id"] == 7 for reply in replies)
        sent = [server.supervisor.broadcast_to_topic(topic, "data", 1) for topic in topics]
        assert sent == [1, 0, 1]


async def test_a_renewed_token_takes_a_permission_to_publish_away(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann"))
        message = {"type": "data", "topic": "news", "data": 1}
        assert (await peer.request_reply(message))["type"] == "published"
        renewed = {"type": "authenticate", "data": {"token": token("ann", publish=[])}}
        assert (await peer.request_reply(renewed))["type"] == "authenticated"
        assert (await peer.request_reply(message))["data"]["code"] == "forbidden"


async def test_the_program_is_not_bound_by_its_clients_permissions(autojump_clock):
    async with open_server(jwt_key=KEY, subscribe_patterns=["nothing"]) as server:
        peer = await server.connect(token=token("ann", subscribe=[]))
        assert server.supervisor.subscribe_user("ann", "news") == 1
        assert (await peer.receive())["type"] == "subscribed"
        assert server.supervisor.broadcast_to_topic("news", "data", 1) == 1
        assert (await peer.receive())["data"] == 1


@pytest.mark.parametrize("role", [None, "admin"])
async def test_the_role_of_an_admin_opens_no_topic_of_others(autojump_clock, role):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("ann", role=role))
        reply = await peer.request_reply({"type": "subscribe", "topic": "user:bob"})
        assert reply["data"]["code"] == "forbidden"
