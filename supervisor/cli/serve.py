"""`moorage serve`: run a server until it is told to stop."""

import gc
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio

from ...protocol.version import VERSION
from ..app import App
from ..config.control_path import default_control_path, prepare_folder
from ..config.settings import Settings
from ..config.validators import ConfigurationError
from ..entrance.descriptors import raise_descriptor_limit
from ..entrance.keys import random_secret
from ..entrance.listeners import remove_stale
from ..entrance.tokens import mint_token
from ..server import open_server
from ..telemetry.line_writer import standard_error
from ..telemetry.logs import configure_logging
from .config import checked, chosen_app, located
from .exit_timer import ExitTimer, SignalledEnd
from .flags import ConfigFile, Flags, ProgramApp, SettingFlags, configuration

_FULL_COLLECTION: Final = 1_000
"""Collections of the middle generation before a full one: with Python's other thresholds, 7 million
containers have come and stayed meanwhile, as many as 150,000 connections have. Python's is 10."""

_NO_FLAGS = Flags()


def serve(
    *,
    app: ProgramApp = None,
    config: ConfigFile = None,
    flags: SettingFlags = _NO_FLAGS,
) -> None:
    """Run a server until SIGTERM or Ctrl-C, then drain it.

    Draining tells the clients when to come back; a second SIGTERM or Ctrl-C
    ends the server at once. If something keeps it from ending in time, it is
    cut off, and the exit status is 3. Without a key the server runs
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
    checked(found)
    program = chosen_app(app)
    configure_logging(found.settings)
    if found.ignored:
        advice = "give the Service another name, or set enableServiceLinks: false for the pod"
        structlog.get_logger("moorage").warning(
            "variables_ignored", variables=found.ignored, advice=advice
        )
    before, limit = raise_descriptor_limit()
    if limit != before:
        structlog.get_logger("moorage").info("descriptor_limit", before=before, limit=limit)
    timer = ExitTimer()
    try:
        trio.run(_serve, found.settings, program, timer)
    except* ConfigurationError as group:
        raise located(group, found) from None
    finally:
        timer.cancel()


async def _serve(settings: Settings, app: App, timer: ExitTimer) -> None:
    token: str | None = None
    if settings.development:
        # The secret is for this run only, so that no other token can be valid.
        secret = random_secret()
        token = mint_token(secret, user="developer", role="admin", ttl=86_400)
        # With a key, `*` would be every page there is.
        origins = tuple(sorted(settings.origins))
        settings = attrs.evolve(settings, jwt_key=secret, anonymous=True, allowed_origins=origins)
    if settings.control_socket is None:
        settings = attrs.evolve(settings, control_socket=_control_socket())
    ending = SignalledEnd(timer, settings, has_callbacks=bool(app.disconnected_callbacks))
    async with open_server(settings, app) as server:
        calm_collector()
        if token is not None:
            pages = server.core.http_addresses
            dashboard = next((f"{url}/dashboard" for url in pages), None)
            standard_error().write(f"{banner(server.core.addresses[0], token, dashboard)}\n")
        try:
            await server.core.serve_until_signal(ending.observe)
        finally:
            ending.begin_stop()


def calm_collector() -> None:
    """Let Python collect all of its garbage seldom, and never look at what is there already.

    A full collection looks at every container that lives, 40 for each connection, and holds the
    loop for as long: 280 ms with 10,000 connections. By Python's defaults, ten of them came while
    10,000 connections arrived, and two while they were drained. There was nothing to find: a
    connection leaves no cycles. Young garbage is collected as before, in less than 5 ms.

    For the process of `moorage serve` only; a program decides about its own process.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION)


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


def banner(address: str, token: str, dashboard: str | None = None) -> str:
    """Return the greeting in development mode: address, token, dashboard, and a line to paste."""
    command = _own_command()
    watch = f"\n  dashboard {dashboard}, where this token signs in" if dashboard else ""
    return f"""
Moorage {VERSION} in development mode: for this machine only, with or without a token.

  address   {address}
  token     {token}{watch}

To see a message arrive, paste this into another terminal:

  echo '"It works!"' | {command} connect {address} --topic news
"""


def _own_command() -> str:
    """Return how to run this command once more, in another terminal and the same folder."""
    if Path(sys.argv[0]).name == "__main__.py":  # by `python -m moorage`
        return f"{shlex.quote(os.path.relpath(sys.executable))} -m moorage"
    # The command that `make serve` runs is not on the path of another terminal.
    return "moorage" if shutil.which("moorage") else shlex.quote(os.path.relpath(sys.argv[0]))
