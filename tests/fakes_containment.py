"""Code of a program that fails, and other clients that must not be affected."""

from __future__ import annotations

import asyncio
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


class Foreign(BaseException):
    """A library's own way to end a thread or a coroutine, of which Moorage knows nothing."""


class Unsplittable(BaseExceptionGroup):
    """A group that fails when somebody wants a part of it."""

    def derive(self, excs):
        raise RuntimeError("not even that")


async def cancelled_elsewhere() -> trio.Cancelled:
    """Return the `Cancelled` of a scope that is over, as a program might have kept it."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept = error
            raise
    return kept


KINDS = {
    "Exception": Bug,
    "SystemExit": lambda: SystemExit(0),
    "GeneratorExit": GeneratorExit,
    "asyncio": asyncio.CancelledError,
    "foreign": Foreign,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "mixed group": lambda: BaseExceptionGroup(
        "mixed", [Bug(), SystemExit(1), BaseExceptionGroup("inner", [GeneratorExit(), Foreign()])]
    ),
    "unsplittable group": lambda: Unsplittable("odd", [Bug(), Foreign()]),
    "Cancelled": cancelled_elsewhere,
    "group with Cancelled": cancelled_elsewhere,
}
"""Ways to make each kind of exception that a program's code may raise, by name."""


async def made(kind: str) -> BaseException:
    """Return an exception of that kind."""
    error = KINDS[kind]()
    if not isinstance(error, BaseException):
        error = await error
    return BaseExceptionGroup("g", [error, Bug()]) if kind == "group with Cancelled" else error
