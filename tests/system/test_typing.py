"""Programs that are written against the public names have types, as an editor sees them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted((ROOT / "tests" / "typing").glob("*.py"))


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What pyright says of the programs in a folder of their own, strictly, by file name.

    There `moorage` is found in this Python's environment and nowhere else, as in the project of
    somebody who has installed it.
    """
    folder = tmp_path_factory.mktemp("project")
    for program in PROGRAMS:
        shutil.copy(program, folder)
    configuration = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True}
    (folder / "pyrightconfig.json").write_text(json.dumps(configuration))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson"),
            *("--pythonpath", sys.executable, "--project", folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(PROGRAMS), done.stdout
    found = {program.name: [] for program in PROGRAMS}
    for each in report["generalDiagnostics"]:
        line = each["range"]["start"]["line"] + 1
        found[Path(each["file"]).name].append(f"{line}: {each['message']}")
    return found


@pytest.mark.parametrize("name", [program.name for program in PROGRAMS])
def test_a_program_that_uses_public_names_type_checks_strictly(complaints, name):
    assert complaints[name] == []


def test_the_programs_import_nothing_but_public_names():
    lines = [line for program in PROGRAMS for line in program.read_text().splitlines()]
    inner = ("moorage.protocol", "moorage.actors", "moorage.supervisor")
    assert [line for line in lines if any(name in line for name in inner)] == []
