"""What is installed is what is in the tree, and what it needs is written down with a reason."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "actors", "supervisor")
PYPROJECT = ROOT / "pyproject.toml"

pyproject = tomllib.loads(PYPROJECT.read_text())
constraints = (ROOT / "constraints.txt").read_text().splitlines()
pins = [line for line in constraints if line and not line.startswith("#")]


def source_files():
    """Every file that an installation must have, as a path from the tree's root."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix == ".py" or path.name == "py.typed":
                yield path.relative_to(ROOT).as_posix()


def array_lines(start):
    """The lines of the pyproject array that opens with the line `start`."""
    lines = iter(PYPROJECT.read_text().splitlines())
    assert start in lines, f"pyproject.toml has no line {start!r}"
    for line in lines:
        if line == "]":
            return
        yield line


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """The names of all files in a wheel that is built, offline, from a copy of the tree.

    A copy, because setuptools leaves a build folder, and what is in it goes into the next wheel.
    """
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"),
            *("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, tree),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_source_file_is_in_the_wheel_under_moorage(wheel_names):
    missing = {f"moorage/{name}" for name in source_files()} - wheel_names
    assert not missing


def test_the_dashboards_files_are_in_the_wheel(wheel_names):
    files = [path.name for path in (ROOT / "supervisor/http/static").iterdir()]
    assert files
    assert {f"moorage/supervisor/http/static/{name}" for name in files} <= wheel_names


def test_each_of_the_three_packages_says_that_it_is_typed(wheel_names):
    assert {f"moorage/{package}/py.typed" for package in PACKAGES} <= wheel_names


def test_the_wheel_has_one_top_level_name(wheel_names):
    # A bare `supervisor` would overwrite the package of that name which many people have installed.
    tops = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"moorage"}


def test_moorage_is_a_namespace_package(wheel_names):
    assert "moorage/__init__.py" not in wheel_names


def test_the_wheel_has_nothing_that_is_not_source(wheel_names):
    extra = {
        name
        for name in wheel_names
        if name.startswith("moorage/") and not (ROOT / name.removeprefix("moorage/")).is_file()
    }
    assert not extra


def test_every_folder_that_is_a_package_is_named_in_pyproject():
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    setuptools = pyproject["tool"]["setuptools"]
    assert setuptools["package-dir"] == {
        "moorage." + folder.replace("/", "."): folder for folder in folders
    }
    assert set(setuptools["packages"]) == set(setuptools["package-dir"])


def test_every_folder_with_source_is_a_package():
    folders = {(ROOT / name).parent for name in source_files()}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("start", ["dependencies = [", "test = [", "lint = [", "ignore = ["])
def test_every_dependency_and_every_ignored_rule_has_its_reason_beside_it(start):
    above = False
    for line in array_lines(start):
        if line.lstrip().startswith("#"):
            above = True
            continue
        assert above or re.search(r'",\s+# \S', line), f"no reason given: {line}"
        above = False


def test_every_rule_ignored_for_a_folder_has_its_reason_beside_it():
    text = PYPROJECT.read_text()
    section = text.split("[tool.ruff.lint.per-file-ignores]\n")[1].split("\n[")[0]
    rules = [line for line in section.splitlines() if line.startswith("  ")]
    assert rules
    assert [rule for rule in rules if not re.search(r'",\s+# \S', rule)] == []


@pytest.mark.parametrize("pin", pins)
def test_a_constraint_is_a_name_and_a_version(pin):
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", pin)


def test_constraints_pin_every_package_that_the_environment_gets():
    pinned = {canonicalize_name(pin.partition("==")[0]) for pin in pins}
    assert needed() - pinned == set(), "`make constraints` writes the file anew"


def needed():
    """The names of all that .venv gets: what moorage requires, and the extras of the Makefile."""
    found = set()
    project = pyproject["project"]
    makefile = (ROOT / "Makefile").read_text()
    installed = re.search(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)
    assert installed
    extras = [project["optional-dependencies"][name] for name in installed[1].split(",")]
    texts = [*project["dependencies"], *chain(*extras)]
    waiting = [Requirement(text) for text in texts]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                texts = Distribution.from_name(name).requires or []
            except PackageNotFoundError:
                pytest.fail(f"{name} is not installed: `make setup`", pytrace=False)
            waiting += [
                inner
                for inner in map(Requirement, texts)
                if inner.marker is None or inner.marker.evaluate({"extra": extra})
            ]
    return found
