"""Clients of a server under test, and the operators who give it commands."""

from __future__ import annotations

import inspect

import pytest

from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.supervisor.operations.operations import Caller
from tests.fakes import Peer, Server
from tests.fakes_server import subscribed, token

OLGA, PETE = Caller("olga"), Caller("pete")


async def client(server: Server, user: str, *topics: str) -> Peer:
    return await subscribed(await server.connect(token=token(user)), *topics)


def refusal(expected: ErrorCode, function, /, *arguments) -> str:
    """Call a function that must raise, before it waits for anything; return the error's text."""

    def call() -> None:
        result = function(*arguments)
        if inspect.iscoroutine(result):
            result.send(None)

    with pytest.raises(RemoteProtocolError) as caught:
        call()
    assert caught.value.code is expected
    return caught.value.message
