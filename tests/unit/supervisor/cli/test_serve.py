"""`moorage serve`: what keeps it from starting, and how it greets."""

import gc
import re
import shlex
import sys
from pathlib import Path

import pytest

from moorage.supervisor.cli.serve import banner, calm_collector
from tests.fakes import open_server
from tests.fakes_cli import beside, serving

pytestmark = pytest.mark.usefixtures("structlog_as_it_comes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import surely_missing", "No module named 'surely_missing'"),
        ("def", "SyntaxError"),
    ],
)
def test_an_app_that_cannot_be_imported_is_a_failure_with_its_place(
    moorage, tmp_path, monkeypatch, text, said
):
    name = f"broken_app_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(f"\n{text}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = moorage("serve", "--app", f"{name}:app")
    assert code == 1
    assert f"importing {name} failed at {tmp_path / name}.py:2" in err
    assert said in err


async def test_a_port_that_is_taken_names_the_flag(moorage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # the place of the control socket
    async with serving() as server:
        port = re.search(r":(\d+)/", server.addresses[0])[1]
        code, _, err = await beside(moorage, "serve", "--port", port)
    assert code == 2
    assert "port (from --port): cannot listen on 127.0.0.1 port" in err


async def test_variables_that_kubernetes_sets_are_ignored_with_one_line(
    moorage, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("MOORAGE_SERVICE_HOST", "10.0.0.11")
    monkeypatch.setenv("MOORAGE_SERVICE_PORT", "8765")
    monkeypatch.setenv("MOORAGE_PORT", "tcp://10.0.0.11:8765")
    async with serving() as server:
        port = re.search(r":(\d+)/", server.addresses[0])[1]
        _, _, err = await beside(moorage, "serve", "--port", port)
    assert "from --port" in err  # and no error about a variable
    (line,) = (line for line in err.splitlines() if "variables_ignored" in line)
    assert "MOORAGE_PORT" in line


def test_the_banner_has_lines_to_paste():
    text = banner("ws://127.0.0.1:1/ws", "TOKEN")
    assert "TOKEN" in text
    assert re.search(r"^  echo .* connect ws://127\.0\.0\.1:1/ws --topic news$", text, re.MULTILINE)


def test_the_banner_names_the_dashboard_where_there_is_one():
    text = banner("ws://127.0.0.1:1/ws", "TOKEN", "http://127.0.0.1:2/dashboard")
    assert "\n  dashboard http://127.0.0.1:2/dashboard, where this token signs in\n" in text
    assert "dashboard" not in banner("ws://127.0.0.1:1/ws", "TOKEN")


def test_the_banner_of_a_module_that_is_run_names_the_python_that_runs_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/moorage/__main__.py", "serve"])
    line = banner("ws://127.0.0.1:1/ws", "TOKEN").splitlines()[-1]
    command = shlex.split(line.partition("|")[2].strip())
    assert Path(command[0]).resolve() == Path(sys.executable).resolve()
    assert command[1:4] == ["-m", "moorage", "connect"]


def test_the_banner_can_be_pasted_from_a_folder_with_a_space(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a folder/moorage", "serve"])
    monkeypatch.setattr("shutil.which", lambda _name: None)
    line = banner("ws://127.0.0.1:1/ws", "TOKEN").splitlines()[-1]
    assert shlex.split(line.partition("|")[2].strip())[0] == "a folder/moorage"


@pytest.fixture
def collector_as_it_comes():
    thresholds = gc.get_threshold()
    yield thresholds
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_full_collections_are_rare_and_pass_over_what_is_there_at_the_start(collector_as_it_comes):
    calm_collector()
    young, middle, full = gc.get_threshold()
    assert (young, middle) == collector_as_it_comes[:2]
    assert young * middle * full >= 1_000_000
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 10_000


async def test_a_program_that_embeds_a_server_keeps_its_collector_as_it_is():
    before = gc.get_threshold(), gc.get_freeze_count()
    async with open_server():
        assert (gc.get_threshold(), gc.get_freeze_count()) == before
