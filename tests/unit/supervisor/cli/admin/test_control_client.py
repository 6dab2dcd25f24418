"""The client of the control socket: where the server is, and what is said where that fails."""

import socket
import time
from functools import partial

import jwt
import pytest
import trio

from moorage.supervisor.entrance.tokens import mint_token
from tests.fakes_admin_cli import SECRET
from tests.fakes_cli import beside
from tests.fakes_server import free_port


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["connection", "nobody"], "there is no connection 'nobody'"),
        (["connections", "--state", "odd"], "--state: 'odd' is not allowed; allowed: one of"),
        (["connections", "--limit", "0"], "--limit: '0' is not allowed"),
        (["topic", "a b"], "topic"),
        (["disconnect", "--user", "a", "--code", "1005"], "--code: 1005 cannot be sent"),
        (["broadcast", "--user", "a", "--type", "a b"], "type"),
        (["watch", "--event", "a**"], "--event: "),
    ],
)
def test_what_the_server_refuses_is_a_sentence_in_the_words_of_the_flags(moorage, arguments, said):
    code, out, err = moorage("admin", *arguments)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_server_that_is_not_there_is_one_sentence_that_says_where_and_what_to_try(
    moorage, tmp_path, monkeypatch
):
    missing = str(tmp_path / "missing.sock")
    monkeypatch.setenv("MOORAGE_CONTROL_SOCKET", missing)
    for command in (["admin", "stats"], ["top"], ["admin", "watch"], ["admin", "drain"]):
        began = time.monotonic()
        code, out, err = moorage(*command)
        assert time.monotonic() - began < 4  # does not try again
        assert (code, out) == (1, "")
        assert err.startswith(f"moorage: no server at {missing} (there is no such file): ")
        assert "moorage serve" in err
        assert "--control-socket" in err


def test_a_socket_that_nobody_listens_on_is_told_from_none(moorage, tmp_path):
    path = str(tmp_path / "left.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    code, _, err = moorage("admin", "stats", "--control-socket", path)
    assert code == 1
    assert "nobody listens there any more" in err


def test_a_port_that_nobody_listens_on_is_one_sentence(moorage):
    code, _, err = moorage("admin", "stats", "--url", f"ws://127.0.0.1:{free_port()}/")
    assert code == 1
    assert "no server at ws://127.0.0.1:" in err


def test_the_default_is_where_serve_makes_the_socket(moorage, tmp_path, monkeypatch):
    monkeypatch.delenv("MOORAGE_CONTROL_SOCKET")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    _, _, err = moorage("admin", "stats")
    assert str(tmp_path / "moorage" / "control.sock") in err


def test_over_tcp_a_token_of_an_admin_is_needed(server, moorage, monkeypatch):
    def stats(token=None):
        given = [] if token is None else ["--token", token]
        return moorage("admin", "stats", "--url", server.control_url, *given)

    code, out, err = stats()
    assert (code, out) == (1, "")
    assert "lets nobody in without a token" in err
    assert "moorage token --user NAME --role admin" in err
    code, _, err = stats(mint_token(SECRET, user="ann", role="user"))
    assert code == 1
    assert "refused this token: the control socket is for tokens with `role: admin`" in err
    code, _, err = stats(jwt.encode({"sub": "root", "role": "admin", "exp": 1}, SECRET))
    assert code == 1
    assert "expired" in err
    admins = mint_token(SECRET, user="root", role="admin")
    assert stats(admins)[0] == 0
    monkeypatch.setenv("MOORAGE_TOKEN", admins)
    assert stats()[0] == 0


def test_the_unix_socket_is_not_shown_a_token_that_was_meant_for_others(admin, monkeypatch):
    monkeypatch.setenv("MOORAGE_TOKEN", mint_token(SECRET, user="ann", role="user"))
    admin("stats")


def test_what_is_no_control_socket_is_told(server, moorage):
    token = mint_token(SECRET, user="root", role="admin")
    code, _, err = moorage("admin", "stats", "--url", server.url, "--token", token)
    assert code == 1
    assert "this is no control socket" in err
    elsewhere = server.url.replace("/ws", "/")
    code, _, err = moorage("admin", "stats", "--url", elsewhere, "--token", token)
    assert code == 1
    assert f"{elsewhere} is no control socket" in err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "without answering the upgrade; if this port speaks TLS, try wss://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "this port speaks TLS; try wss://"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", "HTTP 503: full"),
    ],
)
async def test_a_session_that_was_never_open_is_not_said_to_be_lost(moorage, answer, said):
    # "The connection was lost" was the end of each, whatever the server had said.
    async def refuse(stream):
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve, refuse, 0)
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        arguments = ("admin", "stats", "--url", url, "--patience", "0.3")
        code, out, err = await beside(moorage, *arguments)
        nursery.cancel_scope.cancel()
    assert (code, out) == (1, "")
    assert err.endswith(f"{said}\n")
    assert "lost" not in err
