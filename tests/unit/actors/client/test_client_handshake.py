"""The upgrade to a WebSocket, and the ways in which that goes wrong."""

import ast
import json
from pathlib import Path

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import ClientClosed, ConnectError, ConnectionRefused
from moorage.actors.client.client_handshake import MAX_ANSWER, WatchedStream
from tests.fakes_client import connect, error


async def test_the_upgrade_request_carries_path_token_and_headers_and_offers_the_subprotocol(
    autojump_clock, server
):
    async with connect(server, token="abc.def", extra_headers=[("X-Trace", "1")]):
        request = server.requests[0]
        assert request["authorization"] == "Bearer abc.def"
        assert request["x-trace"] == "1"
        assert server.connections[0].path == "/ws?x=1"
        assert server.connections[0].websocket.subprotocol == "moorage.v1"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refusal_that_would_not_change_is_raised_with_status_code_and_text(
    autojump_clock, server, status
):
    body = json.dumps(error("forbidden", "this origin is not allowed")).encode()
    server.script.append((status, [], body))
    with pytest.raises(ConnectionRefused) as caught:
        async with connect(server):
            pass
    assert (caught.value.status, caught.value.code) == (status, "forbidden")
    assert caught.value.text == "this origin is not allowed"
    assert len(server.attempts) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\nplain words",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 500\r\n\r\nplain words",
    ],
)
async def test_a_refusal_whose_body_ends_with_the_connection_is_understood(
    autojump_clock, server, answer
):
    server.script.append(answer)
    with pytest.raises(ConnectionRefused, match="plain words") as caught:
        async with connect(server):
            pass
    assert caught.value.status == 403
    assert caught.value.code is None


async def test_half_a_frame_is_never_followed_by_anything(autojump_clock):
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    with trio.move_on_after(1):
        await stream.send_all(b"half a frame")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"the next one")


async def test_a_write_that_nobody_takes_breaks_the_stream(autojump_clock):
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    with pytest.raises(trio.BrokenResourceError, match="takes no more"):
        await stream.send_all(b"x")


async def test_an_endless_answer_is_cut_off():
    ours, theirs = trio.testing.memory_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    await theirs.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * MAX_ANSWER)
    with pytest.raises(ConnectError, match=f"more than {MAX_ANSWER} bytes"):
        await stream.receive_some()


async def test_the_end_before_an_answer_is_an_error_and_afterwards_the_end():
    ours, theirs = trio.testing.memory_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    await theirs.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
    await theirs.aclose()
    assert await stream.receive_some() == b""
    assert stream.ended.is_set()

    ours, theirs = trio.testing.memory_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    await theirs.aclose()
    with pytest.raises(ConnectError, match="without answering"):
        await stream.receive_some()


async def test_the_stream_knows_when_the_server_was_last_heard(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    stream = WatchedStream(ours, write_timeout=5)
    await trio.sleep(7)
    await theirs.send_all(b"x")
    await stream.receive_some()
    assert stream.heard_at == trio.current_time()


async def test_a_frame_that_breaks_the_rules_ends_the_client_and_every_send(autojump_clock, server):
    """No error of wsproto comes out of a send, so the client need not know that library."""
    async with connect(server) as client, trio.open_nursery() as nursery:

        async def send():
            with pytest.raises(ClientClosed, match="1002"):
                await client.send("more")

        server.streams[0].stuck = True
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(65):
            await client.send("early")
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await server.connections[0].stream.send_all(b"\x83\x00")  # an unknown opcode


def test_the_client_uses_the_public_interface_of_trio_websocket_alone():
    for path in (Path(__file__).parents[4] / "actors/client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.ImportFrom(module=str(module)):
                    assert not module.startswith(("trio_websocket.", "wsproto")), path.name
                case ast.Import(names=names):
                    assert not any(name.name.startswith("wsproto") for name in names), path.name
                case ast.Attribute(
                    value=ast.Attribute(attr=owner) | ast.Name(id=owner), attr=attribute
                ) if owner in {"websocket", "trio_websocket"}:
                    assert not attribute.startswith("_"), path.name
                case _:
                    pass


async def test_no_tls_on_a_port_with_tls_says_what_to_try():
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(alert)
    with pytest.raises(ConnectError, match=r"this port speaks TLS; try wss://$"):
        await WatchedStream(ours, write_timeout=5, is_plain=True).receive_some()


@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_server_that_hangs_up_on_plain_bytes_may_want_tls(is_plain):
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(ConnectError) as caught:
        await WatchedStream(ours, write_timeout=5, is_plain=is_plain).receive_some()
    assert ("if this port speaks TLS, try wss://" in str(caught.value)) == is_plain
