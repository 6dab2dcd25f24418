import attrs
import pytest
import trio
import trio.testing

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import CLOSE, open_server
from tests.fakes_server import KEY, counting, subscribed, token, waiting_bytes, welcomed

settle = trio.testing.wait_all_tasks_blocked


def code_of(message):
    assert message["type"] == "error", message
    return message["data"]["code"]


async def receive_all(peer, count):
    return [await peer.receive() for _ in range(count)]


def ids(messages):
    return [message.get("id") for message in messages]


# --- each message type -----------------------------------------------------------------------


async def test_the_welcome_is_the_first_message_and_says_who_one_is(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=("news", "of.{user_id}"))
    async with open_server(app, jwt_key=KEY, heartbeat_interval=12) as server:
        peer = await server.connect(token=token("7"))
        assert peer.welcome["data"].pop("expires_at").endswith("Z")
        assert peer.welcome["data"] == {
            "connection_id": server.supervisor.connections()[0].id,
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
        assert server.supervisor.harbor.router.topics == {}


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


async def test_an_unknown_type_is_told_and_forgiven(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(30):
            assert code_of(await peer.request_reply({"type": "nonsense"})) == "unknown_type"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type":5}', "bad_message"),
        ('{"type":"ping","id":1.5}', "bad_message"),
        ('{"type":"data","data":1}', "bad_message"),
        ('{"type":"subscribe"}', "bad_message"),
        ('{"type":"subscribe","topic":"a","data":{"topics":["b"]}}', "bad_message"),
        ('{"type":"unsubscribe","data":{"topics":[]}}', "bad_message"),
        ('{"type":"authenticate"}', "bad_message"),
        ('{"type":"authenticate","data":{"token":5}}', "bad_message"),
        ('{"type":"authenticate","data":{"token":"x"}}', "unauthorized"),
        ('{"type":"data","topic":"a b"}', "bad_topic"),
        ('{"type":"subscribe","topic":"a..b"}', "bad_topic"),
        ('{"type":"data","topic":"$x"}', "forbidden"),
        ('{"type":"subscribe","topic":"user:8"}', "forbidden"),
    ],
)
async def test_what_cannot_be_done_is_answered_and_the_connection_lives(
    autojump_clock, message, code
):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(message)
        error = await peer.receive()
        assert code_of(error) == code
        assert error["error"]
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_twenty_bad_messages_within_ten_seconds_are_too_many(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        for _ in range(3):
            await peer.send(*["bad"] * 19)
            await receive_all(peer, 19)
            await trio.sleep(10.1)
        await peer.send(*["bad"] * 25)
        await receive_all(peer, 20)
        assert await peer.close_code() == 4501
        assert server.supervisor.statistics.traffic.bad_messages == 3 * 19 + 20


# --- order -----------------------------------------------------------------------------------


async def test_replies_come_in_the_order_of_the_requests_and_in_one_write(autojump_clock):
    async with open_server() as server:
        peer, writes = counting(server)
        await welcomed(peer)
        before = len(writes)
        requests = [{"type": "ping"}, {"type": "subscribe", "topic": "a"}, {"type": "x"}]
        await peer.send(*({**request, "id": n} for n, request in enumerate(requests * 5)))
        assert ids(await receive_all(peer, 15)) == list(range(15))
        assert len(writes) == before + 1


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


# --- handlers of the program -----------------------------------------------------------------


@attrs.define
class Log:
    """What handlers did, in order."""

    lines: list = attrs.field(factory=list)


def working_app(log, *, seconds=1.0):
    app = App()

    @app.on("now")
    def now(context, message):
        log.lines.append(("now", message.data))
        context.reply("done", message.data)

    @app.on("slow")
    async def slow(context, message):
        await trio.sleep(seconds)
        log.lines.append(("slow", message.data))
        context.reply("done", message.data)

    return app


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


async def test_messages_behind_an_async_handler_wait_their_turn_but_ping_does_not(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        await peer.send(
            {"type": "now", "data": 0, "id": 0},
            {"type": "slow", "data": 1, "id": 1},
            {"type": "now", "data": 2, "id": 2},
            {"type": "slow", "data": 3, "id": 3},
            {"type": "subscribe", "topic": "a", "id": 4},
            {"type": "data", "topic": "a", "id": 5},
            {"type": "ping", "id": "ping"},
        )
        messages = await receive_all(peer, 8)
        assert ids(messages) == [0, "ping", 1, 2, 3, 4, 5, None]
        assert [data for _, data in log.lines] == [0, 1, 2, 3]


async def test_the_worker_exists_only_while_there_is_work(autojump_clock):
    async with open_server(working_app(Log())) as server:
        peer = await server.connect()
        connection = server.supervisor.connection(peer.id)
        for _ in range(2):
            await peer.send({"type": "slow"}, {"type": "slow"})
            await settle()
            assert [t.name for t in connection.nursery.child_tasks] == [f"handlers of {peer.id}"]
            await receive_all(peer, 2)
            await settle()
            assert not connection.nursery.child_tasks
            assert connection._inbox is None


async def test_a_full_inbox_holds_the_sender_back_and_loses_nothing(autojump_clock):
    log = Log()
    app = working_app(log, seconds=0.1)
    async with open_server(app, max_inbox_size=2_000, max_message_size=1_000) as server:
        peer = await server.connect(capacity=2_000)
        connection = server.supervisor.connection(peer.id)
        most = 0

        async def send():
            for number in range(300):
                await peer.send({"type": "slow", "data": [number, "x" * 100]})

        async def receive():
            nonlocal most
            for number in range(300):
                assert (await peer.receive_type("done"))["data"][0] == number
                inbox = connection._inbox
                most = max(most, inbox.size if inbox else 0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
        assert [data[0] for _, data in log.lines] == list(range(300))
        assert 1_000 < most < 2_000 + 2 * 2_000  # the limit and a chunk, each with its overhead


async def test_a_handler_that_takes_too_long_is_given_up_and_the_next_one_runs(autojump_clock):
    app = App()

    @app.on("forever")
    async def forever(context, message):
        await trio.sleep_forever()

    app.on("next")(lambda context, message: context.reply("done"))
    async with open_server(app, handler_timeout=3, heartbeat_interval=100) as server:
        peer = await server.connect()
        began = trio.current_time()
        await peer.send({"type": "forever", "id": 1, "topic": "t"}, {"type": "next", "id": 2})
        error = await peer.receive()
        assert (code_of(error), error["id"], error["topic"]) == ("timeout", 1, "t")
        assert trio.current_time() - began == pytest.approx(3)
        assert (await peer.receive())["id"] == 2
        assert server.supervisor.statistics.traffic.handler_timeouts == 1


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("secret"), "internal"),
        (ExceptionGroup("secret", [ValueError()]), "internal"),
        (LocalProtocolError("secret", ErrorCode.BAD_MESSAGE), "internal"),
        (RemoteProtocolError("told", ErrorCode.BAD_MESSAGE), "bad_message"),
        (RemoteProtocolError("told", ErrorCode.UNAVAILABLE), "unavailable"),
    ],
)
async def test_what_a_handler_raises_is_answered_and_contained(
    autojump_clock, asynchronous, error, code
):
    app = App()

    def fail(context, message):
        raise error

    async def fail_later(context, message):
        await trio.sleep(1)
        raise error

    app.on("fail")(fail_later if asynchronous else fail)
    async with open_server(app) as server:
        peer = await server.connect()
        reply = await peer.request_reply({"type": "fail"})
        assert code_of(reply) == code
        assert "secret" not in reply["error"]
        failures = server.log.of("handler_failed")
        assert len(failures) == (1 if code == "internal" else 0)
        assert server.supervisor.statistics.traffic.handler_errors == len(failures)
        await peer.send({"type": "ping"})
        assert (await peer.receive())["type"] == "pong"


async def test_an_error_that_says_so_ends_the_connection_behind_its_answer(autojump_clock):
    app = App()

    @app.on("leave")
    def leave(context, message):
        raise RemoteProtocolError("go", ErrorCode.FORBIDDEN, close=CloseCause.FORBIDDEN)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "leave"}, {"type": "ping"})
        assert code_of(await peer.receive()) == "forbidden"
        assert await peer.close_code() == 4502


async def test_what_was_asked_for_before_the_close_frame_is_done(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        requests = [{"type": "slow", "id": 1}, {"type": "now", "id": 2}, {"type": "slow", "id": 3}]
        await peer.send(*requests)
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert ids(await receive_all(peer, 3)) == [1, 2, 3]
        assert await peer.close_code() == 1000


async def test_what_was_asked_for_before_the_close_frame_has_only_so_long(autojump_clock):
    log = Log()
    async with open_server(working_app(log, seconds=20), close_timeout=4) as server:
        peer = await server.connect()
        await peer.send({"type": "slow"})
        await peer.send_frame(CLOSE, b"\x03\xe8")
        began = trio.current_time()
        assert await peer.close_code() == 1000
        assert trio.current_time() - began == pytest.approx(4)
        assert log.lines == []


async def test_handlers_die_with_their_connection_and_what_waits_is_not_begun(autojump_clock):
    log = Log()
    async with open_server(working_app(log)) as server:
        peer = await server.connect()
        await peer.send({"type": "slow"}, {"type": "now"}, {"type": "slow"})
        await settle()
        peer.transport.close()
        await trio.sleep(10)
        assert log.lines == []


async def test_after_a_handler_has_ended_the_connection_nothing_that_waits_is_done(autojump_clock):
    """The worker went on with its inbox until it met a checkpoint."""
    app = App()

    @app.on("leave")
    async def leave(context, message):
        await trio.sleep(1)
        context.connection.disconnect()

    async with open_server(app) as server:
        peer, other = await server.connect(), await subscribed(await server.connect(), "a")
        await peer.send({"type": "leave"}, {"type": "data", "topic": "a"})
        assert await peer.close_code() == 4503
        await settle()
        assert waiting_bytes(other) == b""


async def test_a_message_whose_topic_is_none_reaches_no_handler(autojump_clock):
    async with open_server(working_app(Log())) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": "now", "topic": "a b"})) == "bad_topic"


async def test_what_a_handler_cannot_reply_is_its_own_error(autojump_clock):
    app = App()
    app.on("nan")(lambda context, message: context.reply("x", float("nan")))
    async with open_server(app) as server:
        peer = await server.connect()
        assert code_of(await peer.request_reply({"type": "nan"})) == "internal"


# --- authorizers -----------------------------------------------------------------------------


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
        assert server.supervisor.harbor.router.topics == {}
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


# --- authenticate ----------------------------------------------------------------------------


def patient_app(**options):
    """An endpoint that takes the token in the first message."""
    app = App()

    @app.endpoint("/ws", authenticate_by_message=True, topics=("of.{user_id}",), **options)
    async def endpoint(connection):
        connection.send("running", connection.user_id)
        await trio.sleep_forever()

    return app


async def test_until_the_token_comes_only_ping_and_authenticate_are_answered(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY) as server:
        peer = await server.connect()
        assert (peer.welcome["data"]["user_id"], peer.welcome["data"]["topics"]) == (None, [])
        await peer.send({"type": "ping", "id": 0})
        assert (await peer.receive())["type"] == "pong"
        for request in ({"type": "subscribe", "topic": "a"}, {"type": "data", "topic": "a"}):
            assert code_of(await peer.request_reply(request)) == "unauthorized"
        bad = {"type": "authenticate", "data": {"token": "bad"}}
        assert code_of(await peer.request_reply(bad)) == "unauthorized"
        await peer.send({"type": "authenticate", "data": {"token": token("7")}, "id": "auth"})
        messages = await receive_all(peer, 3)
        assert [m["type"] for m in messages] == ["authenticated", "subscribed", "running"]
        assert messages[0]["data"]["user_id"] == "7"
        assert messages[0]["data"]["expires_at"].endswith("Z")
        assert (messages[0]["id"], messages[1]["topic"], messages[2]["data"]) == (
            "auth",
            "of.7",
            "7",
        )
        await subscribed(peer, "a")


async def test_without_a_token_in_time_the_connection_is_closed(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY, handshake_timeout=10) as server:
        peer = await server.connect()
        began = trio.current_time()
        await trio.sleep(9)
        await peer.send({"type": "ping"})
        assert await peer.close_code() == 4500
        assert trio.current_time() - began == pytest.approx(10)
        peer.transport.close()
        await server.supervisor.wait_empty()
        assert server.log.of("disconnected")[0]["cause"] == "unauthorized"


async def test_after_the_token_its_deadline_is_gone(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY, handshake_timeout=10) as server:
        peer = await server.connect()
        await peer.request_reply({"type": "authenticate", "data": {"token": token("7")}})
        await trio.sleep(20)
        assert server.supervisor.connection(peer.id).is_open


async def test_a_token_in_the_request_opens_such_an_endpoint_at_once(autojump_clock):
    async with open_server(patient_app(), jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        assert peer.welcome["data"]["topics"] == ["of.7"]
        assert (await peer.receive())["type"] == "running"


async def test_a_connection_stays_its_users_own(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        other = {"type": "authenticate", "data": {"token": token("8")}}
        assert code_of(await peer.request_reply(other)) == "forbidden"
        assert server.supervisor.connection(peer.id).user_id == "7"


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
        assert server.supervisor.connection(peer.id).user_id is None
        assert await peer.close_code() == 4504


async def test_a_renewed_token_takes_back_what_the_old_one_allowed(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        publication = {"type": "data", "topic": "a"}
        assert (await peer.request_reply(publication))["type"] == "published"
        narrow = token("7", publish=["b"])
        await peer.request_reply({"type": "authenticate", "data": {"token": narrow}})
        assert code_of(await peer.request_reply(publication)) == "forbidden"


async def test_a_renewed_token_takes_back_the_subscriptions_that_it_does_not_allow(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await subscribed(await server.connect(token=token("7")), "a", "b")
        server.supervisor.connection(peer.id).subscribe("c")  # the program's decision stays
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


async def test_one_connection_too_many_of_an_address_hears_no_welcome(autojump_clock):
    async with open_server(max_connections_per_address=1) as server:
        await server.connect()
        peer = server.dial()
        assert (await peer.upgrade())[0] == 101
        assert (await peer.receive_frame())[0] == CLOSE


async def test_a_client_that_publishes_everywhere_is_remembered_only_so_far(autojump_clock):
    async with open_server() as server:
        peer = await server.connect()
        await peer.send(*({"type": "data", "topic": f"t{number}"} for number in range(600)))
        await peer.request_reply({"type": "ping"})
        assert len(server.supervisor.connection(peer.id).checked_topics) <= 256


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
        assert server.supervisor.harbor.router.topics == {}


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
        assert server.supervisor.connection(peer.id).is_open


# --- overload --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
async def test_a_subscriber_that_is_too_slow_for_a_topic_is_told_of_the_gap(autojump_clock, policy):
    settings = {"overload": {"fast.*": policy}, "max_mailbox_size": 5_000}
    async with open_server(**settings) as server:
        peer = await subscribed(await server.connect(capacity=1_000), "fast.a")
        for number in range(50):
            server.supervisor.broadcast_to_topic("fast.a", "n", [number, "x" * 500])
            await settle()
        await peer.send({"type": "ping"})
        position = gaps = 0
        while (message := await peer.receive())["type"] != "pong":
            if message["type"] == "gap":
                assert message["topic"] == "fast.a"
                position += message["data"]["dropped"]
                gaps += 1
            else:
                assert message["data"][0] == position
                position += 1
        assert (position, gaps) == (50, 1)
        assert server.supervisor.statistics.traffic.deliveries_dropped > 0
        assert server.supervisor.connection(peer.id).is_open


async def test_many_requests_in_one_chunk_are_answered_within_the_mailbox(autojump_clock):
    """What one chunk is answered with may be more than a slow peer's mailbox holds."""
    async with open_server(max_mailbox_size=1_000) as server:
        peer = await server.connect(capacity=20_000)
        await peer.send(*({"type": "ping", "id": number} for number in range(400)))
        await settle()
        assert server.log.of("disconnected") == []
        assert server.supervisor.connection(peer.id).cause is CloseCause.SLOW_CONSUMER
