"""The probes: whether the server lives, and whether it is ready."""

import httpx

from tests.fakes_http import client, serving


async def test_the_probes_need_no_token():
    async with serving() as server, httpx.AsyncClient(base_url=server.url) as stranger:
        assert (await stranger.get("/healthz")).json() == {"status": "alive"}
        assert (await stranger.get("/readyz")).json() == {"status": "ready", "reasons": []}


async def test_readiness_goes_red_with_the_reason():
    async with serving(max_total_connections=1) as server:
        server.supervisor.suspend()
        response = await server.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"status": "not ready", "reasons": ["suspended"]}
        assert (await server.get("/healthz")).status_code == 200
        server.supervisor.resume()
        assert (await server.get("/readyz")).status_code == 200
        await client(server)
        assert (await server.get("/readyz")).json()["reasons"] == ["full"]
