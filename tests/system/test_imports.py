"""The modules that the public names and the command import, in a Python that has imported none."""

import subprocess
import sys
from pathlib import Path

import pytest

from moorage.protocol.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
HTTP = {"hypercorn", "starlette", "prometheus_client"}
COMMAND = {"cyclopts"}

# What the server is made of, and no command but `serve` and `config` needs.
SERVER = {
    "moorage.supervisor.supervisor",
    "moorage.supervisor.hub",
    "moorage.supervisor.app",
    "moorage.supervisor.entrance.tokens",
    "moorage.supervisor.config.settings",
    "moorage.supervisor.operations",
    "moorage.supervisor.http",
    "moorage.actors.connection.connection",
    "moorage.actors.session.session",
    "cryptography",
    "hypercorn",
    "jwt",
    "prometheus_client",
    "starlette",
    "structlog",
}
NO_SERVER = "ws+unix:///nonexistent/moorage.sock:/ws"


def run(code: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run code in a Python of its own; returns how it ended, and what it had imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    return done, set(done.stdout.splitlines()[-1].split()) if done.stdout else set()


def imported_by(code: str) -> set[str]:
    """The names of the modules that a Python of its own has imported after running the code."""
    done, modules = run(f"{code}\nimport sys\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return modules


def command(*arguments: str) -> tuple[str, set[str]]:
    """Run the command, which must work; returns what it printed, and what it had imported."""
    done, modules = run(
        "import sys\nfrom moorage.supervisor.cli.main import main\ncode = main()\n"
        "print('imported', *sys.modules)\nsys.exit(code)",
        *arguments,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, modules


def rooms_of(modules: set[str], floor: str) -> set[str]:
    """The parts of a floor that were imported: `client` for `moorage.actors.client.dialing`."""
    inside = (name.split(".") for name in modules if name.startswith(f"moorage.{floor}."))
    return {parts[2] for parts in inside}


def test_dir_lists_names_that_nobody_has_looked_up():
    code = "import moorage; assert {'App', 'open_client', '__version__'} <= set(dir(moorage))"
    assert "moorage.supervisor" not in imported_by(code)


def test_moorage_alone_imports_nothing_of_others():
    before = imported_by("")
    ours = {"moorage", "moorage.protocol", "moorage.protocol.version"}
    found = imported_by("import moorage") - before
    assert {name for name in found if not name.startswith(("importlib", "warnings"))} <= ours


def test_the_client_imports_nothing_of_the_server():
    modules = imported_by("import moorage.client")
    assert not {name for name in modules if name.startswith("moorage.supervisor")}
    assert rooms_of(modules, "actors") == {"client"}
    assert not modules & (HTTP | COMMAND | {"rich", "jwt", "cryptography", "structlog"})


def test_open_client_of_the_face_is_as_light():
    modules = imported_by("from moorage import open_client")
    assert not {name for name in modules if name.startswith("moorage.supervisor")}


@pytest.mark.parametrize("name", ["App", "open_supervisor", "Supervisor", "Settings"])
def test_the_server_imports_neither_http_nor_the_command(name):
    # rich is not here: structlog imports it by itself, where it is installed.
    modules = imported_by(f"from moorage import {name}")
    assert not modules & (HTTP | COMMAND)
    assert not rooms_of(modules, "supervisor") & {"http", "cli"}
    assert "client" not in rooms_of(modules, "actors")


WITHOUT_EXTRAS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_the_library_needs_no_extra():
    names = HTTP | COMMAND | {"rich", "anyio"}
    code = WITHOUT_EXTRAS.format(names=names)
    code += "import moorage\nfor name in moorage.__all__: getattr(moorage, name)"
    assert not imported_by(code) & names


def test_the_version_needs_no_library_at_all():
    out, modules = command("--version")
    assert out.startswith(f"moorage {VERSION}\n")
    tops = {name.partition(".")[0] for name in modules}
    assert not tops & {"attr", "attrs", "cattrs", "cyclopts", "msgspec", "rich", "trio", "typing"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "--help"),
        ("connect", "--help"),
        ("admin", "--help"),
        ("admin", "stats", "--help"),
        ("admin", "drain", "--help"),
        ("top", "--help"),
    ],
)
def test_no_client_of_the_server_imports_the_server(arguments):
    out, modules = command(*arguments)
    assert "Usage: moorage" in out
    assert not modules & SERVER


def test_publish_imports_neither_the_admin_commands_nor_progress_bars():
    _, modules = command("publish", "--help")
    assert "moorage.supervisor.cli.publish" in modules
    unwanted = {"serve", "connect", "display", "token", "config", "flags", "admin"}
    assert not modules & {f"moorage.supervisor.cli.{name}" for name in unwanted}
    assert "rich.progress" not in modules
