"""The confirmation of commands that concern everyone."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from moorage.supervisor.cli.main import main
from tests.fakes_admin_cli import PATIENCE, client, closed, eventually, open_terminal


@contextmanager
def on_terminal(*arguments):
    """The command in a thread, on a terminal: the terminal, and the future of the exit code."""
    with open_terminal() as terminal, ThreadPoolExecutor(1) as threads:
        code = threads.submit(main, arguments)
        try:
            yield terminal, code
        finally:
            if not code.done():
                terminal.press("\x04")  # Ctrl-D, for a command that still waits for an answer


def test_what_hits_everyone_asks_on_a_terminal(server, admin):
    with client(server, "ann") as ann:
        for command in (["drain"], ["broadcast", "--everyone", "--type", "x"]):
            with on_terminal("admin", *command) as (terminal, code):
                assert "all 1 connection." in terminal.read_until("[y/N]")
                terminal.press("n\n")
                terminal.read_until("nothing was done")
                assert code.result(PATIENCE) == 1
        with on_terminal("admin", "drain") as (terminal, code):
            terminal.read_until("[y/N]")
            terminal.press("y\n")
            terminal.read_until("drained: 1 connection")
            assert code.result(PATIENCE) == 0
        eventually(lambda: closed(ann))
    admin("resume")


def test_without_asking_when_told_so(server):
    command = ("admin", "broadcast", "--everyone", "--type", "x", "--yes")
    with on_terminal(*command) as (_, code):
        assert code.result(PATIENCE) == 0
