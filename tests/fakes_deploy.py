"""The files of `examples/deploy/`, the programs that read them, and servers to go with these."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from moorage import Settings, Supervisor, open_supervisor
from tests.external import require_debian
from tests.fakes import RecordingLogger

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "examples" / "deploy"
POLICY = Path("/usr/sbin/policy-rc.d")


@contextmanager
def no_services() -> Iterator[None]:
    """Keep Debian from starting services while their packages are installed."""
    if os.geteuid() != 0 or POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")  # invoke-rc.d(8): "action forbidden by policy"
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def required(package: str, program: str | None = None) -> str:
    with no_services():
        return require_debian(package, program)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Replace parts of a configuration; each must be there, or the test tests nothing."""
    for before, after in pairs:
        assert before in text, before
        text = text.replace(before, after)
    return text


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def server(**settings: Any) -> AsyncGenerator[Supervisor]:
    everything = {"port": 0, "http_port": 0, "anonymous": True, **settings}
    async with open_supervisor(Settings(**everything), logger=RecordingLogger()) as supervisor:
        yield supervisor
