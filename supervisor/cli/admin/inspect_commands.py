"""The commands that show, and change nothing."""

from typing import Annotated, Any

import attrs
import trio
from cyclopts import Parameter

from ....protocol.admin import answers, commands
from ....protocol.admin.commands import Command
from ..exits import Exit
from .tables import make_console, show
from .target_server import (
    THIS_MACHINES,
    AsJson,
    Server,
    ServerFlags,
    ask,
    once,
    print_json,
    reach,
    understood,
)
from .tree_view import tree_view
from .views import (
    connection_view,
    connections_view,
    health_view,
    stats_view,
    topic_view,
    topics_view,
)

_LIMIT = f"Entries on the page, at most {commands.MAX_PAGE}."
_CURSOR = "Go on where the page before ended; its last line says how."
_ALL = "All pages, one after the other."

Limit = Annotated[int, Parameter(metavar="N", help=_LIMIT)]
Cursor = Annotated[str | None, Parameter(metavar="CURSOR", allow_leading_hyphen=True, help=_CURSOR)]
AllPages = Annotated[bool, Parameter(name="--all", negative=(), show_default=False, help=_ALL)]


def stats(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> None:
    """Show all that is counted, at a glance.

    For example:
      $ moorage admin stats
      $ moorage admin stats --json | jq .rates
    """
    data = once(server, Command.STATS)
    if json_:
        print_json(data)
        return
    console = make_console()
    show(console, stats_view(console, understood(Command.STATS, data, answers.Stats)))


def health(*, json_: AsJson = False, server: ServerFlags = THIS_MACHINES) -> int:
    """Show whether the server is ready for new clients, and how near its limits are.

    Exits with 0 if it is ready, and with 1 if it is not (suspended, draining,
    full, event loop behind) or not there.

    For example:
      $ moorage admin health
      $ moorage admin health --json >/dev/null || echo 'send clients elsewhere'
    """
    data = once(server, Command.HEALTH)
    found = understood(Command.HEALTH, data, answers.Health)
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
    asked = commands.Connections(user, topic, state, limit, cursor)
    if all_:
        asked = commands.Connections(user, topic, state, commands.MAX_PAGE, cursor)
    data = _pages(server, Command.CONNECTIONS, asked, all_pages=all_)
    if json_:
        print_json(data)
        return
    page = understood(Command.CONNECTIONS, data, answers.ConnectionsPage)
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
    """Show one connection, whole: who, since when, topics, traffic, mailbox, next deadline.

    For example:
      $ moorage admin connection dTSsDfaXCbENy4VH
    """
    data = once(server, Command.CONNECTION, commands.Connection(connection_id))
    if json_:
        print_json(data)
        return
    found = understood(Command.CONNECTION, data, answers.ConnectionDetail)
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
    asked = commands.Topics(prefix, commands.MAX_PAGE if all_ else limit, cursor)
    data = _pages(server, Command.TOPICS, asked, all_pages=all_)
    if json_:
        print_json(data)
        return
    page = understood(Command.TOPICS, data, answers.TopicsPage)
    console = make_console()
    show(console, topics_view(console, page.topics, page.total, page.cursor))


def topic(
    name: Annotated[str, Parameter(metavar="TOPIC", help="Its name.")],
    /,
    *,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Show one topic: its subscribers, its overload policy, how much is published to it.

    For example:
      $ moorage admin topic news
    """
    data = once(server, Command.TOPIC, commands.Topic(name))
    if json_:
        print_json(data)
        return
    show(make_console(), topic_view(understood(Command.TOPIC, data, answers.TopicDetail)))


def tree(
    *,
    limit: Annotated[
        int, Parameter(metavar="N", help=f"Connections shown, at most {commands.MAX_PAGE}.")
    ] = 100,
    json_: AsJson = False,
    server: ServerFlags = THIS_MACHINES,
) -> None:
    """Show the live tree of actors: listeners, their connections, and what those have started.

    Each with its state, the function that it waits in, its next deadline, and
    what waits in its mailbox. A connection that stands still shows here why: it
    has a writer that waits for the network, or a handler that does not return.

    For example:
      $ moorage admin tree
      $ moorage admin tree --limit 1000 | grep -A 2 waiting
    """
    data = once(server, Command.TREE, commands.Tree(limit))
    if json_:
        print_json(data)
        return
    show(make_console(), tree_view(understood(Command.TREE, data, answers.Actor)))


def _pages(server: Server, command: Command, asked: Any, *, all_pages: bool) -> Any:
    """Return a page of a list, or all the pages that follow it, joined into one."""
    if not all_pages:
        return once(server, command, asked)
    return trio.run(_all_pages, server, command, asked)


async def _all_pages(server: Server, command: Command, asked: Any) -> Any:
    async with reach(server) as client:
        whole = await ask(client, command, asked)
        while (cursor := whole.get("cursor")) is not None:
            page = await ask(client, command, attrs.evolve(asked, cursor=cursor))
            whole = {**page, command: [*whole[command], *page[command]]}
    return whole
