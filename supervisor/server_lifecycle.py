"""The lifecycle of a server as data: its states, the moves between them, what each state means.

Admission asks this table whether clients are let in. The hub asks it what to do with a client
that arrives after a draining began, and health asks it why the server is not ready. Drain, resume,
stop and the signals ask it what they may do. No other flag says any of this.

    starting -> serving <-> suspended
                  |  ^         |
                  v  |         v
                draining -> drained          (drain; `resume` leads back to serving)
                  |            |
                  v            v
                terminating -> stopping -> stopped     (SIGTERM; there is no way back)
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from ..protocol.moves import checked_move


class ServerState(Enum):
    """The states of a server."""

    STARTING = "starting"  # the sockets are open; nobody has been accepted yet
    SERVING = "serving"
    SUSPENDED = "suspended"  # nobody is let in; connected clients stay
    DRAINING = "draining"  # nobody is let in, and all are told to leave
    DRAINED = "drained"  # the draining is over; clients that arrive late are told to leave
    TERMINATING = "terminating"  # draining after a signal; the server stops when that is over
    STOPPING = "stopping"  # the connections that are left are closed
    STOPPED = "stopped"

    @property
    def admits(self) -> bool:
        """Whether new clients are let in."""
        return self is ServerState.SERVING

    @property
    def sends_away(self) -> bool:
        """Whether clients that have connected are told to leave, and to connect again elsewhere."""
        return self in _SENDS_AWAY

    @property
    def is_ending(self) -> bool:
        """Whether the server stops or has stopped: all clients are told that it goes away."""
        return self in _ENDING

    @property
    def reason(self) -> str | None:
        """The reason why the server is not ready for new clients, as `health` has it, or None."""
        return _REASONS[self]


_S = ServerState

LEGAL_MOVES: Final[dict[ServerState, frozenset[ServerState]]] = {
    _S.STARTING: frozenset({_S.SERVING, _S.STOPPING}),
    _S.SERVING: frozenset({_S.SUSPENDED, _S.DRAINING, _S.TERMINATING, _S.STOPPING}),
    _S.SUSPENDED: frozenset({_S.SERVING, _S.DRAINING, _S.TERMINATING, _S.STOPPING}),
    _S.DRAINING: frozenset({_S.SERVING, _S.DRAINED, _S.TERMINATING, _S.STOPPING}),
    _S.DRAINED: frozenset({_S.SERVING, _S.DRAINING, _S.TERMINATING, _S.STOPPING}),
    _S.TERMINATING: frozenset({_S.STOPPING}),
    _S.STOPPING: frozenset({_S.STOPPED}),
    _S.STOPPED: frozenset(),
}

_SENDS_AWAY: Final = frozenset({_S.DRAINING, _S.DRAINED, _S.TERMINATING})

_ENDING: Final = frozenset({_S.STOPPING, _S.STOPPED})

_REASONS: Final[dict[ServerState, str | None]] = {
    _S.STARTING: "starting",
    _S.SERVING: None,
    _S.SUSPENDED: "suspended",
    _S.DRAINING: "draining",
    _S.DRAINED: "suspended",
    _S.TERMINATING: "draining",
    _S.STOPPING: "stopping",
    _S.STOPPED: "stopped",
}


@attrs.define(eq=False)
class ServerLifecycle:
    """The present state of a server; every change goes through `move`."""

    state: ServerState = ServerState.STARTING

    def may_move(self, to: ServerState) -> bool:
        """Tell whether a state can follow the current one."""
        return to in LEGAL_MOVES[self.state]

    def move(self, to: ServerState) -> None:
        """Enter a state; IllegalMove if it cannot follow the current one, which then stays."""
        self.state = checked_move(self.state, to, LEGAL_MOVES)
