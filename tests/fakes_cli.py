"""A server for the commands under test, in the event loop of the test itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.server import open_supervisor
from moorage.supervisor.supervisor import Supervisor
from tests.fakes import RecordingLogger

SECRET = "a secret of thirty-two bytes or so"

Command = Callable[..., tuple[int, str, str]]


def serving(app: App | None = None, **settings: Any) -> AbstractAsyncContextManager[Supervisor]:
    """Run a server on a free port of loopback."""
    return open_supervisor(Settings(port=0, **settings), app, logger=RecordingLogger())


async def beside(moorage: Command, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a thread, since it runs an event loop of its own."""
    return await trio.to_thread.run_sync(moorage, *arguments)
