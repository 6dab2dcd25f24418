"""The default path of the control socket, on which the server and the command agree."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

from .validators import ConfigurationError

_NAME: Final = "control.sock"

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


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
    """Make the folder of a control socket, for this user alone, or check the one that is there.

    Another user who can write to the folder, or to the folder that it lies in, could put a socket
    of their own there. So neither may belong to another user or be open to others for writing, and
    the folder may not be a symbolic link. What is there is left as it is. Raises
    ConfigurationError, which says what would be right.
    """
    folder = path.parent
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(folder.parent) as above:
            _check(folder.parent, os.fstat(above), shared=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder.name, 0o700, dir_fd=above)
            with _opened(folder.name, os.O_NOFOLLOW, above) as its:
                _check(folder, os.fstat(its))
    except OSError as error:
        text = f"{folder} cannot be made: {error.strerror or error}"
        raise _refused(text, "a folder of your own") from error


@contextlib.contextmanager
def _opened(
    path: Path | str, flags: int = 0, dir_fd: int | None = None
) -> Generator[int, None, None]:
    """Open a path without the right to read it: `fstat` then tells of that very file."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(folder: Path, found: os.stat_result, *, shared: bool = False) -> None:
    """Refuse a folder in which another user could replace something.

    A `shared` one may also be root's, or have the sticky bit, as /tmp has.
    """
    me = os.geteuid()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        raise _refused(f"{folder} is a symbolic link", "a folder itself: `rm` the link")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(f"{folder} is not a folder", f"a folder: move {folder.name} away")
    if found.st_uid != me and not (shared and found.st_uid == 0):
        text = f"{folder} belongs to another user (uid {found.st_uid})"
        raise _refused(text, f"a folder that belongs to you (uid {me})")
    if mode & _OTHERS_WRITE and not (shared and mode & stat.S_ISVTX):
        text = f"{folder} may be written to by others (mode {mode:04o})"
        raise _refused(text, f"a folder for you alone: `chmod go-w {shlex.quote(str(folder))}`")


def _refused(problem: str, allowed: str) -> ConfigurationError:
    return ConfigurationError("control_socket", problem, allowed=allowed)
