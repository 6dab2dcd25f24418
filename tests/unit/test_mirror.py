"""The unit tests mirror the tree: one file for each module, in the folder of the same name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
FLOORS = ("protocol", "actors", "supervisor")
MOST_LINES = 600

UNTESTED = {
    "actors/ports.py": "declares protocols; what implements them is tested",
    "actors/connection/shared.py": "declares one value; `test_parts.py` sees it made",
    "actors/connection/traffic.py": "declares counters; `test_statistics.py` sees them told",
}
"""Modules that have nothing to test by themselves, and why."""

NOT_OF_A_MODULE = {
    "test_mirror.py": "is about the tests themselves",
    "moorage/test_face.py": "is about `moorage/__init__.py`, and `moorage/client/__init__.py`",
    "moorage/test_main.py": "is about `moorage/__main__.py`",
    "moorage/test_reference.py": "is about `docs/reference.md`, which has all public names",
    "protocol/admin/test_control_page.py": "is about `docs/control.md`, which has all commands",
}
"""Test files that mirror no module, and why."""


STARTS_PROCESSES = re.compile(
    r"(subprocess|multiprocessing)(\..*)?"
    r"|os\.(fork|forkpty|system|popen|exec\w+|spawn\w+|posix_spawnp?)|pty\.(fork|spawn)"
    r"|trio\.run_process|trio\.lowlevel\.open_process|asyncio\.create_subprocess_\w+"
    r"|concurrent\.futures\.(ProcessPoolExecutor|process)"
)
"""Names of what starts processes; tests that need one are in `tests/system`."""


def modules() -> Iterator[str]:
    """Every module, by its place in the tree; `__init__` and `__main__` apart."""
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            if not path.name.startswith("_"):
                yield path.relative_to(ROOT).as_posix()


def files_of_tests() -> Iterator[str]:
    """Every file of unit tests, by its place in `tests/unit`."""
    for path in sorted(UNIT.rglob("test_*.py")):
        yield path.relative_to(UNIT).as_posix()


def module_of(test_file: str) -> str:
    """The module that a file of tests is about."""
    path = Path(test_file)
    return path.with_name(path.name.removeprefix("test_")).as_posix()


def file_about(module: str) -> str:
    """The file of tests that is about a module."""
    path = Path(module)
    return path.with_name("test_" + path.name).as_posix()


def test_every_module_has_its_tests_or_a_reason_to_have_none():
    missing = set(map(file_about, modules())) - set(files_of_tests())
    assert missing == set(map(file_about, UNTESTED))


def test_every_file_of_tests_is_about_a_module():
    about_none = {name for name in files_of_tests() if not (ROOT / module_of(name)).is_file()}
    assert about_none == NOT_OF_A_MODULE.keys()


def test_the_exceptions_are_about_files_that_there_are():
    assert NOT_OF_A_MODULE.keys() <= set(files_of_tests())
    assert UNTESTED.keys() <= set(modules())


def test_no_file_of_tests_is_too_long():
    lengths = {
        path.relative_to(ROOT).as_posix(): path.read_text().count("\n")
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def names_in(source: str) -> Iterator[str]:
    """Every dotted name that a program imports or uses."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Attribute():
                yield ast.unparse(node)


def processes_in(source: str) -> set[str]:
    """What a program imports or uses to start processes."""
    return {name for name in names_in(source) if STARTS_PROCESSES.fullmatch(name)}


def test_no_unit_test_starts_a_process():
    """Neither in its own file, nor in those of tests/ that it imports, nor in those they import."""
    found: dict[str, set[str]] = {}
    pending = [*UNIT.rglob("*.py")]
    while pending:
        path = pending.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in found:
            continue
        source = path.read_text(encoding="utf-8")
        found[name] = processes_in(source)
        for imported in names_in(source):
            if imported.startswith("tests."):
                module = ROOT / imported.replace(".", "/")  # or a name in its parent
                candidates = (module.with_suffix(".py"), module.parent.with_suffix(".py"))
                pending += filter(Path.is_file, candidates)
    assert "tests/fakes.py" in found
    assert {name: processes for name, processes in found.items() if processes} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from subprocess import run",
        "import multiprocessing.pool",
        "from concurrent.futures import ProcessPoolExecutor",
        "from os import execvp",
        "os.fork()",
        "trio.run_process(['ls'])",
        "trio.lowlevel.open_process(['ls'])",
        "pty.spawn('ls')",
    ],
)
def test_what_starts_a_process_is_found(source):
    assert processes_in(source)


def test_a_terminal_or_a_thread_is_no_process():
    source = "import os, pty, trio\npty.openpty()\nos.read(0, 1)\ntrio.to_thread.run_sync(print)"
    assert processes_in(source) == set()
