import pytest
import trio

from moorage.actors.transports.memory import memory_connection
from moorage.actors.transports.sockets import SocketTransport
from moorage.actors.transports.transport_stream import TransportStream
from tests.unit.actors.transports.test_sockets import small_pair


def stream_pair(kind):
    if kind == "memory":
        return memory_connection(4096)
    return tuple(SocketTransport(end) for end in small_pair())


@pytest.fixture(params=["memory", "socket"])
async def streams(request):
    ends = stream_pair(request.param)
    yield tuple(TransportStream(end) for end in ends)
    for end in ends:
        end.close()


async def test_all_is_sent_however_little_fits_at_a_time(streams):
    near, far = streams
    data = bytes(range(256)) * 500
    received = bytearray()

    async def receive():
        while len(received) < len(data):
            received.extend(await far.receive_some(1000))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await near.send_all(memoryview(data))
    assert received == data


async def test_a_broken_connection_is_told_from_a_stream_that_was_closed_here(streams):
    near, far = streams
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await far.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await far.receive_some()
    assert await near.receive_some() == b""


async def test_a_stream_waits_until_something_can_be_written(streams):
    near, _ = streams
    with trio.fail_after(1):
        await near.wait_send_all_might_not_block()
