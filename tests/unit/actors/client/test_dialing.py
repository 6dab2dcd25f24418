"""URLs as addresses, and the streams that dialing opens."""

import contextlib
import errno
import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from moorage.actors.client.client_errors import ConnectError
from moorage.actors.client.dialing import Address, dial, parse_address, why_not_dialed


@pytest.mark.parametrize(
    ("url", "host", "port", "resource", "header"),
    [
        ("ws://h", "h", 80, "/", "h"),
        ("ws://h:443/ws", "h", 443, "/ws", "h:443"),
        ("ws://[::1]:8765/a?token=b", "::1", 8765, "/a?token=b", "[::1]:8765"),
        ("wss://h/ws", "h", 443, "/ws", "h"),
        ("wss://h:80/ws", "h", 80, "/ws", "h:80"),
        ("ws://h/a b/\u00fc%20", "h", 80, "/a%20b/%C3%BC%20", "h"),
    ],
)
def test_a_url_is_read(url, host, port, resource, header):
    address = parse_address(url)
    assert (address.host, address.port, address.resource) == (host, port, resource)
    assert address.host_header == header
    assert (address.ssl_context is not None) == url.startswith("wss")


def test_a_unix_socket_has_a_url_of_its_own_and_an_argument():
    address = parse_address("ws+unix:///run/moorage.sock:/control?x=1")
    assert address.unix_socket == Path("/run/moorage.sock")
    assert address.resource == "/control?x=1"
    assert parse_address("ws+unix:///run/moorage.sock").resource == "/"
    assert parse_address("ws://h/ws", unix_socket=Path("/x")).unix_socket == Path("/x")


@pytest.mark.parametrize(
    "url", ["http://h/", "h:80", "ws:///x", "ws://u:p@h/", "ws://h/#x", "ws+unix://x.sock:/ws"]
)
def test_what_is_no_websocket_url_is_refused(url):
    with pytest.raises(ValueError, match=r"ws|URL"):
        parse_address(url)


def test_tls_settings_for_a_url_without_tls_are_refused():
    with pytest.raises(ValueError, match="unencrypted"):
        parse_address("ws://h/", ssl_context=ssl.create_default_context())


async def greet(stream):
    await stream.send_all(b"hello")
    await stream.aclose()


@pytest.fixture
async def tcp_port(nursery):
    """A port of loopback where a server greets every client."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_tcp_address_is_dialed(tcp_port):
    with trio.fail_after(5):
        async with await dial(Address("127.0.0.1", tcp_port, "/ws")) as stream:
            assert await stream.receive_some() == b"hello"


async def test_a_unix_socket_is_dialed_whatever_host_and_port_say(nursery, tmp_path):
    bound = trio.socket.socket(trio.socket.AF_UNIX)
    await bound.bind(str(tmp_path / "x.sock"))
    bound.listen()
    address = parse_address("ws://nowhere.invalid/ws", unix_socket=tmp_path / "x.sock")
    async with trio.SocketListener(bound) as listener:
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        with trio.fail_after(5):
            async with await dial(address) as stream:
                assert await stream.receive_some() == b"hello"
        nursery.cancel_scope.cancel()


async def test_where_nobody_listens_dialing_raises_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        await dial(parse_address(f"ws+unix://{tmp_path}/none.sock:/ws"))


def of_each_address(*causes):
    """An error as Trio raises it where every address of a name has failed."""
    error = OSError("all attempts to connect to h:1 failed")
    error.__cause__ = ExceptionGroup("", causes)
    return error


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (of_each_address(REFUSED), "connection refused, nothing listens there"),
        (of_each_address(REFUSED, REFUSED), "connection refused, nothing listens there"),
        (
            of_each_address(OSError(errno.EHOSTUNREACH, "No route to host"), REFUSED),
            "there is no route to this address, connection refused, nothing listens there",
        ),
        (OSError(errno.ENETUNREACH, "x"), "there is no route to this address"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "this address does not answer"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "this name is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the name servers do not answer"),
        (FileNotFoundError(errno.ENOENT, "x"), "there is no such socket"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError("a proxy's own words"), "a proxy's own words"),
    ],
)
def test_why_nothing_was_dialed_is_said_in_plain_words(error, said):
    assert why_not_dialed(error) == said


async def test_a_port_where_nobody_listens_refuses_the_connection():
    # "all attempts to connect to 127.0.0.1:9999 failed" was all that was said.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and it does not listen
        with pytest.raises(OSError, match="all attempts") as caught:
            await dial(Address("127.0.0.1", bound.getsockname()[1], "/ws"))
    assert why_not_dialed(caught.value) == "connection refused, nothing listens there"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this port does not speak TLS; try ws://"),
        (b"", "the server hung up; if this port does not speak TLS, try ws://"),
    ],
)
async def test_tls_on_a_plain_port_says_what_to_try(nursery, answer, said):
    async def no_tls(stream):
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        nursery.start_soon(trio.serve_listeners, no_tls, [listener])
        port = listener.socket.getsockname()[1]
        with trio.fail_after(5), pytest.raises(ConnectError) as caught:
            await dial(parse_address(f"wss://127.0.0.1:{port}/ws"))
        nursery.cancel_scope.cancel()
    assert str(caught.value) == f"TLS failed: {said}"


async def test_tls_that_fails_may_be_tried_again(tcp_port):
    with trio.fail_after(5), pytest.raises(ConnectError, match="TLS failed") as caught:
        await dial(parse_address(f"wss://127.0.0.1:{tcp_port}/ws"))
    assert not caught.value.permanent


async def test_a_certificate_that_is_not_trusted_is_no_matter_of_time(nursery):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def shake_hands(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.do_handshake()

    (listener,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    async with listener:
        nursery.start_soon(trio.serve_listeners, shake_hands, [listener])
        port = listener.transport_listener.socket.getsockname()[1]
        with trio.fail_after(5), pytest.raises(ConnectError, match="is not trusted") as caught:
            await dial(parse_address(f"wss://127.0.0.1:{port}/ws"))
        assert caught.value.permanent
        nursery.cancel_scope.cancel()


async def test_a_tls_handshake_that_is_cancelled_closes_the_stream(nursery):
    accepted, closed = trio.Event(), trio.Event()

    async def hold_back(stream):
        accepted.set()
        while await stream.receive_some():
            pass
        closed.set()

    async def cancel_once_accepted(scope):
        await accepted.wait()
        scope.cancel()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        nursery.start_soon(trio.serve_listeners, hold_back, [listener])
        port = listener.socket.getsockname()[1]
        with trio.fail_after(5):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_once_accepted, scope)
                await dial(parse_address(f"wss://127.0.0.1:{port}/ws"))
            assert scope.cancelled_caught
            await closed.wait()
        nursery.cancel_scope.cancel()
