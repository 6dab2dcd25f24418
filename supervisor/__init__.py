"""Who looks after the connections: the supervisor, its settings, and what a program registers."""

from .allowed import ConfigurationError
from .app import App
from .logs import configure_logging
from .settings import Settings
from .supervisor import Supervisor, open_supervisor
from .threads import ThreadPort

__all__ = [
    "App",
    "ConfigurationError",
    "Settings",
    "Supervisor",
    "ThreadPort",
    "configure_logging",
    "open_supervisor",
]
