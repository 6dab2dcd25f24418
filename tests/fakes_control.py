"""Operators of a server under test."""

from __future__ import annotations

import time
from typing import Any

import jwt

from moorage.actors.transports.memory import memory_connection
from tests.fakes import Peer, Server
from tests.fakes_server import KEY, token

ADMIN = {"jwt_key": KEY, "anonymous": True}
"""Settings under which `token` makes valid tokens, and clients need none."""


def dial_admin(server: Server, *, capacity: int = 65_536, address: str = "198.51.100.7") -> Peer:
    """Connect as an operator does over TCP, without sending anything yet."""
    near, far = memory_connection(capacity, (address, "server"))
    server.admin_sessions.serve(far)
    return Peer(near)


async def connect_admin(
    server: Server, user: str = "olga", *, capacity: int = 65_536, **claims: Any
) -> Peer:
    """Connect with an administrator's token."""
    peer = dial_admin(server, capacity=capacity)
    bearer = f"Bearer {token(user, role='admin', **claims)}"
    status, _, body = await peer.upgrade("/", {"Authorization": bearer})
    assert status == 101, body
    peer.welcome = await peer.receive()
    return peer


async def ask(peer: Peer, command: str, **data: Any) -> dict[str, Any]:
    """Send a command; return the data of its result."""
    reply = await peer.request_reply({"type": command, "data": data})
    while reply["type"] == "progress":
        while (reply := await peer.receive()).get("id") != "request":
            pass
    assert reply["type"] == "result", reply
    return reply["data"]


async def refused(peer: Peer, command: str, **data: Any) -> tuple[str, str]:
    """Send a command that is refused; return the error's code and text."""
    reply = await peer.request_reply({"type": command, "data": data})
    assert reply["type"] == "error", reply
    return reply["data"]["code"], reply["error"]


def expired_token(user: str, **claims: Any) -> str:
    """Return a token that expired a minute ago."""
    return jwt.encode({"sub": user, "exp": int(time.time()) - 60, **claims}, KEY, "HS256")
