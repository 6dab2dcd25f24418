"""The handle by which a program holds a connection: the part that all kinds of handles share.

A handle shows what a program may see, and offers what a program may do, and nothing else. A program
cannot break the actor, or the tables that know the actor, through it. Handles are made when they
are asked for. Two handles of the same connection are equal and have the same hash, so that a
program can keep them in sets and dicts. The actor does not keep its handle: the two would be a
cycle.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ...protocol.identity import Identity
from .connection import Connection
from .lifecycle import ConnectionState

ActorT = TypeVar("ActorT", bound=Connection)


class ConnectionHandle(Generic[ActorT]):
    """The common part of `Session` and `RawConnection`; usable after the connection's end, too."""

    __slots__ = ("_actor",)

    def __init__(self, actor: ActorT) -> None:
        """Take the actor; programs get their handles from Moorage and make none themselves."""
        self._actor = actor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionHandle) and self._actor is other._actor  # pyright: ignore[reportUnknownMemberType]

    def __hash__(self) -> int:
        return hash(self._actor)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.user_id!r}, {self.state.value}>"

    @property
    def id(self) -> str:
        """The id of the connection, in logs, in admin commands and in `exclude`."""
        return self._actor.id

    @property
    def identity(self) -> Identity:
        """The identity that the verified token gives the client."""
        return self._actor.identity

    @property
    def user_id(self) -> str | None:
        """The user that the token names; None for an anonymous connection."""
        return self._actor.identity.user_id

    @property
    def address(self) -> str:
        """The client's network address; behind a proxy the one that `trusted_proxies` vouch for."""
        return self._actor.address

    @property
    def path(self) -> str:
        """The path of the endpoint that the client connected to."""
        return self._actor.endpoint.path

    @property
    def metadata(self) -> dict[str, Any]:
        """The program's own notes about the connection, a dict.

        It begins with what `authorize_connect` put there, and with the token's `info`. Moorage
        changes nothing in it but `info`, when a new token has one.
        """
        return self._actor.metadata

    @property
    def state(self) -> ConnectionState:
        """The state of the connection: opening, authenticating, open, closing or closed."""
        return self._actor.state

    @property
    def is_open(self) -> bool:
        """Whether the connection has no cause of closing yet."""
        return self._actor.is_open

    @property
    def connected_at(self) -> float:
        """The time at which the client connected, by the wall clock: seconds since 1970."""
        return self._actor.connected_at

    @property
    def last_heard(self) -> float:
        """The time at which the client last sent any bytes, on Trio's clock, in seconds."""
        return self._actor.last_heard

    @property
    def rtt(self) -> float | None:
        """The seconds between the latest answered Ping and its Pong; None before the first Pong."""
        return self._actor.rtt

    @property
    def messages_in(self) -> int:
        """The number of messages that the client has sent, control frames included."""
        return self._actor.messages_in

    @property
    def waiting_bytes(self) -> int:
        """The bytes in the connection's mailbox that the socket has not taken yet."""
        return self._actor.mailbox.size

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that the server sends or sent; None if there is none."""
        return self._actor.close_code
