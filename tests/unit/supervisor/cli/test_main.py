"""The start of the command: its version, its list of commands, and libraries that are missing."""

import re
import sys

import pytest

from moorage.protocol.version import VERSION
from moorage.supervisor.cli.main import main


@pytest.mark.parametrize("arguments", [("serve", "--version"), ("admin", "stats", "--version")])
def test_commands_tell_the_version_of_moorage(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"moorage {VERSION}\n"


def test_a_list_of_commands_has_the_summary_of_each(capsys):
    assert main(["--help"]) == 0
    commands = capsys.readouterr().out.split(" Commands ")[1]
    rows = re.findall(r"│ ([a-z]+) +(\S.*\S) +│", commands)
    assert len(rows) == 7
    assert ("publish", "Publish one message to a topic.") in rows


@pytest.fixture
def without(monkeypatch):
    """Import a module anew, in an installation without a library."""

    def forget(module: str, library: str) -> None:
        monkeypatch.delitem(sys.modules, module, raising=False)
        # None in `sys.modules` makes an import fail as if there were no such package.
        monkeypatch.setitem(sys.modules, library, None)

    return forget


def test_without_its_libraries_it_says_what_to_install(without, capsys):
    without("moorage.supervisor.cli.command_line", "cyclopts")
    assert main(["publish", "--help"]) == 2
    assert capsys.readouterr().err == (
        "moorage: the command needs cyclopts, which is not installed: "
        "pip install 'moorage[server]'\n"
    )


def test_a_defect_that_looks_like_a_missing_library_keeps_its_traceback(without, capsys):
    without("moorage.supervisor.cli.publish", "trio")
    with pytest.raises(ImportError) as caught:
        main(["publish", "--help"])
    assert caught.value.__cause__.name == "trio"
    assert "moorage[server]" not in capsys.readouterr().err
