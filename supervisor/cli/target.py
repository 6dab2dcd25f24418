"""The parameters that `connect` and `publish` share: the server's URL, the token, the timeout."""

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
    Parameter(
        metavar="TOKEN", help="Token to connect with. Without it: $MOORAGE_TOKEN, or else no token."
    ),
]
Timeout = Annotated[
    float,
    Parameter(metavar="SECONDS", help="Time to wait for a connection, and for each answer."),
]


def token_or_variable(token: str | None) -> str | None:
    """Return the token given, or else $MOORAGE_TOKEN; an empty one counts as None."""
    return (os.environ.get("MOORAGE_TOKEN") if token is None else token) or None


def check_target(url: str) -> None:
    """Raise ConfigurationError for a text that is not the URL of a server."""
    try:
        parse_address(url)
    except ValueError as error:
        raise ConfigurationError("URL", str(error)) from error
