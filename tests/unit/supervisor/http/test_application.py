"""The routes put together: the files of the dashboard, and what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.supervisor.http import application
from tests.fakes_http import serving

STATIC = Path(application.__file__).parent / "static"


async def test_every_file_of_the_dashboard_is_served_as_it_is():
    kinds = {
        ".html": "text/html",
        ".css": "text/css",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
    async with serving() as server:
        for file in STATIC.iterdir():
            path = "/dashboard" if file.name == "index.html" else f"/dashboard/{file.name}"
            answer = await server.get(path, headers={"Authorization": ""})
            assert answer.status_code == 200, path
            assert answer.headers["content-type"].partition(";")[0] == kinds[file.suffix]
            assert answer.content == file.read_bytes()


async def test_the_page_may_load_from_its_own_server_only():
    async with serving() as server:
        policy = (await server.get("/dashboard")).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_the_root_leads_to_the_dashboard():
    async with serving() as server:
        answer = await server.get("/")
        assert (answer.status_code, answer.headers["location"]) == (307, "/dashboard")


@pytest.mark.parametrize(
    "path",
    ["/dashboard/", "/dashboard/../application.py", "/dashboard/%2e%2e/application.py", "/nothing"],
)
async def test_no_other_path_is_served(path):
    async with serving() as server:
        answer = await server.get(path)
        assert answer.status_code in {307, 404}
        if answer.status_code == 307:
            assert answer.headers["location"].endswith("/dashboard")


async def test_the_websocket_route_is_no_page():
    async with serving() as server:
        assert (await server.get("/control")).status_code == 404
