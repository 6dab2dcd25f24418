"""What `connect` and `publish` have in common: where to, and as whom."""

import os
from typing import Annotated

from cyclopts import Parameter

from ...actors.client.dialing import parse_address
from ..config.validators import ConfigurationError

Target = Annotated[
    str,
    Parameter(
        metavar="URL",
        help="ws://host:port/path, wss://… or ws+unix:///path/to.sock:/path",
    ),
]
Token = Annotated[
    str | None,
    Parameter(metavar="TOKEN", help="Who you are. Without it: $MOORAGE_TOKEN, else nobody."),
]
Timeout = Annotated[
    float,
    Parameter(
        metavar="SECONDS", help="How long to wait for the server to be there, and for each answer."
    ),
]


def token_or_variable(token: str | None) -> str | None:
    """Return the token given, else that of the environment; an empty one is none."""
    return (os.environ.get("MOORAGE_TOKEN") if token is None else token) or None


def check_target(url: str) -> None:
    """Raise ConfigurationError for what is no URL of a server."""
    try:
        parse_address(url)
    except ValueError as error:
        raise ConfigurationError("URL", str(error)) from error
