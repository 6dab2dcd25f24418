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


@pytest.fixture
def path(tmp_path):
    """The path of a control socket, whose folder is not there yet."""
    return tmp_path / "moorage" / "control.sock"


def mode_of(folder):
    return stat.S_IMODE(folder.stat().st_mode)


def test_its_folder_is_made_for_this_user_alone(path):
    prepare_folder(path)
    assert mode_of(path.parent) == 0o700


def test_a_runtime_folder_that_is_missing_is_made_for_this_user_alone(tmp_path):
    before = os.umask(0o002)
    try:
        prepare_folder(tmp_path / "run" / "moorage" / "control.sock")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "run") == 0o700


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_folder_to_which_nobody_else_may_write_is_used_and_left_as_it_is(path, mode):
    # It once became 0700, and with it what an administrator had given to a group.
    path.parent.mkdir()
    path.parent.chmod(mode)
    prepare_folder(path)
    assert mode_of(path.parent) == mode


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777, 0o702])
def test_a_folder_to_which_others_may_write_is_not_used(path, mode):
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"written to by others \(mode {mode:04o}\)") as e:
        prepare_folder(path)
    assert e.value.allowed == f"a folder for you alone: `chmod go-w {path.parent}`"
    assert mode_of(path.parent) == mode


def test_a_symbolic_link_is_not_followed(path):
    # Its target once was used, and its mode was changed.
    target = path.parent.with_name("elsewhere")
    target.mkdir(mode=0o755)
    path.parent.symlink_to(target)
    with pytest.raises(ConfigurationError, match="moorage is a symbolic link"):
        prepare_folder(path)
    assert mode_of(target) == 0o755


def test_a_link_to_nothing_is_no_folder_to_make(path):
    path.parent.symlink_to(path.parent.with_name("nothing"))
    with pytest.raises(ConfigurationError, match="moorage is a symbolic link"):
        prepare_folder(path)


def test_a_file_in_its_place_is_told(path):
    path.parent.touch()
    with pytest.raises(ConfigurationError, match="moorage is not a folder"):
        prepare_folder(path)


def test_a_folder_that_is_somebody_elses_is_not_used(path, monkeypatch):
    path.parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {os.getuid()}\)"):
        prepare_folder(path)


def test_a_runtime_folder_in_which_others_could_put_another_is_not_used(path):
    path.parents[1].chmod(0o777)
    with pytest.raises(ConfigurationError, match=f"{path.parents[1]} may be written to by others"):
        prepare_folder(path)
    path.parents[1].chmod(0o1777)  # as /tmp: what is in it is safe
    prepare_folder(path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        prepare_folder(tmp_path / "file" / "moorage" / "control.sock")
