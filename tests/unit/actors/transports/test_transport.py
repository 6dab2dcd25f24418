"""The facts that hold for every transport: over a socket, TLS or memory."""

import socket
import ssl

import pytest
import trio
import trio.testing
import trustme

from moorage.actors.transports.memory import memory_connection
from moorage.actors.transports.sockets import SocketTransport
from moorage.actors.transports.tls import TlsTransport
from moorage.actors.transports.transport import CHUNK


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


async def tls_pair(authority):
    """A TLS transport, and the stream of its client, after the handshake."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("moorage.test").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    near, far = socket.socketpair()
    transport = TlsTransport(near, server_context, "peer")
    client = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(far)),
        client_context,
        server_hostname="moorage.test",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.handshake)
        nursery.start_soon(client.do_handshake)
    return transport, client


@pytest.fixture(params=["socket", "tls", "memory"])
async def ends(request, authority):
    """A transport, and a function that sends bytes to it from the other end."""
    if request.param == "memory":
        transport, far = memory_connection(peers=("server", "peer"))

        async def send(data):
            far.write_some(data)

    elif request.param == "socket":
        near, far = socket.socketpair()
        transport = SocketTransport(near, "peer")

        async def send(data):
            far.sendall(data)

    else:
        transport, far = await tls_pair(authority)
        send = far.send_all
    yield transport, send
    transport.close()
    if request.param == "tls":
        await trio.aclose_forcefully(far)
    else:
        far.close()


def fill(transport):
    """Write until nothing more is taken; return how many bytes that were."""
    total, rest = 0, b""
    while True:
        rest = rest or b"x" * CHUNK
        try:
            taken = transport.write_some(rest)
        except BlockingIOError:
            return total
        total, rest = total + taken, rest[taken:]


async def test_every_transport_names_its_peer(ends):
    transport, _ = ends
    assert transport.peer == "peer"


async def test_reading_waits_for_nothing(ends):
    transport, _ = ends
    with trio.testing.assert_no_checkpoints(), pytest.raises(BlockingIOError):
        transport.read_some(CHUNK)


async def test_writing_waits_for_nothing(ends):
    transport, _ = ends
    with trio.testing.assert_no_checkpoints():
        assert transport.write_some(b"hello") == 5


async def test_what_arrives_ends_the_wait_and_is_read(ends):
    transport, send = ends
    await send(b"hello")
    with trio.fail_after(5):
        await transport.wait_readable()
    assert transport.read_some(CHUNK) == b"hello"


async def test_a_full_transport_takes_a_part_and_then_nothing(ends):
    transport, _ = ends
    assert fill(transport) > 0
    with pytest.raises(BlockingIOError):
        transport.write_some(b"x" * CHUNK)


async def test_cancelling_a_wait_is_safe(ends):
    transport, send = ends
    with trio.move_on_after(0):
        await transport.wait_readable()
    await send(b"later")
    with trio.fail_after(5):
        await transport.wait_readable()
    assert transport.read_some(CHUNK) == b"later"


async def test_closing_twice_is_harmless_and_wakes_who_waits(ends):
    transport, _ = ends

    async def waiting():
        with pytest.raises(trio.ClosedResourceError):
            await transport.wait_readable()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await trio.testing.wait_all_tasks_blocked()
            transport.close()
            transport.close()
