"""`moorage serve`: run a server until it is told to stop."""

import importlib
import os
import shlex
import shutil
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import attrs
import structlog
import trio
from cyclopts import Parameter

from ...protocol.version import VERSION
from ..app import App
from ..config.control_path import default_control_path, prepare_folder
from ..config.settings import Settings
from ..config.validators import ConfigurationError
from ..entrance.keys import random_secret
from ..entrance.listeners import remove_stale
from ..entrance.tokens import mint_token
from ..server import open_supervisor
from ..telemetry.line_writer import standard_error
from ..telemetry.logs import configure_logging
from .config import checked, located
from .exits import CommandError
from .flags import ConfigFile, Flags, SettingFlags, configuration

_NO_FLAGS = Flags()
_APP = (
    "Your endpoints and handlers: an `App` in a module that can be imported from here. Without "
    "it: $MOORAGE_APP, or else the standard endpoint alone."
)


def serve(
    *,
    app: Annotated[str | None, Parameter(metavar="MODULE:NAME", help=_APP)] = None,
    config: ConfigFile = None,
    flags: SettingFlags = _NO_FLAGS,
) -> None:
    """Run a server until SIGTERM or Ctrl-C, then drain it.

    Draining tells the clients when to come back. Without a key the server runs
    in development mode, for this machine only, and prints lines to paste into
    another terminal.

    Every setting can be given as a flag, as a variable (MOORAGE_ and its name
    in capitals) or in the TOML file. A flag counts before a variable, a
    variable before the file. `moorage config show` prints the settings in
    force and where each comes from.

    For example:
      $ moorage serve
      $ moorage serve --host 0.0.0.0 --jwt-key-file public.pem
      $ MOORAGE_JWT_KEY="$SECRET" moorage serve --config moorage.toml --app chat:app
    """
    found = configuration(flags, config)
    verifier = checked(found)
    name, source = (app, "--app") if app else (os.environ.get("MOORAGE_APP"), "MOORAGE_APP")
    program = load_app(name, source) if name else App()
    configure_logging(found.settings)
    if found.ignored:
        advice = "give the Service another name, or set enableServiceLinks: false for the pod"
        structlog.get_logger("moorage").warning(
            "variables_ignored", variables=found.ignored, advice=advice
        )
    for concern in verifier.concerns:
        structlog.get_logger("moorage").warning("weak_key", concern=concern)
    try:
        trio.run(_serve, found.settings, program)
    except* ConfigurationError as group:
        raise located(group, found) from None


async def _serve(settings: Settings, app: App) -> None:
    token: str | None = None
    if settings.development:
        # The secret is for this run only, so that no other token can be valid.
        secret = random_secret()
        token = mint_token(secret, user="developer", role="admin", ttl=86_400)
        settings = attrs.evolve(settings, jwt_key=secret, anonymous=True)
    if settings.control_socket is None:
        settings = attrs.evolve(settings, control_socket=_control_socket())
    async with open_supervisor(settings, app) as supervisor:
        if token is not None:
            standard_error().write(f"{banner(supervisor.addresses[0], token)}\n")
        await supervisor.serve_until_signal()


def _control_socket() -> Path | None:
    """Return the default path of the control socket, or log a warning and return None.

    No setting asks for this path, so a server that cannot have it serves its clients all the same.
    """
    path = default_control_path()
    try:
        prepare_folder(path)
        remove_stale(path, "control_socket")
    except ConfigurationError as error:
        advice = "to administer this server, give it a control_socket of its own"
        structlog.get_logger("moorage").warning(
            "no_control_socket", problem=error.problem, allowed=error.allowed, advice=advice
        )
        return None
    return path


def load_app(name: str, source: str) -> App:
    """Return the `App` that MODULE:NAME names, imported as from the current folder.

    Raises ConfigurationError where there is none, and CommandError where importing it fails.
    """
    allowed = "MODULE:NAME, such as chat.server:app"
    module_name, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in module_name.split(".")):
        problem = f"{name!r} is not of that form"
        raise ConfigurationError("app", problem, allowed=allowed, source=source)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(module_name, error) from error
        problem = f"there is no module {error.name!r} in {here} or among the packages installed"
        raise ConfigurationError("app", problem, allowed=allowed, source=source) from error
    except Exception as error:
        raise _broken(module_name, error) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        apps = [
            key for key, value in vars(sys.modules[module_name]).items() if isinstance(value, App)
        ]
        problem = (
            f"{attribute!r} of {module_name} is {'missing' if found is None else 'not an App'}"
        )
        allowed = ", ".join(f"{module_name}:{key}" for key in apps) or "a module that holds an App"
        raise ConfigurationError("app", problem, allowed=allowed, source=source)
    return found


def banner(address: str, token: str) -> str:
    """Return the greeting in development mode: address, token, and a line to paste."""
    command = _own_command()
    return f"""
Moorage {VERSION} in development mode: for this machine only, with or without a token.

  address   {address}
  token     {token}

To see a message arrive, paste this into another terminal:

  echo '"It works!"' | {command} connect {address} --topic news
"""


def _own_command() -> str:
    """Return how to run this command once more, in another terminal and the same folder."""
    if Path(sys.argv[0]).name == "__main__.py":  # by `python -m moorage`
        return f"{shlex.quote(os.path.relpath(sys.executable))} -m moorage"
    # The command that `make serve` runs is not on the path of another terminal.
    return "moorage" if shutil.which("moorage") else shlex.quote(os.path.relpath(sys.argv[0]))


def _broken(module: str, error: Exception) -> CommandError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno}"
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    return CommandError(f"importing {module} failed at {place}: {type(error).__name__}: {error}")
