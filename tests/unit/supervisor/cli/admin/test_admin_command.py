"""The commands of `moorage admin`: one for each of the protocol, with its fields as flags."""

import inspect
import re

import attrs
import pytest

from moorage.protocol.admin.commands import COMMANDS
from moorage.supervisor.cli.admin.admin_command import admin_app
from moorage.supervisor.cli.admin.control_client import FLAG_NAMES

# Parameters that are about the command line alone.
OURS = {"json_", "server", "yes", "all_"}


@pytest.mark.parametrize("command", [*(f"admin {name}" for name in COMMANDS), "top"])
def test_the_help_of_every_command_has_an_example(moorage, command):
    code, out, _ = moorage(*command.split(), "--help")
    assert code == 0
    assert re.search(rf"\$ moorage {command}", out)


def test_without_a_command_it_teaches(admin):
    out = admin()
    assert "$ moorage admin disconnect --user" in out
    assert all(re.search(rf"^│ {command} ", out, re.MULTILINE) for command in COMMANDS)


def test_every_command_of_the_protocol_is_there_in_the_group_that_it_belongs_to():
    names = {name for name in admin_app if not name.startswith("-")}
    assert names == set(COMMANDS)
    for command in COMMANDS.values():
        (group,) = admin_app[command.name].group
        assert group.name == ("To do" if command.changes else "To look at")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_flags_of_a_command_are_the_fields_of_its_request(command):
    parameters = inspect.signature(admin_app[command.name].default_command).parameters
    fields = attrs.fields_dict(command.request)
    assert set(parameters) - OURS == {FLAG_NAMES.get(name, name) for name in fields}
