"""The default path of the control socket, on which the server and the command agree."""

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

    It is in the user's runtime folder if there is one, in /run/moorage for root, and else in the
    home folder. `user` is a user id; None stands for the process's own.
    """
    if folder := environment.get("XDG_RUNTIME_DIR"):
        return Path(folder, "moorage", _NAME)
    if (os.geteuid() if user is None else user) == 0:
        return Path("/run/moorage", _NAME)
    return Path.home() / ".moorage" / _NAME


def prepare_folder(path: Path) -> None:
    """Make the folder of a control socket, for this user alone.

    Raises ConfigurationError if it cannot be made, or if it belongs to another user, who could put
    a socket of their own there.
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
