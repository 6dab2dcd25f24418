"""The control socket's default path, and its folder."""

import os
import stat
from pathlib import Path

import pytest

from moorage.supervisor.config.control_path import default_control_path, prepare_folder
from moorage.supervisor.config.validators import ConfigurationError


def test_the_default_path_is_in_the_users_runtime_folder_or_at_home(monkeypatch):
    runtime = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    assert default_control_path(runtime, 1000) == Path("/run/user/1000/moorage/control.sock")
    assert default_control_path({}, 0) == Path("/run/moorage/control.sock")
    monkeypatch.setenv("HOME", "/home/olga")
    assert default_control_path({}, 1000) == Path("/home/olga/.moorage/control.sock")


def test_its_folder_is_made_for_this_user_alone(tmp_path):
    path = tmp_path / "moorage" / "control.sock"
    prepare_folder(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.parent.chmod(0o755)
    prepare_folder(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_is_somebody_elses_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        prepare_folder(tmp_path / "control.sock")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        prepare_folder(tmp_path / "file" / "moorage" / "control.sock")
