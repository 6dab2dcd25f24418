import re
import tomllib
from pathlib import Path

from moorage.protocol.version import VERSION

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_the_version_is_three_numbers():
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_pyproject_reads_the_version_from_here():
    dynamic = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]["dynamic"]
    assert dynamic["version"] == {"attr": "moorage.protocol.version.VERSION"}
