"""Installs or compiles, on demand, what the contestants need."""

import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).parent
OWN = HERE / ".env"
"""The contestants' own virtual environment, with a `node_modules` beside its `lib`."""
BUILD = OWN / "programs"
"""The compiled programs."""

_STEP_TIMEOUT = 600
"""Seconds that one installation or compilation may take."""


class Unavailable(Exception):
    """A contestant cannot be installed here; the text says why."""


@frozen
class Environment:
    """The place of the contestants' interpreter and packages."""

    python: Path
    node_modules: Path

    def variables(self) -> dict[str, str]:
        """Return the environment variables of a contestant's process."""
        return {
            **os.environ,
            "NODE_PATH": str(self.node_modules),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def version(self, package: str) -> str | None:
        """Return the version of an installed Python package, None if it is not there."""
        if self.python == Path(sys.executable):
            paths = sys.path
        else:
            paths = [str(path) for path in self.python.parent.parent.glob("lib/python*/*-packages")]
        for found in importlib.metadata.distributions(name=package, path=paths):
            return found.version
        return None


CURRENT = Environment(Path(sys.executable), OWN / "node_modules")
"""The interpreter that runs this, for contestants whose packages it has already."""


def _run(command: list[str], what: str, cwd: Path = HERE) -> None:
    """Run one step; if it fails, raise Unavailable with the last line of its output."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_STEP_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(it said nothing)"]
        raise Unavailable(f"{what}: {said[-1]}")


def pinned_version(package: str) -> str:
    """Return the line of constraints.txt for a package, `name[extras]==version`."""
    for line in (HERE / "constraints.txt").read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement.partition("==")[0].partition("[")[0] == package:
            return requirement
    raise LookupError(f"{package} is not in bench/constraints.txt")


@functools.cache
def own_environment() -> Environment:
    """Return the contestants' own environment; make it if there is none."""
    python = OWN / "bin" / "python"
    if not python.exists():
        venv.create(OWN, with_pip=True)
    return Environment(python, OWN / "node_modules")


def install_python(environment: Environment, packages: tuple[str, ...]) -> None:
    """Install Python packages that are missing, in the versions of constraints.txt.

    Raises Unavailable if that fails. The current environment is inspected, never changed.
    """
    missing = []
    for package in packages:
        wanted = pinned_version(package)
        version = environment.version(package)
        own = environment is not CURRENT
        if version is None or (own and version != wanted.partition("==")[2]):
            missing.append(wanted)
    if not missing:
        return
    if environment is CURRENT:
        raise Unavailable(f"not in this environment: {', '.join(missing)}")
    quiet = ["--quiet", "--disable-pip-version-check"]
    _run([str(environment.python), "-m", "pip", "install", *quiet, *missing], "pip install")


@functools.cache
def install_node() -> None:
    """Find node, and install the packages of package.json that are missing. Raises Unavailable."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("there is no node or no npm on this machine")
    stamp = OWN / "package.json"
    wanted = (HERE / "package.json").read_text()
    if (OWN / "node_modules").exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    OWN.mkdir(exist_ok=True)
    stamp.write_text(wanted)
    flags = ["--no-package-lock", "--no-audit", "--no-fund", "--omit=dev"]
    try:
        _run(["npm", "install", *flags], "npm install", cwd=OWN)
    except Unavailable:
        stamp.unlink()
        raise


@functools.cache
def compiled(name: str, *sources: Path) -> Path:
    """Compile C sources with the system's compiler, if they are newer; return the program.

    Raises Unavailable if there is no compiler, or if compiling fails.
    """
    program = BUILD / name
    inputs = [*sources, *{header for source in sources for header in source.parent.glob("*.h")}]
    newest = max(path.stat().st_mtime for path in inputs)
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler (cc) on this machine")
    BUILD.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    flags = ["-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread"]
    _run([compiler, *flags, "-o", str(unfinished), *map(str, sources), "-lm"], f"cc {name}")
    unfinished.replace(program)
    return program
