"""What is served at a path, and what a hook sees of a request for it."""

from __future__ import annotations

import trio

from moorage.supervisor.app import App
from tests.fakes import TEXT, open_server
from tests.fakes_server import KEY, echo_app, settle, token, upgraded


async def test_a_raw_endpoint_selects_the_best_of_its_own_subprotocols(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True, subprotocols=("v2", "v1"))
    async def raw(connection):
        await connection.send(str(connection.subprotocol))

    async with open_server(app) as server:
        for offered, selected in (("v1, v2", "v2"), ("v1", "v1"), ("moorage.v1", None)):
            peer = server.dial()
            _, headers, _ = await peer.upgrade("/raw", {"Sec-WebSocket-Protocol": offered})
            assert headers.get("sec-websocket-protocol") == selected
            assert await peer.receive_frame() == (TEXT, str(selected).encode())


async def test_an_endpoint_may_have_its_own_message_size(autojump_clock):
    async with open_server(echo_app(max_message_size=10)) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.send_frame(TEXT, b"x" * 10)
        assert await peer.receive_frame() == (TEXT, b"x" * 10)
        await peer.send_frame(TEXT, b"x" * 11)
        assert await peer.close_code() == 1009


async def test_each_path_has_its_own_topics_and_function(autojump_clock):
    app, seen = App(), []

    @app.endpoint("/a", topics=["ta", "tb"])
    async def a(connection):
        seen.append(connection.path)

    app.add_endpoint("/b")
    async with open_server(app) as server:
        peer = await server.connect("/a")
        assert peer.welcome["data"]["topics"] == ["ta", "tb"]
        assert (await server.connect("/b")).welcome["data"].get("topics", []) == []
        await settle()
        assert seen == ["/a"]
        # The function has returned; its connection goes on.
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"


async def test_an_endpoint_topic_with_user_id_is_each_users_own_and_nobodys_without_one(
    autojump_clock,
):
    app = App()
    app.add_endpoint("/ws", topics=["user:{user_id}", "news"])
    async with open_server(app, jwt_key=KEY, anonymous=True) as server:
        ann = await server.connect(token=token("ann"))
        assert ann.welcome["data"]["topics"] == ["user:ann", "news"]
        # Once it was subscribed to "user:", which all the anonymous would have shared.
        assert (await server.connect()).welcome["data"]["topics"] == ["news"]


async def test_a_function_is_cancelled_with_its_connection(autojump_clock):
    app, ends = App(), []

    @app.endpoint("/ws")
    async def forever(connection):
        try:
            await trio.sleep_forever()
        finally:
            ends.append(connection.id)

    async with open_server(app) as server:
        peer = await server.connect()
        await peer.close()
        await settle()
        assert ends == [peer.id]


async def test_require_auth_is_the_endpoints_own_decision(autojump_clock):
    app = App()
    app.add_endpoint("/closed", require_auth=True)
    app.add_endpoint("/open", require_auth=False)
    app.add_endpoint("/default")
    async with open_server(app, jwt_key=KEY) as server:
        assert (await server.dial().upgrade("/closed"))[0] == 401
        assert (await server.dial().upgrade("/default"))[0] == 401
        await server.connect("/open")
        await server.connect("/closed", token=token("ann"))
    async with open_server(app, jwt_key=KEY, anonymous=True) as server:
        assert (await server.dial().upgrade("/closed"))[0] == 401
        await server.connect("/default")


async def test_an_authorizer_sees_the_request_without_its_token(autojump_clock):
    app = App()
    seen = []
    app.authorize_connect(seen.append)
    async with open_server(app, jwt_key=KEY) as server:
        secret = token("7")
        headers = {
            "Authorization": f"Bearer {secret}",
            "Sec-WebSocket-Protocol": f"moorage.v1, bearer.{secret}",
            "X-Trace": "1",
        }
        assert (await server.dial().upgrade(f"/ws?token={secret}&a=%20b&a=c", headers))[0] == 101
    (request,) = seen
    assert (request.path, request.query) == ("/ws", {"a": " b"})
    assert request.headers["x-trace"] == "1"
    assert (request.identity.user_id, request.address) == ("7", "192.0.2.1")
    assert secret not in repr(request)
