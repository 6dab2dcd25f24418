"""The tree of actors: what it shows of each, and how much of it is shown."""

from __future__ import annotations

import pytest
import trio

from moorage.protocol.admin.commands import TreeRequest
from moorage.protocol.messages.codec import encode_value
from moorage.supervisor.app import App
from tests.fakes import open_server


async def test_the_tree_shows_listeners_connections_and_what_each_waits_for(autojump_clock):
    app = App()

    @app.endpoint("/ws")
    async def beside(connection):
        await trio.sleep_forever()

    async with open_server(app, write_timeout=1000) as server:
        slow = await server.connect(capacity=500)
        server.supervisor.send_to_connection(slow.id, "x", "y" * 1000)
        await trio.sleep(2)
        tree = await server.operations.tree(TreeRequest())
        assert (tree.kind, tree.state) == ("supervisor", "serving")
        names = [child.name for child in tree.children]
        assert "delivery" in names
        listener = next(child for child in tree.children if child.kind == "listener")
        assert listener.name.startswith("listener on ws://127.0.0.1:")
        assert listener.waits_for == "Listener.accept_all: wait_readable"
        (connection,) = tree.children[-1].children  # it came by no listener, but from this test
        assert connection.name == slow.id
        assert connection.mailbox_bytes > 500
        assert connection.mailbox_oldest == pytest.approx(2)
        assert connection.next_deadline == pytest.approx(26.5, abs=1.5)
        kinds = {child.kind: child for child in connection.children}
        assert set(kinds) == {"writer", "endpoint"}
        assert kinds["endpoint"].waits_for.endswith("beside: sleep_forever")
        assert encode_value(tree)


async def test_the_tree_leaves_out_connections_beyond_the_limit_and_says_how_many(autojump_clock):
    async with open_server() as server:
        for _ in range(5):
            await server.connect()
        tree = await server.operations.tree(TreeRequest(limit=2))
        assert len(tree.children[-1].children) == 2
        assert tree.omitted == 3
