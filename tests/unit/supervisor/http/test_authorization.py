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
