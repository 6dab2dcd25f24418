"""A client, written against the public names alone. It is type-checked strictly, and never run."""

from typing import Any, assert_type

import trio

from moorage import Envelope, open_client
from moorage.client import (
    Backoff,
    Client,
    ClientClosed,
    ClientState,
    ClientStatistics,
    ClientSubscription,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)


async def fetch_token() -> str:
    """Get a token from somewhere."""
    await trio.lowlevel.checkpoint()
    return "token"


async def talk(url: str) -> None:
    """Use every verb of a client."""
    async with open_client(
        url, token=fetch_token, topics=["news"], backoff=Backoff(initial=0.5)
    ) as client:
        assert_type(client, Client)
        assert_type(client.state, ClientState)
        assert_type(client.statistics(), ClientStatistics)
        assert_type(client.connection_id, str | None)
        assert_type(client.user_id, str | None)
        assert_type(await client.publish("news", {"n": 1}), Envelope)
        await client.send("look_up", {"name": "Ann"})
        client.send_nowait("look_up", {"name": "Ben"})
        reply = await client.request("look_up", {"name": "Ann"}, timeout=3)
        assert_type(reply, Envelope)
        assert_type(reply.type, str)
        assert_type(reply.data, Any)
        async with client.subscribe("orders") as orders:
            assert_type(orders, ClientSubscription)
            assert_type(orders.dropped, int)
            async for message in orders:
                assert_type(message, Envelope)
        async for message in client.messages():
            assert_type(message.error, str | None)


async def main() -> None:
    """Talk, and say what went wrong."""
    try:
        await talk("ws://127.0.0.1:8765/ws")
    except RequestError as error:
        assert_type(error.retryable, bool)
    except ConnectionRefused as error:
        assert_type(error.status, int)
    except (ConnectError, ConnectionLost) as error:
        assert_type(str(error), str)
    except ClientClosed as error:
        assert_type(error.reason, str)
