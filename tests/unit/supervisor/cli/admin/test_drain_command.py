"""`moorage admin drain`."""

import pytest

from tests.fakes_admin_cli import client, closed, eventually, stalled_client


@pytest.fixture(autouse=True)
def resumed(admin):
    """Let clients in again after each test, however it ends: they share a server."""
    yield
    admin("resume")


def test_drain_waits_until_all_have_left(server, admin, moorage):
    with client(server, "ann") as ann, client(server, "bea"):
        out = admin("drain", "--timeout", "20")
        assert "0 of 2 left" in out
        assert "drained: 2 connections left within" in out
        eventually(lambda: closed(ann))
        assert ann.close_code == 4000
    assert "not ready: suspended" in moorage("admin", "health")[1]


def test_drain_ends_with_1_when_some_have_not_left(server, moorage):
    with stalled_client(server):
        code, out, err = moorage("admin", "drain", "--timeout", "0.3")
    assert code == 1
    assert out.startswith("1 of 1 left\n")
    assert "1 of 1 connection had not left in time" in err


def test_drain_in_json_is_one_document(asked):
    assert asked("drain")["done"] is True
