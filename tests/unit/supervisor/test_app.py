"""What a program may register, what is refused with a word of why, and how it behaves."""

from __future__ import annotations

import functools
import re

import pytest
import trio

from moorage.protocol.errors import ErrorCode, LocalProtocolError
from moorage.protocol.messages.types import MessageType
from moorage.supervisor.app import App
from tests.fakes import open_server
from tests.fakes_server import KEY, subscribed, token, upgraded


async def anything(*arguments): ...


async def nothing(connection): ...


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("ws", {}, "slash"),
        ("/ws", {"topics": "news"}, "not one string"),
        ("/ws", {"raw": True, "topics": {"news"}}, "raw endpoint"),
        ("/ws", {"raw": True, "authenticate_by_message": True}, "raw endpoint"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(path, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        App().endpoint(path, **options)(nothing)


def test_an_endpoints_topics_must_be_topics():
    with pytest.raises(LocalProtocolError) as caught:
        App().endpoint("/ws", topics={"a b"})(nothing)
    assert caught.value.code is ErrorCode.BAD_TOPIC


def test_a_raw_endpoint_needs_a_function():
    with pytest.raises(ValueError, match="function"):
        App().add_endpoint("/raw", raw=True)


def test_a_path_has_one_endpoint():
    app = App()
    app.endpoint("/ws")(nothing)
    with pytest.raises(ValueError, match="already"):
        app.endpoint("/ws")(nothing)


@pytest.mark.parametrize("message_type", [str(name) for name in MessageType])
def test_the_protocols_own_types_cannot_be_handled(message_type):
    with pytest.raises(ValueError, match="protocol"):
        App().on(message_type)


@pytest.mark.parametrize("message_type", ["", "a b", "x" * 65, "ä"])
def test_an_illegal_type_cannot_be_handled(message_type):
    with pytest.raises(ValueError, match="a message type is"):
        App().on(message_type)


def test_a_type_has_one_handler():
    app = App()
    app.on("chat")(anything)
    with pytest.raises(ValueError, match="already"):
        app.on("chat")


def test_decorators_return_the_function_as_it_was():
    app = App()
    for decorator in (
        app.endpoint("/ws"),
        app.on("chat"),
        app.authorize_connect,
        app.authorize_subscribe,
        app.authorize_publish,
        app.connected,
        app.disconnected,
    ):
        assert decorator(anything) is anything


@pytest.mark.parametrize(
    ("name", "form", "right", "wrong"),
    [
        ("on", "handler(context, message)", lambda context, message: 0, lambda context: 0),
        ("authorize_connect", "authorizer(request)", lambda request: 0, lambda a, b: 0),
        ("authorize_subscribe", "authorizer(connection, topic)", lambda a, b: 0, lambda a: 0),
        ("authorize_publish", "authorizer(connection, topic)", lambda a, b: 0, lambda a, b, c: 0),
        ("connected", "callback(connection)", lambda connection: 0, lambda: 0),
        ("disconnected", "callback(connection, cause)", lambda a, b: 0, lambda a: 0),
        ("endpoint", "endpoint(connection)", anything, lambda a, b: 0),
    ],
)
def test_a_function_that_takes_other_arguments_is_refused_when_it_is_registered(
    name, form, right, wrong
):
    # It was taken, and each message then failed in it.
    app = App()
    arguments = {"on": ["chat"], "endpoint": ["/ws"]}.get(name)
    register = getattr(app, name) if arguments is None else getattr(app, name)(*arguments)
    with pytest.raises(TypeError, match=rf"^expected {re.escape(form)}, not <lambda>\(") as caught:
        register(wrong)
    assert "argument" in str(caught.value)
    with pytest.raises(TypeError, match=r"^expected a function to be called as .*, not 7$"):
        register(7)
    assert register(right) is right


def test_a_function_may_have_more_arguments_with_defaults_or_be_an_object():
    class Handler:
        def __call__(self, context, message): ...

    app = App()
    app.on("a")(Handler())
    app.on("b")(lambda context, message, *, more=1: None)
    app.on("c")(functools.partial(lambda extra, context, message: None, 1))
    app.on("d")([].insert)  # a function of C
    with pytest.raises(TypeError, match=r"expected handler\(context, message\), not <lambda>"):
        app.on("e")(lambda context, message, *, needed: None)


@pytest.mark.parametrize(("name", "form"), [("on", "@app.on('chat')"), ("endpoint", "'/ws')")])
def test_a_decorator_without_parentheses_teaches_how_it_is_written(name, form):
    # It was a TypeError of a regular expression.
    decorator = getattr(App(), name)
    with pytest.raises(TypeError, match=f"expected `.*{re.escape(form)}`, .*`@app.{name}` alone"):
        decorator(anything)
    with pytest.raises(TypeError, match="not 7"):
        decorator(7)


async def test_an_app_without_endpoints_serves_the_path_of_the_settings(autojump_clock):
    async with open_server(path="/other") as server:
        await server.connect("/other")
        assert (await server.dial().upgrade("/ws"))[0] == 404


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_authorize_connect_decides_and_fills_the_metadata(autojump_clock, asynchronous):
    app, requests = App(), []

    def decide(request):
        requests.append(request)
        request.metadata["tenant"] = request.query.get("tenant")
        return None if "tenant" in request.query else False

    async def decide_later(request):
        await trio.sleep(1)
        return decide(request)

    app.authorize_connect(decide_later if asynchronous else decide)
    async with open_server(app, jwt_key=KEY) as server:
        secret = token("ann")
        peer = await server.connect(f"/ws?tenant=x&token={secret}")
        assert server.supervisor.connection(peer.id).metadata == {"tenant": "x"}
        status, _, body = await server.dial().upgrade("/ws", {"Authorization": f"Bearer {secret}"})
        assert status == 403
        assert b'"code":"forbidden"' in body
        assert requests[0].identity.user_id == "ann"
        subprotocols = {"Sec-WebSocket-Protocol": f"bearer.{secret}, moorage.v1"}
        assert (await server.dial().upgrade("/ws?tenant=x", subprotocols))[0] == 101
        assert len(requests) == 3
        assert all(secret not in repr(request) for request in requests)  # it may be logged


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_authorize_subscribe_and_publish_decide(autojump_clock, asynchronous):
    app, asked = App(), []

    def decide(connection, topic):
        asked.append(topic)
        return {"yes": True, "no": False, "perhaps": None}[topic]

    async def decide_later(connection, topic):
        await trio.sleep(1)
        return decide(connection, topic)

    hook = decide_later if asynchronous else decide
    app.authorize_subscribe(hook)
    app.authorize_publish(hook)
    async with open_server(app) as server:
        peer = await server.connect()
        replies = {
            (kind, topic): (await peer.request_reply({"type": kind, "topic": topic}))["type"]
            for kind in ("subscribe", "data")
            for topic in ("yes", "no", "perhaps")
        }
        assert replies == {
            ("subscribe", "yes"): "subscribed",
            ("subscribe", "no"): "error",
            ("subscribe", "perhaps"): "subscribed",
            ("data", "yes"): "published",
            ("data", "no"): "error",
            ("data", "perhaps"): "published",
        }
        assert asked == ["yes", "no", "perhaps"] * 2


async def test_an_authorizer_that_takes_too_long_refuses(autojump_clock):
    app = App()

    @app.authorize_subscribe
    async def slow(connection, topic):
        await trio.sleep(100)

    async with open_server(app, authorize_timeout=2.0) as server:
        peer = await server.connect()
        started = trio.current_time()
        reply = await peer.request_reply({"type": "subscribe", "topic": "t"})
        assert reply["data"]["code"] == "timeout"
        assert trio.current_time() - started == pytest.approx(2.0)
        assert server.router.topics == {}


async def test_an_authorizer_is_not_asked_what_settings_or_token_forbid(autojump_clock):
    app, asked = App(), []
    app.authorize_subscribe(lambda connection, topic: asked.append(topic))
    async with open_server(app, subscribe_patterns=["open"]) as server:
        peer = await server.connect()
        await peer.request_reply({"type": "subscribe", "topic": "closed"})
        await peer.request_reply({"type": "subscribe", "topic": "open"})
        assert asked == ["open"]


async def test_messages_are_acted_on_in_order_though_an_authorizer_waits(autojump_clock):
    app = App()

    @app.authorize_subscribe
    async def later(connection, topic):
        await trio.sleep(1)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send(
            {"type": "subscribe", "topic": "t"},
            {"type": "data", "topic": "t", "data": 1},
            {"type": "unsubscribe", "topic": "t"},
        )
        seen = [(await peer.receive())["type"] for _ in range(3)]
        assert seen == ["subscribed", "data", "unsubscribed"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_handler_can_do_everything_that_a_context_offers(autojump_clock, asynchronous):
    app = App()

    def chat(context, message):
        context.metadata["seen"] = message.data
        assert context.subscribe("room") is True
        assert context.subscribe("room") is False
        assert context.broadcast_to_topic("room", "said", message.data) == 1
        assert context.send_to_user(context.user_id, "private", 1) == 1
        assert context.reply("done", {"user": context.identity.user_id}) is True
        assert context.unsubscribe("room") is True
        assert context.unsubscribe("room") is False

    async def chat_later(context, message):
        await trio.sleep(1)
        chat(context, message)

    app.on("chat")(chat_later if asynchronous else chat)
    async with open_server(app, jwt_key=KEY) as server:
        peer = await server.connect(token=token("7"))
        await peer.send({"type": "chat", "id": "x", "data": [1]})
        seen = [await peer.receive() for _ in range(5)]
        # Replies in the order in which they were made; the broadcast before `unsubscribed`.
        assert [message["type"] for message in seen] == [
            *("subscribed", "private", "done", "said", "unsubscribed")
        ]
        assert seen[2]["id"] == "x"
        assert seen[2]["data"] == {"user": "7"}
        assert server.supervisor.connection(peer.id).metadata == {"seen": [1]}


async def test_the_welcome_comes_before_anything_that_a_connected_callback_says(autojump_clock):
    app = App()

    @app.connected
    def greet(connection):
        connection.subscribe("room")
        connection.send("hello", 1)
        server.supervisor.broadcast_to_topic("room", "came", 2)

    async with open_server(app) as server:
        peer = await server.connect()  # takes the welcome
        assert [(await peer.receive())["type"] for _ in range(3)] == ["subscribed", "hello", "came"]


async def test_a_raw_endpoint_gets_messages_as_they_are(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def shout(connection):
        async for message in connection:
            await connection.send(message.upper())

    async with open_server(app) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send("text")
        assert await peer.receive_frame() == (1, b"TEXT")
        await peer.send_frame(2, b"bytes")
        assert await peer.receive_frame() == (2, b"BYTES")


async def test_one_app_serves_several_supervisors(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=["t"])
    async with open_server(app) as one, open_server(app) as two:
        await subscribed(await one.connect(), "u")
        await two.connect()
        assert one.supervisor.broadcast_to_topic("t", "data") == 1
        assert two.supervisor.broadcast_to_topic("u", "data") == 0


def test_an_endpoints_function_must_be_async():
    with pytest.raises(TypeError, match="async def"):
        App().add_endpoint("/ws", lambda connection: None)


@pytest.mark.parametrize("kind", ["authorize_connect", "authorize_subscribe", "authorize_publish"])
def test_a_second_authorizer_does_not_take_the_place_of_the_first(kind):
    """It did, silently: what the first one would have refused was allowed."""
    app = App()
    getattr(app, kind)(lambda *_asked: False)
    with pytest.raises(ValueError, match="already"):
        getattr(app, kind)(lambda *_asked: True)
