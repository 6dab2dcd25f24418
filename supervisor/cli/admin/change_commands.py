"""The commands that change something; the server logs each, with who gave it."""

import sys
from typing import Annotated

from cyclopts import Parameter

from ....actors.client.client import Client
from ....protocol.admin import answers, commands
from ....protocol.admin.commands import Command, EmptyRequest
from ...config.validators import ConfigurationError
from ..exits import Exit
from ..publish import read_data
from ..terminal.rendering import out, say
from .confirmation import Yes, confirm
from .control_client import (
    THIS_MACHINES,
    AsJson,
    ServerFlags,
    TargetServer,
    once,
    print_json,
    read_answer,
)
from .quantities import count, counted


def disconnect(
    *,
    user: Annotated[str | None, Parameter(metavar="ID", help="All of this user's.")] = None,
    topic: Annotated[
        str | None, Parameter(metavar="TOPIC", help="All of this topic's subscribers.")
    ] = None,
    id: Annotated[
        list[str] | None,
        Parameter(
            metavar="ID", negative=(), allow_leading_hyphen=True, help="This one. Repeatable."
        ),
    ] = None,
    reason: Annotated[
        str, Parameter(metavar="TEXT", help="What clients are told, in at most 123 bytes.")
    ] = "",
    code: Annotated[
        int | None,
        Parameter(
            metavar="N",
            help="Close code in place of the usual 4503: 4000 to 4499 for clients that are to come "
            "back, 4500 to 4999 for those that are to stay away.",
        ),
    ] = None,
    reconnect: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Tell them to come back at once: code 4007."
        ),
    ] = False,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> int:
    """End connections: a user's, a topic's subscribers, or single ones.

    Exits with 1 if an --id was not there, or was ending already; the others
    are disconnected all the same.

    For example:
      $ moorage admin disconnect --user ann --reason 'signed out everywhere'
      $ moorage admin disconnect --topic orders --reconnect
      $ moorage admin disconnect --id dTSsDfaXCbENy4VH --id imrluxG4vzop5N1P
    """
    _exactly_one("disconnect", {"--user": user, "--topic": topic, "--id": id or None})
    ids = None if id is None else tuple(id)
    request = commands.DisconnectRequest(ids, user, topic, reason, code, reconnect)
    data = once(server, commands.DISCONNECT, request)
    done = read_answer(commands.DISCONNECT, data)
    if json_:
        print_json(data)
    else:
        out(f"{counted(done.disconnected, 'connection')} disconnected")
    for name in done.missing:
        say(f"there is no connection {name}, or it is ending already")
    return Exit.FAILURE if done.missing else Exit.OK


def cleanup(
    *,
    quiet_for: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            help="Ask those that were silent for so long. Without it: the setting `pong_timeout`.",
        ),
    ] = None,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Ask quiet connections for a sign of life now, and close those that give none.

    Heartbeats do the same by themselves, later. It takes the server's
    `pong_timeout`, 10 seconds by default.

    For example:
      $ moorage admin cleanup
      $ moorage admin cleanup --quiet-for 60
    """
    if sys.stderr.isatty() and not json_:
        say("asking for signs of life …")
    data = once(server, commands.CLEANUP, commands.CleanupRequest(quiet_for))
    if json_:
        print_json(data)
        return
    done = read_answer(commands.CLEANUP, data)
    out(f"{count(done.probed)} probed, {count(done.alive)} alive, {count(done.closed)} closed")
    for name in done.closed_ids:
        out(f"closed {name}")


def broadcast(
    *,
    topic: Annotated[str | None, Parameter(metavar="TOPIC", help="To its subscribers.")] = None,
    user: Annotated[str | None, Parameter(metavar="ID", help="To this user.")] = None,
    everyone: Annotated[
        bool, Parameter(negative=(), show_default=False, help="To every connection.")
    ] = False,
    type: Annotated[str, Parameter(metavar="NAME", help="The type of the message.")],
    data: Annotated[
        str,
        Parameter(
            metavar="JSON",
            allow_leading_hyphen=True,
            help="Its payload; `-` reads it from standard input, `@FILE` from a file.",
        ),
    ] = "null",
    exclude: Annotated[
        list[str] | None,
        Parameter(
            metavar="ID",
            negative=(),
            allow_leading_hyphen=True,
            help="A connection that does not get it. Repeatable.",
        ),
    ] = None,
    yes: Yes = False,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Send a message to a topic's subscribers, to a user, or to everyone.

    On a terminal, --everyone asks for confirmation.

    For example:
      $ moorage admin broadcast --topic news --type data --data '"hello"'
      $ moorage admin broadcast --user ann --type notice --data '{"text": "hi"}'
      $ moorage admin broadcast --everyone --type maintenance --data @notice.json --yes
    """
    _exactly_one("broadcast", {"--topic": topic, "--user": user, "--everyone": everyone or None})
    request = commands.BroadcastRequest(
        type, topic, user, everyone, read_data(data), tuple(exclude or ())
    )

    async def first(client: Client) -> None:
        if everyone and not yes:
            await confirm(client, f"This sends `{type}` to {{}}.")

    answer = once(server, commands.BROADCAST, request, first=first)
    if json_:
        print_json(answer)
        return
    done = read_answer(commands.BROADCAST, answer)
    out(f"sent to {counted(done.recipients, 'connection')}")


def suspend(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> None:
    """Let no new clients in; those that are connected stay.

    `moorage admin health` and the readiness probe then say "not ready", so that
    a load balancer sends clients elsewhere.

    For example:
      $ moorage admin suspend
      $ moorage admin resume
    """
    _switch(server, commands.SUSPEND, as_json=json_)


def resume(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> None:
    """Let new clients in again, after `suspend` or `drain`; ends a drain that is under way.

    For example:
      $ moorage admin resume
    """
    _switch(server, commands.RESUME, as_json=json_)


def _switch(
    server: TargetServer, command: Command[EmptyRequest, answers.Suspended], *, as_json: bool
) -> None:
    data = once(server, command)
    if as_json:
        print_json(data)
        return
    done = read_answer(command, data)
    now = "suspended: no new clients are let in" if done.suspended else "open to new clients"
    out(f"{now}; {counted(done.connections, 'connection')}")


def _exactly_one(command: str, given: dict[str, object]) -> None:
    """Raise ConfigurationError unless exactly one of these flags was given."""
    count_given = sum(value is not None for value in given.values())
    if count_given != 1:
        problem = "nobody was named" if count_given == 0 else "several flags say whom"
        raise ConfigurationError(command, problem, allowed=f"one of {', '.join(given)}")
