"""The log events, commands and settings on the operations pages are those of the code."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
import pytest
import trio

from moorage import App, CloseCause, Session, Settings
from moorage.protocol.admin.commands import BroadcastRequest
from moorage.supervisor.cli.main import main
from moorage.supervisor.operations.operations import Caller
from moorage.supervisor.telemetry.logs import _FLOODABLE
from tests.fakes import Peer, Server, open_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("operations/*.md")), ROOT / "docs" / "operations.md"]
LOGS = ROOT / "docs" / "operations" / "logs.md"

LEVELS = {"debug", "info", "warning", "error", "critical"}
# All events of a connection have these fields; `Connection.log` adds them.
ABOUT_CONNECTION = {"connection_id", "user_id"}
# The watchdog's own, which it also limits by itself.
SLOW_TURNS = {"slow_turn", "slow_turn_over"}
ABOUT_SLOW_TURN = {"seconds", "collecting", "task", *ABOUT_CONNECTION}


@attrs.define
class Event:
    """The levels and fields of an event, from the table or from the code."""

    levels: set[str] = attrs.field(factory=set)
    fields: set[str] = attrs.field(factory=set)


# --- The table


def rows() -> Iterator[tuple[list[str], set[str], bool, set[str]]]:
    """Yield each row of the log page's tables: events, levels, whether limited, fields."""
    for line in LOGS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            events = re.findall(r"`([\w.]+)`", cells[0])
            yield events, set(cells[1].split(", ")), cells[2] == "yes", code_in(cells[3])


def code_in(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def documented() -> dict[str, Event]:
    return {
        event: Event(levels, fields) for events, levels, _, fields in rows() for event in events
    }


# --- The code


@cache
def emitted() -> dict[str, Event]:
    """Find every call with a literal event that writes a log line, or tells those who watch."""
    found: dict[str, Event] = defaultdict(Event)
    for package in ("protocol", "actors", "supervisor"):
        for path in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call):
                    _note(call, path.name, found)
    return found


def _note(call: ast.Call, file: str, found: dict[str, Event]) -> None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    receiver = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    texts = [_constants(argument) for argument in call.args]
    fields = {keyword.arg or "exc_info" for keyword in call.keywords}
    fields = {"exception" if field == "exc_info" else field for field in fields}
    if name in LEVELS and receiver.startswith("structlog."):
        levels, event = {name}, texts[0]
    elif name == "_tell":  # see `PubSub.on_event`
        levels, event, fields = {"watch only"}, texts[0], ABOUT_CONNECTION | {"topic"}
    elif name == "_log" and file == "operations.py":
        levels, event, fields = {"info"}, texts[0], fields | {"by"}
    elif name == "_write" and file == "watchdog.py":
        levels, event, fields = {"warning"}, texts[0], fields | ABOUT_SLOW_TURN
    elif _writes_lines(name, receiver) and len(texts) >= 2:
        levels, event = texts[0] & LEVELS, texts[1]
        if name == "log" and receiver in {"self", "connection"}:
            fields |= ABOUT_CONNECTION
    else:
        return
    if name == "log_event" and file == "admin_sessions.py":  # see `AdminSessions.log_event`
        event = {f"control_{each}" for each in event}
    for each in event:
        found[each].levels |= levels or {"warning", "error"}  # as the library's record has it
        found[each].fields |= fields


def _writes_lines(name: str, receiver: str) -> bool:
    """Whether a call of this function writes a log line: its level and its event come first."""
    return name in {"log", "_log", "log_event", "write_from_thread"} or (
        name == "write" and receiver.rpartition(".")[2] in {"log", "_log"}
    )


def _constants(node: ast.expr) -> set[str]:
    """Return the texts that an expression can have: one, or those of both branches of an `if`."""
    match node:
        case ast.Constant(value=str() as text):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return _constants(body) | _constants(orelse)
        case _:
            return set()


def test_the_table_has_every_event_that_the_code_can_emit():
    assert sorted(documented()) == sorted(emitted())


@pytest.mark.parametrize("event", sorted(documented()))
def test_an_events_level_and_fields_are_as_documented(event):
    assert emitted()[event] == documented()[event]


def test_the_table_says_which_events_are_limited():
    limited = {event for events, _, limited, _ in rows() for event in events if limited}
    assert {event.removeprefix("control_") for event in limited} == _FLOODABLE | SLOW_TURNS


async def test_lines_of_a_running_server_are_as_documented(autojump_clock):
    app = App()

    @app.on("break")
    def fail(_context, _message):
        raise ValueError("on purpose")

    @app.disconnected
    def fail_too(_connection: Session, _cause):
        raise ValueError("on purpose")

    async with open_server(app, max_topics_per_connection=1) as server:
        await _happen(server)
    known = documented()
    seen = {line["event"] for line in server.log.lines}
    assert seen >= {"connected", "disconnected", "bad_message", "refused", "handler_failed"}
    assert seen >= {"callback_failed", "draining", "drained", "suspended", "admin.broadcast"}
    for line in server.log.lines:
        fields = {"exception" if name == "exc_info" else name for name in line}
        assert fields - {"event", "level", "suppressed"} <= known[line["event"]].fields, line


async def _happen(server: Server) -> None:
    """Cause many kinds of events in a few lines."""
    peer: Peer = await server.connect()
    for message in ({"type": "break"}, {"type": "nobody's"}, {"type": 7}):
        await peer.send(message)
        await peer.receive()
    status, _, _ = await server.dial().upgrade("/elsewhere")
    assert status == 404
    server.operations.broadcast(BroadcastRequest("notice", everyone=True), Caller("test"))
    with trio.fail_after(60):
        await server.supervisor.drain(5)


# --- The pages


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command `moorage …` on the pages, as page and words."""
    for page in PAGES:
        text = re.sub(r"`moorage\s+admin", "`moorage admin", page.read_text())
        printed = re.findall(r"`(?:sudo )?(moorage(?: [^`]+)?)`", text.replace("\n", " "))
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            printed += re.findall(
                r"^(?:\S+ exec \S+ )?(moorage .*?)(?:\s+#.*)?$", block, re.MULTILINE
            )
        for command in printed:
            yield page.name, shlex.split(command)[1:]


def help_of(words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        assert main([*words, "--help"]) == 0, (words, out.getvalue())
    return out.getvalue()


def test_every_command_on_the_pages_exists_with_its_flags():
    known: dict[tuple[str, ...], str] = {}
    seen = 0
    for page, words in commands():
        verbs = words[: 2 if words[:1] in (["admin"], ["config"]) else 1]
        flags = [word for word in words if word.startswith("--")]
        if not verbs or verbs[0].startswith("-"):
            continue
        text = known.setdefault(tuple(verbs), help_of(verbs))
        usage = re.search(r"moorage [\w ]+", text)
        assert usage, (page, verbs)
        assert usage[0].split()[1 : 1 + len(verbs)] == verbs, (page, verbs)
        for flag in flags:
            assert re.search(rf"{flag}\b", text), (page, verbs, flag)
        seen += 1
    assert seen > 30
    every = {"stats", "connections", "connection", "topics", "topic", "disconnect", "cleanup"}
    every |= {"health", "suspend", "resume", "drain", "watch", "tree"}
    assert every <= {verbs[1] for verbs in known if verbs[0] == "admin" and len(verbs) > 1}


def test_every_setting_on_the_pages_exists():
    """Every name with the prefix or suffix of a setting is the name of a setting."""
    names = set(attrs.fields_dict(Settings))
    shape = re.compile(r"`((?:max|jwt|http|tls|control|log)_\w+|\w+_(?:timeout|rate|interval))`")
    events = set(documented())
    others = {cause.value for cause in CloseCause} | events
    others |= {f"{listener}_{each}" for listener in ("control", "http") for each in events}
    for page in PAGES:
        unknown = set(shape.findall(page.read_text())) - names - others
        assert not unknown, (page.name, unknown)


def test_every_alert_is_explained_with_its_severity():
    rules = (ROOT / "examples" / "deploy" / "alerts.yml").read_text()
    severity = dict(re.findall(r"alert: (\w+)\n(?:.*\n)*?\s+labels: \{severity: (\w+)\}", rules))
    page = (ROOT / "docs" / "operations" / "alerts.md").read_text()
    assert (
        dict(re.findall(r"^\| `(Moorage\w+)` \|[^|]*\| (\w+) \|", page, re.MULTILINE)) == severity
    )


def test_every_file_of_examples_deploy_is_explained():
    page = (ROOT / "docs" / "operations" / "deploying.md").read_text()
    for path in (ROOT / "examples" / "deploy").iterdir():
        assert f"| `{path.name}` |" in page, path.name
