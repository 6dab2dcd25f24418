"""The client: it connects to a server, and connects again when the connection is lost.

Importing this package imports no part of the server.
"""

from ..actors.client.backoff import Backoff
from ..actors.client.client import Client, open_client
from ..actors.client.client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from ..actors.client.client_state import ClientState
from ..actors.client.client_statistics import ClientStatistics
from ..actors.client.client_subscription import ClientSubscription

__all__ = [
    "Backoff",
    "Client",
    "ClientClosed",
    "ClientState",
    "ClientStatistics",
    "ClientSubscription",
    "ConnectError",
    "ConnectionLost",
    "ConnectionRefused",
    "RequestError",
    "open_client",
]
