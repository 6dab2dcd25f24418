"""The command as a process of its own, on pipes or on a terminal, and a server that is one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.fakes_admin_cli import PATIENCE, SECRET, Terminal
from tests.fakes_server import free_port

_COMMAND = [str(Path(sys.executable).with_name("moorage"))]


def _environment(**more: str) -> dict[str, str]:
    """This process's environment, without the settings of a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    return {**kept, **more}


def start(
    *arguments: str, descriptors: tuple[int, int] | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start the command, with these limits of descriptors; its input and outputs are pipes."""
    limits = []
    if descriptors is not None:
        soft, hard = descriptors
        limits = ["sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh"]
    return subprocess.Popen(
        [*limits, *_COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(**environment),
    )


@contextmanager
def started(
    *arguments: str, descriptors: tuple[int, int] | None = None, **environment: str
) -> Generator[subprocess.Popen[str]]:
    """As `start`; at the end the process is killed, if it still runs."""
    with start(*arguments, descriptors=descriptors, **environment) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def on_terminal(
    *arguments: str, **environment: str
) -> Generator[tuple[subprocess.Popen[bytes], Terminal]]:
    """Start the command on a terminal of its own; yields the process and the terminal."""
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env=_environment(COLUMNS="80", LINES="24", TERM="xterm", **environment),
            start_new_session=True,
        )
        os.close(its)
        try:
            yield process, Terminal(ours)
        finally:
            process.kill()
            process.wait(PATIENCE)
    finally:
        os.close(ours)


@attrs.frozen
class ServerProcess:
    """A server process, and where it can be reached."""

    url: str
    control_url: str
    control_socket: str


@contextmanager
def serving_process(control_socket: Path) -> Generator[ServerProcess]:
    """A server in a process of its own; at the end it must stop without having failed."""
    process = start(
        *("serve", "--port", "0", "--control-socket", str(control_socket)),
        *("--control-port", str(free_port()), "--log-format", "json"),
        MOORAGE_JWT_KEY=SECRET,
    )
    found: dict[str, str] = {}
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        said = json.loads(line)
        if "address" in said:
            address = said["address"]
            found["socket" if address.startswith("ws+unix") else said["event"]] = address
        if len(found) == 3:
            break
    rest = threading.Thread(target=log.extend, args=(process.stderr,))  # so that it never fills up
    rest.start()
    try:
        assert len(found) == 3, "".join(log)
        yield ServerProcess(found["listening"], found["control_listening"], str(control_socket))
    finally:
        process.terminate()
        code = process.wait(PATIENCE)
        rest.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
    assert code == 0, "".join(log)
    assert "Traceback" not in "".join(log)
