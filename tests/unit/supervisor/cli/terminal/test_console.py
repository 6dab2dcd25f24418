"""What reaches the terminal: no text of a server steers it, whichever command shows it."""

from __future__ import annotations

import ast
import json
import types
import typing
from functools import partial
from io import StringIO
from pathlib import Path

import attrs
import pytest
import trio
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from moorage.protocol.admin.commands import COMMANDS
from moorage.protocol.closing import CloseCause
from moorage.protocol.messages.types import MessageType
from moorage.supervisor.app import App
from moorage.supervisor.cli.terminal.console import SafeConsole
from tests.fakes_cli import beside, serving

# The title of the window, the colours by two ways, the screen, the direction of writing, two lines.
HOSTILE = "a\x1b]0;owned\x07\x1b[31337m\x9b2J\x7f\u202egnp\u2066\x0b\x85\r\nmoorage:all-is-well"

ANSWERED = [
    *("stats", "health", "connections", "connection x", "topics", "topic x", "tree"),
    *("disconnect --user x", "cleanup", "broadcast --everyone --type x --yes"),
    *("suspend", "resume", "drain --yes", "watch"),
]


def hostile(kind, depth=0):
    """Return a value of a type, as JSON has it, in which every text is hostile."""
    arguments = typing.get_args(kind)
    match typing.get_origin(kind) or kind:
        case types.UnionType:
            return hostile(arguments[0], depth)
        case found if found is tuple:
            return [hostile(arguments[0], depth + 1)] if depth < 4 else []
        case found if found is dict:
            return {HOSTILE: hostile(arguments[1], depth)}
        case found if attrs.has(found):
            hints = typing.get_type_hints(found)
            return {name: hostile(hint, depth) for name, hint in hints.items()}
        case found:
            return {bool: True, int: 7, float: 1.5}.get(found, HOSTILE)


def answers_to(asked, mood):
    """Return the messages that a hostile server sends for one message."""
    if asked["type"] == "drain" and mood == "answers":
        data = hostile(COMMANDS["drain"].answer)
        yield {"type": "progress", "id": asked["id"], "data": {**data, "done": False}}
    found = COMMANDS.get(asked["type"])
    data = hostile(found.answer) if found and mood == "answers" else {HOSTILE: HOSTILE}
    if mood == "refuses":
        data = {"code": HOSTILE}
        yield {"type": "error", "error": HOSTILE, "data": data, "id": asked.get("id")}
        return
    yield {"type": "result", "data": {**data, "cursor": None}, "id": asked.get("id")}
    if asked["type"] == "watch":
        yield {"type": "event", "data": {"event": HOSTILE, HOSTILE: HOSTILE}}
        yield {"type": "goodbye", "data": {"reason": HOSTILE}}
    if asked["type"] == "say":
        for kind in {*MessageType, "progress"} - {"heartbeat", "welcome"}:
            data = {"code": HOSTILE, "reason": HOSTILE, "message": HOSTILE, "done": 1, "total": 2}
            yield {"type": kind, "topic": HOSTILE, "data": data, "error": HOSTILE}


def hostile_app(mood):
    app = App()

    @app.endpoint("/", raw=True, subprotocols=["moorage.v1"])
    async def attack(connection):
        welcome = {"connection_id": HOSTILE, "user_id": HOSTILE, "topics": [HOSTILE]}
        await connection.send(json.dumps({"type": "welcome", "data": welcome}, ensure_ascii=False))
        async for message in connection:
            if mood == "leaves":
                reason = HOSTILE.encode()[:60].decode(errors="ignore")
                connection.disconnect(reason, cause=CloseCause.DISCONNECTED)
                return
            for answer in answers_to(json.loads(message), mood):
                await connection.send(json.dumps(answer, ensure_ascii=False))

    return app


def assert_harmless(text, *, lines=True):
    assert "\x1b[31337m" not in text
    assert not {*"\x07\x9b\x7f\u202e\u2066\x0b\x85"} & {*text}
    assert "\x1b]" not in text
    if lines:
        assert not any(line.endswith("\r") for line in text.split("\n"))
        assert not any(line.startswith("moorage:all") for line in text.split("\n"))


@pytest.fixture(params=["pipe", "terminal"])
def output(request, monkeypatch, capsys):
    if request.param == "terminal":
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["for people", "json"])
@pytest.mark.parametrize("mood", ["answers", "refuses", "is of another version", "leaves"])
async def test_no_answer_to_an_operator_steers_the_terminal(moorage, mood, flags):
    async with serving(hostile_app(mood), anonymous=True) as server:
        url = ("--url", server.addresses[0], "--patience", "5")
        for command in ANSWERED:
            code, out, err = await beside(moorage, "admin", *command.split(), *flags, *url)
            assert out + err
            assert code in {0, 1}
            assert_harmless(out)
            assert_harmless(err)
        if mood != "leaves":
            code, out, err = await beside(moorage, "top", "--once", *url)
            assert_harmless(out + err)
    assert {command.split()[0] for command in ANSWERED} == COMMANDS.keys()


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["for people", "json"])
@pytest.mark.parametrize("mood", ["answers", "refuses", "leaves"])
async def test_no_message_to_a_client_steers_the_terminal(moorage, typed, mood, flags):
    typed('{"type": "say", "id": 1}\n{"type": "say"}\n')
    async with serving(hostile_app(mood), anonymous=True) as server:
        url = server.addresses[0]
        code, out, err = await beside(moorage, "connect", url, *flags, "--timeout", "5")
        assert out + err
        assert_harmless(out)
        assert_harmless(err)
        code, out, err = await beside(moorage, "publish", url, "--topic", "t", "--timeout", "5")
        assert code == (0 if mood == "answers" else 1)
        assert_harmless(out + err)


@pytest.mark.parametrize(
    "command", ["connect URL", "publish URL --topic t", "admin stats --url URL", "top --url URL"]
)
async def test_no_refusal_steers_the_terminal(moorage, typed, command):
    async def refuse(stream):
        await stream.receive_some()
        body = json.dumps({"error": HOSTILE, "data": {"code": HOSTILE}}).encode()
        head = f"HTTP/1.1 403 No\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)

    typed("")
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve, refuse, 0)
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        arguments = command.replace("URL", url).split()
        code, out, err = await beside(moorage, *arguments)
        nursery.cancel_scope.cancel()
    assert (code, out) == (1, "")
    assert "owned" in err
    assert_harmless(err)


def test_a_view_that_forgot_to_escape_cannot_let_anything_through():
    file = StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=80, color_system="standard")
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    console.print(table, Text(HOSTILE), HOSTILE)
    with Progress(TextColumn("{task.description}"), console=console, auto_refresh=False) as bars:
        bars.add_task(HOSTILE, total=1)
        bars.refresh()
    assert "\x1b[31m" in file.getvalue()  # its own colours are as they were
    assert "owned" in file.getvalue()
    assert_harmless(file.getvalue(), lines=False)


def test_nothing_is_printed_by_another_way():
    """`main.py` prints two constants, before it imports anything."""
    root = Path(__file__).parents[5] / "supervisor/cli"
    ways = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in {"print", "Console"}:
                    ways.add((path.relative_to(root).as_posix(), node.func.id))
            elif isinstance(node, ast.Attribute) and ast.unparse(node) in {
                *("sys.stdout.write", "sys.stderr.write", "logging.basicConfig"),
            }:
                ways.add((path.relative_to(root).as_posix(), ast.unparse(node)))
    assert ways == {
        ("main.py", "print"),
        ("terminal/rendering.py", "print"),
        ("terminal/console.py", "print"),
        ("connect.py", "logging.basicConfig"),  # its handler says what is logged
        ("admin/tables.py", "Console"),  # it measures, and prints nothing
    }
