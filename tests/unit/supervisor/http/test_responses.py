"""The responses to requests that are wrong."""

import pytest

from moorage.supervisor.http.rest_api import BASE
from tests.fakes_http import serving


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "said"),
    [
        ("GET", "/nowhere", 404, "not_found", "/openapi.json"),
        ("POST", "/healthz", 405, "method_not_allowed", "POST"),
        ("GET", f"{BASE}/connections/none", 404, "not_found", "no connection"),
        ("GET", f"{BASE}/connections?user=1", 400, "bad_message", "'user'; known are: user_id"),
        ("GET", f"{BASE}/connections?limit=many", 400, "bad_message", "`limit`"),
        ("GET", f"{BASE}/connections?limit=0", 400, "bad_message", "from 1 to 1000"),
        ("GET", f"{BASE}/connections?state=odd", 400, "bad_message", "`state`"),
        ("GET", f"{BASE}/connections?cursor=odd", 400, "bad_message", "`cursor`"),
        ("GET", f"{BASE}/connections?topic=a&topic=b", 400, "bad_message", "once"),
        ("GET", f"{BASE}/stats?x=1", 400, "bad_message", "known are: none"),
        ("POST", f"{BASE}/disconnect?user_id=1", 400, "bad_message", "user_id"),
    ],
)
async def test_a_wrong_request_is_answered_with_what_is_wrong(method, path, status, code, said):
    async with serving() as server:
        response = await server.http.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"error", "code"}
        assert response.json()["code"] == code
        assert said in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("disconnect", {}, "exactly one of"),
        ("disconnect", {"user": "x"}, "unknown fields: 'user'"),
        ("disconnect", {"connection_ids": "x"}, "`connection_ids`: "),
        ("disconnect", {"user_id": "x", "code": 99}, "`code`: 99 cannot be sent"),
        ("cleanup", {"quiet_for": -1}, "`quiet_for`"),
        ("broadcast", {"topic": "x"}, "`message_type`: is required"),
        ("broadcast", {"topic": "a b", "message_type": "x"}, "topic"),
        ("broadcast", {"topic": "a", "message_type": "not legal!"}, "type"),
        ("broadcast", [], "the body must be an object"),
    ],
)
async def test_a_wrong_body_is_answered_with_the_field_that_is_wrong(path, body, said):
    async with serving() as server:
        response = await server.post(f"{BASE}/{path}", body)
        assert response.status_code == 400
        assert said in response.json()["error"]
