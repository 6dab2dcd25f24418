"""Connecting, reconnecting, and the ends after which a client stays away."""

import json
import random
from functools import partial

import pytest
import trio
import trio.testing

from moorage.actors.client.backoff import Backoff
from moorage.actors.client.client import open_client
from moorage.actors.client.client_errors import ClientClosed, ConnectError
from moorage.actors.client.client_state import ClientState
from tests.fakes_client import connect, error, lose_connection, wait_until


@pytest.mark.parametrize(
    "trouble",
    [
        OSError("connection refused"),
        b"",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["refused", "hangs up", "no accept", "not http", "endless", "502"],
)
async def test_trouble_that_may_pass_is_tried_again(autojump_clock, server, trouble):
    server.script.extend([trouble] * 3)
    async with connect(server) as client:
        assert client.statistics().failed_attempts == 3
    assert len(server.attempts) == 4


async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(autojump_clock, server):
    server.script.append(
        (503, [(b"Retry-After", b"60")], json.dumps(error("unavailable")).encode())
    )
    async with connect(server):
        waited = server.attempts[1] - server.attempts[0]
        assert 60 <= waited <= 61


async def test_waits_are_full_jitter_under_a_doubling_bound(autojump_clock, server):
    server.script.extend([OSError("no")] * 7)
    async with connect(server, backoff=Backoff(1, 8, random=random.Random(3))):
        waits = [b - a for a, b in zip(server.attempts, server.attempts[1:], strict=False)]
    expected = random.Random(3)
    assert waits == pytest.approx(
        [expected.uniform(0, bound) for bound in (1, 2, 4, 8, 8, 8, 8)], abs=1e-6
    )


async def test_the_connect_deadline_ends_the_attempts_and_tells_the_last_trouble(
    autojump_clock, server
):
    server.script.extend([OSError("nobody there")] * 1000)
    start = trio.current_time()
    with pytest.raises(ConnectError, match="nobody there"):
        async with connect(server, connect_deadline=20):
            pass
    assert trio.current_time() - start == pytest.approx(20)


async def test_a_server_that_never_welcomes_is_given_up_after_the_connect_timeout(
    autojump_clock, server
):
    server.welcome = None
    start = trio.current_time()
    with pytest.raises(ConnectError, match="no welcome"):
        async with connect(server, connect_timeout=3, connect_deadline=3.5):
            pass
    assert trio.current_time() - start == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("url", "hint"), [("wss://h/", "; if this port does not speak TLS, try ws://"), ("ws://h/", "")]
)
@pytest.mark.parametrize("connect_timeout", [3, 30])
async def test_no_answer_to_a_tls_handshake_says_what_to_try(
    autojump_clock, url, hint, connect_timeout
):
    async def hang(address):
        await trio.sleep_forever()

    with pytest.raises(ConnectError) as caught:
        async with open_client(url, dial=hang, connect_timeout=connect_timeout, connect_deadline=8):
            pass
    answer = "no answer" if connect_timeout > 8 else "no answer within 3 s"
    assert str(caught.value).endswith(f" within 8 s: {answer}{hint}")


async def test_an_error_names_the_address_once(autojump_clock, server):
    # It stood there three times.
    server.script.extend([ConnectionRefusedError(111, "Connection refused")] * 100)
    with pytest.raises(ConnectError) as caught:
        async with connect(server, connect_deadline=5):
            pass
    assert str(caught.value) == (
        "no connection to server.test:8765 within 5 s: connection refused, nothing listens there"
    )


async def test_a_dial_that_hangs_is_given_up_after_the_connect_timeout(autojump_clock, server):
    async def hang(address):
        await trio.sleep_forever()

    with pytest.raises(ConnectError, match="no answer within 3"):
        async with open_client("ws://h/", dial=hang, connect_timeout=3, connect_deadline=10):
            pass


async def test_closed_for_good_before_the_first_connection_stands_is_raised(autojump_clock, server):
    server.welcome = None
    async with trio.open_nursery() as nursery:

        async def close():
            await (await server.connection(1)).close(4500, "bad token")

        nursery.start_soon(close)
        with pytest.raises(ClientClosed) as caught:
            async with connect(server):
                pass
    assert (caught.value.code, caught.value.reason) == (4500, "bad token")


async def test_it_comes_back_subscribed_before_it_counts_as_connected(autojump_clock, server):
    async with connect(server, topics=["a"]) as client, client.subscribe("b") as subscription:
        await lose_connection(server, client)
        await client.wait_connected()
        second = server.connections[1]
        assert {m["topic"] for m in second.received} == {"a", "b"}
        await second.send("data", topic="b", data="back")
        gap = await anext(subscription)
        assert (gap.type, gap.data) == ("gap", {"dropped": None, "cause": "reconnected"})
        assert (await anext(subscription)).data == "back"
        assert (await anext(client.messages())).topic == "a"
        assert client.statistics().connections == 2


async def test_a_topic_that_is_refused_for_the_moment_is_tried_on_a_new_connection(
    autojump_clock, server
):
    async with connect(server) as client, client.subscribe("a") as subscription:
        answers = iter([error("unavailable", retryable=True)])
        server.answers["subscribe"] = lambda m: next(
            answers, {"type": "subscribed", "topic": m["topic"]}
        )
        await server.connections[0].break_off()
        assert (await anext(subscription)).type == "gap"
        assert len(server.connections) == 3


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4000, 4001, 4005, 4007, 4499])
async def test_codes_that_mean_come_back_bring_it_back(autojump_clock, server, code):
    async with connect(server) as client:
        await lose_connection(server, client, code)
        await client.wait_connected()
        assert len(server.connections) == 2


@pytest.mark.parametrize("code", [1000, 1008, 4500, 4502, 4503, 4999])
async def test_codes_that_mean_stay_away_end_everything_with_client_closed(
    autojump_clock, server, code
):
    async with connect(server) as client, client.subscribe("t") as subscription:
        await server.connections[0].send("data", topic="t", data="last words")
        await server.connections[0].close(code, "go away")
        assert (await anext(subscription)).data == "last words"
        for attempt in (
            partial(anext, subscription),
            partial(anext, client.messages()),
            client.wait_connected,
            partial(client.publish, "t"),
            partial(client.send, "t"),
            partial(anext, client.subscribe("other")),
        ):
            with pytest.raises(ClientClosed) as caught:
                await attempt()
            assert (caught.value.code, caught.value.reason) == (code, "go away")
        assert client.state is ClientState.CLOSED
        await trio.sleep(1000)
        assert len(server.attempts) == 1


async def test_a_goodbye_says_when_to_come_back(autojump_clock, server):
    async with connect(server) as client:
        await trio.sleep(60)
        await server.connections[0].send(
            "goodbye", data={"reason": "draining", "reconnect_after": 12.5}
        )
        assert (await anext(client.messages())).type == "goodbye"
        closed_at = trio.current_time()
        await server.connections[0].close(4000)
        await wait_until(lambda: client.connection_id is None)
        await client.wait_connected()
        assert server.attempts[1] - closed_at == pytest.approx(12.5, abs=0.1)


async def test_a_server_that_closes_every_connection_is_not_called_on_without_a_pause(
    autojump_clock, server
):
    async with connect(server) as client:
        for number in range(1, 9):
            connection = await server.connection(number)
            await client.wait_connected()
            await connection.send("goodbye", data={"reconnect_after": 0})
            await connection.close(4000)
        await server.connection(9)
        assert server.attempts[-1] - server.attempts[0] > 10


async def test_what_is_no_message_is_skipped_and_counted(autojump_clock, server):
    async with connect(server) as client:
        await server.connections[0].websocket.send_message("{")
        await server.connections[0].websocket.send_message(b"\x00")
        await server.connections[0].send("note")
        assert (await anext(client.messages())).type == "note"
        assert client.statistics().messages_malformed == 2


class Turns(trio.abc.Instrument):
    """Counts the turns that tasks get, and ends a scope when there are too many."""

    def __init__(self, enough, scope):
        self.taken, self.enough, self.scope = 0, enough, scope

    def before_task_step(self, task):
        self.taken += 1
        if self.taken > self.enough:
            self.scope.cancel()


async def test_a_server_that_closes_during_the_set_up_is_waited_for_in_a_few_turns(
    autojump_clock, server
):
    # Once the client asked for its topics again and again, until the server had closed the TCP
    # connection too: 100,000 turns of the loop a second.
    server.answers["subscribe"] = lambda _: None

    async def open_it():
        async with connect(server, topics=["news"]):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_it)
        connection = await server.connection(1)
        await wait_until(lambda: connection.received)
        server.streams[0].lossy = True  # so the server leaves the TCP connection open
        turns = Turns(1_000, nursery.cancel_scope)
        trio.lowlevel.add_instrument(turns)
        await connection.stream.send_all(b"\x88\x02\x03\xf4")  # Close with 1012
        await server.connection(2)
        trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    assert turns.taken < 200
    assert len(server.attempts) == 2


def note(text):
    """A message in which a character beyond ASCII has several bytes."""
    return json.dumps({"type": "note", "data": text}, ensure_ascii=False)


async def test_a_message_beyond_the_limit_in_bytes_ends_the_connection(autojump_clock, server):
    # The limit once was in characters, so this message passed with twice its bytes.
    async with connect(server, max_message_size=1_000) as client:
        await server.connections[0].send("note", data="x" * 900)
        assert (await anext(client.messages())).type == "note"
        await server.connections[0].websocket.send_message(note("ä" * 500))
        with pytest.raises(ClientClosed, match="more than 1000 bytes") as caught:
            await anext(client.messages())
    assert caught.value.code == 1009
    assert server.connections[0].closed_with == 1009


async def test_a_full_buffer_is_full_of_bytes(autojump_clock, server):
    # It once counted characters, and held four times what it may.
    async with connect(server, max_buffered_bytes=1_000) as client:
        for _ in range(3):
            await server.connections[0].websocket.send_message(note("🙇" * 100))
        await wait_until(lambda: client.statistics().messages_received == 4)
        gap = await anext(client.messages())
        assert (gap.type, gap.data["dropped"]) == ("gap", 1)
