"""A server under test with its HTTP listener, and an HTTP client."""

from __future__ import annotations

from contextlib import asynccontextmanager

import attrs
import httpx
import jwt

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.server import open_server
from tests.fakes import RecordingLogger, Server
from tests.fakes_server import KEY, subscribed, token

EXPIRED = jwt.encode({"sub": "root", "role": "admin", "exp": 1_600_000_000}, KEY)


@attrs.define
class HttpServer(Server):
    """A server under test, and an HTTP client that shows an administrator's token."""

    http: httpx.AsyncClient
    url: str

    async def get(self, path, **options):
        return await self.http.get(path, **options)

    async def post(self, path, body=None, **options):
        return await self.http.post(path, json=body, **options)


@asynccontextmanager
async def serving(app=None, **settings):
    log = RecordingLogger()
    options = {"port": 0, "http_port": 0, "jwt_key": KEY, "close_timeout": 0.5, **settings}
    async with open_server(Settings(**options), app, logger=log) as composition:
        (url,) = composition.supervisor.http_addresses
        headers = {"Authorization": f"Bearer {token('root', role='admin')}"}
        # There is no TLS; to load the certificates of all authorities would take 20 ms a client.
        async with httpx.AsyncClient(base_url=url, headers=headers, verify=False) as http:
            yield HttpServer(composition, log, http, url)


def bearer(user, **claims):
    return {"Authorization": f"Bearer {token(user, **claims)}"}


async def client(server, user="alice", *topics):
    """Connect over WebSocket."""
    return await subscribed(await server.connect(token=token(user)), *topics)
