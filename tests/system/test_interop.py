"""Clients that we did not write, on real sockets: `websockets` for Python and `ws` for Node."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
import websockets
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from moorage import App, CloseCause
from tests.external import node, node_package
from tests.fakes import Server, open_server
from tests.fakes_server import KEY, assert_nothing_left, echo_app, token, until

Scenario = Callable[[ClientConnection], Awaitable[Any]]


async def with_websockets(url: str, scenario: Scenario, **options: Any) -> Any:
    """Run a scenario with the `websockets` package, which needs asyncio and so a thread."""

    async def run() -> Any:
        async with connect(url, proxy=None, **options) as client:
            return await scenario(client)

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(lambda: asyncio.run(run()))


# The functions that the scripts for Node use.
_NODE = """
const WebSocket = require('ws');
const { readFileSync } = require('node:fs');
const [url, settings] = [process.argv[1], JSON.parse(process.argv[2])];
const inbox = [], waiting = [];
const options = settings.options || {};
if (settings.ca) options.ca = readFileSync(settings.ca);
const client = new WebSocket(url, settings.subprotocols || [], options);
client.on('message', (data, binary) => {
  const message = binary ? data : JSON.parse(data);
  waiting.length ? waiting.shift()(message) : inbox.push(message);
});
const opened = new Promise((resolve) => client.on('open', resolve));
const closed = new Promise((resolve) => client.on('close', (code, reason) =>
  resolve([code, reason.toString()])));
const refused = new Promise((resolve) => client.on('unexpected-response', (_, response) =>
  resolve(response.statusCode)));
client.on('error', (error) => { console.error(error); process.exit(2); });
const receive = () => new Promise((resolve) =>
  inbox.length ? resolve(inbox.shift()) : waiting.push(resolve));
const send = (message) => client.send(JSON.stringify(message));
const done = (result) => console.log(JSON.stringify(result));
"""


async def with_ws(url: str, script: str, **settings: Any) -> Any:
    """Run a script with the `ws` package in Node; return the value that it gave to `done`."""
    modules = await trio.to_thread.run_sync(node_package, "ws")
    program = f"{_NODE}\n(async () => {{ {script} }})();"
    command = [node(), "-e", program, url, json.dumps(settings)]
    environment = {**os.environ, "NODE_PATH": str(modules)}
    with trio.fail_after(20):
        finished = await trio.run_process(command, env=environment, capture_stdout=True)
    return json.loads(finished.stdout)


async def say(client: ClientConnection, **message: Any) -> None:
    await client.send(json.dumps(message))


async def hear(client: ClientConnection) -> Any:
    return json.loads(await client.recv())


async def everyday(client: ClientConnection) -> list[Any]:
    """Subscribe, publish and close, as nearly every client does."""
    seen = [await hear(client)]
    await say(client, type="subscribe", topic="room", id=1)
    seen.append(await hear(client))
    await say(client, type="data", topic="room", data={"text": "grüße 😀", "n": 2**53}, id=2)
    seen += [await hear(client), await hear(client)]
    await say(client, type="unsubscribe", topic="room", id=3)
    seen.append(await hear(client))
    return [(one["type"], one.get("id"), one.get("data")) for one in seen[1:]]


EVERYDAY = [
    ("subscribed", 1, None),
    ("published", 2, None),
    ("data", None, {"text": "grüße 😀", "n": 2**53}),
    ("unsubscribed", 3, None),
]

EVERYDAY_WS = """
  const seen = [await receive()];
  send({type: 'subscribe', topic: 'room', id: 1}); seen.push(await receive());
  send({type: 'data', topic: 'room', data: {text: 'grüße 😀', n: 2**53}, id: 2});
  seen.push(await receive(), await receive());
  send({type: 'unsubscribe', topic: 'room', id: 3}); seen.push(await receive());
  client.close(1000, 'bye');
  await closed;
  done(seen.slice(1).map((one) => [one.type, one.id ?? null, one.data ?? null]));
"""


@attrs.frozen
class Certificates:
    authority: Path
    server: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)


@pytest.fixture
def certificates(tmp_path) -> Certificates:
    authority = trustme.CA()
    found = Certificates(tmp_path / "ca.pem", tmp_path / "server.pem")
    authority.cert_pem.write_to_path(found.authority)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(found.server)
    return found


async def ended(server: Server, cause: CloseCause = CloseCause.PEER_CLOSED) -> None:
    """Assert that every connection of this test has ended, with the same cause."""
    with trio.fail_after(5):
        await until(lambda: not server.actors())
    statistics = server.supervisor.statistics
    assert statistics.closed == {cause: statistics.connected}
    assert_nothing_left(server)


# websockets


async def test_websockets_in_everyday_use():
    async with open_server() as server:
        url = server.supervisor.addresses[0]
        assert await with_websockets(url, everyday) == EVERYDAY
        await ended(server)


async def test_websockets_with_tls(certificates):
    async with open_server(tls_certificate=certificates.server) as server:
        url = server.supervisor.addresses[0]
        assert await with_websockets(url, everyday, ssl=certificates.context()) == EVERYDAY
        await ended(server)


async def test_websockets_with_tls_exchanges_big_messages(certificates):
    app = echo_app("/ws", max_message_size=2_000_000)
    async with open_server(app, tls_certificate=certificates.server) as server:

        async def exchange(client):
            big = [bytes([number]) * 1_000_000 for number in range(5)]
            for message in big:
                await client.send(message)
            return [await client.recv() for _ in big] == big

        url = server.supervisor.addresses[0]
        options = {"ssl": certificates.context(), "max_size": None, "compression": None}
        assert await with_websockets(url, exchange, **options)


async def test_websockets_over_a_unix_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def run():
        async with unix_connect("s", "ws://localhost/ws") as client:
            return await everyday(client)

    async with open_server(unix_socket="s") as server:
        assert await trio.to_thread.run_sync(lambda: asyncio.run(run())) == EVERYDAY
        await ended(server)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_websockets_does_without_compression_when_its_offer_is_declined(compression):
    async def extensions(client):
        assert await everyday(client) == EVERYDAY
        offered = client.request.headers.get("Sec-WebSocket-Extensions", "")
        return offered, client.protocol.extensions

    async with open_server() as server:
        url = server.supervisor.addresses[0]
        offered, agreed = await with_websockets(url, extensions, compression=compression)
        assert ("permessage-deflate" in offered) is (compression is not None)
        assert agreed == []


async def test_websockets_sends_messages_in_fragments():
    async def fragments(client):
        await hear(client)
        text = json.dumps({"type": "ping", "data": "ä" * 1000}, ensure_ascii=False)
        pieces = [text[place : place + 7] for place in range(0, len(text), 7)]
        await client.send(pieces)
        return (await hear(client))["data"]

    async with open_server() as server:
        assert await with_websockets(server.supervisor.addresses[0], fragments) == "ä" * 1000


async def test_websockets_pings_and_is_answered():
    async def ping(client):
        latency = await client.ping(b"are you there?")
        return await latency

    async with open_server() as server:
        assert await with_websockets(server.supervisor.addresses[0], ping) > 0


async def test_websockets_answers_the_servers_pings():
    async def listen(client):
        return [(await hear(client))["type"] for _ in range(4)]

    async with open_server(heartbeat_interval=0.05, pong_timeout=2.0) as server:
        seen = await with_websockets(server.supervisor.addresses[0], listen)
        assert seen == ["welcome", "heartbeat", "heartbeat", "heartbeat"]


async def test_websockets_is_told_why_it_is_closed():
    async def wait(client):
        await hear(client)
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        return client.close_code, client.close_reason

    async with open_server() as server:
        async with trio.open_nursery() as nursery:

            async def disconnect():
                await until(server.supervisor.connections)
                server.actors()[0].disconnect("enough")

            nursery.start_soon(disconnect)
            result = await with_websockets(server.supervisor.addresses[0], wait)
        assert result == (4503, "enough")
        await ended(server, CloseCause.DISCONNECTED)


async def test_websockets_brings_its_token_in_a_header_or_a_subprotocol():
    async def who(client):
        return (await hear(client))["data"]["user_id"], client.subprotocol

    async with open_server(jwt_key=KEY) as server:
        url = server.supervisor.addresses[0]
        header = {"additional_headers": {"Authorization": f"Bearer {token('ann')}"}}
        assert await with_websockets(url, who, **header) == ("ann", None)
        subprotocols = {"subprotocols": [f"bearer.{token('bob')}", "moorage.v1"]}
        assert await with_websockets(url, who, **subprotocols) == ("bob", "moorage.v1")
        assert await with_websockets(f"{url}?token={token('eve')}", who) == ("eve", None)


async def test_websockets_is_refused_with_a_status_and_a_body():
    async with open_server(jwt_key=KEY) as server:
        with pytest.raises(websockets.InvalidStatus) as caught:
            await with_websockets(server.supervisor.addresses[0], everyday)
        response = caught.value.response
        assert response.status_code == 401
        assert json.loads(response.body)["data"]["code"] == "unauthorized"


# ws


async def test_ws_in_everyday_use():
    async with open_server() as server:
        seen = await with_ws(server.supervisor.addresses[0], EVERYDAY_WS)
        assert [tuple(one) for one in seen] == EVERYDAY
        await ended(server)


async def test_ws_with_tls(certificates):
    async with open_server(tls_certificate=certificates.server) as server:
        url = server.supervisor.addresses[0]
        seen = await with_ws(url, EVERYDAY_WS, ca=str(certificates.authority))
        assert [tuple(one) for one in seen] == EVERYDAY
        await ended(server)


async def test_ws_over_a_unix_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with open_server(unix_socket="s") as server:
        seen = await with_ws(server.supervisor.addresses[1], EVERYDAY_WS)
        assert [tuple(one) for one in seen] == EVERYDAY


async def test_ws_is_declined_compression_sends_fragments_pings_and_is_closed_by_the_server():
    script = """
      await receive();
      const first = client.extensions;
      const text = JSON.stringify({type: 'ping', data: 'ä'.repeat(1000)});
      for (let at = 0; at < text.length; at += 7)
        client.send(text.slice(at, at + 7), {fin: at + 7 >= text.length});
      const echoed = (await receive()).data.length;
      const ponged = new Promise((resolve) => client.on('pong', (data) =>
        resolve(data.toString())));
      client.ping('hello');
      const pong = await ponged;
      send({type: 'leave'});
      done([first, echoed, pong, await closed]);
    """
    app = App()
    app.on("leave")(lambda context, message: context.connection.disconnect("as you wish"))
    async with open_server(app) as server:
        url = server.supervisor.addresses[0]
        result = await with_ws(url, script, options={"perMessageDeflate": True})
        assert result == ["", 1000, "hello", [4503, "as you wish"]]
        await ended(server, CloseCause.DISCONNECTED)


async def test_ws_brings_its_token_as_a_browser_would():
    async with open_server(jwt_key=KEY) as server:
        script = (
            "const w = await receive(); done([w.data.user_id, client.protocol]); client.close()"
        )
        subprotocols = [f"bearer.{token('ann')}", "moorage.v1"]
        url = server.supervisor.addresses[0]
        assert await with_ws(url, script, subprotocols=subprotocols) == ["ann", "moorage.v1"]
        assert await with_ws(url, "done(await refused); process.exit(0)") == 401


async def test_websockets_and_ws_hear_each_other():
    script = """
      await receive();
      send({type: 'subscribe', topic: 'room'}); await receive();
      const heard = (await receive()).data;
      send({type: 'data', topic: 'room', data: 'from ws'});
      await receive();
      client.close();
      done(heard);
    """
    results = []

    async def python(client):
        await hear(client)
        await say(client, type="subscribe", topic="room")
        await hear(client)
        while True:
            await say(client, type="data", topic="room", data="from websockets")
            message = await hear(client)
            while message["data"] == "from websockets":
                try:
                    message = await asyncio.wait_for(hear(client), 0.05)
                except TimeoutError:
                    break
            if message["data"] != "from websockets":
                return message["data"]

    async with open_server() as server:
        url = server.supervisor.addresses[0]

        async def run_python():
            results.append(await with_websockets(url, python))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_python)
            assert await with_ws(url, script) == "from websockets"
        assert results == ["from ws"]
