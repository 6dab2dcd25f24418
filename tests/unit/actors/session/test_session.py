import attrs
import jwt
import pytest
import trio
import trio.testing

from moorage.actors.session.session import Context
from moorage.actors.subscription import Subscription
from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import LocalProtocolError, RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import CLOSE, open_server
from tests.fakes_containment import Bug, errors, failing, is_served, onlooker
from tests.fakes_server import (
    KEY,
    assert_nothing_left,
    code_of,
    receive_all,
    settle,
    subscribed,
    token,
)

# --- hello ------------------------------------------------------------------------------------


async def test_the_welcome_is_the_first_message_and_says_who_one_is(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=("news", "of.{user_id}"))
    async with open_server(app, jwt_key=KEY, heartbeat_interval=12) as server:
        peer = await server.connect(token=token("7"))
        assert peer.welcome["data"].pop("expires_at").endswith("Z")
        assert peer.welcome["data"] == {
            "connection_id": server.actors()[0].id,
            "protocol": "moorage.v1",
            "heartbeat_interval": 12.0,
            "user_id": "7",
            "topics": ["news", "of.7"],
        }
        assert peer.welcome["timestamp"].endswith("Z")


async def test_a_topic_of_a_user_is_left_out_where_there_is_no_user(autojump_clock):
    """Anonymous connections were subscribed to `of.`, which is no topic at all."""
    app = App()
    app.add_endpoint("/ws", topics=("news", "of.{user_id}"))
    async with open_server(app) as server:
        peer = await server.connect()
        assert peer.welcome["data"]["topics"] == ["news"]


@pytest.mark.parametrize("user", ["user:bob", "$SYS"])
async def test_an_id_that_reads_like_a_topic_of_others_subscribes_to_none(autojump_clock, user):
    """`sub: "user:bob"` and the topic `{user_id}` were a subscription to bob's own topic."""
    app = App()
    app.add_endpoint("/ws", topics=("{user_id}", "of.{user_id}"))
    async with open_server(app, jwt_key=KEY) as server:
        peer = await server.connect(token=token(user))
        assert peer.welcome["data"]["topics"] == [f"of.{user}"]
        (line,) = server.log.of("subscription_refused")
        assert (line["topic"], line["user_id"]) == ("{user_id}", user)


@pytest.mark.parametrize(
    ("settings", "claims", "topics"),
    [
        ({}, {}, ["of.a.b", "user:a.b"]),
        ({"subscribe_patterns": ["of.*"]}, {}, ["user:a.b"]),
        ({}, {"subscribe": ["of.*"]}, ["user:a.b"]),
        ({}, {"subscribe": ["of.**"]}, ["of.a.b", "user:a.b"]),
    ],
)
async def test_an_id_with_a_dot_gets_no_topic_that_its_user_could_not_ask_for(
    autojump_clock, settings, claims, topics
):
    """A rule for `of.*` does not cover `of.a.b`, and the topic may be of another kind."""
    app = App()
    app.add_endpoint("/ws", topics=("of.{user_id}", "user:{user_id}"))
    async with open_server(app, jwt_key=KEY, **settings) as server:
        peer = await server.connect(token=token("a.b", **claims))
        assert peer.welcome["data"]["topics"] == topics


async def test_an_id_with_a_dot_gets_no_topic_about_which_the_program_wants_to_be_asked(
    autojump_clock,
):
    app = App()
    app.add_endpoint("/ws", topics=("of.{user_id}", "user:{user_id}"))
    app.authorize_subscribe(lambda connection, topic: True)
    async with open_server(app, jwt_key=KEY) as server:
        for user, topics in (("ab", ["of.ab", "user:ab"]), ("a.b", ["user:a.b"])):
            peer = await server.connect(token=token(user))
            assert peer.welcome["data"]["topics"] == topics
        (line,) = server.log.of("subscription_refused")
        assert "authorize_subscribe" in line["error"]


async def test_what_the_program_says_to_a_newcomer_comes_after_the_welcome(autojump_clock):
    """What a callback sent to a new connection arrived before the welcome."""
    app = App()

    @app.connected
    def greet(connection):
        connection.subscribe("early")
        connection.send("hello")

    async with open_server(app) as server:
        peer = await server.connect()
        assert peer.welcome["data"]["topics"] == ["early"]
        assert [m["type"] for m in await receive_all(peer, 2)] == ["subscribed", "hello"]


async def test_an_unknown_type_is_told_and_forgiven(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(30):
            assert code_of(await peer.request_reply({"type": "nonsense"})) == "unknown_type"


# --- handlers of the program -----------------------------------------------------------------


async def test_a_handlers_reply_carries_the_id_and_its_context_the_sender(autojump_clock):
    app = App()

    @app.on("who")
    def who(context, message):
        context.metadata["asked"] = context.metadata.get("asked", 0) + 1
        assert context.identity is context.connection.identity
        context.reply("you", [context.user_id, context.metadata["asked"]], topic=message.topic)

    async with open_server(app, jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        await peer.request_reply({"type": "who"})
        reply = await peer.request_reply({"type": "who", "topic": "t"})
        assert (reply["type"], reply["topic"], reply["data"]) == ("you", "t", ["7", 2])


async def test_a_context_publishes_sends_and_subscribes_without_waiting(autojump_clock):
    app = App()

    @app.on("all")
    def do(context, message):
        with trio.testing.assert_no_checkpoints():
            assert context.subscribe("room")
            assert not context.subscribe("room")
            assert context.broadcast_to_topic("room", "said", 1) == 1
            excluded = {context.connection.id}
            assert context.broadcast_to_topic("room", "said", 2, exclude=excluded) == 0
            assert context.send_to_user("7", "told", 3) == 1
            assert context.unsubscribe("room")
            assert not context.unsubscribe("room")

    async with open_server(app, jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        await peer.send({"type": "all"})
        messages = await receive_all(peer, 4)
        assert [m["type"] for m in messages] == ["subscribed", "told", "said", "unsubscribed"]


async def test_what_a_handler_cannot_reply_is_its_own_error(autojump_clock):
    app = App()
    app.on("nan")(lambda context, message: context.reply("x", float("nan")))
    async with open_server(app) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": "nan"})) == "internal"


# --- a renewed token --------------------------------------------------------------------------


async def test_a_renewed_token_takes_back_the_subscriptions_that_it_does_not_allow(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await subscribed(await server.connect(token=token("7")), "a", "b")
        server.actor(peer.id).subscribe("c")  # the program's decision stays
        narrow = token("7", subscribe=["b"], info="narrow")
        await peer.send({"type": "authenticate", "data": {"token": narrow}})
        messages = [await peer.receive_type("subscribed"), *await receive_all(peer, 3)]
        assert {(m["type"], m.get("topic")) for m in messages} == {
            ("subscribed", "c"),
            ("unsubscribed", "a"),
            ("error", "a"),
            ("authenticated", None),
        }
        connection = server.supervisor.connection(peer.id)
        assert set(connection.topics) == {"b", "c"}
        assert connection.metadata["info"] == "narrow"


# --- from the server's side ------------------------------------------------------------------


async def test_the_program_sends_subscribes_and_unsubscribes_without_waiting(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        with trio.testing.assert_no_checkpoints():
            assert connection.send("hello", {"a": 1}, topic="t")
            assert connection.subscribe("$program")
            assert not connection.subscribe("$program")
            assert connection.unsubscribe("$program")
            assert not connection.unsubscribe("$program")
        messages = await receive_all(peer, 3)
        assert [m["type"] for m in messages] == ["hello", "subscribed", "unsubscribed"]
        assert messages[0]["topic"] == "t"


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.send("bad type"), id="type"),
        pytest.param(lambda c: c.send("x", float("inf")), id="infinity"),
        pytest.param(lambda c: c.send("x", object()), id="object"),
        pytest.param(lambda c: c.subscribe("a b"), id="topic"),
        pytest.param(
            lambda c: c.disconnect("x", reconnect_after=float("nan")), id="reconnect_after"
        ),
        pytest.param(lambda c: c.disconnect("\ud800", reconnect_after=1), id="reason"),
    ],
)
async def test_what_cannot_be_said_raises_where_it_was_asked_for_and_changes_nothing(
    autojump_clock, call
):
    """A `goodbye` that could not be encoded took the whole server down."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        with pytest.raises((LocalProtocolError, RemoteProtocolError)):
            call(connection)
        assert connection.is_open
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_disconnecting_tells_the_reason_and_when_to_come_back(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        assert connection.disconnect("moving", cause=CloseCause.RECONNECT, reconnect_after=1.5)
        assert not connection.disconnect("again")
        goodbye = await peer.receive()
        assert goodbye["type"] == "goodbye"
        assert goodbye["data"] == {"reason": "moving", "reconnect_after": 1.5}
        with pytest.raises(EOFError) as closed:
            await peer.receive()
        assert closed.value.args == (4007, "moving")


async def test_a_connection_that_is_over_takes_no_subscription(autojump_clock):
    """It was entered into the routing tables and stayed there for good."""
    async with open_server() as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        connection.disconnect()
        assert not connection.subscribe("a")
        await peer.close_code()
        peer.transport.close()
        await server.supervisor.wait_empty()
        assert not connection.subscribe("a")
        assert not connection.unsubscribe("a")
        assert not connection.send("x")
        assert server.router.topics == {}


async def test_a_full_topic_is_left_out_on_arrival_and_logged(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=("full", "free"))
    async with open_server(app, max_connections_per_topic=1) as server:
        await server.connect()
        await server.connect()
        assert len(server.log.of("subscription_refused")) == 2


async def test_what_an_endpoints_function_starts_ends_with_the_connection(autojump_clock):
    app = App()
    events = []

    @app.endpoint("/ws")
    async def endpoint(connection):
        try:
            while True:
                await trio.sleep(1)
                connection.send("tick")
        finally:
            events.append("ended")

    async with open_server(app) as server:
        peer = await server.connect()
        assert (await peer.receive())["type"] == "tick"
        await peer.close()
        await server.supervisor.wait_empty()
        assert events == ["ended"]


async def test_a_connection_outlives_its_endpoints_function(autojump_clock):
    app = App()

    @app.endpoint("/ws")
    async def endpoint(connection):
        connection.send("done")

    async with open_server(app) as server:
        peer = await server.connect()
        assert (await peer.receive())["type"] == "done"
        await settle()
        assert server.actor(peer.id).is_open


# Containment


async def test_an_endpoints_function_that_raises_closes_its_connection(autojump_clock):
    app = App()
    app.endpoint("/break")(failing(True, Bug()))
    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect("/break") for _ in range(100)]
        assert [await peer.close_code() for peer in peers] == [1011] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        failed = [line for line in errors(server) if line["event"] == "endpoint_failed"]
        ended = [line for line in errors(server) if line["event"] == "disconnected"]
        assert len(failed) == len(ended) == 100
        assert all(isinstance(line["exc_info"], Bug) for line in failed)
        for line in ended:
            assert (line["cause"], line["code"]) == ("internal_error", 1011)
        assert await is_served(other)


async def test_cancelled_mixed_with_an_exception_is_told_apart(autojump_clock):
    """The connection ends while its function cleans up, and the cleaning up fails."""
    app = App()

    async def clean_up_badly():
        try:
            await trio.sleep_forever()
        finally:
            raise Bug

    @app.endpoint("/break")
    async def several(connection):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)

    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peers = [await server.connect("/break") for _ in range(100)]
        await settle()
        for peer in peers:
            await peer.send_frame(CLOSE, (1000).to_bytes(2))
        assert [await peer.close_code() for peer in peers] == [1000] * 100
        for peer in peers:
            peer.transport.close()
        await settle()
        assert server.supervisor.statistics.closed == {CloseCause.PEER_CLOSED: 100}
        assert {line["connection_id"] for line in errors(server)} == {peer.id for peer in peers}
        assert len(errors(server)) == 100  # none is lost, though its cause was an expected one
        assert await is_served(other)


async def test_a_handler_that_swallows_its_cancellation_for_a_while_ends_with_its_connection(
    autojump_clock,
):
    app, ends = App(), []

    @app.endpoint("/ws")
    async def cleans_up(connection):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ends.append(connection.id)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.close()
        await trio.sleep(2)
        assert ends == [peer.id]
        assert_nothing_left(server)


async def test_an_exception_in_a_handler_brings_nothing_down(autojump_clock):
    app = App()

    @app.endpoint("/ws")
    async def fail(connection):
        await trio.sleep(1)
        raise RuntimeError("broken")

    async with open_server(app) as server:
        peer = await server.connect()
        other = await server.connect()
        assert await peer.close_code() == 1011
        assert await other.close_code() == 1011
        await server.connect()
        assert len(server.log.of("endpoint_failed")) == 2


async def test_what_was_broadcast_before_a_disconnect_arrives_before_the_close(autojump_clock):
    # Once it depended on which task came first in the turn.
    async with open_server() as server:
        for _ in range(20):
            peer = await subscribed(await server.connect(), "t")
            server.supervisor.broadcast_to_topic("t", "last", 1)
            server.supervisor.connection(peer.id).disconnect()
            assert (await peer.receive())["type"] == "last"
            assert await peer.close_code() == 4503
            peer.transport.close()


# --- what a program holds --------------------------------------------------------------------


def test_a_handler_sees_these_names_of_its_context_and_no_others():
    assert {name for name in dir(Context) if not name.startswith("_")} == {
        *("connection", "identity", "user_id", "metadata", "reply", "broadcast_to_topic"),
        *("send_to_user", "subscribe", "unsubscribe"),
    }


async def test_the_connection_of_a_context_is_the_one_that_the_supervisor_knows(autojump_clock):
    app, seen = App(), []
    app.on("note")(lambda context, message: seen.append(context.connection))
    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "note"}, {"type": "note"})
        await settle()
        assert seen == [server.supervisor.connection(peer.id)] * 2


async def test_the_topics_of_a_session_follow_every_change(autojump_clock):
    """What was asked for while there were no topics stayed empty, whatever came."""
    async with open_server() as server:
        peer = await server.connect()
        session = server.supervisor.connection(peer.id)
        topics, subscriptions = session.topics, session.subscriptions
        assert (set(topics), dict(subscriptions)) == (set(), {})
        await subscribed(peer, "a")
        session.subscribe("b")
        assert set(topics) == set(subscriptions) == {"a", "b"}
        assert ("a" in topics, "c" in topics, len(topics)) == (True, False, 2)
        await peer.request_reply({"type": "unsubscribe", "topic": "a"})
        session.unsubscribe("b")
        assert (set(topics), dict(subscriptions)) == (set(), {})
        session.subscribe("c")
        assert (set(topics), list(subscriptions)) == ({"c"}, ["c"])
        await peer.close()
        await settle()
        assert (set(topics), dict(subscriptions)) == (set(), {})


async def test_the_topics_of_a_session_can_be_compared_and_joined_as_sets(autojump_clock):
    async with open_server() as server:
        session = server.supervisor.connection((await server.connect()).id)
        session.subscribe("a")
        assert session.topics == {"a"}
        assert session.topics | {"b"} == {"a", "b"}
        assert session.topics <= {"a", "b"}
        assert session.topics == session.topics
        assert repr(session.subscriptions) == repr({"a": Subscription("a")})


async def test_the_topics_of_a_session_cannot_be_written_to(autojump_clock):
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "a")
        session = server.supervisor.connection(peer.id)
        with pytest.raises(TypeError):
            session.subscriptions["b"] = Subscription("b")
        with pytest.raises(TypeError):
            del session.subscriptions["a"]
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            session.subscriptions["a"].by_client = False
        with pytest.raises(AttributeError):
            session.topics |= {"b"}
        for name in ("add", "discard", "remove", "clear", "pop", "update", "setdefault"):
            assert not hasattr(session.topics, name)
            assert not hasattr(session.subscriptions, name)
        assert session.topics == {"a"}
        assert set(server.router.topics) == {"a"}


async def test_a_subscription_says_who_asked_for_it(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=["of.endpoint"])
    app.on("join")(lambda context, message: context.subscribe("of.handler") and None)
    async with open_server(app, jwt_key=KEY) as server:
        peer = await subscribed(await server.connect(token=token("7")), "of.client")
        session = server.supervisor.connection(peer.id)
        await peer.send({"type": "join"})
        await settle()
        session.subscribe("of.program")
        server.supervisor.subscribe_user("7", "of.user")
        assert {topic: s.by_client for topic, s in session.subscriptions.items()} == {
            "of.endpoint": False,
            "of.client": True,
            "of.handler": False,
            "of.program": False,
            "of.user": False,
        }
        assert all(topic == s.topic for topic, s in session.subscriptions.items())


async def test_a_subscription_that_both_asked_for_is_the_programs(autojump_clock):
    """The program's own was lost with the client's when a newer token did not allow it."""
    async with open_server() as server:
        peer = await subscribed(await server.connect(), "first.client")
        session = server.supervisor.connection(peer.id)
        assert not session.subscribe("first.client")
        session.subscribe("first.program")
        await subscribed(peer, "first.program")
        assert {topic: s.by_client for topic, s in session.subscriptions.items()} == {
            "first.client": False,
            "first.program": False,
        }


async def test_a_renewed_token_leaves_what_the_program_has_decided(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=["of.endpoint"])
    async with open_server(app, jwt_key=KEY) as server:
        peer = await subscribed(await server.connect(token=token("7")), "own.a", "own.b")
        session = server.supervisor.connection(peer.id)
        session.subscribe("of.program")
        narrow = token("7", subscribe=["nothing"])
        await peer.request_reply({"type": "authenticate", "data": {"token": narrow}})
        assert session.topics == {"of.endpoint", "of.program"}


@pytest.mark.parametrize(
    ("expiry", "outcome"), [(253_402_300_799, "authenticated"), (253_402_300_800, "unauthorized")]
)
async def test_a_token_of_a_time_beyond_all_clocks_does_not_end_the_connection(
    autojump_clock, expiry, outcome
):
    """The connection was closed with 1011, so the client came back, and again, without end."""
    late = jwt.encode({"sub": "7", "exp": expiry}, KEY)
    async with open_server(jwt_key=KEY, anonymous=True) as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": "authenticate", "data": {"token": late}})
        assert reply["data"].get("code", reply["type"]) == outcome
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        status, _, _ = await server.dial().upgrade("/ws", {"Authorization": f"Bearer {late}"})
        assert status == (101 if outcome == "authenticated" else 401)


async def test_what_a_callback_says_before_it_ends_the_connection_is_sent(autojump_clock):
    """`send` returned True, and the client got the Close frame alone."""
    app = App()

    @app.connected
    def turn_away(connection):
        assert connection.send("sorry", {"why": "full moon"})
        connection.disconnect("another time")

    async with open_server(app) as server:
        peer = server.dial()
        assert (await peer.upgrade("/ws"))[0] == 101
        assert (await peer.receive())["type"] == "sorry"
        assert await peer.close_code() == 4503
