"""A server for the tests of this folder, and ways to run the command on it."""

import json

import pytest

from tests.fakes_admin_cli import running_server
from tests.fakes_server import free_port


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    with running_server(
        tmp_path_factory.mktemp("control") / "control.sock",
        control_port=free_port(),
        pong_timeout=0.3,
        max_mailbox_size=16_000_000,
        write_timeout=600,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(environment, monkeypatch, server):
    monkeypatch.setenv("MOORAGE_CONTROL_SOCKET", server.control_socket)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def admin(moorage):
    """Run `moorage admin …`, and expect it to work; returns what it printed."""

    def run(*arguments: str) -> str:
        code, out, err = moorage("admin", *arguments)
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def asked(admin):
    """As `admin`, with --json; returns the document."""
    return lambda *arguments: json.loads(admin(*arguments, "--json"))
