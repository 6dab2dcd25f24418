"""`moorage admin watch`."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.fakes_admin_cli import PATIENCE, client, eventually, give, running_server


@pytest.fixture
def watched(moorage, tmp_path):
    """Run the command on a server of its own; the command ends when that server has stopped."""

    @contextmanager
    def watch(*arguments):
        with ThreadPoolExecutor(1) as threads, running_server(tmp_path / "c.sock") as server:
            socket = ("--control-socket", server.control_socket)
            ended = threads.submit(moorage, "admin", "watch", *arguments, *socket)
            eventually(lambda: server.call(lambda: [*server.server.operations.events.streams]))
            yield server, ended

    return watch


def test_watch_prints_one_event_a_line(watched):
    with watched("--json", "--event", "disconnected", "--event", "admin.*") as (server, ended):
        give(server, "cleanup", quiet_for=1_000_000)
        with client(server, "ann"):
            give(server, "disconnect", user_id="ann")
            server.stop()
        _, out, _ = ended.result(PATIENCE)
    first, *others = (json.loads(line) for line in out.splitlines())
    assert first["event"] == "admin.cleanup"
    found = {event["event"]: event for event in others}
    assert found["disconnected"]["cause"] == "disconnected"
    assert found["admin.disconnect"]["for_user"] == "ann"
    assert found["disconnected"]["timestamp"].endswith("Z")


def test_watch_is_readable(watched):
    with watched("--event", "admin.cleanup") as (server, ended):
        give(server, "cleanup", quiet_for=1_000_000)
        server.stop()
        _, out, _ = ended.result(PATIENCE)
    assert re.match(r"\d\d:\d\d:\d\d admin\.cleanup by=uid \d+, pid \d+ probed=0 ", out)


def test_watch_ends_when_the_server_ends_the_session(watched):
    with watched() as (server, ended):
        server.stop()
        code, _, err = ended.result(PATIENCE)
    assert code == 1
    assert err.startswith("moorage: ")
    assert "has ended the session" in err
