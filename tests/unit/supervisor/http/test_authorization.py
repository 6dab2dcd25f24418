"""Who may ask for what: tokens, roles, and the origin of pages."""

import pytest

from moorage.supervisor.http.rest_api import BASE, ROUTES
from tests.fakes_http import EXPIRED, bearer, serving

GUARDED = [(row.method, row.path.format(connection_id="x")) for row in ROUTES]
PUBLISH = ("POST", "/api/publish")


@pytest.mark.parametrize(("method", "path"), [*GUARDED, PUBLISH])
async def test_without_a_good_token_nothing_is_done(method, path):
    async with serving() as server:
        for headers, code, challenge in (
            ({"Authorization": ""}, "unauthorized", 'Bearer realm="moorage"'),
            ({"Authorization": "Basic eDp5"}, "unauthorized", 'Bearer realm="moorage"'),
            ({"Authorization": "Bearer x.y.z"}, "unauthorized", "invalid_token"),
            ({"Authorization": f"Bearer {EXPIRED}"}, "token_expired", "invalid_token"),
        ):
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 401
            assert set(response.json()) == {"error", "code"}
            assert response.json()["code"] == code
            assert challenge in response.headers["www-authenticate"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_user_is_no_administrator(method, path):
    async with serving() as server:
        for headers in (bearer("mallory"), bearer("mallory", role="user")):
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 403
            assert response.json()["code"] == "forbidden"
            assert "admin" in response.json()["error"]


@pytest.mark.parametrize(("method", "path"), [*GUARDED, PUBLISH])
async def test_pages_of_other_origins_are_refused_even_with_a_token(method, path):
    async with serving() as server:
        headers = {"Origin": "https://evil.example"}
        response = await server.http.request(method, path, headers=headers)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


async def test_its_own_pages_and_those_that_are_named_may_ask():
    async with serving(allowed_origins=("https://ops.example",)) as server:
        for origin in (server.url, "https://ops.example"):
            response = await server.get(f"{BASE}/stats", headers={"Origin": origin})
            assert response.status_code == 200
        for origin in ("null", "*", server.url + "0"):
            response = await server.get(f"{BASE}/stats", headers={"Origin": origin})
            assert response.status_code == 403


PATHS = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/dashboard", "/", "/nowhere"]
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Host": "evil.example", "Origin": "http://evil.example"},  # it has this machine's address
    {"Host": "evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_without_a_key_nothing_is_for_pages_of_the_web(headers):
    # A page whose host name led here could read the metrics: `Host` was never looked at.
    async with serving(jwt_key=()) as server:
        for method, path in [*(("GET", path) for path in PATHS), *GUARDED, PUBLISH]:
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 403, path
            assert response.json()["code"] == "forbidden"
            assert "`allowed_origins`" in response.json()["error"]
            assert "x-content-type-options" in response.headers


@pytest.mark.parametrize("headers", FOREIGN)
async def test_without_a_key_no_page_of_the_web_gets_a_control_socket(headers):
    async with serving(jwt_key=()) as server:
        upgrade = {
            **headers,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        response = await server.get("/control", headers=upgrade)
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_without_a_key_this_machine_and_what_is_named_may_ask():
    async with serving(jwt_key=(), allowed_origins="https://x.tunnel.example") as server:
        for headers in (
            {},
            {"Host": "localhost:1", "Origin": "http://localhost:5173"},
            {"Host": "[::1]"},
            {"Host": "x.tunnel.example", "Origin": "https://x.tunnel.example"},
        ):
            assert (await server.get("/metrics", headers=headers)).status_code == 200


async def test_with_a_key_a_server_may_have_any_name():
    async with serving() as server:
        assert (await server.get("/metrics", headers={"Host": "ops.example"})).status_code == 200
