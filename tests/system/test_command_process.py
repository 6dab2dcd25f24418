"""The command as a process of its own: how signals, closed pipes and servers that go end it."""

import json
import re
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from moorage.supervisor.entrance.tokens import mint_token
from tests.fakes_admin_cli import PATIENCE, SECRET, client, give
from tests.system.command_process import on_terminal, serving_process, start, started


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_process(tmp_path_factory.mktemp("control") / "control.sock") as running:
        yield running


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return line
    return pytest.fail(f"it ended before it said {text!r}")


def test_python_runs_the_package_as_the_command():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "moorage", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("moorage: `moorage` has no command 'nonsense'")


def test_the_output_may_be_closed_early():
    process = start("config", "show")
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_ends_connect_with_130(server):
    token = mint_token(SECRET, user="ann")
    with started("connect", server.url, "--topic", "news", MOORAGE_TOKEN=token) as process:
        process.stdin.write('"here"\n')
        process.stdin.flush()
        assert process.stdout.readline().endswith('news "here"\n')
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr.read() == ""


def test_watch_prints_an_event_as_soon_as_it_happens_and_ctrl_c_ends_it_with_130(server):
    arguments = ("--json", "--event", "disconnected", "--event", "admin.*")
    socket = ("--control-socket", server.control_socket)
    with started("admin", "watch", *arguments, *socket) as process:
        # Its watch has begun as soon as what we do shows there.
        assert provoke(server, process)["event"] == "admin.cleanup"
        with client(server, "ann"):
            give(server, "disconnect", user_id="ann")
            event = json.loads(wait_for_line(process, '"event": "disconnected"'))
        assert event["cause"] == "disconnected"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def provoke(server, process):
    """Do something until a watcher has seen it; return the event."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(process.stdout.readline()))
    thread.start()
    while thread.is_alive():
        give(server, "cleanup", quiet_for=1_000_000)
        thread.join(0.05)
    return json.loads(seen[0])


def test_watch_ends_when_its_server_is_told_to_terminate(tmp_path):
    with ExitStack() as stack:
        with serving_process(tmp_path / "c.sock") as server:
            socket = ("--control-socket", server.control_socket)
            process = stack.enter_context(started("admin", "watch", "--json", *socket))
            provoke(server, process)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err.startswith("moorage: ")
    assert "Traceback" not in out + err


def test_what_hits_everyone_asks_the_person_at_the_terminal(server):
    with client(server, "ann"):
        socket = ("--control-socket", server.control_socket)
        with on_terminal("admin", "drain", *socket) as (process, terminal):
            assert "all 1 connection." in terminal.read_until("[y/N]")
            terminal.press("n\n")
            terminal.read_until("nothing was done")
            assert process.wait(PATIENCE) == 1


def test_top_prints_frames_into_a_pipe_until_it_is_interrupted(server):
    socket = ("--control-socket", server.control_socket)
    with started("top", "--interval", "0.1", *socket) as process:
        frames = 0
        for line in process.stdout:
            assert "\x1b" not in line
            frames += line.startswith("Moorage ")
            if frames == 3:
                break
        assert frames == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_makes_top_give_the_terminal_back(server, number):
    socket = ("--control-socket", server.control_socket)
    with on_terminal("top", "--interval", "0.1", *socket) as (process, terminal):
        assert "\x1b[?1049h" in terminal.read_until("q ends")  # the alternate screen
        process.send_signal(number)
        terminal.read_until("\x1b[?1049l")
        assert process.wait(PATIENCE) == 0


def test_top_waits_for_a_server_that_has_gone(tmp_path):
    path = tmp_path / "c.sock"
    arguments = ("--interval", "0.1", "--control-socket", str(path), "--patience", "0.5")
    with ExitStack() as stack:
        with serving_process(path):
            process = stack.enter_context(started("top", *arguments))
            wait_for_line(process, "Moorage ")
        wait_for_line(process, "waiting for the server to come back")
        with serving_process(path):
            wait_for_line(process, "Moorage ")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def example(name):
    """Run an example on a free port; yields its URL."""
    command = [sys.executable, str(EXAMPLES / name), "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"listening .*address=(ws://\S+)", line):
                    yield found[1]
                    break
        finally:
            process.kill()


def test_custom_messages_typed_as_it_says_is_a_chat():
    """Each line once ended with "no answer in time", and held the next one up for 5 s."""
    source = (EXAMPLES / "custom_messages.py").read_text("utf-8")
    join, chat, roll = re.findall(r'^    (\{"type": .*\})$', source, re.MULTILINE)
    with (
        example("custom_messages.py") as url,
        on_terminal("connect", url, "--timeout", "2") as (ann, hers),
        on_terminal("connect", url, "--timeout", "2") as (ben, his),
    ):
        hers.read_until("Ctrl-D ends.")
        his.read_until("Ctrl-D ends.")
        his.press(f"{join.replace('Ann', 'Ben')}\n")
        his.read_until('joined {"name": "Ben", "others": 0}')
        hers.press(f"{join}\n{roll}\n{chat}\n")  # none waits for the other
        seen = his.read_until('chat_message {"from": "Ann", "text": "Is anybody there?"}')
        assert 'rolled {"from": "Ann", "result": ' in seen
        said = hers.read_until('chat_message {"from": "Ann", "text": "Is anybody there?"}')
        hers.press("\x04")
        assert ann.wait(PATIENCE) == 0
        his.press('{"type": "chat" "id": 2}\n')
        seen += his.read_until("this is not JSON: expecting ',' delimiter, character 17")
        his.press("\x04")
        assert ben.wait(PATIENCE) == 1
    assert "no answer" not in said + seen
