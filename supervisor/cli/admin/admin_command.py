"""`moorage admin`: its commands, each in a module that is imported when it is called."""

from cyclopts import App, Group, Parameter

from ....protocol.version import VERSION

_HELP = """See and steer a running server, over its control socket.

The server is the one that runs on this machine under this user, unless told
otherwise by --control-socket, $MOORAGE_CONTROL_SOCKET or --url. What is printed
is for people; --json is for scripts.

For example:
  $ moorage admin stats
  $ moorage admin connections --topic news
  $ moorage admin disconnect --user ann --reason 'signed out'
  $ moorage admin tree --control-socket /run/moorage/control.sock
  $ moorage admin health --url wss://example.org:8766/ --token "$TOKEN"
"""

admin_app = App(
    name="admin",
    help=_HELP,
    version=f"moorage {VERSION}",
    group_parameters=Group("Command", sort_key=1),
    default_parameter=Parameter(negative_none=(), negative_iterable=()),
)

_LOOK = Group("To look at", sort_key=1)
_STEER = Group("To do", sort_key=2)

# By group: the module of each command, and its name there and on the command line.
_COMMANDS = {
    _LOOK: {
        "inspect_commands": (
            "stats",
            "health",
            "connections",
            "connection",
            "topics",
            "topic",
            "tree",
        ),
        "watch_command": ("watch",),
    },
    _STEER: {
        "change_commands": ("disconnect", "cleanup", "broadcast", "suspend", "resume"),
        "drain_command": ("drain",),
    },
}

for _group, _modules in _COMMANDS.items():
    for _module, _names in _modules.items():
        for _name in _names:
            admin_app.command(f"{__package__}.{_module}:{_name}", name=_name, group=_group)
