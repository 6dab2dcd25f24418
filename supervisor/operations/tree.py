"""The live tree of actors: who is there, in which state, and what each waits for.

Trio knows every task and what it is suspended in, so nothing is kept for this: the tree is read off
the nurseries when somebody asks.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

import trio

from ...actors.connection.connection import Connection
from ...protocol.admin.answers import Actor

if TYPE_CHECKING:
    from ..supervisor import Supervisor

CLIENT_OF = "client of "
"""How the names of the clients' tasks begin; the name of the listener's task follows."""

_OTHER_MEANS = "clients that came by no listener"


def actor_tree(supervisor: Supervisor, limit: int) -> Actor:
    """Return the tree, from the supervisor down, with at most `limit` of the connections."""
    registry = supervisor.harbor.registry
    listening, services = supervisor.tasks()
    listeners = {task.name: task for task in listening}
    clients: dict[str, list[Actor]] = {name: [] for name in listeners}
    now = supervisor.harbor.tick.now()
    for connection in chain(islice(registry, limit), supervisor.control.sessions.values()):
        actor, came_by = _connection(connection, now)
        clients.setdefault(came_by, []).append(actor)
    state = "refusing" if supervisor.admission.suspended else "accepting"
    return Actor(
        name="supervisor",
        kind="supervisor",
        state="suspended" if supervisor.admission.suspended else "serving",
        children=(
            *(
                Actor(task.name, "service", "running", waits_for=_waits_for(task))
                for task in services
            ),
            *(
                Actor(
                    name,
                    "listener",
                    state if name.startswith("listener") else "accepting",
                    waits_for=_waits_for(listeners[name]) if name in listeners else None,
                    children=tuple(actors),
                )
                for name, actors in clients.items()
            ),
        ),
        omitted=max(0, len(registry) - limit),
    )


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
        waits_for=None if task is None else _waits_for(task),
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
    """Return what a connection has started: its writer, its handlers, its endpoint."""
    kind = task.name.partition(" of ")[0]
    return Actor(name=task.name, kind=kind, state="running", waits_for=_waits_for(task))


def _waits_for(task: trio.lowlevel.Task) -> str | None:
    """Return the function that a task is suspended in, and the one of trio that it waits with.

    The task that asks is running, and its innermost functions are those that answer.
    """
    ours = None
    for frame, _ in task.iter_await_frames():
        module = frame.f_globals.get("__name__", "")
        name = frame.f_code.co_qualname
        if module.partition(".")[0] in ("trio", "outcome"):
            return f"{ours}: {name}" if ours else name
        ours = name
    return ours
