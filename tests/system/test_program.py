"""Promises to programs that embed a server, in cases where the program or its clients err."""

import time

import pytest
import trio

from moorage.protocol.errors import LocalProtocolError
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import mint_token
from moorage.supervisor.server import open_supervisor
from tests.fakes import CLOSE, RecordingLogger, open_server

KEY = "a secret that is long enough for HS256"


def token(**claims) -> str:
    return mint_token(KEY, user="7", ttl=3600, **claims)


async def test_an_exception_in_the_block_comes_out_as_it_was():
    """It once came out in four nested exception groups, one for each of the server's nurseries."""
    error = ValueError("the program's own")
    with pytest.raises(ValueError, match="the program's own") as caught:
        async with open_supervisor(Settings(port=0), logger=RecordingLogger()):
            raise error
    assert caught.value is error


async def test_a_handler_that_returns_a_value_is_told_to_reply(autojump_clock):
    app = App()

    @app.on("plain")
    def plain(context, message):
        return 5

    @app.on("async")
    async def later(context, message):
        return {"lost": True}

    async with open_server(app) as server:
        peer = await server.connect()
        for kind in ("plain", "async"):
            reply = await peer.request_reply({"type": kind})
            assert reply["data"]["code"] == "internal"
        for line in server.log.of("handler_failed"):
            assert "context.reply" in str(line["exc_info"])
        assert len(server.log.of("handler_failed")) == 2


async def test_a_handlers_bad_topic_is_the_programs_fault_and_not_the_clients(autojump_clock):
    app = App()

    @app.on("chat")
    def chat(context, message):
        context.broadcast_to_topic("no topic", "chat")

    async with open_server(app) as server:
        peer = await server.connect()
        assert (await peer.request_reply({"type": "chat"}))["data"]["code"] == "internal"
        assert len(server.log.of("handler_failed")) == 1
        with pytest.raises(LocalProtocolError):
            server.supervisor.broadcast_to_topic("no topic", "chat")


async def test_what_came_before_a_close_frame_is_still_worked_off(autojump_clock):
    app = App()
    done = []

    @app.on("save")
    async def save(context, message):
        await trio.sleep(1)
        done.append(message.data)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send(*({"type": "save", "data": n} for n in range(3)))
        await peer.send_frame(CLOSE, (1000).to_bytes(2))
        assert await peer.close_code() == 1000
        assert done == [0, 1, 2]
        assert server.log.of("disconnected")[0]["cause"] == "peer_closed"


async def test_work_after_a_close_frame_ends_with_the_close_timeout(autojump_clock):
    app = App()

    @app.on("save")
    async def save(context, message):
        await trio.sleep_forever()

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.send({"type": "save"})
        started = trio.current_time()
        await peer.send_frame(CLOSE, (1000).to_bytes(2))
        assert await peer.close_code() == 1000
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)


async def test_a_narrower_token_ends_the_subscriptions_it_does_not_allow(autojump_clock):
    app = App()
    app.add_endpoint("/ws", topics=("notices",))
    async with open_server(app, jwt_key=KEY) as server:
        peer = await server.connect(token=token())
        for topic in ("orders", "prices", "user:7"):
            await peer.request_reply({"type": "subscribe", "topic": topic})
        narrower = token(subscribe=("prices",))
        await peer.send({"type": "authenticate", "data": {"token": narrower}})
        assert await peer.receive_type("unsubscribed") | {"timestamp": ""} == {
            "type": "unsubscribed",
            "topic": "orders",
            "timestamp": "",
        }
        assert (await peer.receive_type("error"))["data"]["code"] == "forbidden"
        await peer.receive_type("authenticated")
        # The program chose the endpoint's topics, and the user's own topics belong to the user.
        (connection,) = server.supervisor.connections()
        assert set(connection.topics) == {"notices", "prices", "user:7"}


async def test_a_tokens_info_is_the_connections_metadata(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        await server.connect(token=token(info={"plan": "gold"}))
        (connection,) = server.actors()
        assert connection.metadata == {"info": {"plan": "gold"}}


async def test_an_endpoint_that_lets_nobody_in_is_warned_of(autojump_clock):
    app = App()
    app.add_endpoint("/private", require_auth=True)
    async with open_server(app) as server:
        assert [line["path"] for line in server.log.of("no_key")] == ["/private"]


async def test_the_welcome_says_when_the_token_expires(autojump_clock):
    async with open_server(jwt_key=KEY) as server:
        peer = await server.connect(token=token())
        expires_at = peer.welcome["data"]["expires_at"]
        year = time.gmtime(time.time() + 3600).tm_year
        assert expires_at.startswith(str(year))
        assert expires_at.endswith("Z")


async def test_a_raw_connection_is_not_sent_messages_of_the_protocol(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def raw(connection):
        await trio.sleep_forever()

    app.add_endpoint("/ws")
    async with open_server(app, jwt_key=KEY) as server:
        raw_peer = server.dial()
        await raw_peer.upgrade("/raw", {"Authorization": f"Bearer {token()}"})
        peer = await server.connect(token=token())
        supervisor = server.supervisor
        assert supervisor.send_to_user(7, "notification", {"n": 1}) == 1
        assert (await peer.receive())["data"] == {"n": 1}
        raw_id = next(c.id for c in supervisor.connections() if c.id != peer.id)
        assert not supervisor.send_to_connection(raw_id, "notification")
