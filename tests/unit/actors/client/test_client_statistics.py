import trio.testing

from moorage.actors.client.client_state import ClientState
from moorage.actors.client.client_statistics import ClientCounts
from tests.fakes_client import connect, lose_connection, wait_until


def test_all_counts_begin_at_nothing():
    counts = ClientCounts()
    assert {getattr(counts, name) for name in ClientCounts.__slots__ if name[0] != "_"} == {0}


async def test_statistics_tell_what_a_client_has_done(autojump_clock, server):
    server.script.append(OSError("no"))
    async with connect(server, topics=["a"]) as client:
        await client.publish("t", 1)
        await server.connections[0].send("note")
        await wait_until(lambda: client.statistics().messages_received == 4)
        told = client.statistics()
        assert told.state is ClientState.CONNECTED
        assert (told.connections, told.failed_attempts) == (1, 1)
        assert (told.messages_sent, told.messages_malformed, told.messages_dropped) == (2, 0, 0)
        assert (told.requests_pending, told.topics, told.renewals) == (0, 1, 0)
    assert client.statistics().state is ClientState.CLOSED


async def test_statistics_are_over_all_connections_and_a_snapshot(autojump_clock, server):
    async with connect(server, topics=["a"]) as client:
        with trio.testing.assert_no_checkpoints():
            before = client.statistics()
        await lose_connection(server, client)
        assert client.statistics().topics == 0
        await client.wait_connected()
        after = client.statistics()
        assert (before.connections, after.connections) == (1, 2)
        assert (before.messages_sent, after.messages_sent) == (1, 2)
