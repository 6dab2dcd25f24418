"""The body of a request: its form and its size."""

import pytest

from moorage.supervisor.http.request_data import MAX_BODY
from tests.fakes_http import serving


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b" " * (MAX_BODY + 1), "application/json", 413),
    ],
)
async def test_a_body_that_is_no_json_or_too_large_is_refused(content, kind, status):
    async with serving() as server:
        headers = {"Content-Type": kind}
        response = await server.http.post("/api/publish", content=content, headers=headers)
        assert response.status_code == status
        assert set(response.json()) == {"error", "code"}
