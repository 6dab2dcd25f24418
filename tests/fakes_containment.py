"""Code of a program that fails, and other clients that must not be affected."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from tests.fakes import Peer, Server
from tests.fakes_server import subscribed


class Bug(Exception):
    """The exception that the program's own code raises."""


def errors(server: Server) -> list[dict[str, Any]]:
    """Return the log's lines with level error or above."""
    return [line for line in server.log.lines if line["level"] >= 40]


async def is_served(peer: Peer) -> bool:
    """Tell whether this connection works, and got no message about the failure of others."""
    reply = await peer.request_reply({"type": "data", "topic": "onlookers", "data": 1})
    return reply["type"] == "published" and (await peer.receive())["data"] == 1


async def onlooker(server: Server, path: str = "/ws") -> Peer:
    return await subscribed(await server.connect(path), "onlookers")


def failing(asynchronous: bool, error: BaseException | type[BaseException]):  # noqa: FBT001 - a test's parameter
    def fail(*_arguments):
        raise error

    async def fail_later(*_arguments):
        await trio.sleep(1)
        raise error

    return fail_later if asynchronous else fail


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's cyclic collector from running: what is in a cycle stays in memory."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
