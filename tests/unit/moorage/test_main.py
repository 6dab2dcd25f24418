"""`python -m moorage` is the command."""

import runpy
import sys

import pytest

import moorage


def run(monkeypatch, *arguments: str) -> int:
    """Run the package as `python -m` does; return the exit code."""
    monkeypatch.setattr("sys.argv", ["moorage", *arguments])
    monkeypatch.delitem(sys.modules, "moorage.__main__", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("moorage", run_name="__main__", alter_sys=True)
    return caught.value.code


def test_it_runs_the_command(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr() == (f"moorage {moorage.__version__}\n", "")


def test_it_ends_with_the_commands_exit_code(monkeypatch, capsys):
    assert run(monkeypatch, "nonsense") == 2
    assert capsys.readouterr().err.startswith("moorage: `moorage` has no command 'nonsense'")
