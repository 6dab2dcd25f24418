"""What is installed is what is in the tree, and what it needs is written down with a reason."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError
from itertools import chain
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FLOORS = ("protocol", "actors", "supervisor")
PYPROJECT = ROOT / "pyproject.toml"

pyproject = tomllib.loads(PYPROJECT.read_text())
constraints = (ROOT / "constraints.txt").read_text().splitlines()
pins = [line for line in constraints if line and not line.startswith("#")]


def source_files():
    """Every file that an installation must have, under its name there: `moorage/protocol/…`."""
    # os.walk, and not rglob, which follows no symlinks: what a floor's link leads to counts.
    for folder, folders, names in os.walk(ROOT / "moorage", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            yield (Path(folder) / name).relative_to(ROOT).as_posix()


def array_lines(start):
    """The lines of the pyproject array that opens with the line `start`."""
    lines = iter(PYPROJECT.read_text().splitlines())
    assert start in lines, f"pyproject.toml has no line {start!r}"
    for line in lines:
        if line == "]":
            return
        yield line


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what is built from, for setuptools leaves a build folder, and builds from it."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for package in (*FLOORS, "moorage"):
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tree / package, symlinks=True, ignore=leave_out)
    return tree


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tree):
    """A wheel that is built offline."""
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"),
        *("--no-build-isolation", "--no-index", "--wheel-dir", tree.parent, tree),
    )
    (wheel,) = tree.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def wheel_names(wheel):
    return set(wheel.namelist())


def test_the_floors_are_in_the_package_by_relative_links():
    # As copies they would be checked, changed and shipped twice; as absolute links they would
    # lead out of a moved tree.
    links = {
        path.name: path.readlink() for path in (ROOT / "moorage").iterdir() if path.is_symlink()
    }
    assert links == {floor: Path("..", floor) for floor in FLOORS}


def test_the_wheel_has_exactly_what_is_in_the_tree(wheel_names):
    shipped = {name for name in wheel_names if name.startswith("moorage/")}
    assert shipped == set(source_files())


def test_the_tree_has_nothing_but_source_and_the_dashboard():
    extra = {
        name
        for name in source_files()
        if not name.endswith(".py") and "/http/static/" not in name and name != "moorage/py.typed"
    }
    assert not extra


def test_the_dashboards_files_are_in_the_wheel(wheel_names):
    files = [path.name for path in (ROOT / "supervisor/http/static").iterdir()]
    assert files
    assert {f"moorage/supervisor/http/static/{name}" for name in files} <= wheel_names


def test_the_package_says_that_it_is_typed(wheel_names):
    assert "moorage/py.typed" in wheel_names


def test_it_is_for_linux_and_says_so_everywhere():
    # The pages once said "or another Unix", where the import failed: `errno.ENONET` is Linux's.
    names = [one for one in pyproject["project"]["classifiers"] if "Operating System" in one]
    assert names == ["Operating System :: POSIX :: Linux"]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = " ".join(page.read_text("utf-8").split())
        assert not re.search(r"another Unix|other Unix|Linux (or|and) macOS", text), page
    assert "**Linux.**" in (ROOT / "README.md").read_text("utf-8")


def test_the_wheel_has_one_top_level_name(wheel_names):
    # A bare `supervisor` would overwrite the package of that name which many people have installed.
    tops = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"moorage"}


def test_the_wheels_command_is_the_one_of_the_tree(wheel, wheel_names):
    (name,) = (name for name in wheel_names if name.endswith(".dist-info/entry_points.txt"))
    assert "moorage = moorage.supervisor.cli.main:main" in wheel.read(name).decode()


def test_the_library_needs_less_than_the_server(wheel, wheel_names):
    (name,) = (name for name in wheel_names if name.endswith(".dist-info/METADATA"))
    texts = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
    requirements = [Requirement(text) for text in texts]
    always = {each.name for each in requirements if each.marker is None}
    server = {
        each.name
        for each in requirements
        if each.marker is not None and each.marker.evaluate({"extra": "server"})
    }
    assert {"trio", "attrs", "structlog"} <= always
    assert server == {"cyclopts", "rich", "hypercorn", "h11", "starlette", "prometheus-client"}
    assert not always & server


def test_a_source_distribution_builds_the_same_wheel(tree, wheel_names, tmp_path):
    build = "from setuptools import build_meta as b; import sys; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=tree)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"),
        *("--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, unpacked),
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as again:
        assert set(again.namelist()) == wheel_names


def test_an_editable_installation_is_a_path(tree, tmp_path):
    # An import hook in its place hides the package from editors, pyright and import-linter.
    run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"),
        *("--no-build-isolation", "--no-index", "--target", tmp_path, "--editable", tree),
    )
    (path,) = tmp_path.glob("*.pth")
    assert path.read_text().splitlines() == [str(tree)]
    assert not list(tmp_path.glob("__editable__*.py"))


def test_every_folder_with_source_is_a_package():
    folders = {(ROOT / name).parent for name in source_files() if name.endswith(".py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    "start", ["dependencies = [", "server = [", "test = [", "lint = [", "bench = [", "ignore = ["]
)
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


@pytest.fixture
def clone(tmp_path):
    """What a verb of the Makefile looks at, without an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def plan(folder, verb):
    """What `make` would do for a verb."""
    return subprocess.run(
        ["make", "-n", verb], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    ("verb", "extras"),
    [("serve", "server"), ("test", "server,test,lint"), ("setup", "server,test,lint")],
)
def test_a_verb_installs_what_it_needs_into_a_new_environment(clone, verb, extras):
    """`make serve` once installed the test and lint tools as well: 390 MB instead of 80."""
    assert f"-e '.[{extras}]'" in plan(clone, verb)


def test_an_environment_that_has_everything_can_serve_and_one_that_can_serve_lacks_the_tests(clone):
    stamps = clone / ".venv" / ".serving", clone / ".venv" / ".installed"
    stamps[0].parent.mkdir()
    stamps[0].write_text(f"{clone}\n")
    assert "install" not in plan(clone, "serve")
    assert "install" in plan(clone, "test")
    stamps[1].write_text(f"{clone}\n")
    assert "install" not in plan(clone, "test")


def test_an_environment_that_was_copied_from_elsewhere_is_not_used(clone):
    for name in (".serving", ".installed"):
        (clone / ".venv").mkdir(exist_ok=True)
        (clone / ".venv" / name).write_text("/elsewhere\n")
    assert "install" in plan(clone, "serve")
    assert "install" in plan(clone, "test")
