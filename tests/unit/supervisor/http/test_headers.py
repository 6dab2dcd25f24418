"""The security headers."""

from moorage.supervisor.http.rest_api import BASE
from tests.fakes_http import serving


async def test_every_response_tells_browsers_to_be_careful():
    async with serving() as server:
        for path in ("/healthz", "/dashboard", "/nowhere", f"{BASE}/stats"):
            headers = (await server.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
