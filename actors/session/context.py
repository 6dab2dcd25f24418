"""What a message handler of the program gets to work with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...protocol.messages.codec import encode_value, head

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ...protocol.identity import Identity
    from ...protocol.messages.codec import Incoming
    from .session import Session


class Context:
    """One message's surroundings. Every method is synchronous, since none of them can block."""

    __slots__ = ("_message_id", "connection")

    def __init__(self, connection: Session, message: Incoming) -> None:
        self.connection = connection
        self._message_id = message.id

    @property
    def identity(self) -> Identity:
        """Who sent the message, as the token tells it."""
        return self.connection.identity

    @property
    def user_id(self) -> str | None:
        """The user who sent the message; None if it came without a token."""
        return self.connection.identity.user_id

    @property
    def metadata(self) -> dict[str, Any]:
        """What the program keeps about this connection."""
        return self.connection.metadata

    def reply(self, message_type: str, data: Any = None, *, topic: str | None = None) -> bool:
        """Answer the message: its `id` goes back with it. False if the connection is over.

        LocalProtocolError: the type or the data cannot be sent.
        """
        return self.connection.say(head(message_type, topic, self._message_id), encode_value(data))

    def broadcast_to_topic(
        self,
        topic: str,
        message_type: str,
        data: Any = None,
        *,
        exclude: AbstractSet[str] = frozenset(),
    ) -> int:
        """Publish to a topic's subscribers, but the connections of the ids in `exclude`.

        Returns how many are addressed. LocalProtocolError: it cannot be sent.
        """
        return self.connection.port.supervisor.broadcast_to_topic(
            topic, message_type, data, exclude=exclude
        )

    def send_to_user(self, user_id: str | int, message_type: str, data: Any = None) -> int:
        """Send to all connections of a user; returns how many those are."""
        return self.connection.port.supervisor.send_to_user(user_id, message_type, data)

    def subscribe(self, topic: str) -> bool:
        """Subscribe the sender's connection; False if it was already. ProtocolError: a limit."""
        return self.connection.subscribe(topic)

    def unsubscribe(self, topic: str) -> bool:
        """Undo a subscription of the sender's connection; False if there was none."""
        return self.connection.unsubscribe(topic)
