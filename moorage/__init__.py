"""Moorage: an actor-model supervisor for WebSocket connections, on Trio.

Programs import this package. Each name is imported from its module when it is first looked up, so
that a client does not import the server, and a server without HTTP imports no HTTP. The other names
of the client are in `moorage.client`.
"""

from importlib import import_module

from .protocol.version import VERSION

__version__ = VERSION

__all__ = [
    "App",
    "BlockingSupervisor",
    "Client",
    "CloseCause",
    "CloseCode",
    "ConfigurationError",
    "ConnectionState",
    "Context",
    "Endpoint",
    "Envelope",
    "ErrorCode",
    "Identity",
    "LocalProtocolError",
    "MoorageError",
    "OverloadPolicy",
    "Permissions",
    "ProtocolError",
    "RawConnection",
    "RemoteProtocolError",
    "ResumeRefused",
    "ServerState",
    "Session",
    "Settings",
    "Statistics",
    "Subscription",
    "Supervisor",
    "TopicRule",
    "Traffic",
    "Transport",
    "UpgradeRequest",
    "__version__",
    "configure_logging",
    "mint_token",
    "open_client",
    "open_supervisor",
    "raise_descriptor_limit",
]

# Type checkers know this name, and take it to be true, as they do with `typing.TYPE_CHECKING`.
# Importing `typing` would take longer than the rest of this file.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .actors.connection.lifecycle import ConnectionState
    from .actors.connection.mailbox import OverloadPolicy
    from .actors.connection.raw import RawConnection
    from .actors.connection.traffic import Traffic
    from .actors.entrance.endpoint import Endpoint, UpgradeRequest
    from .actors.session.session import Context, Session
    from .actors.subscription import Subscription
    from .actors.transports.transport import Transport
    from .client import Client, open_client
    from .protocol.closing import CloseCause, CloseCode
    from .protocol.errors import (
        ErrorCode,
        LocalProtocolError,
        MoorageError,
        ProtocolError,
        RemoteProtocolError,
    )
    from .protocol.identity import Identity, Permissions
    from .protocol.messages.envelope import Envelope
    from .supervisor.app import App
    from .supervisor.config.settings import Settings
    from .supervisor.config.topic_rules import TopicRule
    from .supervisor.config.validators import ConfigurationError
    from .supervisor.core import ResumeRefused
    from .supervisor.entrance.descriptors import raise_descriptor_limit
    from .supervisor.entrance.tokens import mint_token
    from .supervisor.server import open_supervisor
    from .supervisor.server_lifecycle import ServerState
    from .supervisor.supervisor import BlockingSupervisor, Supervisor
    from .supervisor.telemetry.logs import configure_logging
    from .supervisor.telemetry.statistics import Statistics
else:
    # Type checkers do not see this branch: with `__getattr__`, they would accept any misspelt name.

    # The module of each name, as in the imports above.
    _MODULES = {
        "App": "supervisor.app",
        "BlockingSupervisor": "supervisor.supervisor",
        "Client": "client",
        "CloseCause": "protocol.closing",
        "CloseCode": "protocol.closing",
        "ConfigurationError": "supervisor.config.validators",
        "ConnectionState": "actors.connection.lifecycle",
        "Context": "actors.session.session",
        "Endpoint": "actors.entrance.endpoint",
        "Envelope": "protocol.messages.envelope",
        "ErrorCode": "protocol.errors",
        "Identity": "protocol.identity",
        "LocalProtocolError": "protocol.errors",
        "MoorageError": "protocol.errors",
        "Permissions": "protocol.identity",
        "OverloadPolicy": "actors.connection.mailbox",
        "ProtocolError": "protocol.errors",
        "RawConnection": "actors.connection.raw",
        "RemoteProtocolError": "protocol.errors",
        "ResumeRefused": "supervisor.core",
        "ServerState": "supervisor.server_lifecycle",
        "Session": "actors.session.session",
        "Statistics": "supervisor.telemetry.statistics",
        "Settings": "supervisor.config.settings",
        "Subscription": "actors.subscription",
        "Supervisor": "supervisor.supervisor",
        "Traffic": "actors.connection.traffic",
        "Transport": "actors.transports.transport",
        "TopicRule": "supervisor.config.topic_rules",
        "UpgradeRequest": "actors.entrance.endpoint",
        "configure_logging": "supervisor.telemetry.logs",
        "mint_token": "supervisor.entrance.tokens",
        "open_client": "client",
        "open_supervisor": "supervisor.server",
        "raise_descriptor_limit": "supervisor.entrance.descriptors",
    }

    def __getattr__(name: str) -> object:
        """Import a public name from its module, and keep it; AttributeError for any other name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the public names, including those that have not been looked up yet."""
        return sorted({*globals(), *__all__})
