"""The way of one connection into the server: how many come in, and how the others are told."""

from __future__ import annotations

import json
import ssl
import weakref
from collections import Counter

import pytest
import trio
import trio.testing
import trustme

from moorage.actors.transports.memory import memory_connection
from moorage.supervisor.app import App
from tests.fakes import BINARY, open_server
from tests.fakes_containment import (
    Bug,
    errors,
    failing,
    is_served,
    onlooker,
    without_collector,
)
from tests.fakes_server import (
    HALF_A_HEAD,
    KEY,
    OTHER_HALF,
    count_tasks,
    half_way_in,
    port_of,
    settle,
    tls_stream,
    token,
    waiting_bytes,
)

HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_above_the_total_a_client_gets_503_with_retry_after(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        first, _second = await server.connect(), await server.connect()
        status, headers, body = await server.dial().upgrade()
        assert status == 503
        assert int(headers["retry-after"]) > 0
        message = json.loads(body)
        assert message["type"] == "error"
        assert message["data"] == {"code": "unavailable", "retryable": True}
        await first.close()
        await settle()
        await server.connect()  # there is room again
        assert server.supervisor.statistics.refused == {503: 1}


async def test_who_is_in_the_handshake_takes_no_connections_place(autojump_clock):
    # Once fifty silent sockets of one address filled a server of fifty.
    async with open_server(max_total_connections=2) as server:
        lurkers = [server.dial() for _ in range(50)]
        await settle()
        first, second = await server.connect(), await server.connect()
        assert (await server.dial().upgrade())[0] == 503
        assert server.parts.admission.handshaking == len(lurkers)
        for peer in (first, second):
            await peer.close()


async def test_a_handshake_that_is_over_when_the_server_is_full_gets_503(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        late = await half_way_in(server)
        await server.connect()
        status, headers, _ = await late.request(OTHER_HALF)
        assert (status, headers["retry-after"]) == (503, "5")
        assert server.parts.admission.admitted == 1


async def test_a_full_server_reads_the_request_before_it_answers(autojump_clock):
    # Once it answered at once, and nginx mixed that answer with the next server's.
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        peer = server.dial()
        await settle()
        assert waiting_bytes(peer) == b""
        await peer.send_bytes(HALF_A_HEAD)
        await trio.sleep(1)
        assert waiting_bytes(peer) == b""
        assert (await peer.request(OTHER_HALF))[0] == 503


@pytest.mark.parametrize("verb", ["suspend", "drain"])
async def test_a_server_that_lets_nobody_in_reads_the_request_first_too(autojump_clock, verb):
    async with open_server() as server:
        await server.connect()
        if verb == "suspend":
            server.supervisor.suspend()
        else:
            server.core.start_drain()
        peer = await half_way_in(server)
        assert waiting_bytes(peer) == b""
        assert (await peer.request(OTHER_HALF))[0] == 503


async def test_who_sends_nothing_to_a_full_server_is_closed_after_the_refusals_time(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        began = trio.current_time()
        assert await server.dial().stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(2)
        statistics = server.parts.statistics
        assert (statistics.refused, statistics.unanswered) == ({}, 1)


@pytest.mark.parametrize("said", [b"\x00" * 1000, b"x" * 60_000, b"POST / HTTP/1.0\r\n\r\n"])
async def test_a_full_server_tells_503_whatever_the_request_is(autojump_clock, said):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        assert (await server.dial().request(said))[0] == 503


async def test_a_full_server_answers_head_without_a_body(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        peer = server.dial()
        await peer.send_bytes(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        await settle()
        answer = waiting_bytes(peer)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_a_full_server_with_tls_reads_the_request_first_too(tmp_path):
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with open_server(tls_certificate=pem, max_total_connections=1) as server:
        await server.connect()
        with trio.fail_after(5):
            async with tls_stream(port_of(server), context) as stream:
                with trio.move_on_after(0.2):
                    pytest.fail(f"an answer to no request: {await stream.receive_some()!r}")
                await stream.send_all(HALF_A_HEAD + OTHER_HALF)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 503 ")


async def test_a_refused_client_that_floods_takes_no_turns_from_others():
    # Once the refused client's bytes were read in a loop without a checkpoint.
    async with open_server(max_total_connections=1) as server:
        served = await server.connect()
        flooding = server.dial()
        await flooding.send_bytes(HALF_A_HEAD + OTHER_HALF)
        await settle()
        assert waiting_bytes(flooding).startswith(b"HTTP/1.1 503")
        flooding.transport._outgoing.data = _Endless()
        flooding.transport._outgoing.notify()
        with trio.fail_after(5):
            assert (await served.request_reply({"type": "ping"}))["type"] == "pong"
        flooding.transport.reset()
        await served.close()


class _Endless(bytearray):
    """The bytes of a peer that always has more to send."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key) -> bytes:
        return b"x" * (key.stop or 1)


async def test_a_thousand_newcomers_at_a_full_server_all_get_their_503(autojump_clock):
    # Once only a hundred did, and `refused` counted all of them.
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        crowd = [server.dial() for _ in range(1000)]
        for peer in crowd:
            await peer.send_bytes(HALF_A_HEAD + OTHER_HALF)
        await settle()
        assert Counter(waiting_bytes(peer)[:12] for peer in crowd) == {b"HTTP/1.1 503": 1000}
        assert server.supervisor.statistics.refused == {503: 1000}


async def test_refusals_are_bounded_and_silent_ones_make_room_for_newer_ones(autojump_clock):
    async with open_server(max_total_connections=1, max_handshakes=10) as server:
        await server.connect()
        crowd = [server.dial() for _ in range(500)]
        await settle()
        assert len(server.parts.admission.refusals) == 10
        statistics = server.parts.statistics
        assert (statistics.refused, statistics.unanswered) == ({}, 490)
        assert (await server.dial().upgrade())[0] == 503
        assert statistics.refused == {503: 1}
        await trio.sleep(3)
        assert (len(server.parts.admission.refusals), len(crowd)) == (0, 500)


async def test_above_max_handshakes_the_oldest_silent_one_of_the_largest_address_gives_way(
    autojump_clock,
):
    async with open_server(max_handshakes=3) as server:
        alone = server.dial(address="192.0.2.1")
        await settle()
        oldest = server.dial(address="192.0.2.2")
        await settle()
        younger = server.dial(address="192.0.2.2")
        await settle()
        await server.connect(address="192.0.2.3")
        assert await oldest.stream.receive_some() == b""
        for peer in (alone, younger):
            assert (await peer.upgrade())[0] == 101
        assert server.supervisor.statistics.unanswered == 1
        assert server.operations.stats().gave_way == 1
        (line,) = server.log.of("gave_way")
        assert (line["peer"], line["limit"]) == ("192.0.2.2", 3)


async def test_below_max_handshakes_as_many_of_one_address_as_come_are_served(autojump_clock):
    async with open_server(max_handshakes=200) as server:
        crowd = [server.dial(address="192.0.2.1") for _ in range(200)]
        await settle()
        for peer in crowd:
            assert (await peer.upgrade())[0] == 101


async def test_a_handshake_that_waits_for_the_program_does_not_give_way(autojump_clock):
    app = App()
    may_go_on = trio.Event()

    @app.authorize_connect
    async def ask(request):
        await may_go_on.wait()

    async with open_server(app, max_handshakes=1) as server, trio.open_nursery() as nursery:
        connected = []

        async def connect():
            connected.append(await server.connect())

        nursery.start_soon(connect)
        await settle()
        status, _, body = await server.dial().upgrade()
        assert (status, b"too many handshakes" in body) == (503, True)
        may_go_on.set()
        await settle()
        assert len(connected) == 1


def by_message(**settings):
    app = App()
    app.add_endpoint("/ws", require_auth=True, authenticate_by_message=True)
    return open_server(app, jwt_key=KEY, **settings)


async def authenticate(peer, user="ann"):
    return await peer.request_reply({"type": "authenticate", "data": {"token": token(user)}})


async def test_who_still_owes_its_token_takes_no_connections_place(autojump_clock):
    async with by_message(max_total_connections=1) as server:
        first, second, third = [await server.connect() for _ in range(3)]
        admission = server.parts.admission
        assert (admission.admitted, len(admission.handshakes)) == (0, 3)
        assert (await authenticate(second))["type"] == "authenticated"
        assert (admission.admitted, len(admission.handshakes)) == (1, 2)
        reply = await authenticate(third)
        assert reply["data"] == {"code": "unavailable", "retryable": True}
        assert await third.close_code() == 1013
        third.transport.close()
        await second.close()
        await settle()
        assert (await authenticate(first))["type"] == "authenticated"
        assert (admission.admitted, len(admission.handshakes)) == (1, 0)
        await authenticate(first)  # a renewal takes no second place
        assert admission.admitted == 1
        await first.close()
        await server.supervisor.wait_empty()
        assert admission.admitted == 0


@pytest.mark.parametrize("closing", [False, True])
async def test_who_still_owes_its_token_gives_way_at_once(autojump_clock, closing):
    async with by_message(max_handshakes=1) as server:
        silent = await server.connect()
        if closing:
            await silent.send_frame(BINARY, b"")  # it is told 1003, and never answers
            await settle()
        before = trio.current_time()
        assert (await authenticate(await server.connect()))["type"] == "authenticated"
        await settle()
        assert trio.current_time() == before
        assert await silent.close_code() == (1003 if closing else 1013)
        (line,) = server.log.of("disconnected")
        assert line["cause"] == ("unsupported_data" if closing else "gave_way")
        assert not [line for line in server.log.lines if line["level"] >= 40]


async def test_behind_a_trusted_proxy_the_clients_own_address_counts_once_it_is_known(
    autojump_clock,
):
    async with by_message(max_handshakes=3, trusted_proxies=("192.0.2.1",)) as server:
        alone = await server.connect(headers={"X-Forwarded-For": "203.0.113.1"})
        many = [await server.connect(headers={"X-Forwarded-For": "203.0.113.2"}) for _ in "ab"]
        await server.connect(headers={"X-Forwarded-For": "203.0.113.3"})
        assert await many[0].close_code() == 1013
        for peer in (alone, many[1]):
            assert (await authenticate(peer))["type"] == "authenticated"


async def test_a_head_beyond_the_size_is_refused_with_431(autojump_clock):
    async with open_server(max_request_head=1000) as server:
        assert (await server.dial().upgrade(headers={"X": "y" * 1000}))[0] == 431


async def test_refused_and_vanished_clients_leave_no_tasks(autojump_clock):
    """trio-websocket's `reject()` and its wait for a request that never comes leak two tasks."""
    async with open_server(jwt_key=KEY, handshake_timeout=5) as server:
        before = count_tasks()
        for _ in range(5):
            for said in (HEAD, HEAD.replace(b"/ws", b"/nowhere"), b"\r\n\r\n", b"GET", b""):
                peer = server.dial()
                await peer.send_bytes(said)
                peer.transport.end_output()
        server.dial()  # says nothing and stays
        await trio.sleep(10)
        assert count_tasks() == before
        assert server.parts.admission.admitted == 0


async def test_an_accepted_client_is_one_task(autojump_clock):
    async with open_server() as server:
        before = count_tasks()
        peers = [await server.connect() for _ in range(3)]
        assert count_tasks() - before == 3
        for peer in peers:
            await peer.close()
        await server.supervisor.wait_empty()
        await trio.testing.wait_all_tasks_blocked()
        assert count_tasks() == before


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "error", [Bug(), OSError(111, "no database"), trio.BrokenResourceError(), ValueError()]
)
async def test_a_connect_authorizer_that_raises_lets_nobody_in(autojump_clock, error, asynchronous):
    # A hook's OSError once read as the client's leaving: no answer, and no line in the log.
    app = App()
    app.authorize_connect(failing(asynchronous, error))
    async with open_server(app) as server:
        assert (await server.dial().upgrade())[0] == 500
        (line,) = errors(server)
        assert line["event"] == "handshake_failed"
        assert error in (line["exc_info"], line["exc_info"].__cause__)
        assert server.supervisor.statistics.left_early == 0


async def test_nothing_that_a_client_sends_before_the_upgrade_is_an_error_of_ours(autojump_clock):
    async with open_server() as server:
        other = await onlooker(server)
        for garbage in (
            b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a TLS client's hello
            b"GET /ws HTTP/1.1\r\nHost: \xff\xfe\r\nX: \x00\r\n\r\n",
            b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        ):
            peer = server.dial()
            status, _, _ = await peer.request(garbage)
            assert 400 <= status < 500
            peer.transport.close()
        await settle()
        assert errors(server) == []
        assert await is_served(other)


@pytest.mark.parametrize(
    "request_", [b"GET /nowhere" + HEAD[7:], b"not HTTP\r\n\r\n", HEAD[:50], b""]
)
async def test_a_handshake_that_failed_is_freed_without_the_collector(autojump_clock, request_):
    """The refusal and the frame that kept it were a cycle, with the transport and its buffers."""
    async with open_server() as server:
        near, far = memory_connection()
        transport = weakref.ref(far)
        with without_collector():
            server.supervisor.serve_transport(far)
            near.write_some(request_)
            await trio.sleep(60)
            del near, far
            await settle()
            assert transport() is None
            assert server.parts.admission.admitted == 0


async def test_an_actor_that_cannot_be_made_is_a_500_and_no_101_before_it(autojump_clock):
    async with open_server() as server:
        server.parts.admission.make = failing(False, Bug)
        status, _, _ = await server.dial().upgrade("/ws")
        assert status == 500
        (line,) = errors(server)
        assert line["event"] == "handshake_failed"
        assert server.parts.admission.admitted == 0
