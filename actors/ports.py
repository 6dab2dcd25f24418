"""The ports: all that actors know of their supervisor.

The supervisor's tables implement the ports; a test puts fakes in their place. No method here waits.
The ports are generic in the kind of connection, so that this module does not import the actors,
which import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, TypeVar

import msgspec

from ..protocol.access import Action
from ..protocol.closing import CloseCause
from ..protocol.identity import Identity
from .subscription import Subscription

ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class LifePort(Protocol[ConnectionT_contra]):
    """The port that every connection needs for its life, whatever its messages mean."""

    def arrived(self, connection: ConnectionT_contra) -> None:
        """Take note of a new connection; its user is known, unless the token comes by message."""
        ...

    def authenticated(self, connection: ConnectionT_contra, before: Identity) -> None:
        """Follow a change of the connection's identity, which was `before`.

        ProtocolError: a limit or a missing role forbids it, and nothing was changed.
        """
        ...

    def lingers(self, connection: ConnectionT_contra) -> None:
        """Take note that a connection ends, and that tasks of its nursery have not ended yet."""
        ...

    def ended(self, connection: ConnectionT_contra, cause: CloseCause) -> None:
        """Take note that a connection is over, and why. Raises nothing."""
        ...

    def verify(self, token: str) -> Identity:
        """Return the identity that a token proves; ProtocolError if the token is not good."""
        ...

    def log_event(self, level: str, event: str, **fields: Any) -> None:
        """Write one structured log line."""
        ...


class TopicsPort(Protocol[ConnectionT_contra]):
    """The port that clients' sessions use for topics."""

    def check_access(self, action: Action, identity: Identity, topic: str) -> None:
        """Raise ProtocolError if the settings, the topic's rule or the token do not allow it."""
        ...

    def subscribe(
        self, connection: ConnectionT_contra, topic: str, *, by_client: bool = False
    ) -> bool:
        """Enter a subscription; False if there was one. ProtocolError: a limit forbids it."""
        ...

    def unsubscribe(self, connection: ConnectionT_contra, topic: str) -> bool:
        """Take a subscription out, and deliver what is owed of it; False if there was none."""
        ...

    def subscriptions_of(self, connection: ConnectionT_contra) -> Mapping[str, Subscription]:
        """Return a connection's subscriptions by topic, as a read-only view."""
        ...

    def publish_raw(self, topic: str, data: msgspec.Raw) -> int:
        """Publish a client's data, unparsed; return how many connections are addressed."""
        ...


class SendingPort(Protocol):
    """The port for what a message handler sends to others through its context."""

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish a message; return how many connections are addressed."""
        ...

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send a message to all sessions of a user; return how many there are."""
        ...
