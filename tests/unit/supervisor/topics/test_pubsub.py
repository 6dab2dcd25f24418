"""What may be published and subscribed to, and how much of it."""

from __future__ import annotations

import pytest
import trio.testing

from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import open_server
from tests.fakes_control import ADMIN, ask, connect_admin
from tests.fakes_http import bearer, serving
from tests.fakes_server import KEY, code_of, settle, subscribed, token

ONE_WAY = {"topics": {"news.**": {"client_publish": False}}}
"""Topics to which the program publishes, and clients do not."""


async def test_subscribers_of_one_topic_are_limited(autojump_clock):
    async with open_server(max_connections_per_topic=2) as server:
        peers = [await server.connect() for _ in range(3)]
        for peer in peers[:2]:
            await subscribed(peer, "t")
        reply = await peers[2].request_reply({"type": "subscribe", "topic": "t"})
        assert reply["data"] == {"code": "topic_limit", "retryable": False}
        # Being subscribed already is not one more.
        reply = await peers[0].request_reply({"type": "subscribe", "topic": "t"})
        assert reply["type"] == "subscribed"
        await peers[0].close()
        await settle()
        await subscribed(peers[2], "t")


async def test_topics_of_one_connection_are_limited(autojump_clock):
    async with open_server(max_topics_per_connection=2) as server:
        peer = await server.connect()
        topics = {"type": "subscribe", "data": {"topics": ["a", "b", "c"]}}
        await peer.send(topics)
        replies = [await peer.receive() for _ in range(3)]
        assert [reply["type"] for reply in replies] == ["subscribed", "subscribed", "error"]
        assert replies[2]["data"]["code"] == "subscription_limit"
        assert replies[2]["topic"] == "c"
        await peer.request_reply({"type": "unsubscribe", "topic": "a"})
        await subscribed(peer, "c")


async def test_the_limits_hold_for_the_programs_own_subscriptions(autojump_clock):
    async with open_server(jwt_key=KEY, max_topics_per_connection=1) as server:
        await server.connect(token=token("ann"))
        assert server.supervisor.subscribe_user("ann", "a") == 1
        with pytest.raises(RemoteProtocolError):
            server.supervisor.subscribe_user("ann", "b")


# A topic's rule says how many may subscribe


async def test_a_rule_says_how_many_subscribers_its_topics_may_have(autojump_clock):
    rules = {"rare.*": {"max_subscribers": 1}, "many.*": {"max_subscribers": 3}}
    async with open_server(topics=rules, max_connections_per_topic=2) as server:
        peers = [await server.connect() for _ in range(4)]
        taken = {}
        for topic in ("rare.a", "rare.b", "many.a", "other"):
            replies = [await p.request_reply({"type": "subscribe", "topic": topic}) for p in peers]
            taken[topic] = [reply["type"] for reply in replies].count("subscribed")
            assert all(code_of(reply) == "topic_limit" for reply in replies[taken[topic] :])
        assert taken == {"rare.a": 1, "rare.b": 1, "many.a": 3, "other": 2}


async def test_a_rule_without_a_number_of_subscribers_leaves_it_to_the_setting(autojump_clock):
    rules = {"t.*": {"overload": "latest"}}
    async with open_server(topics=rules, max_connections_per_topic=1) as server:
        first, second = await server.connect(), await server.connect()
        await subscribed(first, "t.a")
        reply = await second.request_reply({"type": "subscribe", "topic": "t.a"})
        assert (code_of(reply), "has 1 subscribers" in reply["error"]) == ("topic_limit", True)


async def test_of_several_rules_the_first_that_matches_counts_as_a_whole(autojump_clock):
    rules = {
        "a.b": {"max_subscribers": 1},  # says nothing about publishing
        "a.*": {"max_subscribers": 2, "client_publish": False},
    }
    async with open_server(topics=rules) as server:
        peers = [await server.connect() for _ in range(3)]
        for topic, most in (("a.b", 1), ("a.c", 2)):
            replies = [await p.request_reply({"type": "subscribe", "topic": topic}) for p in peers]
            assert [reply["type"] for reply in replies].count("subscribed") == most
        publications = {"a.b": "published", "a.c": "error", "b": "published"}
        for topic, answer in publications.items():
            reply = await peers[0].request_reply({"type": "data", "topic": topic})
            assert reply["type"] == answer


async def test_a_full_topic_has_room_again_when_somebody_leaves(autojump_clock):
    async with open_server(topics={"t": {"max_subscribers": 1}}) as server:
        first, second = [server.supervisor.connection((await server.connect()).id) for _ in "12"]
        assert first.subscribe("t")
        with pytest.raises(RemoteProtocolError) as caught:
            second.subscribe("t")
        assert (caught.value.code, caught.value.topic) == (ErrorCode.TOPIC_LIMIT, "t")
        assert second.topics == set()
        first.unsubscribe("t")
        assert second.subscribe("t")


# A topic's rule says whether clients may publish


async def test_where_clients_may_not_publish_they_are_told_so(autojump_clock):
    async with open_server(**ONE_WAY) as server:
        peer, other = await server.connect(), await subscribed(await server.connect(), "news.a")
        for _ in range(2):  # what was refused once is not remembered as allowed
            reply = await peer.request_reply({"type": "data", "topic": "news.a", "data": 1})
            assert (code_of(reply), reply["topic"]) == ("forbidden", "news.a")
            assert "rule" in reply["error"]
        assert server.supervisor.broadcast_to_topic("news.a", "data", 2) == 1
        assert (await other.receive())["data"] == 2


async def test_the_program_publishes_there_also_on_a_clients_behalf(autojump_clock):
    app = App()

    @app.on("announce")
    def announce(context, message):
        context.broadcast_to_topic("news.a", "data", message.data)

    async with open_server(app, **ONE_WAY) as server:
        peer = await subscribed(await server.connect(), "news.a")
        await peer.send({"type": "announce", "data": 1})
        assert (await peer.receive())["data"] == 1


async def test_an_operator_publishes_there(autojump_clock):
    async with open_server(**ADMIN, **ONE_WAY) as server:
        peer = await subscribed(await server.connect(), "news.a")
        operator = await connect_admin(server)
        answer = await ask(operator, "broadcast", topic="news.a", message_type="data", data=1)
        assert answer["recipients"] == 1
        assert (await peer.receive())["data"] == 1


async def test_an_authorizer_is_not_asked_where_the_rule_forbids(autojump_clock):
    app, asked = App(), []
    app.authorize_publish(lambda connection, topic: asked.append(topic))
    async with open_server(app, **ONE_WAY) as server:
        peer = await server.connect()
        for topic in ("news.a", "other"):
            await peer.request_reply({"type": "data", "topic": topic})
        assert asked == ["other"]


async def test_over_http_administrators_publish_there_and_others_do_not():
    async with serving(**ONE_WAY) as server:
        body = {"topic": "news.a", "data": 1}
        refused = await server.post("/api/publish", body, headers=bearer("ann"))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        batch = {"messages": [{"topic": "other"}, {"topic": "news.a"}]}
        assert (await server.post("/api/publish", batch, headers=bearer("ann"))).status_code == 403
        assert server.supervisor.statistics.traffic.published == 0
        assert (await server.post("/api/publish", body)).status_code == 200
        allowed = await server.post("/api/publish", {"topic": "other"}, headers=bearer("ann"))
        assert allowed.status_code == 200


async def test_clients_may_subscribe_to_what_they_may_not_publish_to(autojump_clock):
    async with open_server(**ONE_WAY) as server:
        await subscribed(await server.connect(), "news.a")


# The rest


async def test_events_are_told_of_each_subscription_that_begins_or_ends(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        told = []
        pubsub = server.parts.pubsub
        pubsub.on_event = lambda event, fields: told.append((event, fields["topic"]))
        await subscribed(peer, "a", "a")
        await peer.request_reply({"type": "unsubscribe", "topic": "a"})
        await peer.request_reply({"type": "unsubscribe", "topic": "a"})
        pubsub.on_event = None
        await subscribed(peer, "a")
        assert told == [("subscribed", "a"), ("unsubscribed", "a")]


async def test_a_refused_subscription_is_no_event(autojump_clock):
    async with open_server(max_topics_per_connection=1) as server:
        peer = await subscribed(await server.connect(), "a")
        told = []
        server.parts.pubsub.on_event = lambda event, fields: told.append(event)
        assert code_of(await peer.request_reply({"type": "subscribe", "topic": "b"}))
        assert told == []


async def test_publishing_and_subscribing_pass_no_checkpoint(autojump_clock):
    async with open_server() as server:
        actor = server.actor((await server.connect()).id)
        pubsub = server.parts.pubsub
        with trio.testing.assert_no_checkpoints():
            pubsub.check_access("publish", actor.identity, "t")
            pubsub.subscribe(actor, "t", by_client=True)
            pubsub.publish("t", "data", {"a": 1})
            pubsub.unsubscribe(actor, "t")
            pubsub.forget(actor)


@pytest.mark.parametrize(
    ("topic", "message_type", "data"),
    [("a b", "x", 1), ("t", "a b", 1), ("t", "x", float("inf")), ("t", "x", object())],
)
async def test_what_the_program_cannot_publish_is_its_own_mistake(
    autojump_clock, topic, message_type, data
):
    async with open_server() as server:
        with pytest.raises(LocalProtocolError):
            server.parts.pubsub.publish(topic, message_type, data)
        assert server.supervisor.statistics.traffic.published == 0


async def test_a_watcher_that_fails_costs_nobody_a_subscription(autojump_clock):
    async with open_server() as server:

        def fail(_event, _fields):
            raise SystemExit

        peer = await server.connect()
        server.parts.pubsub.on_event = fail
        assert (await peer.request_reply({"type": "subscribe", "topic": "t"}))[
            "type"
        ] == "subscribed"
        reply = await peer.request_reply({"type": "unsubscribe", "topic": "t"})
        assert reply["type"] == "unsubscribed"
        assert len(server.log.of("event_failed")) == 2
