"""The live tree of actors, with the state of each actor and the function that it waits in.

Trio knows every task, and the function in which it is suspended. So nothing is stored for the tree:
it is read from the nurseries when an operator asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import trio

from ...actors.connection.connection import Connection
from ...actors.connection.pacer import in_turns
from ...protocol.admin.answers import Actor
from ..core import CLIENT_OF
from ..parts import Parts
from ..waiting import waits_for

_OTHER_MEANS = "clients that came by no listener"


async def actor_tree(parts: Parts, sessions: Iterable[Connection], limit: int) -> Actor:
    """Return the tree, from the supervisor down, with at most `limit` of the connections.

    `sessions` are the admin sessions, all of which are shown. The connections are those of one
    moment; they are read over several turns of the loop, each as it is then.
    """
    hub = parts.hub
    services = _children(parts.nurseries.services)
    listeners = {task.name: task for task in _children(parts.nurseries.listeners)}
    clients: dict[str, list[Actor]] = {name: [] for name in listeners}
    omitted = max(0, len(hub) - limit)

    def read(connection: Connection) -> None:
        actor, came_by = _connection(connection, parts.tick.now())
        clients.setdefault(came_by, []).append(actor)

    await in_turns((*islice(hub, limit), *sessions), read)
    state = "accepting" if parts.lifecycle.state.admits else "refusing"
    return Actor(
        name="supervisor",
        kind="supervisor",
        state=parts.lifecycle.state.value,
        children=(
            *(
                Actor(task.name, "service", "running", waits_for=waits_for(task))
                for task in services
            ),
            *(
                Actor(
                    name,
                    "listener",
                    state if name.startswith("listener") else "accepting",
                    waits_for=waits_for(listeners[name]) if name in listeners else None,
                    children=tuple(actors),
                )
                for name, actors in clients.items()
            ),
        ),
        omitted=omitted,
    )


def _children(nursery: trio.Nursery | None) -> list[trio.lowlevel.Task]:
    return [] if nursery is None else list(nursery.child_tasks)


def _connection(connection: Connection, now: float) -> tuple[Actor, str]:
    """Return a connection's actor, and the name of the listener that it came by."""
    mailbox = connection.mailbox
    nursery = connection.nursery
    task = None if nursery is None else nursery.parent_task
    children = () if nursery is None else tuple(_child(child) for child in nursery.child_tasks)
    actor = Actor(
        name=connection.id,
        kind="connection",
        state=connection.state.value,
        waits_for=None if task is None else waits_for(task),
        mailbox_bytes=mailbox.size,
        mailbox_oldest=None if mailbox.oldest is None else round(now - mailbox.oldest, 3),
        next_deadline=round(connection.next_deadline() - now, 3) if connection.is_open else None,
        children=children,
    )
    came_by = _OTHER_MEANS
    if task is not None and task.name.startswith(CLIENT_OF):
        came_by = task.name.removeprefix(CLIENT_OF)
    return actor, came_by


def _child(task: trio.lowlevel.Task) -> Actor:
    """Return the actor of a task that a connection has started: writer, handlers, endpoint."""
    kind = task.name.partition(" of ")[0]
    return Actor(name=task.name, kind=kind, state="running", waits_for=waits_for(task))
