"""A subscription of a connection to a topic."""

from __future__ import annotations

from attrs import frozen


@frozen
class Subscription:
    """A subscription to a topic, as a value; programs may look at it.

    It does not name its connection. The routing tables keep it under its connection and under its
    topic. A reference back would make a cycle of each subscribed connection, and Python frees a
    cycle only when its collector happens to run.
    """

    # The name of the topic.
    topic: str
    # Whether the client asked for it, and not the program. The session undoes such a subscription
    # when a renewed token no longer allows it.
    by_client: bool = False
