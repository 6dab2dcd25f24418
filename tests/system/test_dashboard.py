"""The dashboard: its control socket, and the page in a real browser on a real server."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from moorage.actors.transports.sockets import SocketTransport
from moorage.supervisor.http.application import _FILES, _STATIC
from tests.external import node, node_package, require_debian
from tests.fakes import Peer
from tests.fakes_http import EXPIRED, client, serving
from tests.fakes_server import KEY, token

OWN = "http://localhost"  # the origin of pages of the host that `Peer` names
SCRIPT = Path(__file__).with_name("dashboard.js")


# --- The control socket for pages


@pytest.fixture
async def dial():
    """Connect to the HTTP listener, without sending anything yet."""
    peers = []

    def connect(server):
        host, _, port = server.url.removeprefix("http://").partition(":")
        peers.append(Peer(SocketTransport(socket.create_connection((host, int(port))))))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.transport.close()


def protocols(value):
    return {"Sec-WebSocket-Protocol": f"moorage.v1, bearer.{value}"}


@pytest.fixture
def admin():
    return token("root", role="admin")


@pytest.fixture
def control(dial):
    """Open the control socket, as a page does."""

    async def connect(server, headers):
        peer = dial(server)
        status, _, body = await peer.upgrade("/control", headers)
        assert status == 101, body
        assert (await peer.receive())["type"] == "welcome"
        return peer

    return connect


async def test_a_page_gives_the_same_commands_as_every_operator(control, admin):
    async with serving() as server:
        alice = await client(server, "alice", "news")
        peer = await control(server, {**protocols(admin), "Origin": OWN})
        answer = await peer.request_reply({"type": "connections", "data": {"topic": "news"}})
        assert answer["type"] == "result"
        assert [entry["connection_id"] for entry in answer["data"]["connections"]] == [alice.id]
        error = await peer.request_reply({"type": "connections", "data": {"colour": 1}})
        assert error["data"]["code"] == "bad_message"
        assert "colour" in error["error"]


async def test_events_come_as_they_happen(control, admin):
    async with serving() as server:
        peer = await control(server, protocols(admin))
        await peer.request_reply({"type": "watch", "data": {"events": ["connected"]}})
        alice = await client(server, "alice")
        event = await peer.receive_type("event")
        assert event["data"]["event"] == "connected"
        assert event["data"]["connection_id"] == alice.id


async def test_a_large_answer_passes_whole(control, admin):
    async with serving() as server:
        peer = await control(server, protocols(admin))
        data = {"topic": "x", "message_type": "x", "data": "y" * 60_000}
        assert (await peer.request_reply({"type": "broadcast", "data": data}))["type"] == "result"
        answer = await peer.request_reply({"type": "ping", "data": "z" * 60_000})
        assert answer["data"] == "z" * 60_000


@pytest.mark.parametrize(
    ("shown", "status", "code"),
    [
        (None, 401, "unauthorized"),
        ("x.y.z", 401, "unauthorized"),
        (EXPIRED, 401, "token_expired"),
        (token("mallory"), 403, "forbidden"),
        (token("mallory", role="user"), 403, "forbidden"),
    ],
)
async def test_without_an_administrators_token_there_is_no_session(dial, shown, status, code):
    async with serving() as server:
        peer = dial(server)
        got, headers, body = await peer.upgrade("/control", protocols(shown) if shown else {})
        assert got == status
        assert json.loads(body)["code"] == code
        assert ("www-authenticate" in headers) == (status == 401)
        assert not server.admin_sessions.sessions


async def test_pages_of_other_origins_get_no_session_even_with_a_token(dial, admin):
    async with serving() as server:
        for origin in ("https://evil.example", "null", f"{OWN}.evil.example", "http://moorage"):
            peer = dial(server)
            status, _, body = await peer.upgrade("/control", {**protocols(admin), "Origin": origin})
            assert status == 403, origin
            assert json.loads(body)["code"] == "forbidden"


async def test_a_page_that_closes_or_vanishes_ends_its_session(control, admin):
    async with serving() as server:
        sessions = server.admin_sessions.sessions
        for leave in (lambda peer: peer.close(), lambda peer: peer.stream.aclose()):
            peer = await control(server, protocols(admin))
            assert len(sessions) == 1
            await leave(peer)
            with trio.fail_after(5):
                while sessions:  # noqa: ASYNC110 - nothing tells from outside
                    await trio.sleep(0.01)


async def test_a_stopping_server_says_goodbye_to_pages(control, admin):
    async with serving() as server:
        peer = await control(server, protocols(admin))
    assert await peer.close_code() == 1001


async def test_a_page_that_breaks_the_protocol_harms_itself_only(control, admin):
    async with serving() as server:
        peer = await control(server, protocols(admin))
        await peer.send_frame(0x2, b"binary")
        assert await peer.close_code() == 1003
        peer = await control(server, protocols(admin))
        await peer.send_bytes(b"\xff" * 64)
        await peer.close_code()
        await control(server, protocols(admin))
        assert not server.log.of("http_failed")


# --- What is served


async def test_every_file_of_the_dashboard_is_served_and_no_other():
    assert {name for name, _ in _FILES.values()} == {path.name for path in _STATIC.iterdir()}
    async with serving() as server:
        for path, (name, kind) in _FILES.items():
            response = await server.get(path)
            assert response.content == (_STATIC / name).read_bytes()
            assert response.headers["content-type"].startswith(kind)
        for path in ("/dashboard/../http.py", "/dashboard/%2e%2e/service.py", "/dashboard/x"):
            assert (await server.get(path)).status_code == 404
        assert (await server.get("/")).headers["location"] == "/dashboard"


async def test_the_page_may_load_from_its_own_host_only():
    async with serving() as server:
        policy = (await server.get("/dashboard")).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


# --- In a browser


@pytest.fixture(scope="module")
def chromium():
    return require_debian("chromium")


@contextmanager
def serve(tmp_path, ends_with):
    """Run `moorage serve` with HTTP; yield its process, and the addresses in its log, by event."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    settings = {
        "MOORAGE_PORT": "0",
        "MOORAGE_HTTP_PORT": "0",
        "MOORAGE_JWT_KEY": KEY,
        "MOORAGE_LOG_FORMAT": "json",
        "MOORAGE_CONTROL_SOCKET": str(tmp_path / "control.sock"),
    }
    process = subprocess.Popen(
        [Path(sys.executable).with_name("moorage"), "serve"],
        env={**kept, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        listening = {}
        for text in process.stderr:
            line = json.loads(text)
            listening[line["event"]] = line["address"]
            if line["event"] == "http_listening":
                break
        yield process, listening
    finally:
        process.send_signal(signal.SIGCONT)  # a test may have stopped it
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode == ends_with
    failures = [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"]
    assert failures == []


@pytest.fixture
def browse(chromium, tmp_path):
    """Run a scenario of dashboard.js in a browser; return what it saw."""

    def run(scenario, ends_with=0):
        with serve(tmp_path, ends_with) as (process, listening):
            options = {
                "pid": process.pid,
                "browser": chromium,
                "profile": str(tmp_path / "profile"),
                "url": listening["http_listening"],
                "address": listening["listening"],
                "admin": token("root", role="admin"),
                "user": token("alice"),
                "expired": EXPIRED,
            }
            done = subprocess.run(
                [node(), str(SCRIPT), scenario],
                env={**os.environ, "NODE_PATH": str(node_package("playwright-core"))},
                input=json.dumps(options),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            seen = json.loads(done.stdout)
            assert set(seen["asked"]) <= {options["url"]}, "something came from elsewhere"
        return seen

    return run


def test_a_token_that_is_not_an_administrators_is_refused_with_the_reason(browse):
    seen = browse("refused")
    malformed, spaces, expired, user = seen["errors"]
    assert "not a JWT" in malformed
    assert "not a token" in spaces
    assert "expired" in expired
    assert "`role` is admin" in user
    assert not seen["board"]
    assert seen["focused"] == "token"
    assert seen["kept"] == 0


def test_a_token_stays_in_its_tab_and_is_gone_after_signing_out(browse):
    seen = browse("signIn")
    assert seen["kept"] == [1, 0]
    assert seen["cookies"] == 0
    assert (seen["afterwards"], seen["field"]) == (0, "")
    assert seen["complaints"] == []


def test_a_client_appears_gets_a_broadcast_and_is_disconnected(browse):
    seen = browse("live")
    assert "open" in seen["row"]
    assert "not JSON" in seen["wrong"]
    assert seen["broadcast"]["topic"] == "news"
    assert seen["broadcast"]["data"] == {"markup": "<b>"}
    for word in ("alice", "127.0.0.1", "news", "Next deadline", "Round trip"):
        assert word in seen["detail"]
    assert seen["inside"] == "detail"
    assert seen["closed"] == {"code": 4503, "reason": "please rest"}
    assert seen["complaints"] == []


def test_suspending_and_draining_ask_first(browse):
    seen = browse("steer")
    assert seen["focused"] == "Cancel"
    assert seen["afterEscape"] == "Ready"
    assert seen["closed"] == 4000
    assert seen["complaints"] == []


def test_when_the_server_no_longer_answers_the_page_says_so_and_offers_nothing(browse):
    # It went on to say "Ready: new clients are let in", and its buttons worked.
    seen = browse("gone", ends_with=-signal.SIGKILL)
    assert seen["fresh"]["state"] == seen["again"]["state"] == "Ready"
    for fresh in (seen["fresh"], seen["again"]):
        assert not fresh["faint"]
        assert {"Suspend…", "Drain…", "Send", "Disconnect"} <= set(fresh["enabled"])
    for name, state, said in (
        ("silent", "No answer", "The server does not answer."),
        ("dead", "Reconnecting", "There is no connection."),
    ):
        assert seen[f"{name}After"] < 2.5
        shown = seen[name]
        assert (shown["state"], shown["enabled"], shown["faint"]) == (state, [], True)
        assert shown["since"].startswith("last data ")
        assert shown["server"].startswith(f"{said} All that is shown is from ")


def test_on_a_phone_nothing_is_wider_than_the_screen(browse):
    seen = browse("phone")
    assert len(seen["widths"]) == 3
    assert all(width <= screen == 360 for width, screen in seen["widths"])


def test_landmarks_headings_and_every_control_have_a_name(browse):
    seen = browse("outline")
    assert seen["first"] == "Skip to content"
    assert seen["unnamed"] == []
    snapshot = seen["snapshot"]
    assert "- banner:" in snapshot
    assert "- main:" in snapshot
    for name in ("Connections", "Topics", "Server", "Broadcast", "Events"):
        assert f'heading "{name}" [level=2]' in snapshot
        assert f'region "{name}"' in snapshot
    assert 'table "Connections, oldest first"' in snapshot
    assert "img" in snapshot
    assert "last 1 min" in snapshot
