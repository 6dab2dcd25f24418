import socket
import ssl
import weakref
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from moorage.actors.connection.mailbox import Mailbox, MailboxShared
from moorage.actors.transports.tls import TlsTransport
from moorage.actors.transports.transport_stream import TransportStream
from moorage.protocol.closing import CloseCause
from moorage.protocol.websocket.frames import encode_close, encode_text
from tests.fakes import CLOSE, Peer, open_server

RECORD = 16_384  # bytes of plaintext in one TLS record


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("moorage.test").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Client:
    """The other end: the standard library's TLS, between memory buffers and a plain socket."""

    def __init__(self, connected, context):
        self.socket = connected
        self.socket.setblocking(False)
        self.arrived, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.arrived, self.outgoing, server_hostname="moorage.test")
        self.records = 0

    async def handshake(self):
        await self._retry(self.tls.do_handshake)

    async def send(self, data):
        await self._retry(lambda: self.tls.write(data))
        await self.flush()

    async def read(self, size):
        """Return so many bytes, or fewer at the end of the stream."""
        data = b""
        while len(data) < size:
            try:
                chunk = await self._retry(partial(self.tls.read, size - len(data)))
            except ssl.SSLZeroReturnError:
                break
            if not chunk:
                break
            data += chunk
        return data

    async def flush(self):
        data = self.outgoing.read()
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)

    async def _retry(self, operation):
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                await self.flush()
                await trio.lowlevel.wait_readable(self.socket)
                if chunk := self.socket.recv(65_536):
                    self.arrived.write(chunk)
                else:
                    self.arrived.write_eof()
            else:
                await self.flush()
                return result


def small_pair():
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return pair


@pytest.fixture
async def ends(server_context, client_context):
    """Both ends after the handshake, over sockets whose buffers hold less than a record."""
    near, far = small_pair()
    server, client = TlsTransport(near, server_context, "192.0.2.1"), Client(far, client_context)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.handshake)
            nursery.start_soon(client.handshake)
    yield server, client
    server.close()
    far.close()


async def write_all(transport, data):
    """Offer the same bytes again from where they were not counted, as the mailbox does."""
    rest, calls = data, 0
    while rest:
        calls += 1
        try:
            rest = rest[transport.write_some(rest) :]
        except BlockingIOError:
            await transport.wait_writable()
    return calls


async def test_both_directions_work_and_neither_waits(ends):
    server, client = ends
    with trio.testing.assert_no_checkpoints():
        assert server.write_some(b"hello") == 5
        with pytest.raises(BlockingIOError):
            server.read_some(100)
    assert await client.read(5) == b"hello"
    await client.send(b"back")
    await server.wait_readable()
    assert server.read_some(100) == b"back"
    assert server.peer == "192.0.2.1"


async def test_what_was_not_counted_is_offered_again_and_arrives_once(ends):
    server, client = ends
    data = bytes(index * 7 % 256 for index in range(10 * RECORD + 5))
    received = bytearray()

    async def receive():
        while len(received) < len(data):
            received.extend(await client.read(min(5_000, len(data) - len(received))))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            calls = await write_all(server, data)
    assert calls > 10, "the buffers were meant to be too small"
    assert received == data


async def test_a_record_that_has_not_left_whole_is_not_counted(ends):
    server, client = ends
    with pytest.raises(BlockingIOError):
        server.write_some(b"x" * RECORD)
    with pytest.raises(BlockingIOError):
        server.write_some(b"x" * RECORD)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.read, RECORD)
            while True:
                try:
                    assert server.write_some(b"x" * RECORD) == RECORD
                except BlockingIOError:
                    await server.wait_writable()
                else:
                    break


@pytest.mark.parametrize("size", [100, 5_000, 40_000])
async def test_what_is_discarded_behind_a_record_under_way_corrupts_nothing(ends, size):
    """OpenSSL has encrypted a record of which nothing is counted yet: it cannot be taken back."""
    server, client = ends
    mailbox = Mailbox(server.write_some, MailboxShared(1 << 20, trio.current_time, None))
    frames = [encode_text(bytes([65 + number % 26]) * size) for number in range(200_000 // size)]
    close = encode_close(4003)
    mailbox.put(b"".join(frames))
    mailbox.discard_waiting()
    assert mailbox.size <= RECORD + size + 4
    mailbox.put_last(close)
    received = bytearray()

    async def receive():
        while not received.endswith(close):
            received.extend(await client.read(1))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            while not mailbox.flush():
                await server.wait_writable()
    kept = received.removesuffix(close)
    assert kept == b"".join(frames)[: len(kept)]
    assert kept.endswith(frames[len(kept) // len(frames[0]) - 1])


async def test_the_socket_is_read_in_small_pieces_and_all_at_once(ends):
    """OpenSSL's buffer, which never becomes smaller, held 87 KB after one large message."""
    server, client = ends
    pieces = []
    read_some = server._socket.read_some

    def read(max_bytes):
        pieces.append(max_bytes)
        return read_some(max_bytes)

    server._socket.read_some = read
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 500_000)
    data = bytes(index * 7 % 256 for index in range(60_000))
    with trio.fail_after(5):
        await client.send(data)
        await server.wait_readable()
        assert server.read_some(65_536) == data
    assert max(pieces) <= RECORD
    with pytest.raises(BlockingIOError):
        server.read_some(65_536)


async def test_what_came_before_a_reset_is_read_before_it_is_told(ends):
    server, client = ends
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 500_000)
    read_some, calls = server._socket.read_some, []

    def read_once(max_bytes):
        calls.append(max_bytes)
        if len(calls) > 1:
            raise ConnectionResetError
        return read_some(max_bytes)

    with trio.fail_after(5):
        for _ in range(4):
            await client.send(b"x" * 5_000)
        await server.wait_readable()
        server._socket.read_some = read_once
        assert server.read_some(65_536) == b"x" * 15_000
        with pytest.raises(ConnectionResetError):
            server.read_some(65_536)


async def test_a_closed_transport_fails_as_a_socket_does_and_holds_nothing(ends):
    """OpenSSL's state, 17 to 60 KB, stayed with every handle that a program kept."""
    server, _ = ends
    with pytest.raises(BlockingIOError):
        server.write_some(b"x" * RECORD)
    state = weakref.ref(server._tls)
    server.close()
    assert state() is None
    assert server._ciphertext == b""
    with pytest.raises(OSError, match="closed"):
        server.read_some(100)
    with pytest.raises(OSError, match="closed"):
        server.write_some(b"x")
    with pytest.raises(OSError, match="closed"):
        await server.handshake()
    server.end_output()
    server.close()


async def test_several_records_may_be_read_at_once(ends):
    server, client = ends
    for part in (b"one ", b"two ", b"three"):
        await client.send(part)
    await server.wait_readable()
    assert server.read_some(100) == b"one two three"


async def test_a_read_may_leave_a_part_of_a_record_for_the_next(ends):
    server, client = ends
    await client.send(b"x" * 1_000)
    await server.wait_readable()
    assert len(server.read_some(300)) == 300
    with trio.fail_after(1):
        await server.wait_readable()
    assert len(server.read_some(65_536)) == 700


async def test_a_record_that_comes_in_pieces_is_read_when_it_is_whole(ends):
    server, client = ends
    client.tls.write(b"secret")
    record = client.outgoing.read()
    client.socket.send(record[:10])
    await server.wait_readable()
    with pytest.raises(BlockingIOError):
        server.read_some(100)
    client.socket.send(record[10:])
    await server.wait_readable()
    assert server.read_some(100) == b"secret"


async def test_a_close_notify_is_the_end_of_the_stream(ends):
    """Python reports it by an empty read; the server, which expected an exception, once spun."""
    server, client = ends
    await client.send(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    await client.flush()
    await server.wait_readable()
    assert server.read_some(4) == b"last"
    assert server.read_some(100) == b""
    assert server.read_some(100) == b""


async def test_a_stream_that_ends_without_close_notify_has_ended_too(ends):
    server, client = ends
    client.socket.shutdown(socket.SHUT_WR)
    await server.wait_readable()
    assert server.read_some(100) == b""
    assert server.read_some(100) == b""


async def test_the_end_of_output_is_a_close_notify_and_then_fin(ends):
    server, client = ends
    server.write_some(b"last")
    server.end_output()
    assert await client.read(4) == b"last"
    assert await client._retry(lambda: client.tls.read(10)) == b""  # without one: SSLEOFError
    assert client.socket.recv(10) == b""


async def test_ending_the_output_while_the_buffer_is_full_waits_for_nothing(ends):
    server, _ = ends
    with pytest.raises(BlockingIOError):
        server.write_some(b"x" * RECORD)
    with trio.testing.assert_no_checkpoints():
        server.end_output()


async def test_garbage_after_the_handshake_breaks_the_connection(ends):
    server, client = ends
    client.socket.send(b"\x17\x03\x03\x00\x20" + b"garbage!" * 4)
    await server.wait_readable()
    with pytest.raises(ssl.SSLError):
        server.read_some(100)


async def test_closing_wakes_who_waits(ends):
    server, _ = ends

    async def waiting():
        with pytest.raises(trio.ClosedResourceError):
            await server.wait_readable()

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await trio.testing.wait_all_tasks_blocked()
            server.close()


# --- handshakes that fail --------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 50, b"\xff"])
async def test_what_is_not_tls_fails_the_handshake(server_context, said):
    near, far = socket.socketpair()
    with far:
        server = TlsTransport(near, server_context)
        far.send(said)
        far.shutdown(socket.SHUT_WR)
        with trio.fail_after(1), pytest.raises(ssl.SSLError):
            await server.handshake()
        server.close()


async def test_a_failed_handshake_tells_the_client_why(server_context, authority):
    """The client gets the alert, and not only the end of the stream."""
    near, far = socket.socketpair()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(old)
    old.set_alpn_protocols(["nothing"])
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    modern = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("moorage.test").configure_cert(modern)
    modern.minimum_version = ssl.TLSVersion.TLSv1_3
    server, client = TlsTransport(near, modern), Client(far, old)

    async def fail(handshake, match):
        with pytest.raises(ssl.SSLError, match=match):
            await handshake()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, server.handshake, "(?i)unsupported.protocol")
            nursery.start_soon(fail, client.handshake, "(?i)alert protocol version")
    server.close()
    far.close()


async def test_a_handshake_goes_on_while_the_buffers_are_full(authority, client_context):
    """A certificate of 400 names does not fit into the kernel's buffer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = [f"a-long-name-that-takes-some-room-{number}.moorage.test" for number in range(400)]
    authority.issue_cert("moorage.test", *names).configure_cert(context)
    near, far = small_pair()
    server, client = TlsTransport(near, context), Client(far, client_context)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
    server.close()
    far.close()


async def test_a_silent_peer_is_closed_at_the_handshakes_deadline(server_context, autojump_clock):
    near, far = socket.socketpair()
    with far:
        async with open_server(handshake_timeout=3) as server:
            began = trio.current_time()
            server.supervisor.serve_transport(TlsTransport(near, server_context))
            far.setblocking(False)
            await trio.lowlevel.wait_readable(far)
            assert far.recv(100) == b""
            assert trio.current_time() - began == pytest.approx(3)


# --- a server behind TLS ---------------------------------------------------------------------


@pytest.fixture
async def tls_server(server_context, client_context):
    async with open_server(anonymous=True) as server:

        async def dial():
            near, far = small_pair()
            server.supervisor.serve_transport(TlsTransport(near, server_context, "192.0.2.1"))
            return trio.SSLStream(
                trio.SocketStream(trio.socket.from_stdlib_socket(far)),
                client_context,
                server_hostname="moorage.test",
            )

        yield server, dial


class TlsPeer(Peer):
    """The tests' client over an SSLStream of Trio's."""

    def __init__(self, stream):
        self.stream = stream
        self.welcome = {}
        self._buffer = b""


async def test_a_session_over_tls_opens_talks_and_closes(tls_server):
    server, dial = tls_server
    with trio.fail_after(5):
        peer = TlsPeer(await dial())
        assert (await peer.upgrade())[0] == 101
        peer.welcome = await peer.receive()
        await peer.send({"type": "subscribe", "topic": "a"})
        assert (await peer.receive())["type"] == "subscribed"
        payload = "x" * 50_000  # several records, and more than the buffers hold
        await peer.send({"type": "data", "topic": "a", "data": payload})
        assert (await peer.receive())["data"] == payload
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert await peer.close_code() == 1000
        await peer.stream.aclose()
        await server.supervisor.wait_empty()
    assert server.supervisor.statistics.closed == {CloseCause.PEER_CLOSED: 1}


async def test_a_refusal_over_tls_can_be_read(tls_server):
    _, dial = tls_server
    with trio.fail_after(5):
        peer = TlsPeer(await dial())
        status, _, body = await peer.upgrade("/nowhere")
        assert (status, b"there is no endpoint" in body) == (404, True)
        await peer.stream.aclose()


async def test_plain_http_to_a_tls_port_is_contained_and_closed(tls_server):
    server, _ = tls_server
    with trio.fail_after(5):
        near, far = socket.socketpair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.supervisor.serve_transport(TlsTransport(near, context))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        while await stream.receive_some():
            pass  # an alert, perhaps
        await stream.aclose()
    assert server.supervisor.statistics.left_early == 1
    assert not [line for line in server.log.lines if line["level"] >= 40]


async def test_the_transport_serves_as_a_stream(ends):
    server, client = ends
    stream = TransportStream(server)
    with trio.fail_after(5):
        await client.send(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
