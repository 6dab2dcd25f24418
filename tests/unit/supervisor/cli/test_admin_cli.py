"""`moorage admin …` and `moorage top`, end to end: against a server process of its own."""

import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import attrs
import jwt
import pytest
from websockets.sync.client import connect

from moorage.protocol.admin import answers, commands
from moorage.supervisor.cli import main
from moorage.supervisor.cli.admin import quantities
from moorage.supervisor.entrance.tokens import mint_token

SECRET = "a secret of thirty-two bytes or so"
MOORAGE = [str(Path(sys.executable).with_name("moorage"))]

# Seconds. For what takes milliseconds, on a machine that is busy.
PATIENCE = 30


@attrs.frozen
class Running:
    """A server process, and where it can be reached."""

    url: str
    control_url: str
    control_socket: str


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("control") / "control.sock"
    process = subprocess.Popen(
        [
            *(*MOORAGE, "serve", "--port", "0", "--control-socket", str(path)),
            *("--control-port", str(free_port()), "--log-format", "json", "--pong-timeout", "0.3"),
            *("--max-mailbox-size", "16000000", "--write-timeout", "600", "--jwt-key", SECRET),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = {}
    log = []
    for line in process.stdout:
        log.append(line)
        address = json.loads(line)["address"]
        kind = "socket" if address.startswith("ws+unix") else json.loads(line)["event"]
        found[kind] = address
        if len(found) == 3:
            break
    rest = threading.Thread(target=log.extend, args=(process.stdout,))  # so that it never fills up
    rest.start()
    yield Running(found["listening"], found["control_listening"], str(path))
    process.terminate()
    assert process.wait(PATIENCE) == 0, "".join(log)
    rest.join()
    process.stdout.close()
    assert "Traceback" not in "".join(log)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch, server):
    for name in os.environ:
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOORAGE_CONTROL_SOCKET", server.control_socket)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def moorage(capsys):
    """Run the command in this process; returns exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


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


@contextmanager
def client(server, user, *topics, session=None):
    """A connected and subscribed client that we did not write, and its connection id."""
    token = mint_token(SECRET, user=user, session=session)
    headers = {"Authorization": f"Bearer {token}"}
    with connect(server.url, additional_headers=headers) as peer:
        peer.id = json.loads(peer.recv(PATIENCE))["data"]["connection_id"]
        for topic in topics:
            peer.send(json.dumps({"type": "subscribe", "topic": topic}))
            peer.recv(PATIENCE)
        yield peer


@contextmanager
def stalled_client(server):
    """A client that publishes to itself and never reads: its mailbox fills, its writer waits."""
    host, port = re.match(r"ws://(.+):(\d+)/", server.url).groups()
    token = mint_token(SECRET, user="sleepy")
    head = (
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect((host, int(port)))
        peer.sendall(head.encode())
        assert b"101" in peer.recv(20)
        peer.sendall(masked({"type": "subscribe", "topic": "slow"}))
        large = masked({"type": "data", "topic": "slow", "data": "x" * 60_000})
        for _ in range(120):  # 7 MB: more than any kernel buffers on the way
            peer.sendall(large)
        yield


def masked(message):
    payload = json.dumps(message).encode()
    length = (
        bytes([0x80 | len(payload)])
        if len(payload) < 126
        else b"\xfe" + struct.pack("!H", len(payload))
    )
    return b"\x81" + length + bytes(4) + payload


def eventually(look):
    """What `look` returns as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@contextmanager
def on_terminal(*arguments):
    """The command on a terminal of 80 x 24 characters: the process, the terminal's other end."""
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [*MOORAGE, *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "COLUMNS": "80", "LINES": "24"},
            start_new_session=True,
        )
        os.close(its)
        yield process, ours
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
    finally:
        os.close(ours)


def read_until(terminal, text):
    """All that a terminal shows up to a text."""
    shown = b""
    while text.encode() not in shown:
        shown += os.read(terminal, 65_536)
    return shown.decode()


# --- help


@pytest.mark.parametrize(
    "command",
    [
        *("admin stats", "admin connections", "admin connection", "admin topics", "admin topic"),
        *("admin disconnect", "admin cleanup", "admin broadcast", "admin health", "admin suspend"),
        *("admin resume", "admin drain", "admin watch", "admin tree", "top"),
    ],
)
def test_the_help_of_every_command_has_an_example(moorage, command):
    code, out, _ = moorage(*command.split(), "--help")
    assert code == 0
    assert re.search(rf"\$ moorage {command}", out)


def test_without_a_command_it_teaches(admin):
    out = admin()
    assert "$ moorage admin disconnect --user" in out
    assert all(re.search(rf"^│ {command} ", out, re.MULTILINE) for command in commands.Command)


# --- to look at


def test_json_is_one_document_with_what_the_protocol_says(server, asked):
    with client(server, "ann", "news") as peer:
        for kind, *command in (
            (answers.Stats, "stats"),
            (answers.Health, "health"),
            (answers.ConnectionsPage, "connections"),
            (answers.ConnectionDetail, "connection", peer.id),
            (answers.TopicsPage, "topics"),
            (answers.TopicDetail, "topic", "news"),
            (answers.Actor, "tree"),
        ):
            assert asked(*command).keys() == attrs.fields_dict(kind).keys()


def test_stats_tells_who_is_there_and_what_is_said(server, admin):
    with client(server, "ann", "news"), client(server, "bea", "news"):
        out = admin("stats")
    assert re.search(r"^ +now +2 of 2 users$", out, re.MULTILINE)
    assert re.search(r"^news +2$", out, re.MULTILINE)
    assert re.search(r"^ +loop lag +[\d.]+ ", out, re.MULTILINE)


def test_connections_are_listed_whole_and_narrowed_by_filters(server, admin, asked):
    with client(server, "ann", "news") as ann, client(server, "bea", "news", "other") as bea:
        out = admin("connections")
        assert ann.id in out
        assert bea.id in out
        assert "2 connections" in out

        def ids(*filters):
            found = asked("connections", *filters)["connections"]
            return [one["connection_id"] for one in found]

        assert ids("--user", "ann") == [ann.id]
        assert ids("--topic", "other") == [bea.id]
        assert ids("--topic", "news", "--state", "open") == [ann.id, bea.id]
        assert ids("--state", "closing") == []
    assert admin("connections", "--user", "ann") == "no connections\n"


def test_a_narrow_terminal_gets_fewer_columns_and_is_told(server, admin, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    with client(server, "ann") as ann:
        out = admin("connections")
    assert max(map(len, out.splitlines())) <= 60
    assert ann.id in out
    assert re.search("^No room for: .*, path[.]$", out, re.MULTILINE)


def test_pages_are_turned_by_the_cursor_or_joined_into_one(server, admin, asked):
    with client(server, "ann") as ann, client(server, "bea") as bea:
        out = admin("connections", "--limit", "1")
        assert "1 of 2 connections" in out
        cursor = re.search(r"--cursor (\S+),", out)[1]
        assert bea.id in admin("connections", "--limit", "1", "--cursor", cursor)
        found = asked("connections", "--all")
        assert [one["connection_id"] for one in found["connections"]] == [ann.id, bea.id]
        assert found["cursor"] is None


def test_many_pages_are_joined_into_one(server, asked, monkeypatch):
    monkeypatch.setattr(commands, "MAX_PAGE", 2)
    with client(server, "ann", *(f"t{n}" for n in range(5))):
        found = asked("topics", "--all")
    assert [one["topic"] for one in found["topics"]] == [f"t{n}" for n in range(5)]


def test_a_connection_is_shown_whole(server, admin):
    with client(server, "ann", "news", "other") as ann:
        out = admin("connection", ann.id)
    assert f"connection {ann.id}" in out
    for label, value in (("user", "ann"), ("state", "open"), ("topics", "news, other")):
        assert re.search(rf"^ +{label} +{value}$", out, re.MULTILINE)
    assert re.search(r"next deadline +in [\d.]+ s", out)


def test_topics_are_listed_by_name_and_shown_one_by_one(server, admin):
    with client(server, "ann", "a.x", "a.y", "b") as ann:
        assert re.findall(r"^(\S+) +1 +0$", admin("topics"), re.MULTILINE) == ["a.x", "a.y", "b"]
        assert "b" not in re.findall(r"^\S+", admin("topics", "--prefix", "a."), re.MULTILINE)
        out = admin("topic", "b")
    assert ann.id in out
    assert re.search(r"overload policy +disconnect", out)


def test_health_ends_with_1_when_the_server_is_not_ready(moorage, admin):
    assert re.search(r"^status +ready$", admin("health"), re.MULTILINE)
    assert "no new clients" in admin("suspend")
    code, out, _ = moorage("admin", "health")
    assert code == 1
    assert "not ready: suspended" in out
    code, out, _ = moorage("admin", "health", "--json")
    assert (code, json.loads(out)["reasons"]) == (1, ["suspended"])
    assert "open to new clients" in admin("resume")
    admin("health")


def test_the_tree_shows_what_a_stalled_writer_waits_for(server, admin, asked):
    with client(server, "ann") as ann, stalled_client(server):
        stalled = eventually(
            lambda: [
                one["connection_id"]
                for one in asked("connections", "--user", "sleepy")["connections"]
                if one["mailbox_bytes"]
            ]
        )[0]
        lines = admin("tree").splitlines()
        listener = next(n for n, line in enumerate(lines) if line.startswith("listener on ws://"))
        assert "accepting" in lines[listener]
        below = "\n".join(lines[listener:])
        assert re.search(rf"─ {ann.id}  open  deadline [\d.]+ s  \S+: wait_readable\n", below)
        assert re.search(
            rf"─ {re.escape(stalled)}  open  deadline .*\n"
            rf" +[\d.]+ MB waiting, the oldest for .*\n"
            rf" +└── writer of {re.escape(stalled)}  \S+: wait_writable",
            below,
        )
        assert "1 more connection" in admin("tree", "--limit", "1")
        assert stalled in admin("stats")  # among the slowest consumers


def test_what_others_have_chosen_cannot_steer_the_terminal(server, admin):
    with client(server, "ann[bold]x[/]", session="a\x1b[2Jb") as ann:
        out = admin("connection", ann.id)
    assert "\x1b" not in out
    assert re.search(r"^ +session +a\\x1b\[2Jb$", out, re.MULTILINE)
    assert re.search(r"^ +user +ann\[bold\]x\[/\]$", out, re.MULTILINE)


# --- to do


def test_disconnect_ends_a_users_connections_with_reason_and_code(server, admin):
    with client(server, "ann") as ann, client(server, "bea") as bea:
        assert (
            admin("disconnect", "--user", "ann", "--reason", "bye") == "1 connection disconnected\n"
        )
        eventually(lambda: closed(ann))
        assert (ann.close_code, ann.close_reason) == (4503, "bye")
        admin("disconnect", "--id", bea.id, "--code", "4999")
        eventually(lambda: closed(bea))
        assert bea.close_code == 4999


def closed(peer):
    try:
        peer.recv(0.05)
    except TimeoutError:
        return False
    except Exception:  # noqa: BLE001 - closed in whatever way: the caller looks at the code
        return True
    return False


def test_disconnect_may_tell_a_topics_subscribers_to_come_back(server, asked):
    with client(server, "ann", "news") as ann:
        assert asked("disconnect", "--topic", "news", "--reconnect")["connection_ids"] == [ann.id]
        eventually(lambda: closed(ann))
        assert ann.close_code == 4007


def test_disconnecting_what_is_not_there_ends_with_1(moorage):
    code, out, err = moorage("admin", "disconnect", "--id", "-nobody-")
    assert (code, out) == (1, "0 connections disconnected\n")
    assert "there is no connection -nobody-" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["disconnect"], "one of --user, --topic, --id"),
        (["disconnect", "--user", "a", "--topic", "b"], "several flags say whom"),
        (["broadcast", "--type", "x"], "one of --topic, --user, --everyone"),
        (["broadcast", "--everyone", "--type", "x", "--data", "{"], "this is not JSON"),
        (["stats", "--url", "ws://x", "--control-socket", "y"], "were both given"),
        (["stats", "--url", "http://x"], "URL: expected a URL such as ws://"),
        (["connection"], "ID"),
    ],
)
def test_a_wrong_usage_ends_with_2_and_a_sentence(moorage, arguments, said):
    code, out, err = moorage("admin", *arguments)
    assert (code, out) == (2, "")
    assert said in err


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


def test_broadcast_reaches_a_topic_a_user_or_everyone_less_those_excluded(server, admin):
    with client(server, "ann", "news") as ann, client(server, "bea") as bea:
        data = '{"text": "hi"}'
        out = admin("broadcast", "--topic", "news", "--type", "notice", "--data", data)
        assert out == "sent to 1 connection\n"
        message = json.loads(ann.recv(PATIENCE))
        assert (message["type"], message["data"]) == ("notice", {"text": "hi"})
        admin("broadcast", "--user", "bea", "--type", "notice")
        assert json.loads(bea.recv(PATIENCE))["type"] == "notice"
        out = admin("broadcast", "--everyone", "--type", "all", "--exclude", ann.id)
        assert out == "sent to 1 connection\n"
        assert json.loads(bea.recv(PATIENCE))["type"] == "all"


def test_cleanup_tells_the_living_from_the_dead(server, admin):
    with client(server, "ann"):  # answers pings in a thread of its own
        assert admin("cleanup", "--quiet-for", "0") == "1 probed, 1 alive, 0 closed\n"


def test_drain_waits_until_all_have_left(server, admin, moorage):
    with client(server, "ann") as ann, client(server, "bea"):
        out = admin("drain", "--timeout", "20")
        assert "2 of 2 left" in out
        assert "drained: 2 connections left within" in out
        eventually(lambda: closed(ann))
        assert ann.close_code == 4000
    assert "not ready: suspended" in moorage("admin", "health")[1]
    admin("resume")


def test_drain_ends_with_1_when_some_have_not_left(server, moorage, admin):
    with stalled_client(server):
        code, _, err = moorage("admin", "drain", "--timeout", "0.3")
    assert code == 1
    assert "1 of 1 connection had not left in time" in err
    admin("resume")


def test_drain_in_json_is_one_document(asked, admin):
    assert asked("drain")["done"] is True
    admin("resume")


def test_what_hits_everyone_asks_on_a_terminal(server, admin):
    with client(server, "ann") as ann:
        for command in (["drain"], ["broadcast", "--everyone", "--type", "x"]):
            with on_terminal("admin", *command) as (process, terminal):
                assert "all 1 connection." in read_until(terminal, "[y/N]")
                os.write(terminal, b"n\n")
                read_until(terminal, "nothing was done")
                assert process.wait(PATIENCE) == 1
        with on_terminal("admin", "drain") as (process, terminal):
            read_until(terminal, "[y/N]")
            os.write(terminal, b"y\n")
            read_until(terminal, "drained: 1 connection")
            assert process.wait(PATIENCE) == 0
        eventually(lambda: closed(ann))
    admin("resume")


def test_without_asking_when_told_so(server, admin):
    with on_terminal("admin", "broadcast", "--everyone", "--type", "x", "--yes") as (process, _):
        assert process.wait(PATIENCE) == 0


# --- to watch


@contextmanager
def watching(*arguments):
    process = subprocess.Popen(
        [*MOORAGE, "admin", "watch", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def test_watch_prints_one_event_a_line(server, admin):
    with watching("--json", "--event", "disconnected", "--event", "admin.*") as process:
        # Its watch has begun as soon as what we do shows there.
        first = provoke(admin, process)
        assert first["event"] == "admin.cleanup"
        with client(server, "ann"):
            admin("disconnect", "--user", "ann")
            found = {}
            while "disconnected" not in found:
                event = json.loads(process.stdout.readline())
                found[event["event"]] = event
        assert found["disconnected"]["cause"] == "disconnected"
        assert found["admin.disconnect"]["for_user"] == "ann"
        assert found["disconnected"]["timestamp"].endswith("Z")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def provoke(admin, process):
    """Do something until a watcher has seen it; return the event."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(process.stdout.readline()))
    thread.start()
    while thread.is_alive():
        admin("cleanup", "--quiet-for", "1000000")
        thread.join(0.05)
    return json.loads(seen[0]) if seen[0].startswith("{") else seen[0]


def test_watch_is_readable(server, admin):
    with watching("--event", "admin.cleanup") as process:
        line = provoke(admin, process)
    assert re.match(r"\d\d:\d\d:\d\d admin\.cleanup by=uid \d+, pid \d+ probed=0 ", line)


def test_watch_ends_when_the_server_ends_the_session(server, asked, admin, tmp_path):
    path = tmp_path / "c.sock"
    command = [*MOORAGE, "serve", "--port", "0", "--control-socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as brief:
        eventually(path.exists)
        with watching("--control-socket", str(path)) as process:
            here = ("--control-socket", str(path))
            eventually(lambda: asked("stats", *here)["control_sessions"] == 2)
            brief.terminate()
            assert process.wait(PATIENCE) == 1
        assert brief.wait(PATIENCE) == 0


# --- top


def test_top_once_prints_one_frame(server, moorage):
    with client(server, "ann", "news"), stalled_client(server):
        code, out, err = moorage("top", "--once")
    assert (code, err) == (0, "")
    assert re.match(r"Moorage \S+  up .*  ready\n", out)
    assert re.search(r"^connections +2 +0\.0 % of 10,000$", out, re.MULTILINE)
    for label in ("in", "out", "loop lag", "mailboxes"):
        assert re.search(rf"^{label} +\d", out, re.MULTILINE)
    assert "slowest consumers" in out
    assert "sleepy" in out
    assert "closed by cause" in out
    assert re.search(r"news +1$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) < 120


def test_top_prints_frames_into_a_pipe_until_it_is_interrupted():
    with subprocess.Popen(
        [*MOORAGE, "top", "--interval", "0.1"], stdout=subprocess.PIPE, text=True
    ) as process:
        frames = 0
        for line in process.stdout:
            assert "\x1b" not in line
            frames += line.startswith("Moorage ")
            if frames == 3:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("ending", ["q", "Ctrl-C"])
def test_top_takes_the_terminal_and_gives_it_back(ending):
    with on_terminal("top", "--interval", "0.1") as (process, terminal):
        shown = read_until(terminal, "q ends")
        assert "\x1b[?1049h" in shown  # the alternate screen
        if ending == "q":
            os.write(terminal, b"q")
        else:
            process.send_signal(signal.SIGINT)
        read_until(terminal, "\x1b[?1049l")
        assert process.wait(PATIENCE) == 0


def test_top_waits_for_a_server_that_has_gone(tmp_path):
    path = tmp_path / "c.sock"
    command = [*MOORAGE, "serve", "--port", "0", "--control-socket", str(path)]
    looking = [*MOORAGE, "top", "--interval", "0.1", "--control-socket", str(path)]
    looking += ["--patience", "0.5"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as first:
        eventually(path.exists)
        with subprocess.Popen(looking, stdout=subprocess.PIPE, text=True) as process:
            wait_for_line(process, "Moorage ")
            first.terminate()
            wait_for_line(process, "waiting for the server to come back")
            first.wait(PATIENCE)
            with subprocess.Popen(command, **quiet) as second:
                wait_for_line(process, "Moorage ")
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE) == 0
                second.terminate()


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before it said {text!r}")


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_an_interval_must_be_one(moorage, interval):
    code, _, err = moorage("top", "--once", f"--interval={interval}")
    assert code == 2
    assert "seconds, 0.1 or more" in err


# --- where the server is


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


# --- how numbers look


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (quantities.count(8123), "8,123"),
        (quantities.counted(1, "topic"), "1 topic"),
        (quantities.counted(2, "topic"), "2 topics"),
        (quantities.rate(0), "0/s"),
        (quantities.rate(12_345), "12.3 k/s"),
        (quantities.size(0), "0 B"),
        (quantities.size(999), "999 B"),
        (quantities.size(999_600), "1.00 MB"),
        (quantities.size(1_998_192), "2.00 MB"),
        (quantities.size(5e16), "50000 TB"),
        (quantities.span(0.0009), "0.9 ms"),
        (quantities.span(59.96), "1 min 0 s"),
        (quantities.span(11_520), "3 h 12 min"),
        (quantities.span(-1.5), "-1.5 s"),
        (quantities.brief(11_520), "3 h"),
        (quantities.brief(0.0123), "12 ms"),
        (quantities.share(0, 0), "0 %"),
        (quantities.share(99_999, 100_000), "99.999 %"),
        (quantities.share(1, 1), "100 %"),
        (quantities.trend([0, 1, 2]), "▁▅█"),
        (quantities.trend([0, 0]), "▁▁"),
        (quantities.moment("2026-01-31T12:00:00.123Z"), "2026-01-31 12:00:00 UTC"),
        (quantities.moment("soon"), "soon"),
    ],
)
def test_numbers_have_few_digits_and_a_unit(shown, expected):
    assert shown == expected
