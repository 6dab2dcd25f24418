"""How a client comes back, keeps its token fresh, and notices that a server has gone."""

import json
from functools import partial

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from moorage.actors.client.client_state import ClientState
from tests.fakes_client import FakeServer, connect, error, lose_connection, wait_until


@pytest.fixture
def server(nursery):
    return FakeServer(nursery)


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


async def test_a_topic_that_is_refused_on_the_way_back_ends_its_subscription_only(
    autojump_clock, server
):
    def subscribe(message):
        if message["topic"] == "a":
            return error("forbidden", "no longer")
        return {"type": "subscribed", "topic": message["topic"]}

    async with (
        connect(server) as client,
        client.subscribe("a") as a,
        client.subscribe("b") as b,
    ):
        server.answers["subscribe"] = subscribe
        await server.connections[0].break_off()
        with pytest.raises(RequestError, match="no longer"):
            await anext(a)
        await server.connections[1].send("data", topic="b", data=1)
        assert [(await anext(b)).type for _ in range(2)] == ["gap", "data"]


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


def numbered_tokens(*, asynchronous=False):
    given = []

    def fetch():
        given.append(f"token{len(given) + 1}")
        return given[-1]

    async def fetch_slowly():
        await trio.sleep(0.1)
        return fetch()

    return given, fetch_slowly if asynchronous else fetch


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_4004_asks_for_a_new_token_and_other_codes_do_not(
    autojump_clock, server, asynchronous
):
    _, fetch = numbered_tokens(asynchronous=asynchronous)
    async with connect(server, token=fetch) as client:
        for code in (1012, 4004):
            await lose_connection(server, client, code)
            await client.wait_connected()
        sent = [request["authorization"] for request in server.requests]
        assert sent == ["Bearer token1", "Bearer token1", "Bearer token2"]


async def test_a_token_refused_after_it_has_aged_is_replaced_at_once(autojump_clock, server):
    _, fetch = numbered_tokens()
    async with connect(server, token=fetch) as client:
        server.script.append((401, [], json.dumps(error("token_expired")).encode()))
        await lose_connection(server, client)
        await client.wait_connected()
        assert [r["authorization"][-1] for r in server.requests] == ["1", "1", "2"]
        assert server.attempts[2] == pytest.approx(server.attempts[1], abs=0.01)


async def test_a_fresh_token_that_is_refused_ends_the_client(autojump_clock, server):
    given, fetch = numbered_tokens()
    async with connect(server, token=fetch) as client:
        refusal = (401, [], json.dumps(error("unauthorized", "key unknown")).encode())
        server.script.extend([refusal, refusal])
        await server.connections[0].break_off()
        with pytest.raises(ClientClosed, match="key unknown") as caught:
            await anext(client.messages())
        assert caught.value.code is None
        assert isinstance(caught.value.__cause__, ConnectionRefused)
        assert len(given) == 2


async def test_a_token_function_that_raises_at_first_is_raised(autojump_clock, server):
    def broken():
        raise KeyError("TOKEN")

    with pytest.raises(ConnectError, match="KeyError") as caught:
        async with connect(server, token=broken):
            pass
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_token_function_that_raises_later_is_asked_again(autojump_clock, server):
    answers = iter(["one", KeyError, KeyError, "two"])

    def fetch():
        answer = next(answers)
        if isinstance(answer, str):
            return answer
        raise answer

    async with connect(server, token=fetch) as client:
        await lose_connection(server, client, 4004)
        await client.wait_connected()
        assert server.requests[-1]["authorization"] == "Bearer two"


async def test_a_token_that_cannot_be_one_is_not_sent_and_not_repeated(autojump_clock, server):
    with pytest.raises(ConnectError) as caught:
        async with connect(server, token="secret\r\nX-Evil: 1"):
            pass
    assert "secret" not in repr(caught.value) + repr(caught.value.__cause__)
    assert server.attempts == []


def at(minutes):
    return f"2023-01-01T12:{minutes:02}:00Z"


async def test_a_token_is_renewed_in_place_shortly_before_it_expires(autojump_clock, server):
    _, fetch = numbered_tokens()
    server.welcome = {"expires_at": at(10)}
    renewed_at = []

    def authenticate(message):
        renewed_at.append((trio.current_time(), message["data"]["token"]))
        now = 10 * len(renewed_at)
        return {"type": "authenticated", "data": {"expires_at": at(now + 10)}, "timestamp": at(now)}

    server.answers["authenticate"] = authenticate
    async with connect(server, token=fetch) as client:
        start = trio.current_time()
        await trio.sleep(1150)
        assert [(round(when - start), token) for when, token in renewed_at] == [
            (570, "token2"),
            (1140, "token3"),
        ]
        assert client.connection_id == "c1"
        assert client.statistics().renewals == 2


async def test_a_token_is_renewed_when_the_server_says_that_it_has_expired(autojump_clock, server):
    given, fetch = numbered_tokens()
    server.answers["authenticate"] = lambda _: {"type": "authenticated", "data": {}}
    async with connect(server, token=fetch) as client:
        for count in (1, 2):
            await server.connections[0].send(**error("token_expired"))
            await wait_until(lambda count=count: client.statistics().renewals == count)
        assert [m["data"]["token"] for m in server.connections[0].received] == given[1:]


async def test_an_expired_token_that_cannot_be_renewed_is_told(autojump_clock, server):
    async with connect(server, token="fixed") as client:
        await server.connections[0].send(**error("token_expired"))
        assert (await anext(client.messages())).data["code"] == "token_expired"


async def test_a_renewal_that_fails_for_the_moment_is_tried_again(autojump_clock, server):
    given, fetch = numbered_tokens()
    server.welcome = {"expires_at": at(10)}
    answers = iter([error("unavailable", retryable=True), None])
    server.answers["authenticate"] = lambda _: next(answers, {"type": "authenticated"})
    async with connect(server, token=fetch, request_timeout=5) as client:
        await trio.sleep(600)
        assert client.statistics().renewals == 1
        assert given == ["token1", "token2", "token3", "token4"]


async def test_a_renewed_token_that_is_refused_is_not_used_to_come_back(autojump_clock, server):
    _, fetch = numbered_tokens()
    server.welcome = {"expires_at": at(10)}
    server.answers["authenticate"] = lambda _: error("unauthorized")
    async with connect(server, token=fetch) as client:
        await trio.sleep(600)
        await lose_connection(server, client, 4004)
        await client.wait_connected()
        assert server.requests[-1]["authorization"] == "Bearer token3"


async def test_a_server_that_answers_pings_is_kept_however_quiet(autojump_clock, server):
    async with connect(server) as client:
        await trio.sleep(3600)
        assert client.connection_id == "c1"


async def test_a_server_that_has_vanished_is_noticed(autojump_clock, server):
    async with connect(server) as client:
        start = trio.current_time()
        server.streams[0].silent = True
        await wait_until(lambda: client.connection_id is None, within=100)
        # The heartbeat interval and its margin, then the time for a pong.
        assert trio.current_time() - start == pytest.approx(30 + 5 + 10, abs=0.1)
        await client.wait_connected()
        assert client.connection_id == "c2"


async def test_any_message_counts_as_life(autojump_clock, server):
    async with connect(server) as client:
        with trio.move_on_after(1000):
            while True:
                await trio.sleep(34)
                await server.connections[0].send("heartbeat")
        assert client.connection_id == "c1"


async def test_a_server_that_reads_nothing_is_given_up_after_the_write_timeout(
    autojump_clock, server
):
    async with connect(server, write_timeout=4) as client:
        start = trio.current_time()
        server.streams[0].stuck = True
        with pytest.raises(ConnectionLost):
            await client.publish("t")
        assert trio.current_time() - start == pytest.approx(4, abs=0.1)
        await client.publish("t")
