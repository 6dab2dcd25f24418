"""The protocol's own requests: what each does, and how it is answered."""

from __future__ import annotations

import pytest
import trio

from moorage.supervisor.app import App
from tests.fakes import open_server
from tests.fakes_containment import Bug, errors, failing
from tests.fakes_server import (
    KEY,
    code_of,
    ids,
    receive_all,
    settle,
    subscribed,
    token,
    waiting_bytes,
)


@pytest.mark.parametrize("data", [None, 0, "text", {"a": [1, {"b": 2.50}]}, []])
async def test_a_ping_is_answered_with_the_same_data(autojump_clock, data):
    async with open_server() as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": "ping", "data": data, "id": 5})
        assert (reply["type"], reply["data"], reply["id"]) == ("pong", data, 5)
        await peer.send({"type": "ping"})
        reply = await peer.receive()
        assert reply.keys() == {"type", "timestamp"}


async def test_data_passes_through_byte_by_byte(autojump_clock):
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "a")
        data = '{ "b":1.0 , "a" : 1e400, "u":"\\u00e9é" }'
        await peer.send('{"type":"data","topic":"a","data":' + data + "}")
        _, payload = await peer.receive_frame()
        assert ('"data":' + data + ',"timestamp"').encode() in payload


async def test_a_publication_reaches_every_subscriber_and_the_publisher_among_them(autojump_clock):
    async with open_server() as server:
        peers = [await subscribed(await server.connect(), "a") for _ in range(3)]
        await peers[0].send({"type": "data", "topic": "a", "data": 1, "offset": 9, "extra": True})
        for peer in peers:
            message = await peer.receive()
            assert (message["type"], message["topic"], message["data"]) == ("data", "a", 1)
            assert message.keys() == {"type", "topic", "data", "timestamp"}


async def test_a_publication_with_an_id_is_confirmed(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": "data", "topic": "a", "data": 1})
        assert (reply["type"], reply["topic"]) == ("published", "a")


async def test_a_client_that_publishes_everywhere_is_remembered_only_so_far(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(*({"type": "data", "topic": f"t{number}"} for number in range(600)))
        await peer.request_reply({"type": "ping"})
        assert len(server.actor(peer.id).checked_topics) <= 256


@pytest.mark.parametrize("topics", [{"topic": "a"}, {"data": {"topics": ["a", "b", "a"]}}])
async def test_subscribing_is_answered_for_each_topic_and_so_is_unsubscribing(
    autojump_clock, topics
):
    async with open_server() as server:
        peer = await server.connect()
        names = ["a"] if "topic" in topics else ["a", "b"]
        for request in ("subscribe", "unsubscribe"):
            await peer.send({"type": request, "id": "x", **topics})
            replies = await receive_all(peer, len(names))
            assert [(r["type"], r["topic"], r["id"]) for r in replies] == [
                (f"{request}d", name, "x") for name in names
            ]
        assert server.router.topics == {}


async def test_subscribing_again_is_answered_and_changes_nothing(autojump_clock):
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "a", "a")
        await peer.send({"type": "data", "topic": "a"})
        assert (await peer.receive())["type"] == "data"
        await settle()
        assert waiting_bytes(peer) == b""


async def test_unsubscribing_from_what_one_has_not_is_told(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send({"type": "unsubscribe", "topic": "a", "id": 1})
        reply = await peer.receive()
        assert (code_of(reply), reply["topic"], reply["id"]) == ("not_subscribed", "a", 1)


async def test_one_topic_that_is_refused_does_not_stop_the_others(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send({"type": "subscribe", "id": 1, "data": {"topics": ["a", "$b", "c"]}})
        replies = await receive_all(peer, 3)
        assert [(r["type"], r["topic"]) for r in replies] == [
            ("subscribed", "a"),
            ("error", "$b"),
            ("subscribed", "c"),
        ]
        assert ids(replies) == [1, 1, 1]


async def test_the_reply_to_subscribe_comes_before_the_first_message_of_the_topic(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(3):
            await peer.send(
                {"type": "data", "topic": "a", "data": "before"},
                {"type": "subscribe", "topic": "a"},
                {"type": "data", "topic": "a", "data": "within"},
                {"type": "unsubscribe", "topic": "a"},
                {"type": "data", "topic": "a", "data": "after"},
            )
            messages = await receive_all(peer, 3)
            assert [m["type"] for m in messages] == ["subscribed", "data", "unsubscribed"]
            assert messages[1]["data"] == "within"
        await settle()
        assert waiting_bytes(peer) == b""


# The program's authorizers


def deciding(answers, *, asynchronous):
    """An authorizer that looks its answer up by topic; an exception is raised."""

    def decide(connection, topic):
        answer = answers.get(topic)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def decide_later(connection, topic):
        await trio.sleep(1)
        return decide(connection, topic)

    return decide_later if asynchronous else decide


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_authorizer_decides_on_each_topic_and_the_order_is_kept(
    autojump_clock, asynchronous
):
    app = App()
    app.authorize_subscribe(deciding({"no": False, "yes": True}, asynchronous=asynchronous))
    async with open_server(app) as server:
        peer = await server.connect()
        topics = ["yes", "no", "$x", "unheard"]
        await peer.send({"type": "subscribe", "data": {"topics": topics}}, {"type": "x", "id": 9})
        replies = await receive_all(peer, 5)
        assert [(r["type"], r.get("topic")) for r in replies] == [
            ("subscribed", "yes"),
            ("error", "no"),
            ("error", "$x"),
            ("subscribed", "unheard"),
            ("error", None),
        ]
        assert replies[4]["id"] == 9


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_authorizer_decides_on_each_publication(autojump_clock, asynchronous):
    app = App()
    app.authorize_publish(deciding({"no": False}, asynchronous=asynchronous))
    async with open_server(app) as server:
        peer = await subscribed(await server.connect(), "no", "yes")
        await peer.send(*({"type": "data", "topic": topic, "id": topic} for topic in ("no", "yes")))
        error, published, data = await receive_all(peer, 3)
        assert (code_of(error), error["topic"], error["id"]) == ("forbidden", "no", "no")
        assert (published["type"], published["id"]) == ("published", "yes")
        assert (data["type"], data["topic"]) == ("data", "yes")


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("request_type", ["subscribe", "data"])
async def test_an_authorizer_that_fails_allows_nothing(autojump_clock, asynchronous, request_type):
    app = App()
    broken = deciding({"a": RuntimeError("broken")}, asynchronous=asynchronous)
    app.authorize_subscribe(broken)
    app.authorize_publish(broken)
    async with open_server(app) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": request_type, "topic": "a"})) == "internal"
        assert server.router.topics == {}
        assert server.log.of("handler_failed")


async def test_an_authorizer_that_takes_too_long_allows_nothing(autojump_clock):
    app = App()

    @app.authorize_subscribe
    async def wait(connection, topic):
        await trio.sleep_forever()

    async with open_server(app, authorize_timeout=2) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send({"type": "subscribe", "data": {"topics": ["a", "b"]}})
        for topic in ("a", "b"):
            error = await peer.receive()
            assert (code_of(error), error["topic"]) == ("timeout", topic)
        assert trio.current_time() - began == pytest.approx(4)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["subscribe", "data"])
async def test_an_authorizer_that_raises_allows_nothing(autojump_clock, kind, asynchronous):
    app = App()
    app.authorize_subscribe(failing(asynchronous, Bug()))
    app.authorize_publish(failing(asynchronous, Bug()))
    async with open_server(app) as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": kind, "topic": "t"})
        assert reply["data"]["code"] == "internal"
        assert server.router.topics == {}
        (line,) = errors(server)
        assert (line["event"], line["message_type"]) == ("handler_failed", kind)


# `authenticate`


async def test_a_connection_stays_its_users_own(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        other = {"type": "authenticate", "data": {"token": token("8")}}
        assert code_of(await peer.request_reply(other)) == "forbidden"
        assert server.actor(peer.id).user_id == "7"


async def test_an_anonymous_connection_may_say_later_who_it_is(autojump_clock):
    async with open_server(jwt_key=KEY, anonymous=True) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": "subscribe", "topic": "user:7"}))
        await peer.request_reply({"type": "authenticate", "data": {"token": token("7")}})
        await subscribed(peer, "user:7")
        assert server.supervisor.send_to_user(7, "hello") == 1


async def test_one_connection_too_many_of_a_user_stays_who_it_was_and_is_closed(autojump_clock):
    async with open_server(jwt_key=KEY, anonymous=True, max_connections_per_user=1) as server:
        await server.connect(token=token("7"))
        peer = await server.connect()
        await peer.send({"type": "authenticate", "data": {"token": token("7")}})
        assert code_of(await peer.receive()) == "forbidden"
        assert server.actor(peer.id).user_id is None
        assert await peer.close_code() == 4504


async def test_a_renewed_token_takes_back_what_the_old_one_allowed(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        publication = {"type": "data", "topic": "a"}
        assert (await peer.request_reply(publication))["type"] == "published"
        narrow = token("7", publish=["b"])
        await peer.request_reply({"type": "authenticate", "data": {"token": narrow}})
        assert code_of(await peer.request_reply(publication)) == "forbidden"
