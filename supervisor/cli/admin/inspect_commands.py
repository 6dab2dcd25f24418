"""The commands that show, and change nothing."""

from typing import Annotated, Any, TypeVar

import attrs
import trio
from cyclopts import Parameter

from ....protocol.admin import commands
from ....protocol.admin.commands import Command
from ..exits import Exit
from ..terminal.console import make_console, show
from .control_client import (
    THIS_MACHINES,
    AsJson,
    ServerFlags,
    TargetServer,
    ask,
    once,
    print_json,
    reach,
    read_answer,
)
from .views import (
    connection_view,
    connections_view,
    health_view,
    stats_view,
    topic_view,
    topics_view,
    tree_view,
)

PagedT = TypeVar("PagedT", commands.ConnectionsRequest, commands.TopicsRequest)

_LIMIT = f"Entries on the page, at most {commands.MAX_PAGE}."
_CURSOR = "Go on where the page before ended; its last line says how."
_ALL = "All pages, one after the other."

Limit = Annotated[int, Parameter(metavar="N", help=_LIMIT)]
Cursor = Annotated[str | None, Parameter(metavar="CURSOR", allow_leading_hyphen=True, help=_CURSOR)]
AllPages = Annotated[bool, Parameter(name="--all", negative=(), show_default=False, help=_ALL)]


def stats(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> None:
    """Show all counters and rates.

    For example:
      $ moorage admin stats
      $ moorage admin stats --json | jq .rates
    """
    data = once(server, commands.STATS)
    if json_:
        print_json(data)
        return
    console = make_console()
    show(console, stats_view(console, read_answer(commands.STATS, data)))


def health(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> int:
    """Show whether the server is ready for new clients, and how near its limits are.

    Exits with 0 if it is ready, and with 1 if it is not (suspended, draining,
    full, no descriptor left, event loop behind) or not there.

    For example:
      $ moorage admin health
      $ moorage admin health --json >/dev/null || echo 'send clients elsewhere'
    """
    data = once(server, commands.HEALTH)
    found = read_answer(commands.HEALTH, data)
    if json_:
        print_json(data)
    else:
        show(make_console(), health_view(found))
    return Exit.OK if found.ready else Exit.FAILURE


def connections(
    *,
    user: Annotated[str | None, Parameter(metavar="ID", help="Only this user's.")] = None,
    topic: Annotated[
        str | None, Parameter(metavar="TOPIC", help="Only this topic's subscribers.")
    ] = None,
    state: Annotated[
        str | None,
        Parameter(metavar="NAME", help="Only those that are authenticating, open or closing."),
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    all_: AllPages = False,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """List connections, oldest first; several filters narrow each other.

    For example:
      $ moorage admin connections
      $ moorage admin connections --user ann --state open
      $ moorage admin connections --all --json | jq -r '.connections[].address'
    """
    request = commands.ConnectionsRequest(user, topic, state, limit, cursor)
    if all_:
        request = commands.ConnectionsRequest(user, topic, state, commands.MAX_PAGE, cursor)
    data = _pages(server, commands.CONNECTIONS, request, all_pages=all_)
    if json_:
        print_json(data)
        return
    page = read_answer(commands.CONNECTIONS, data)
    console = make_console()
    show(console, connections_view(console, page.connections, page.total, page.cursor))


def connection(
    connection_id: Annotated[
        str, Parameter(metavar="ID", allow_leading_hyphen=True, help="Its id, as in the lists.")
    ],
    /,
    *,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Show one connection in detail: user, topics, traffic, mailbox, next deadline.

    For example:
      $ moorage admin connection dTSsDfaXCbENy4VH
    """
    data = once(server, commands.CONNECTION, commands.ConnectionRequest(connection_id))
    if json_:
        print_json(data)
        return
    found = read_answer(commands.CONNECTION, data)
    show(make_console(), connection_view(found))


def topics(
    *,
    prefix: Annotated[
        str | None, Parameter(metavar="TEXT", help="Only those whose names begin like this.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    all_: AllPages = False,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """List the topics that have subscribers, by name.

    For example:
      $ moorage admin topics
      $ moorage admin topics --prefix orders. --all
    """
    request = commands.TopicsRequest(prefix, commands.MAX_PAGE if all_ else limit, cursor)
    data = _pages(server, commands.TOPICS, request, all_pages=all_)
    if json_:
        print_json(data)
        return
    page = read_answer(commands.TOPICS, data)
    console = make_console()
    show(console, topics_view(console, page.topics, page.total, page.cursor))


def topic(
    topic: Annotated[str, Parameter(metavar="TOPIC", help="Its name.")],
    /,
    *,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Show one topic: its subscribers, its overload policy, how much is published to it.

    For example:
      $ moorage admin topic news
    """
    data = once(server, commands.TOPIC, commands.TopicRequest(topic))
    if json_:
        print_json(data)
        return
    show(make_console(), topic_view(read_answer(commands.TOPIC, data)))


def tree(
    *,
    limit: Annotated[
        int, Parameter(metavar="N", help=f"Connections shown, at most {commands.MAX_PAGE}.")
    ] = 100,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Show the live tree of actors: listeners, connections, and what those have started.

    Each has its state, the function that it waits in, its next deadline, and
    the bytes that wait in its mailbox. This shows why a connection stands still:
    a writer waits for the network, or a handler does not return.

    For example:
      $ moorage admin tree
      $ moorage admin tree --limit 1000 | grep -A 2 waiting
    """
    data = once(server, commands.TREE, commands.TreeRequest(limit))
    if json_:
        print_json(data)
        return
    show(make_console(), tree_view(read_answer(commands.TREE, data)))


def _pages(
    server: TargetServer, command: Command[PagedT, Any], request: PagedT, *, all_pages: bool
) -> Any:
    """Return a page of a list, or all the pages that follow it, joined into one."""
    if not all_pages:
        return once(server, command, request)
    return trio.run(_all_pages, server, command, request)


async def _all_pages(server: TargetServer, command: Command[PagedT, Any], request: PagedT) -> Any:
    async with reach(server) as client:
        whole = await ask(client, command, request)
        while (cursor := whole.get("cursor")) is not None:
            page = await ask(client, command, attrs.evolve(request, cursor=cursor))
            # The field with the entries has the name of the command.
            whole = {**page, command.name: [*whole[command.name], *page[command.name]]}
    return whole
