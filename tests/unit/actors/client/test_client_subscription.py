"""The messages of one topic: subscribing, iterating, leaving."""

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import RequestError
from tests.fakes_client import connect, error, wait_until


async def test_a_subscription_yields_the_messages_of_its_topic(autojump_clock, server):
    async with connect(server) as client, client.subscribe("t") as subscription:
        connection = server.connections[0]
        for number in range(3):
            await connection.send("data", topic="t", data=number)
            await connection.send("data", topic="other", data=number)
        got = [(await anext(subscription)).data for _ in range(3)]
        assert got == [0, 1, 2]


async def test_iterating_subscribes_without_a_context(autojump_clock, server):
    async with connect(server) as client, trio.open_nursery() as nursery:

        async def publish():
            await wait_until(lambda: server.connections[0].received)
            await server.connections[0].send("data", topic="t", data="hello")

        nursery.start_soon(publish)
        async for message in client.subscribe("t"):
            assert message.data == "hello"
            break


async def test_leaving_a_subscription_unsubscribes_once_the_last_one_leaves(autojump_clock, server):
    async with connect(server) as client:
        connection = server.connections[0]
        async with client.subscribe("t") as one:
            async with client.subscribe("t") as two:
                await connection.send("data", topic="t", data=1)
                assert (await anext(one)).data == (await anext(two)).data == 1
            assert connection.types() == ["subscribe"]
            with pytest.raises(StopAsyncIteration):
                await anext(two)
        assert connection.types() == ["subscribe", "unsubscribe"]
        async with client.subscribe("t"):
            assert connection.types() == ["subscribe", "unsubscribe", "subscribe"]


async def test_leaving_and_subscribing_at_once_ends_subscribed(autojump_clock, server):
    async with connect(server) as client:
        connection = server.connections[0]
        for _ in range(20):
            first = await client.subscribe("t").__aenter__()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.aclose)
                second = client.subscribe("t")
                await second.__aenter__()
            state = [kind for kind in connection.types() if kind.endswith("subscribe")]
            assert state[-1] == "subscribe"
            await connection.send("data", topic="t", data=1)
            assert (await anext(second)).data == 1
            await second.aclose()


async def test_a_refused_subscription_raises_and_leaves_the_client_alone(autojump_clock, server):
    server.answers["subscribe"] = lambda _: error("forbidden", "not yours")
    async with connect(server) as client:
        with pytest.raises(RequestError, match="not yours"):
            async with client.subscribe("secret"):
                pass
        with pytest.raises(RequestError):
            await anext(client.subscribe("secret"))
        await client.publish("t")
        assert "unsubscribe" not in server.connections[0].types()


async def test_a_subscription_that_is_cancelled_on_its_way_is_taken_back(autojump_clock, server):
    server.answers["subscribe"] = lambda _: None
    async with connect(server) as client:
        with trio.move_on_after(1):
            async with client.subscribe("t"):
                pass
        await wait_until(lambda: server.connections[0].types() == ["subscribe", "unsubscribe"])


async def test_a_subscription_that_is_not_answered_raises_a_timeout(autojump_clock, server):
    server.answers["subscribe"] = lambda _: None
    async with connect(server, request_timeout=3) as client:
        with pytest.raises(RequestError, match="timeout"):
            await anext(client.subscribe("t"))


async def test_a_gap_that_the_server_announces_comes_through(autojump_clock, server):
    async with connect(server) as client, client.subscribe("t") as subscription:
        await server.connections[0].send("gap", topic="t", data={"dropped": 3})
        assert (await anext(subscription)).data == {"dropped": 3}
