"""`moorage admin …` and `moorage top`: thin clients of the control socket.

`server.py` finds the server and asks it; `looking.py`, `steering.py`, `watching.py` and `top.py`
are the commands; `statistics_view.py`, `tree_view.py`, `tables.py` and `quantities.py` are how the
answers look to a person.
"""

from cyclopts import App, Group, Parameter

from .drain_command import drain
from .inspect_commands import connection, connections, health, stats, topic, topics, tree
from .steer_commands import broadcast, cleanup, disconnect, resume, suspend
from .top import top
from .watch_command import watch

__all__ = ["admin_app", "top"]

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
    group_parameters=Group("Command", sort_key=1),
    default_parameter=Parameter(negative_none=(), negative_iterable=()),
)

_LOOK = Group("To look at", sort_key=1)
_STEER = Group("To do", sort_key=2)

for _command in (stats, health, connections, connection, topics, topic, tree, watch):
    admin_app.command(_command, group=_LOOK)
for _command in (disconnect, cleanup, broadcast, suspend, resume, drain):
    admin_app.command(_command, group=_STEER)
