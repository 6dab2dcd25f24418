"""Traffic: the counters of what goes over the wire."""

from __future__ import annotations

import attrs


@attrs.define
class Traffic:
    """Counters of what goes over the wire: plain integers, written by all connections."""

    messages_in: int = 0  # from clients
    bytes_in: int = 0  # from clients, frames and all
    messages_out: int = 0  # to clients: those that were written, or wait in a mailbox
    bytes_out: int = 0  # to clients, frames and all
    published: int = 0  # publications accepted, from clients and from the program
    deliveries_failed: int = 0  # one for each publication and subscriber that did not get it
    deliveries_dropped: int = 0  # the same, where an overload policy dropped it
    bad_messages: int = 0
    rate_limited: int = 0
    handler_errors: int = 0
    handler_timeouts: int = 0
    heartbeats: int = 0  # Pings sent, by a deadline or by `cleanup`
