"""`moorage admin watch`: events, as they happen."""

import re
import sys
from typing import Annotated, Any, Final, cast

import trio
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from ....protocol.admin import commands
from ....protocol.admin.commands import AnswerType, WatchRequest
from ....protocol.messages.envelope import Envelope
from ....protocol.messages.types import MessageType
from ..exits import CommandError
from ..terminal.console import make_console, show
from ..terminal.rendering import compact, json_text, out, say
from .control_client import THIS_MACHINES, AsJson, ServerFlags, TargetServer, ask, reach
from .tables import BAD, FAINT, GOOD, WORRY, plain

_EVENT = (
    "Pattern over the names of events, such as `admin.*` or `disconnected`. Repeatable; without "
    "any, all of them."
)
_CLOCK = re.compile(r"T(\d\d:\d\d:\d\d)")

_STYLES: Final = {
    "connected": GOOD,
    "authenticated": GOOD,
    "resumed": GOOD,
    "refused": WORRY,
    "bad_message": WORRY,
    "dropped": WORRY,
    "suspended": WORRY,
    "draining": WORRY,
    "gap": WORRY,
    "goodbye": WORRY,
}


def watch(
    *,
    event: Annotated[
        list[str] | None, Parameter(metavar="PATTERN", negative=(), help=_EVENT)
    ] = None,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Print the events of the server, one a line, until Ctrl-C.

    Events are the server's log lines: connected, authenticated, subscribed,
    unsubscribed, disconnected (with its cause), refused, bad_message, dropped,
    suspended, draining, admin.disconnect and others. If this terminal cannot
    keep up, the oldest are left out and a `gap` says how many. When the server
    goes, the command ends with 1.

    For example:
      $ moorage admin watch
      $ moorage admin watch --event disconnected --event 'admin.*'
      $ moorage admin watch --json | jq 'select(.cause == "slow_consumer")'
    """
    trio.run(_watch, server, tuple(event or ("**",)), json_)


async def _watch(server: TargetServer, patterns: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - trio.run passes no keywords
    console = make_console()
    async with reach(server) as client:
        await ask(client, commands.WATCH, WatchRequest(patterns))
        if sys.stderr.isatty() and not as_json:
            say("watching. Ctrl-C ends.")
        reason = "the server has ended it"
        async for message in client.messages():
            match message.type:
                case AnswerType.EVENT | MessageType.GAP:
                    _print(console, message, as_json=as_json)
                case MessageType.GOODBYE:
                    reason = str(_fields(message.data).get("reason", reason))
                    break
                case MessageType.ERROR:
                    reason = message.error or reason
                    break
                case _:
                    pass
        raise CommandError(f"nothing more to watch: {reason}")


def _print(console: Console, message: Envelope, *, as_json: bool) -> None:
    fields = dict(_fields(message.data))
    name = str(fields.pop("event", message.type))
    if as_json:
        line = {"timestamp": message.timestamp, "event": name, **fields}
        out(json_text(line))
        return
    clock = _CLOCK.search(message.timestamp or "")
    style = BAD if "error" in fields or name.endswith(("failed", "timed_out")) else ""
    text = Text.assemble(
        (clock[1] if clock else "--:--:--", FAINT), " ", plain(name, _STYLES.get(name, style))
    )
    for key, value in fields.items():
        if value is not None and value != "":
            shown = value if isinstance(value, str) else compact(value)
            text.append_text(plain(f" {key}=", FAINT)).append_text(plain(shown))
    show(console, text)


def _fields(data: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}
