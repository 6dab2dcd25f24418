"""The protocol's own requests: what each does, and how it is answered."""

from __future__ import annotations

from sys import getsizeof

import pytest
import trio

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import open_server
from tests.fakes_containment import Bug, errors, failing
from tests.fakes_server import (
    KEY,
    assert_nothing_left,
    code_of,
    counting,
    ids,
    receive_all,
    settle,
    subscribed,
    token,
    waiting_bytes,
    welcomed,
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


@pytest.mark.parametrize("length", [1, 10, 55])
async def test_a_client_that_publishes_everywhere_is_remembered_only_so_far(autojump_clock, length):
    """256 topics were remembered, of whatever length: 96 KB for each such client."""
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(
            *(
                {"type": "data", "topic": "\U0001f600" * length + f"{number}"}
                for number in range(1_000)
            )
        )
        for _ in range(1_000):
            checked = server.actor(peer.id).checked_topics
            assert getsizeof(checked) + sum(map(getsizeof, checked or ())) <= 50_000
            await trio.lowlevel.checkpoint()
        assert checked


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


# Several topics in one message


def several(kind, *topics, **fields):
    return {"type": kind, "data": {"topics": list(topics)}, **fields}


def outcomes(replies):
    """Return the topic of each reply, with the error's code or else the reply's type."""
    return [(r["topic"], r["data"]["code"] if r["type"] == "error" else r["type"]) for r in replies]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_authorizer_that_raises_for_one_topic_loses_no_answer_of_the_others(
    autojump_clock, asynchronous
):
    """One `internal` without a topic was the answer, and no topic behind it was acted on."""
    app = App()
    app.authorize_subscribe(deciding({"b": Bug(), "d": False}, asynchronous=asynchronous))
    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send(several("subscribe", "a", "b", "c", "d", "e", id=1))
        replies = await receive_all(peer, 5)
        assert outcomes(replies) == [
            ("a", "subscribed"),
            ("b", "internal"),
            ("c", "subscribed"),
            ("d", "forbidden"),
            ("e", "subscribed"),
        ]
        assert ids(replies) == [1] * 5
        assert len(server.log.of("handler_failed")) == 1


async def test_topics_for_which_no_time_is_left_are_answered_too(autojump_clock):
    """After `handler_timeout` one `timeout` without a topic was the answer for all the rest."""
    app = App()

    @app.authorize_subscribe
    async def wait(connection, topic):
        await trio.sleep(4)

    async with open_server(app, handler_timeout=10, authorize_timeout=5) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send(several("subscribe", "a", "b", "c", "d", "e", id=1), {"type": "x", "id": 2})
        replies = await receive_all(peer, 6)
        assert outcomes(replies[:5]) == [
            *((topic, "subscribed") for topic in "abc"),
            *((topic, "timeout") for topic in "de"),
        ]
        assert ids(replies) == [1, 1, 1, 1, 1, 2]
        assert trio.current_time() - began == pytest.approx(12)


@pytest.mark.parametrize(("kind", "done"), [("subscribe", "subscribed"), ("unsubscribe", None)])
async def test_a_name_that_no_topic_can_have_does_not_stop_the_others(autojump_clock, kind, done):
    """One bad name among a hundred refused them all, and the answer told of that one only."""
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(several(kind, "a", "b c", "d"))
        done = done or "not_subscribed"
        assert outcomes(await receive_all(peer, 3)) == [
            ("a", done),
            ("b c", "bad_topic"),
            ("d", done),
        ]


async def test_each_topic_counts_as_a_message_and_those_beyond_the_rate_are_refused(autojump_clock):
    """A thousand topics cost as much as one message."""
    async with open_server(message_rate=5) as server:
        peer = await server.connect()
        names = [f"t{number}" for number in range(8)]
        await peer.send(several("subscribe", *names, id=1))
        replies = await receive_all(peer, 8)
        assert outcomes(replies) == [
            *((name, "subscribed") for name in names[:5]),
            *((name, "rate_limited") for name in names[5:]),
        ]
        assert {reply["data"]["retryable"] for reply in replies[5:]} == {True}
        assert ids(replies) == [1] * 8
        assert set(server.router.topics) == set(names[:5])
        assert server.supervisor.statistics.traffic.rate_limited == 3
        assert code_of(await peer.request_reply({"type": "ping"})) == "rate_limited"
        await trio.sleep(1)
        await peer.send(several("unsubscribe", *names, id=1))
        replies = await receive_all(peer, 8)
        assert outcomes(replies)[4:6] == [("t4", "unsubscribed"), ("t5", "rate_limited")]


async def test_topics_beyond_the_rate_are_one_strike_for_each_message(autojump_clock):
    async with open_server(message_rate=1) as server:
        peer = await server.connect()
        for _ in range(19):
            await peer.send(several("subscribe", *(f"t{number}" for number in range(50))))
            await trio.sleep(0.4)
        assert server.actor(peer.id).is_open
        await peer.send(several("subscribe", *(f"t{number}" for number in range(50))))
        assert await peer.close_code() == 4005


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
async def test_a_message_of_a_thousand_topics_leaves_turns_to_others(autojump_clock, kind):
    """All of it was one turn of the loop, of about 100 ms."""
    names = [f"t{number}" for number in range(1_000)]
    async with open_server(max_topics_per_connection=1_000) as server:
        peer = await server.connect(capacity=1_000_000)
        if kind == "unsubscribe":
            await peer.send(several("subscribe", *names))
            await receive_all(peer, 1_000)
        await peer.send(several(kind, *names, id=1), {"type": "data", "topic": "t0", "id": 2})
        steps, before = [], len(server.router.topics)
        for _ in range(500):
            await trio.lowlevel.checkpoint()
            after = len(server.router.topics)
            steps.append(abs(after - before))
            before = after
        assert sum(steps) == 1_000
        assert max(steps) <= 100  # two turns of others may lie between two of ours
        replies = await receive_all(peer, 1_001)
        assert ids(replies) == [1] * 1_000 + [2]
        assert [reply["topic"] for reply in replies[:-1]] == names


async def test_the_answers_for_many_topics_leave_in_few_writes(autojump_clock):
    async with open_server() as server:
        peer, writes = counting(server)
        await welcomed(peer)
        before = len(writes)
        await peer.send(several("subscribe", *(f"t{number}" for number in range(100))))
        await receive_all(peer, 100)
        assert len(writes) - before <= 4


async def test_a_ping_amid_the_topics_is_answered_and_loses_no_reply(autojump_clock):
    app = App()
    app.authorize_subscribe(deciding({}, asynchronous=True))
    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send(several("subscribe", "a", "b", "c", id=1))
        await trio.sleep(1.5)
        await peer.send({"type": "ping", "id": "ping"})
        assert ids(await receive_all(peer, 4)) == [1, "ping", 1, 1]


async def test_a_connection_that_ends_amid_its_topics_subscribes_to_no_more(autojump_clock):
    async with open_server(max_topics_per_connection=1_000) as server:
        peer = await server.connect(capacity=1_000_000)
        actor = server.actor(peer.id)
        await peer.send(several("subscribe", *(f"t{number}" for number in range(1_000))))
        while not server.router.topics:
            await trio.lowlevel.checkpoint()
        actor.end(CloseCause.DISCONNECTED)
        assert await peer.close_code() == 4503
        peer.transport.close()
        await server.supervisor.wait_empty()
        assert_nothing_left(server)


# Mistakes that cost something


FORBIDDEN = {"type": "data", "topic": "$x"}


@pytest.mark.parametrize(
    ("mistake", "code"),
    [
        (FORBIDDEN, "forbidden"),
        ({"type": "subscribe", "topic": "user:8"}, "forbidden"),
        ({"type": "data", "topic": "a b"}, "bad_topic"),
        ({"type": "unsubscribe", "topic": "a"}, "not_subscribed"),
    ],
)
async def test_two_hundred_refusals_within_ten_seconds_are_too_many(autojump_clock, mistake, code):
    """They cost a client nothing, however many it sent."""
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(3):
            await peer.send(*[mistake] * 199)
            assert {code_of(reply) for reply in await receive_all(peer, 199)} == {code}
            await trio.sleep(10.1)
        await peer.send(*[mistake] * 250)
        await receive_all(peer, 200)
        assert await peer.close_code() == 4501


async def test_a_program_that_forbids_by_its_authorizer_refuses_as_well(autojump_clock):
    app = App()
    app.authorize_publish(deciding({"no": False}, asynchronous=True))
    async with open_server(app, handler_timeout=1_000) as server:
        peer = await server.connect()
        await peer.send(*[FORBIDDEN] * 199)
        await receive_all(peer, 199)
        await peer.send({"type": "data", "topic": "no"})
        assert await peer.close_code() == 4501


async def test_the_programs_own_messages_may_be_refused_as_often_as_it_likes(autojump_clock):
    app = App()

    @app.on("move")
    def move(context, message):
        raise RemoteProtocolError("not your turn", ErrorCode.FORBIDDEN)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "move"}] * 300)
        await receive_all(peer, 300)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_a_message_with_many_refused_topics_is_one_refusal(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(5):
            await peer.send(several("subscribe", *(f"$t{number}" for number in range(100))))
            await receive_all(peer, 100)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await peer.send(*[FORBIDDEN] * 195)
        await receive_all(peer, 195)
        assert await peer.close_code() == 4501


async def test_a_subscribe_that_is_all_right_is_no_mistake(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(300):
            await peer.send(several("subscribe", "a"), several("unsubscribe", "a"))
            await receive_all(peer, 2)
        assert server.actor(peer.id).is_open


@pytest.mark.parametrize("good", [True, False])
async def test_twenty_tokens_within_ten_seconds_are_too_many(autojump_clock, good):
    """Each costs a signature's check and, if it is good, a line in the log."""
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        shown = {"type": "authenticate", "data": {"token": token("7") if good else "bad"}}
        for _ in range(3):
            await peer.send(*[shown] * 19)
            await receive_all(peer, 19)
            await trio.sleep(10.1)
        await peer.send(*[shown] * 25)
        await receive_all(peer, 20)
        assert await peer.close_code() == 4501


async def test_the_first_token_is_no_mistake(autojump_clock):
    async with open_server(jwt_key=KEY, anonymous=True) as server:
        peer = await server.connect()
        await peer.send(*["bad"] * 19)
        await receive_all(peer, 19)
        first = {"type": "authenticate", "data": {"token": token("7")}}
        assert (await peer.request_reply(first))["type"] == "authenticated"
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


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


async def test_a_user_that_becomes_known_later_gets_the_topics_of_its_endpoint(autojump_clock):
    """Only a connection that had to wait for its token got them."""
    app = App()
    app.add_endpoint("/ws", topics=("news", "of.{user_id}", "user:{user_id}"))
    async with open_server(app, jwt_key=KEY, anonymous=True) as server:
        peer = await server.connect()
        assert peer.welcome["data"]["topics"] == ["news"]
        first = {"type": "authenticate", "data": {"token": token("7")}, "id": 1}
        await peer.send(first)
        replies = await receive_all(peer, 3)
        assert [(reply["type"], reply.get("topic")) for reply in replies] == [
            ("authenticated", None),
            ("subscribed", "of.7"),
            ("subscribed", "user:7"),
        ]
        subscriptions = server.actor(peer.id).subscriptions
        assert not any(one.by_client for one in subscriptions.values())
        await peer.request_reply(first)
        await settle()
        assert waiting_bytes(peer) == b""


async def test_what_a_client_has_left_does_not_come_back_when_its_user_becomes_known(
    autojump_clock,
):
    app = App()
    app.add_endpoint("/ws", topics=("news", "of.{user_id}"))
    async with open_server(app, jwt_key=KEY, anonymous=True) as server:
        peer = await server.connect()
        await peer.request_reply({"type": "unsubscribe", "topic": "news"})
        await peer.request_reply({"type": "authenticate", "data": {"token": token("7")}})
        assert set(server.actor(peer.id).subscriptions) == {"of.7"}


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
