"""Who looks after the connections: the supervisor, its settings, and what a program registers."""

from .app import App
from .config.settings import Settings
from .config.validators import ConfigurationError
from .supervisor import Supervisor, open_supervisor
from .telemetry.logs import configure_logging
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
