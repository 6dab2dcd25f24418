"""The token of a client: when it is fetched, and how it is renewed."""

import json

import pytest
import trio
import trio.testing

from moorage.actors.client.client_errors import ClientClosed, ConnectError, ConnectionRefused
from moorage.actors.client.token_source import TokenSource, seconds_until_expiry
from moorage.protocol.messages.envelope import Envelope
from tests.fakes_client import connect, error, lose_connection, wait_until


def numbered_tokens(*, asynchronous=False):
    given = []

    def fetch():
        given.append(f"token{len(given) + 1}")
        return given[-1]

    async def fetch_slowly():
        await trio.sleep(0.1)
        return fetch()

    return given, fetch_slowly if asynchronous else fetch


async def test_a_source_is_asked_once_until_its_token_is_forgotten():
    given, fetch = numbered_tokens()
    source = TokenSource(fetch)
    assert [await source.current() for _ in range(3)] == ["token1"] * 3
    source.forget()
    assert await source.current() == "token2"
    assert await source.renewed() == "token3"
    assert len(given) == 3


@pytest.mark.parametrize(("token", "renewable"), [(None, False), ("fixed", False), (str, True)])
def test_only_a_function_can_give_another_token(token, renewable):
    assert TokenSource(token).renewable is renewable


async def test_asking_again_makes_sense_only_for_a_token_that_was_accepted_before():
    _, fetch = numbered_tokens()
    source = TokenSource(fetch)
    await source.current()
    assert not source.refused()
    await source.current()
    source.accepted()
    assert source.refused()


async def test_a_fixed_token_that_is_refused_cannot_be_replaced():
    source = TokenSource("fixed")
    assert await source.current() == "fixed"
    source.accepted()
    assert not source.refused()


@pytest.mark.parametrize(
    ("said", "stamp", "seconds"),
    [
        ({"expires_at": "2023-01-01T12:10:00Z"}, "2023-01-01T12:00:00Z", 600),
        ({"expires_at": "2023-01-01T11:59:00Z"}, "2023-01-01T12:00:00Z", -60),
        ({"expires_at": None}, "2023-01-01T12:00:00Z", None),
        ({"expires_at": "soon"}, "2023-01-01T12:00:00Z", None),
        ({"expires_at": "2023-01-01T12:10:00"}, "2023-01-01T12:00:00Z", None),
        ({"expires_at": 5}, "2023-01-01T12:00:00Z", None),
        ("no object", "2023-01-01T12:00:00Z", None),
    ],
)
def test_the_time_that_is_left_goes_by_the_servers_clock(said, stamp, seconds):
    message = Envelope("welcome", data=said, timestamp=stamp)
    assert seconds_until_expiry(message) == seconds


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


async def test_an_expiry_told_while_the_renewal_is_under_way_is_not_renewed_again(
    autojump_clock, server
):
    given, fetch = numbered_tokens()
    server.answers["authenticate"] = lambda _: None
    async with connect(server, token=fetch) as client:
        connection = server.connections[0]
        await connection.send(**error("token_expired"))
        await wait_until(lambda: connection.received)
        await connection.send(**error("token_expired"))  # before the server has read the new token
        await connection.send("authenticated", id=connection.received[0]["id"], data={})
        await trio.sleep(60)
        assert client.statistics().renewals == 1
        assert given == ["token1", "token2"]


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
