"""The counts that a client keeps, and the snapshot of them that a program gets."""

from __future__ import annotations

from attrs import define, frozen

from .client_state import ClientState


@define(eq=False)
class ClientCounts:
    """The counts of one client over all its connections; its connections add to them."""

    # Attempts that led to no connection.
    failed_attempts: int = 0
    # Connections on which the server sent its welcome and confirmed the topics.
    connections: int = 0
    # Messages written, and messages that arrived.
    sent: int = 0
    received: int = 0
    # Messages from the server that do not follow the protocol; the client skips them.
    malformed: int = 0
    # Tokens renewed on a connection that was open.
    renewals: int = 0


@frozen
class ClientStatistics:
    """A snapshot of what a client has done so far; its counts cover all connections."""

    # The stage of its life that the client was in.
    state: ClientState
    # Connections that were established, and attempts that failed.
    connections: int
    failed_attempts: int
    # Messages written and received, and those received that do not follow the protocol.
    messages_sent: int
    messages_received: int
    messages_malformed: int
    # Messages dropped because `messages()` or a subscription was not read fast enough.
    messages_dropped: int
    # Requests that wait for an answer now, and topics that are subscribed now.
    requests_pending: int
    topics: int
    # Tokens renewed on a connection that was open.
    renewals: int
