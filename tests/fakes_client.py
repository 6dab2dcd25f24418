"""A scripted server in memory, for the client's tests: it answers by itself unless told not to."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
import trio.testing
import trio_websocket
from attrs import define, field

from moorage.actors.client.backoff import Backoff
from moorage.actors.client.client import Client, open_client
from moorage.actors.client.dialing import Address

Message = dict[str, Any]


@define(eq=False)
class FakeConnection:
    """The server's end of one connection."""

    websocket: trio_websocket.WebSocketConnection
    # What the WebSocket runs on.
    stream: trio.abc.Stream
    headers: dict[str, str]
    path: str
    # All that the client has sent.
    received: list[Message] = field(factory=list)
    # What is not read here is not answered either.
    reading: trio.Event = field(factory=trio.Event)
    # The close code that the client sent, 1006 when it just went; set at the end.
    closed_with: int | None = None
    ended: trio.Event = field(factory=trio.Event)
    # Set when `close` is done; its closing handshake needs the reader.
    hung_up: trio.Event | None = None

    async def send(self, type: str, **fields: Any) -> None:
        await self.websocket.send_message(json.dumps({"type": type, **fields}))

    async def close(self, code: int, reason: str = "") -> None:
        self.hung_up = trio.Event()
        with trio.move_on_after(5):
            await self.websocket.aclose(code, reason)
        self.hung_up.set()

    async def break_off(self) -> None:
        await trio.aclose_forcefully(self.stream)

    def types(self) -> list[str]:
        return [message["type"] for message in self.received]


@define(eq=False)
class FaultyStream(trio.abc.Stream):
    """The client's end of a connection whose network can fail without a sign."""

    inner: trio.abc.Stream
    # Nothing arrives any more, and what is sent is lost.
    silent: bool = False
    # What is sent is lost.
    lossy: bool = False
    # Nothing more can be sent: the peer does not read.
    stuck: bool = False
    closed: trio.Event = field(factory=trio.Event)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.stuck:
            await self.closed.wait()
            raise trio.ClosedResourceError
        if not (self.silent or self.lossy):
            await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.inner.receive_some(max_bytes)
        if self.silent and data:
            await self.closed.wait()
            raise trio.ClosedResourceError
        return data

    async def aclose(self) -> None:
        self.closed.set()
        await self.inner.aclose()


@define(eq=False)
class FakeServer:
    """A server that hands out in-memory streams; the client under test gets its `dial`."""

    nursery: trio.Nursery
    # What happens to the next attempts instead of an upgrade: an exception out of `dial`, or
    # status, headers and body of an HTTP answer. None: an upgrade after all.
    script: deque[Any] = field(factory=deque)
    # Fields of the welcome's data, over the usual ones; None: no welcome at all.
    welcome: Message | None = field(factory=dict)
    # Answers to messages by type, over the usual ones; a function may return None for no answer.
    answers: dict[str, Callable[[Message], Message | None]] = field(factory=dict)
    # When, on Trio's clock, attempts were made.
    attempts: list[float] = field(factory=list)
    # The raw request headers of all attempts that got so far.
    requests: list[dict[str, str]] = field(factory=list)
    connections: list[FakeConnection] = field(factory=list)
    # Client ends of all streams handed out.
    streams: list[FaultyStream] = field(factory=list)
    arrived: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    async def dial(self, address: Address) -> trio.abc.Stream:
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        step = self.script.popleft() if self.script else None
        if isinstance(step, BaseException):
            raise step
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(FaultyStream(theirs))
        self.nursery.start_soon(self._serve, ours, step)
        return self.streams[-1]

    async def connection(self, number: int) -> FakeConnection:
        """Wait for the n-th upgraded connection, counted from 1."""
        while len(self.connections) < number:
            await self.arrived.park()
        return self.connections[number - 1]

    async def _serve(self, stream: trio.abc.Stream, step: Any) -> None:
        if isinstance(step, bytes):
            # Bytes, to be sent as they are.
            await stream.receive_some(65_536)
            await stream.send_all(step)
            await stream.aclose()
            return
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            headers = {name.decode(): value.decode() for name, value in request.headers}
            self.requests.append(headers)
            if step is not None:
                status, extra, body = step
                await request.reject(status, extra_headers=extra, body=body)
            else:
                websocket = await request.accept(
                    subprotocol="moorage.v1"
                    if "moorage.v1" in request.proposed_subprotocols
                    else None
                )
                await self._converse(FakeConnection(websocket, stream, headers, request.path))
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    async def _converse(self, connection: FakeConnection) -> None:
        connection.reading.set()
        try:
            if self.welcome is not None:
                data = {
                    "connection_id": f"c{len(self.connections) + 1}",
                    "protocol": "moorage.v1",
                    "heartbeat_interval": 30,
                    "user_id": "7",
                    "topics": [],
                    **self.welcome,
                }
                await connection.send("welcome", data=data, timestamp="2023-01-01T12:00:00Z")
            self.connections.append(connection)
            self.arrived.unpark_all()
            while True:
                await connection.reading.wait()
                message = json.loads(await connection.websocket.get_message())
                connection.received.append(message)
                reply = self._answer(message)
                if reply is not None:
                    await connection.send(**reply)
        except trio_websocket.ConnectionClosed as closed:
            connection.closed_with = closed.reason.code if closed.reason else None
            if connection.hung_up is not None:
                await connection.hung_up.wait()
        finally:
            connection.ended.set()

    def _answer(self, message: Message) -> Message | None:
        kind = message["type"]
        reply: Message | None
        if kind in self.answers:
            reply = self.answers[kind](message)
        elif kind in {"subscribe", "unsubscribe"}:
            reply = {"type": f"{kind}d", "topic": message["topic"]}
        elif kind == "data":
            reply = {"type": "published", "topic": message["topic"]}
        elif kind == "ping":
            reply = {"type": "pong", "data": message.get("data")}
        else:
            reply = None
        if reply is None or "id" not in message:
            return None
        return {"id": message["id"], **reply}


def error(code: str, text: str = "no", *, retryable: bool = False) -> Message:
    return {"type": "error", "error": text, "data": {"code": code, "retryable": retryable}}


def connect(server: FakeServer, **options: Any) -> AbstractAsyncContextManager[Client]:
    """Open a client to that server, whose back-off is the same in every run."""
    options.setdefault("backoff", Backoff(initial=1, maximum=8, random=random.Random(7)))
    return open_client("ws://server.test:8765/ws?x=1", dial=server.dial, **options)


async def wait_until(condition: Callable[[], object], within: float = 1) -> None:
    """Wait for a condition that takes a few turns of the loop, at most `within` seconds."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - virtual time, and no event to wait for
            await trio.sleep(within / 1000)


async def lose_connection(server: FakeServer, client: Client, code: int | None = None) -> None:
    """Break the present connection, or close it with a code, and wait until the client notices."""
    if code is None:
        await server.connections[-1].break_off()
    else:
        await server.connections[-1].close(code)
    await wait_until(lambda: client.connection_id is None)
