import contextlib

import pytest
import trio
import trio.testing

from moorage.actors.connection.mailbox import OverloadPolicy
from moorage.protocol.closing import CloseCause
from moorage.supervisor.app import App
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, masked, open_server
from tests.fakes_containment import Bug, errors, is_served, onlooker
from tests.fakes_server import echo, settle, upgraded, waiting_bytes


def raw_app(function):
    app = App()
    app.add_endpoint("/raw", function, raw=True)
    return app


async def connect(server, capacity=65_536):
    return await upgraded(server.dial(capacity), "/raw")


async def last_line(server):
    await server.supervisor.wait_empty()
    line = server.log.of("disconnected")[-1]
    return line["cause"], line["code"]


def serving(function, **settings):
    return open_server(raw_app(function), **settings)


# --- messages --------------------------------------------------------------------------------


async def test_messages_are_text_or_bytes_and_go_back_as_they_came(autojump_clock):
    async with serving(echo) as server:
        peer = await connect(server)
        for message in ((TEXT, "é".encode()), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, b"")):
            await peer.send_frame(*message)
            assert await peer.receive_frame() == message


async def test_fragments_come_as_one_message(autojump_clock):
    async with serving(echo) as server:
        peer = await connect(server)
        await peer.send_bytes(masked(TEXT, b"one ", first=TEXT) + masked(0, b"two"))
        assert await peer.receive_frame() == (TEXT, b"one two")


async def test_pings_are_answered_by_the_actor(autojump_clock):
    async with serving(echo) as server:
        peer = await connect(server)
        await peer.send_bytes(masked(PING, b"1") + masked(TEXT, b"x") + masked(PING, b"2"))
        frames = [await peer.receive_frame() for _ in range(3)]
        assert frames == [(PONG, b"1"), (PONG, b"2"), (TEXT, b"x")]


async def test_a_heartbeat_is_a_ping_alone_since_the_protocol_is_unknown(autojump_clock):
    async with serving(echo) as server:
        peer = await connect(server)
        began = trio.current_time()
        assert (await peer.receive_frame())[0] == PING
        assert 27 <= trio.current_time() - began <= 30
        assert waiting_bytes(peer) == b""


# --- backpressure ----------------------------------------------------------------------------


async def test_a_handler_that_is_slow_holds_its_peer_back_and_loses_nothing(autojump_clock):
    received = []

    async def slow(connection):
        async for message in connection:
            await trio.sleep(0.1)
            received.append(message)

    async with serving(slow, max_inbox_size=1_000) as server:
        peer = await connect(server, capacity=1_000)
        (connection,) = server.actors()
        for number in range(200):
            await peer.send_frame(TEXT, str(number).encode() * 20)
            assert connection._inbox.size < 1_000 + 1_000 * 64
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await peer.close_code() == 1000
        assert received == [str(number) * 20 for number in range(200)]


async def test_sending_waits_for_the_peer_to_read(autojump_clock):
    times = []

    async def send(connection):
        for _ in range(3):
            await connection.send("x" * 1_000)
            times.append(trio.current_time())

    async with serving(send) as server:
        began = trio.current_time()
        peer = await connect(server, capacity=600)
        for _ in range(3):
            await trio.sleep(2)
            await peer.receive_frame()
        await settle()
        assert [round(time - began) for time in times] == [2, 4, 6]


async def test_sending_is_a_checkpoint_even_where_there_is_room(autojump_clock):
    async def check(connection):
        with trio.testing.assert_checkpoints():
            await connection.send("x")

    async with serving(check) as server:
        peer = await connect(server)
        assert await peer.receive_frame() == (TEXT, b"x")
        assert not server.log.of("endpoint_failed")


async def test_receiving_is_a_checkpoint_whether_there_is_a_message_or_an_end(autojump_clock):
    """A loop over messages that were there already gave no other task a turn, and no cancelling."""
    received = []

    async def check(connection):
        await trio.sleep(1)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                with trio.testing.assert_checkpoints():
                    received.append(await anext(connection))
        received.append("end")

    async with serving(check) as server:
        peer = await connect(server)
        await peer.send_bytes(masked(TEXT, b"1") + masked(TEXT, b"2") + masked(CLOSE, b"\x03\xe8"))
        assert await peer.close_code() == 1000
        assert received == ["1", "2", "end"]
        assert not server.log.of("endpoint_failed")


async def test_a_cancelled_receive_loses_no_message(autojump_clock):
    received = []

    async def collect(connection):
        await trio.sleep(1)
        while len(received) < 3:
            with trio.move_on_after(0):
                received.append(await anext(connection))
            with trio.move_on_after(1):
                received.append(await anext(connection))

    async with serving(collect) as server:
        peer = await connect(server)
        for text in (b"1", b"2", b"3"):
            await peer.send_frame(TEXT, text)
        assert await peer.close_code() == 1000
        assert received == ["1", "2", "3"]


async def test_who_iterates_from_outside_is_told_of_the_end(autojump_clock):
    """Whoever waited from outside of the connection was never told, and kept it in memory."""
    connections = []
    ended = trio.Event()

    async def stay(connection):
        connections.append(connection)
        await trio.sleep_forever()

    async def iterate():
        async for _ in connections[0]:
            pass
        ended.set()

    async with serving(stay) as server, trio.open_nursery() as nursery:
        peer = await connect(server)
        await settle()
        nursery.start_soon(iterate)
        await settle()
        peer.transport.reset()
        with trio.fail_after(1):
            await ended.wait()


async def test_a_message_larger_than_the_mailbox_can_be_sent(autojump_clock):
    async with serving(echo, max_mailbox_size=1_000) as server:
        peer = await connect(server, capacity=500)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_frame, BINARY, b"x" * 50_000)
            assert await peer.receive_frame() == (BINARY, b"x" * 50_000)


async def test_sends_that_are_cancelled_in_a_loop_fill_the_mailbox_and_no_more(autojump_clock):
    """Each call put its message before it waited: 100 calls, 100 messages, without a limit."""
    most = sent = 0

    async def send(connection):
        nonlocal most, sent
        for number in range(100):
            with trio.move_on_after(0.01) as scope:
                await connection.send(str(number) + "x" * 1_000)
            assert scope.cancelled_caught
            most = max(most, connection.waiting_bytes)
        await connection.send("last")

    async with serving(send, max_mailbox_size=10_000) as server:
        peer = await connect(server, capacity=500)
        await trio.sleep(2)
        assert 5_000 < most <= 10_000
        received = []
        while not received or received[-1] != b"last":
            received.append((await peer.receive_frame())[1])
        # Whole or not at all: each one that had room, in order.
        expected = [str(number).encode() + b"x" * 1_000 for number in range(len(received) - 1)]
        assert received[:-1] == expected
        assert 5 < len(expected) < 10


async def test_who_waits_for_room_is_told_of_the_end(autojump_clock):
    connections = []
    told = []

    async def stay(connection):
        connections.append(connection)
        await trio.sleep_forever()

    async def send():
        try:
            await connections[0].send("x" * 1_000)
        except trio.BrokenResourceError:
            told.append(True)

    async with serving(stay, max_mailbox_size=3_000) as server, trio.open_nursery() as nursery:
        await connect(server, capacity=500)
        await settle()
        for _ in range(5):
            nursery.start_soon(send)
        await settle()
        assert connections[0].waiting_bytes <= 3_000
        connections[0].disconnect()
        await settle()
        assert len(told) == 3  # those who had no room; the other two had put their messages


async def test_text_is_charged_with_what_it_holds_in_memory(autojump_clock):
    """One character beyond U+FFFF makes Python hold four bytes for each one of the text."""

    async def stay(_):
        await trio.sleep_forever()

    async with serving(stay) as server:
        peer = await connect(server)
        await peer.send_frame(TEXT, "\U0001f600".encode() + b"x" * 10_000)
        await settle()
        assert server.actors()[0]._inbox.size > 40_000


async def test_a_peer_that_pings_and_does_not_read_is_not_read_from_either(autojump_clock):
    """Its pongs were kept without limit, for as long as it took a byte now and then."""
    async with serving(echo, max_mailbox_size=5_000) as server:
        peer = await connect(server, capacity=2_000)
        (connection,) = server.actors()

        async def flood():
            while True:
                await peer.send_frame(PING, b"x" * 125)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(20):
                await trio.sleep(5)
                assert connection.mailbox.size < 5_000 + 2 * 2_000
                assert connection.is_open
                peer.transport.read_some(10)
            nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_nothing_ends_the_wait_of_who_sends(autojump_clock):
    """A task outside of the connection waited forever for what could not be written any more."""
    told = trio.Event()
    connections = []

    async def stay(connection):
        connections.append(connection)
        await trio.sleep_forever()

    async def send():
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await connections[0].send("x" * 1_000)
        told.set()

    async with serving(stay) as server, trio.open_nursery() as nursery:
        await connect(server, capacity=500)
        await settle()
        nursery.start_soon(send)
        with trio.fail_after(60):
            await told.wait()
        assert await last_line(server) == ("write_timeout", None)


async def test_a_connection_that_ends_ends_the_wait_of_who_sends(autojump_clock):
    """Whoever waited from outside of the connection was never told."""
    connections = []

    async def stay(connection):
        connections.append(connection)
        await trio.sleep_forever()

    async with serving(stay) as server, trio.open_nursery() as nursery:
        await connect(server, capacity=500)
        await settle()
        nursery.start_soon(connections[0].send, "x" * 1_000)
        await settle()
        connections[0].disconnect()
        await trio.sleep(60)
        assert not nursery.child_tasks
        nursery.cancel_scope.cancel()
        assert connections[0]._actor.cause is CloseCause.ENDPOINT_FINISHED


async def test_everyone_who_waits_to_send_is_woken(autojump_clock):
    """One who had to wait again took the place of the others, whom nobody woke then."""

    async def send(connection):
        async def repeat(letter):
            for _ in range(20):
                await connection.send(letter * 700)

        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(repeat, letter)

    async with serving(send) as server:
        peer = await connect(server, capacity=500)
        with trio.fail_after(5):
            frames = [await peer.receive_frame() for _ in range(60)]
            assert await peer.close_code() == 1000
        assert (
            sorted(payload[:1] for _, payload in frames) == [b"a"] * 20 + [b"b"] * 20 + [b"c"] * 20
        )


async def test_who_waits_again_is_woken_again(autojump_clock):
    """Of two who waited, the second to wake up forgot the event on which the first waited anew."""
    connections = []

    async def stay(connection):
        connections.append(connection)
        await trio.sleep_forever()

    async with serving(stay) as server:
        peer = await connect(server, capacity=500)
        await settle()
        actor = connections[0]._actor
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                actor.owe([b"x" * 700], OverloadPolicy.BACKPRESSURE)
                nursery.start_soon(actor.wait_written)
                nursery.start_soon(actor.wait_written)
                await settle()
                event = actor._written
                nursery.start_soon(event.wait)
                peer.transport.read_some(500)
                while not event.is_set():
                    await trio.lowlevel.checkpoint()
                # Before those who waited have had their turn:
                actor.owe([b"y" * 1_700], OverloadPolicy.BACKPRESSURE)
                await settle()
                for _ in range(4):
                    peer.transport.read_some(500)
                    await settle()


# --- the end ---------------------------------------------------------------------------------


async def test_the_handlers_end_is_the_connections_end(autojump_clock):
    async def once(connection):
        await connection.send("bye")

    async with serving(once) as server:
        peer = await connect(server)
        assert await peer.receive_frame() == (TEXT, b"bye")
        assert await peer.close_code() == 1000
        peer.transport.close()
        assert await last_line(server) == ("endpoint_finished", 1000)


async def test_a_handler_may_choose_the_code_and_the_reason(autojump_clock):
    async def close(connection):
        assert connection.disconnect(4999, "because")
        assert not connection.disconnect()

    async with serving(close) as server:
        peer = await connect(server)
        assert await peer.receive_frame() == (CLOSE, b"\x13\x87because")


@pytest.mark.parametrize("code", [1005, 1006, 99_999])
async def test_a_code_that_cannot_be_sent_is_the_handlers_error_and_nobody_elses(
    autojump_clock, code
):
    """The goodbye failed on it, outside of all containment: the server was gone."""

    async def close(connection):
        connection.disconnect(code)

    async with serving(close) as server:
        peer = await connect(server)
        assert await peer.close_code() == 1011
        assert isinstance(server.log.of("endpoint_failed")[0]["exc_info"], ValueError)
        await connect(server)


async def test_a_handler_that_raises_is_an_internal_error(autojump_clock):
    async def fail(connection):
        raise RuntimeError("broken")

    async with serving(fail) as server:
        peer = await connect(server)
        assert await peer.close_code() == 1011
        peer.transport.close()
        assert await last_line(server) == ("internal_error", 1011)
        assert server.supervisor.statistics.traffic.handler_errors == 1


async def test_when_the_peer_closes_the_iteration_ends_behind_its_last_message(autojump_clock):
    received = []

    async def collect(connection):
        async for message in connection:
            await trio.sleep(0.5)
            received.append(message)
        received.append("end")

    async with serving(collect) as server:
        peer = await connect(server)
        frames = [masked(TEXT, b"1"), masked(BINARY, b"2"), masked(CLOSE, b"\x0b\xb8bye")]
        await peer.send_bytes(b"".join(frames))
        assert await peer.close_code() == 3000
        assert received == ["1", b"2", "end"]
        peer.transport.close()
        assert await last_line(server) == ("peer_closed", 3000)


async def test_a_peer_that_closes_and_goes_loses_nothing_that_it_sent(autojump_clock):
    """The end of the stream behind the Close frame cancelled the handler amid its work."""
    received = []

    async def collect(connection):
        async for message in connection:
            await trio.sleep(0.5)
            received.append(message)

    async with serving(collect) as server:
        peer = await connect(server)
        await peer.send_bytes(masked(TEXT, b"1") + masked(TEXT, b"2") + masked(CLOSE, b"\x03\xe8"))
        peer.transport.end_output()
        assert await last_line(server) == ("peer_closed", 1000)
        assert received == ["1", "2"]


async def test_a_handler_that_does_not_end_after_the_peers_close_is_cancelled(autojump_clock):
    async def stay(connection):
        await trio.sleep_forever()

    async with serving(stay, close_timeout=4) as server:
        peer = await connect(server)
        began = trio.current_time()
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await peer.close_code() == 1000
        assert trio.current_time() - began == pytest.approx(4)


async def test_a_handler_is_cancelled_when_its_peer_vanishes(autojump_clock):
    events = []

    async def wait(connection):
        try:
            async for _ in connection:
                pass
        finally:
            events.append("ended")

    async with serving(wait) as server:
        peer = await connect(server)
        await settle()
        peer.transport.reset()
        assert await last_line(server) == ("peer_vanished", None)
        assert events == ["ended"]
        assert server.supervisor.statistics.traffic.handler_errors == 0


async def test_sending_to_a_peer_that_is_gone_ends_the_handler_without_an_error(autojump_clock):
    def broken(data):
        raise BrokenPipeError

    async def send(connection):
        connection._actor.mailbox._write = broken
        await connection.send("x")

    async with serving(send) as server:
        await connect(server)
        assert await last_line(server) == ("peer_vanished", None)
        assert not [line for line in server.log.lines if line["level"] >= 40]


async def test_after_the_end_nothing_can_be_sent_or_iterated(autojump_clock):
    connections = []

    async def once(connection):
        connections.append(connection)

    async with serving(once) as server:
        peer = await connect(server)
        await peer.close_code()
        peer.transport.close()
        await server.supervisor.wait_empty()
        with pytest.raises(trio.BrokenResourceError):
            await connections[0].send("late")
        assert [message async for message in connections[0]] == []
        assert connections[0]._actor.cause is CloseCause.ENDPOINT_FINISHED


async def test_a_raw_connection_drops_what_is_beyond_the_rate(autojump_clock):
    async with serving(echo, message_rate=2) as server:
        peer = server.dial()
        await peer.upgrade("/raw")
        await peer.send_bytes(b"".join(masked(TEXT, text) for text in (b"1", b"2", b"3")))
        assert [await peer.receive_frame() for _ in range(2)] == [(TEXT, b"1"), (TEXT, b"2")]
        await trio.sleep(1)
        await peer.send_frame(TEXT, b"4")
        assert await peer.receive_frame() == (TEXT, b"4")


async def test_a_cancelled_send_corrupts_nothing(autojump_clock):
    """A cancelled send of trio-websocket leaves half a frame on the wire, and the next behind."""
    app = App()

    @app.endpoint("/raw", raw=True)
    async def raw(connection):
        with trio.move_on_after(1) as scope:
            await connection.send("x" * 5_000)
        assert scope.cancelled_caught
        await connection.send("after")

    async with open_server(app) as server:
        peer = server.dial(capacity=1_000)
        await peer.upgrade("/raw")
        await trio.sleep(2)
        assert await peer.receive_frame() == (TEXT, b"x" * 5_000)
        assert await peer.receive_frame() == (TEXT, b"after")
        assert await peer.close_code() == 1000


async def test_a_raw_endpoints_function_that_raises_closes_its_connection(autojump_clock):
    app = App()

    @app.endpoint("/raw", raw=True)
    async def fail(connection):
        async for message in connection:
            raise Bug(message)

    app.add_endpoint("/ws")
    async with open_server(app) as server:
        other = await onlooker(server)
        peer = await upgraded(server.dial(), "/raw")
        await peer.send("x")
        assert await peer.close_code() == 1011
        assert await is_served(other)


async def test_a_raw_functions_own_broken_stream_is_not_taken_for_its_clients_leaving(
    autojump_clock,
):
    # Such as a proxy's connection to what is behind it; once that was passed over in silence.
    app = App()

    @app.endpoint("/raw", raw=True)
    async def fail(connection):
        raise trio.BrokenResourceError("the other side")

    async with open_server(app) as server:
        peer = await upgraded(server.dial(), "/raw")
        assert await peer.close_code() == 1011
        assert errors(server)[0]["event"] == "endpoint_failed"
