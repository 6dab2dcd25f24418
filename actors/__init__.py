"""Who says it: one task for each connection of the server, and the client at the other end."""

from .backoff import Backoff
from .client import Client, open_client
from .client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from .client_state import ClientState, ClientStatistics
from .connection import Connection
from .context import Context
from .endpoint import Endpoint, UpgradeRequest
from .mailbox import OverloadPolicy
from .raw import RawConnection
from .session import Session
from .subscription import Subscription

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
