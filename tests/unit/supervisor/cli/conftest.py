"""The `moorage` command in this process: how tests call it, and what they type."""

import os

import pytest

from moorage.supervisor.cli.main import main
from tests.fakes_cli import serving


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in os.environ:
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def moorage(capsys):
    """Run the command in this process; returns exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def typed(monkeypatch):
    """Make a text the standard input, as a pipe that has ended."""
    opened = []

    def give(text: str) -> None:
        read, write = os.pipe()
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            pipe.write(text)
        opened.append(os.fdopen(read, encoding="utf-8"))
        monkeypatch.setattr("sys.stdin", opened[-1])

    yield give
    for file in opened:
        file.close()


@pytest.fixture
def anonymous_server():
    return serving(anonymous=True)
