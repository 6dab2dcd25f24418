"""The end of a connection: its state, and the one cause for which it ends.

    open -> a cause, by `end`                                     -> closing -> closed
         -> `end_soon`: what came before is worked off, then `end` /

The first cause wins. Most causes end a connection at once. A peer's last word does not (its Close
frame, a violation of the WebSocket protocol): what came before it is acted on first, for
`close_timeout` at most.
"""

from __future__ import annotations

import abc
from typing import Any

import trio

from ...protocol.closing import CloseCause
from ...protocol.identity import Identity
from ...protocol.websocket.frames import encode_close
from .lifecycle import ConnectionState, move
from .shared import Shared


class Closable(abc.ABC):
    """The part of a connection that knows whether and why it ends; `Connection` is the rest."""

    __slots__ = (
        "__weakref__",
        "_close_code",
        "_close_frame",
        "_ending",
        "_peer_close_code",
        "cause",
        "id",
        "identity",
        "nursery",
        "shared",
        "state",
    )

    def __init__(self, shared: Shared, connection_id: str, identity: Identity) -> None:
        self.shared = shared
        self.id = connection_id
        self.identity = identity
        self.nursery: trio.Nursery | None = None  # of all that the connection starts
        self.state = ConnectionState.OPENING
        self.cause: CloseCause | None = None  # why the connection ends; the first one wins
        # The cause, and its reason, for which the connection ends when what came before is worked
        # off; from then on nothing is read.
        self._ending: tuple[CloseCause, str | None] | None = None
        self._peer_close_code: int | None = None
        self._close_code: int | None = None
        self._close_frame = b""  # carries `_close_code`; empty: nothing can be sent

    @property
    def user_id(self) -> str | None:
        """The user that the token names; None for an anonymous connection."""
        return self.identity.user_id

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line about this connection."""
        self.shared.life.log_event(
            level, event, connection_id=self.id, user_id=self.user_id, **fields
        )

    @abc.abstractmethod
    def _has_work(self) -> bool:
        """Tell whether something that the peer has sent is still to be worked off, or is awaited.

        If so, `_finish` must be called when it is done. Nothing more will come.
        """

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that we send or sent; None if there is none."""
        return self._close_code

    @property
    def is_open(self) -> bool:
        """Whether the connection has no cause of closing yet."""
        return self.cause is None

    def end(self, cause: CloseCause, *, code: int | None = None, reason: str | None = None) -> bool:
        """Begin to end this connection, and return at once. The first cause wins.

        `code` and `reason` go into the Close frame in place of the cause's own. Returns False if
        the connection was ending already. ValueError: no Close frame can carry them; nothing
        happens then.
        """
        if self.cause is not None:
            return False
        close_frame = b""
        if cause is CloseCause.PEER_CLOSED:
            code = self._peer_close_code
            close_frame = encode_close(code)
        elif cause.code is not None:
            code = int(cause.code) if code is None else code
            close_frame = encode_close(code, cause.reason if reason is None else reason)
        self.cause = cause
        self._close_code, self._close_frame = code, close_frame
        self.state = move(self.state, ConnectionState.CLOSING)
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()
        return True

    def end_soon(self, cause: CloseCause, *, reason: str | None = None) -> None:
        """End this connection for what was read last, after all that was read before.

        Nothing more is read. What was read has `close_timeout` to be worked off.
        """
        if self._ending is not None or self.cause is not None:
            return
        self._ending = cause, reason
        if self._has_work():
            assert self.nursery is not None  # noqa: S101 - messages come only while it is open
            self.nursery.start_soon(self._finish_late, name=f"end of {self.id}")
        else:
            self._finish()

    async def _finish_late(self) -> None:
        await trio.sleep(self.shared.limits.close_timeout)  # mostly the messages are done before
        self._finish()

    def _finish(self) -> None:
        """End the connection for the cause that `end_soon` has noted."""
        assert self._ending is not None  # noqa: S101 - `end_soon` has set it
        cause, reason = self._ending
        self.end(cause, reason=reason)

    def _on_broken(self) -> None:
        """End the connection, since the peer can be sent nothing more.

        One that has said goodbye before owes us nothing: its messages are still worked off.
        """
        if self._ending is None:
            self.end(CloseCause.PEER_VANISHED)
