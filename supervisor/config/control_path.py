"""Where the control socket is when nobody has said where: the server and the tools agree on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .validators import ConfigurationError

_NAME: Final = "control.sock"


def default_control_path(
    environment: Mapping[str, str] = os.environ, user: int | None = None
) -> Path:
    """Return the path that `moorage serve` listens on and `moorage admin` connects to.

    The user's runtime folder where there is one, /run/moorage for root, or else a folder at home.
    `user` is the process's own where None.
    """
    if folder := environment.get("XDG_RUNTIME_DIR"):
        return Path(folder, "moorage", _NAME)
    if (os.geteuid() if user is None else user) == 0:
        return Path("/run/moorage", _NAME)
    return Path.home() / ".moorage" / _NAME


def prepare_folder(path: Path) -> None:
    """Make the folder of a control socket, for this user alone.

    ConfigurationError: it cannot be made, or belongs to somebody else, who could then put a socket
    of his own there.
    """
    folder = path.parent
    allowed = "a path in a folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        text = f"{folder} cannot be made: {error.strerror or error}"
        raise ConfigurationError("control_socket", text, allowed=allowed) from error
    if owner != os.geteuid():
        text = f"{folder} belongs to another user"
        raise ConfigurationError("control_socket", text, allowed=allowed)
    folder.chmod(0o700)
