"""`moorage token`: mint a token."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..config.validators import ConfigurationError
from ..entrance.keys import read_key_file
from ..entrance.tokens import mint_token
from .terminal.rendering import out

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def token(
    *,
    user: Annotated[str, Parameter(metavar="ID")],
    role: Annotated[str | None, Parameter(metavar="NAME")] = None,
    ttl: Annotated[str, Parameter(metavar="TIME")] = "1h",
    subscribe: Annotated[list[str] | None, Parameter(metavar="PATTERN", negative=())] = None,
    publish: Annotated[list[str] | None, Parameter(metavar="PATTERN", negative=())] = None,
    key: Annotated[str | None, Parameter(metavar="KEY")] = None,
    key_file: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    allow_short_key: Annotated[bool, Parameter(negative=())] = False,
    algorithm: Annotated[str | None, Parameter(metavar="NAME")] = None,
    audience: Annotated[list[str] | None, Parameter(metavar="TEXT", negative=())] = None,
    issuer: Annotated[str | None, Parameter(metavar="TEXT")] = None,
    session: Annotated[str | None, Parameter(metavar="ID")] = None,
    info: Annotated[str | None, Parameter(metavar="JSON")] = None,
) -> None:
    """Mint a token and print it.

    The key is the server's: the same secret, or the private half of its public
    key. The algorithm follows from the key, as it does on the server.

    For example:
      $ moorage token --user ann --key "$SECRET"
      $ moorage token --user ann --ttl 15m --subscribe 'orders.*' --key-file key.pem
      $ MOORAGE_JWT_KEY="$SECRET" moorage token --user root --role admin

    Parameters
    ----------
    user
        User that the token is for.
    role
        Role of the user. `admin` opens the control commands; all others are for your program.
    ttl
        Time for which it is valid: a number of seconds, or 90s, 15m, 1h, 7d, 2w; or `never`, for a
        token without an end.
    subscribe
        Topic pattern that the user may subscribe to. Repeatable; without any, the server's settings
        decide.
    publish
        Topic pattern that the user may publish to. Repeatable; without any, the server's settings
        decide.
    key
        A secret of 32 bytes or more, or the PEM text of a private key. Other users of this machine
        can see it while the command runs: prefer --key-file or $MOORAGE_JWT_KEY.
    key_file
        File that holds the key.
    allow_short_key
        Take a secret of less than 32 bytes, for a server with jwt_allow_short_keys.
    algorithm
        Algorithm to use instead of the one that the key implies, such as HS512 or PS256.
    audience
        The `aud` claim, of which the server's jwt_audience must name one. Repeatable; without any,
        the server must have no jwt_audience.
    issuer
        The `iss` claim.
    session
        The `sid` claim: ending that session ends all its connections.
    info
        The `info` claim, as JSON; it is copied to the connection's metadata.
    """
    out(
        mint_token(
            _key(key, key_file),
            user=user,
            ttl=_seconds(ttl),
            role=role,
            subscribe=subscribe,
            publish=publish,
            audience=audience or (),
            issuer=issuer,
            session=session,
            info=None if info is None else _json(info),
            algorithm=algorithm,
            allow_short_key=allow_short_key,
        )
    )


def _key(key: str | None, key_file: Path | None) -> str:
    if key is not None and key_file is not None:
        raise ConfigurationError(
            "key", "--key and --key-file were both given", allowed="one of them"
        )
    if key_file is not None:
        return read_key_file(key_file, "key_file")
    if key is None:
        key = os.environ.get("MOORAGE_JWT_KEY")
    if not key:
        raise ConfigurationError(
            "key", "no key is given", allowed="--key, --key-file or $MOORAGE_JWT_KEY"
        )
    return key


def _seconds(ttl: str) -> float | None:
    if ttl == "never":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhdw]?)", ttl)
    if match is None:
        raise ConfigurationError(
            "ttl", f"{ttl!r} is not a time", allowed="seconds, or 90s, 15m, 1h, 7d, 2w, or never"
        )
    return float(match[1]) * _UNITS[match[2]]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError("info", f"this is not JSON: {error}", allowed="JSON") from error
