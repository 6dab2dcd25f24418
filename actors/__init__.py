"""Who says it: one task for each connection of the server, and the client at the other end."""

from .client.backoff import Backoff
from .client.client import Client, open_client
from .client.client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from .client.client_state import ClientState, ClientStatistics
from .client.client_subscription import Subscription
from .connection.connection import Connection
from .connection.mailbox import OverloadPolicy
from .connection.raw import RawConnection
from .entrance.endpoint import Endpoint, UpgradeRequest
from .session.context import Context
from .session.session import Session

__all__ = [
    "Backoff",
    "Client",
    "ClientClosed",
    "ClientState",
    "ClientStatistics",
    "ConnectError",
    "Connection",
    "ConnectionLost",
    "ConnectionRefused",
    "Context",
    "Endpoint",
    "OverloadPolicy",
    "RawConnection",
    "RequestError",
    "Session",
    "Subscription",
    "UpgradeRequest",
    "open_client",
]
