"""The connections of a server: by id, by user, by address."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..actors.connection.connection import Connection
from ..protocol.closing import CloseCause
from ..protocol.errors import ErrorCode, RemoteProtocolError


@attrs.define(eq=False)
class Registry:
    """Knows every connection that has arrived and not ended. All of it is synchronous."""

    max_per_user: int = 0  # 0: no limit
    max_per_address: int = 0
    by_id: dict[str, Connection] = attrs.field(factory=dict[str, Connection])
    by_user: dict[str, dict[Connection, None]] = attrs.field(
        factory=dict[str, dict[Connection, None]]
    )
    by_address: dict[str, int] = attrs.field(factory=dict[str, int])  # how many each has

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Connection]:
        """Go through a copy: connections may come and go meanwhile."""
        return iter(tuple(self.by_id.values()))

    def of_user(self, user_id: str) -> tuple[Connection, ...]:
        """Return all connections of a user, oldest first."""
        return tuple(self.by_user.get(user_id, ()))

    def add(self, connection: Connection) -> None:
        """Enter a connection.

        RemoteProtocolError: its user or address has as many as it may; nothing was changed then.
        """
        address = connection.address
        count = self.by_address.get(address, 0)
        if address and self.max_per_address and count >= self.max_per_address:
            raise self._too_many(f"your address may have {self.max_per_address} connections")
        self.set_user(connection, None)
        self.by_id[connection.id] = connection
        if address:
            self.by_address[address] = count + 1

    def set_user(self, connection: Connection, before: str | None) -> None:
        """Follow a change of a connection's user; RemoteProtocolError if it has too many."""
        user_id = connection.user_id
        if user_id is None or user_id == before:
            return
        present = self.by_user.get(user_id, {})
        if self.max_per_user and len(present) >= self.max_per_user:
            raise self._too_many(f"a user may have {self.max_per_user} connections")
        self.by_user.setdefault(user_id, {})[connection] = None

    def remove(self, connection: Connection) -> bool:
        """Take a connection out; False if it never was in."""
        if self.by_id.pop(connection.id, None) is None:
            return False
        user_id = connection.user_id
        if user_id is not None and user_id in self.by_user:
            self.by_user[user_id].pop(connection, None)
            if not self.by_user[user_id]:
                del self.by_user[user_id]
        if connection.address:
            self.by_address[connection.address] -= 1
            if not self.by_address[connection.address]:
                del self.by_address[connection.address]
        return True

    def _too_many(self, text: str) -> RemoteProtocolError:
        return RemoteProtocolError(text, ErrorCode.FORBIDDEN, close=CloseCause.TOO_MANY_CONNECTIONS)
