import socket

import pytest
import trio
import trio.testing

from moorage.actors.transports.sockets import SocketTransport

settle = trio.testing.wait_all_tasks_blocked


def small_pair():
    """A Unix socketpair whose buffers hold little, so that they are soon full."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return pair


@pytest.fixture
async def pair():
    near, far = small_pair()
    transport = SocketTransport(near, "192.0.2.1")
    far.setblocking(False)
    yield transport, far
    transport.close()
    far.close()


def fill(transport):
    """Write until nothing more is taken; return how many bytes that were."""
    total = 0
    while True:
        try:
            total += transport.write_some(b"x" * 1024)
        except BlockingIOError:
            return total


async def test_reading_and_writing_are_the_sockets_own_methods_and_never_wait(pair):
    transport, far = pair
    with trio.testing.assert_no_checkpoints():
        assert transport.write_some(b"hello") == 5
        assert far.recv(10) == b"hello"
        with pytest.raises(BlockingIOError):
            transport.read_some(10)
        far.send(b"back")
        assert transport.read_some(2) == b"ba"
        assert transport.read_some(10) == b"ck"
    assert transport.peer == "192.0.2.1"
    assert transport.read_some.__self__ is transport.write_some.__self__


async def test_a_full_buffer_takes_no_more_until_the_peer_reads(pair):
    transport, far = pair
    total = fill(transport)
    with trio.move_on_after(0.02) as scope:
        await transport.wait_writable()
    assert scope.cancelled_caught
    while total:
        total -= len(far.recv(65_536))
    with trio.fail_after(1):
        await transport.wait_writable()
    assert transport.write_some(b"x") == 1


async def test_a_large_write_is_taken_in_part():
    near, far = socket.socketpair()
    with far:
        transport = SocketTransport(near)
        assert 0 < transport.write_some(b"x" * 10_000_000) < 10_000_000
        transport.close()


async def test_bytes_and_the_end_of_the_stream_end_the_wait(pair):
    transport, far = pair
    with trio.fail_after(1):
        far.send(b"x")
        await transport.wait_readable()
        assert transport.read_some(10) == b"x"
        far.close()
        await transport.wait_readable()
    assert transport.read_some(10) == b""


async def test_after_the_end_of_output_the_peer_can_still_be_read(pair):
    transport, far = pair
    transport.end_output()
    assert far.recv(10) == b""
    far.send(b"late")
    await transport.wait_readable()
    assert transport.read_some(10) == b"late"
    with pytest.raises(BrokenPipeError):
        transport.write_some(b"x")


async def test_ending_the_output_of_a_broken_connection_is_harmless(pair):
    transport, _ = pair
    transport.close()
    transport.end_output()


@pytest.mark.parametrize("wait", ["wait_readable", "wait_writable"])
async def test_closing_wakes_who_waits_and_may_be_repeated(pair, wait):
    transport, _ = pair
    fill(transport)

    async def waiting():
        with pytest.raises(trio.ClosedResourceError):
            await getattr(transport, wait)()

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await settle()
            transport.close()
            transport.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        transport.write_some(b"x")


async def test_a_peer_that_is_gone_breaks_the_connection(pair):
    transport, far = pair
    far.close()
    with pytest.raises(OSError, match="Broken pipe"):
        transport.write_some(b"x")


async def test_small_messages_over_tcp_do_not_wait_for_acknowledgements():
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        transport = SocketTransport(accepted)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getblocking() is False
        transport.close()
        assert client.recv(1) == b""
