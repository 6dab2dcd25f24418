"""The port: all that a connection actor knows of its supervisor.

An actor knows its mailbox and this. The supervisor implements it; tests put a fake in its place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import msgspec

from ..protocol.access import Action
from ..protocol.closing import CloseCause
from ..protocol.identity import Identity
from .connection.limits import ConnectionLimits
from .connection.mailbox import MailboxPort
from .tick import Tick

if TYPE_CHECKING:
    from ..protocol.messages.envelope import Envelope
    from .connection.connection import Connection
    from .session.context import Context
    from .session.session import Session

Handler = Callable[["Context", "Envelope"], Awaitable[None] | None]
Authorizer = Callable[["Session", str], "Awaitable[bool | None] | bool | None"]


@attrs.define
class Traffic:
    """Counters of the wire path; plain integers, written by every connection."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    published: int = 0  # publications accepted, from clients and from the program
    deliveries_failed: int = 0  # publications that a subscriber could not be given
    deliveries_dropped: int = 0  # by an overload policy
    bad_messages: int = 0
    rate_limited: int = 0
    handler_errors: int = 0
    handler_timeouts: int = 0
    heartbeats: int = 0  # Pings sent, by a deadline or by `cleanup`


@attrs.frozen
class ActorPort:
    """What every connection of a server shares, made once."""

    tick: Tick
    limits: ConnectionLimits
    mailbox: MailboxPort
    traffic: Traffic
    handlers: Mapping[str, Handler]  # of the program's own message types
    authorizers: Mapping[Action, Authorizer]
    supervisor: SupervisorPort


class SupervisorPort(Protocol):
    """What an actor may ask of its supervisor. Nothing here waits."""

    def arrived(self, connection: Connection) -> None:
        """A connection is open: its user, if it has one, is known."""
        ...

    def authenticated(self, connection: Connection, before: Identity) -> None:
        """A connection's identity has changed from `before`.

        ProtocolError: it must not, because of a limit; nothing was changed then.
        """
        ...

    def ended(self, connection: Connection, cause: CloseCause, error: BaseException | None) -> None:
        """A connection is over, for this cause."""
        ...

    def verify(self, token: str) -> Identity:
        """Verify a token; ProtocolError if it is not good."""
        ...

    def check_access(self, action: Action, identity: Identity, topic: str) -> None:
        """ProtocolError if the settings or the token do not allow it."""
        ...

    def subscribe(self, connection: Connection, topic: str) -> bool:
        """Enter a subscription; False if there was one. ProtocolError: a limit."""
        ...

    def unsubscribe(self, connection: Connection, topic: str) -> bool:
        """Take a subscription out; False if there was none. What is owed of it is delivered."""
        ...

    def publish_raw(self, topic: str, data: msgspec.Raw) -> int:
        """Publish a client's data, unparsed; return how many are addressed."""
        ...

    def broadcast_to_topic(
        self, topic: str, message_type: str, data: Any, *, exclude: AbstractSet[str]
    ) -> int:
        """Publish from the program; return how many are addressed."""
        ...

    def send_to_user(self, user_id: str | int, message_type: str, data: Any) -> int:
        """Send to all of a user's connections; return how many those are."""
        ...

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line."""
        ...
