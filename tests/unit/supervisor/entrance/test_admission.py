"""The limits that a server keeps: in all, per user, per address, per topic, and by rate."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import trio
import trio.testing

from moorage.actors.connection.limits import STRIKES
from moorage.protocol.errors import RemoteProtocolError
from moorage.supervisor.app import App
from tests.fakes import TEXT, masked, open_server
from tests.fakes_server import (
    KEY,
    settle,
    subscribed,
    token,
    upgraded,
    waiting_bytes,
    welcomed,
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


async def test_who_is_in_the_handshake_counts_towards_the_total(autojump_clock):
    async with open_server(max_total_connections=2) as server:
        lurkers = [server.dial(), server.dial()]
        await settle()
        assert (await server.dial().upgrade())[0] == 503
        await trio.sleep(server.supervisor.settings.handshake_timeout + 5)  # they get 408 and go
        await server.connect()
        assert len(lurkers) == 2


async def test_above_the_total_nothing_is_parsed(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        peer = server.dial()
        status, _, _ = await peer.request(b"\x00" * 1000)  # not HTTP, and not even a whole head
        assert status == 503


async def test_a_refused_client_that_floods_takes_no_turns_from_others():
    # Once the refused client's bytes were read in a loop without a checkpoint.
    async with open_server(max_total_connections=1) as server:
        served = await server.connect()
        flooding = server.dial()
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


async def test_many_more_than_the_total_are_refused_without_being_kept(autojump_clock):
    async with open_server(max_total_connections=1) as server:
        await server.connect()
        crowd = [server.dial() for _ in range(500)]
        await settle()
        answers = Counter(waiting_bytes(peer)[:12] for peer in crowd)
        # A hundred are told; for the others even that would be too much.
        assert answers == {b"HTTP/1.1 503": 100, b"": 400}
        assert server.supervisor.statistics.refused == {503: 500}
        await trio.sleep(10)
        assert (await server.dial().upgrade())[0] == 503


async def test_connections_of_one_user_are_limited_wherever_they_come_from(autojump_clock):
    async with open_server(jwt_key=KEY, max_connections_per_user=2) as server:
        ann = [await server.connect(token=token("ann"), address=f"192.0.2.{i}") for i in range(2)]
        extra = server.dial()
        await extra.upgrade(headers={"Authorization": f"Bearer {token('ann')}"})
        assert await extra.close_code() == 4504
        await server.connect(token=token("bob"))
        await ann[0].close()
        await settle()
        await server.connect(token=token("ann"))


async def test_a_user_that_becomes_known_by_message_is_limited_too(autojump_clock):
    app = App()
    app.add_endpoint("/ws", authenticate_by_message=True)
    async with open_server(app, jwt_key=KEY, max_connections_per_user=1) as server:
        await server.connect(token=token("ann"))
        late = await welcomed(server.dial())
        await late.send({"type": "authenticate", "data": {"token": token("ann")}})
        assert await late.close_code() == 4504
        assert len(server.supervisor.connections_of("ann")) == 1


async def test_connections_of_one_address_are_limited(autojump_clock):
    async with open_server(max_connections_per_address=2) as server:
        for _ in range(2):
            await server.connect(address="192.0.2.1")
        extra = await upgraded(server.dial(address="192.0.2.1"), "/ws")
        assert await extra.close_code() == 4504
        await server.connect(address="192.0.2.2")


async def test_behind_a_trusted_proxy_the_address_is_the_clients(autojump_clock):
    options = {"max_connections_per_address": 1, "trusted_proxies": ["10.0.0.0/8"]}
    async with open_server(**options) as server:

        async def come(proxy, forwarded):
            peer = server.dial(address=proxy)
            headers = {"X-Forwarded-For": forwarded} if forwarded else {}
            assert (await peer.upgrade(headers=headers))[0] == 101
            message = await peer.receive()
            return server.supervisor.connection(message["data"]["connection_id"]).address

        assert await come("10.0.0.1", "198.51.100.1") == "198.51.100.1"
        assert await come("10.0.0.2", "198.51.100.2") == "198.51.100.2"
        # What stands before the trusted part anybody can make up.
        with pytest.raises(EOFError, match="4504"):
            await come("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.7")
        # Nobody else is believed.
        assert await come("192.0.2.1", "198.51.100.77") == "192.0.2.1"
        with pytest.raises(EOFError, match="4504"):
            await come("192.0.2.1", "198.51.100.78")


async def test_subscribers_of_one_topic_are_limited(autojump_clock):
    async with open_server(max_connections_per_topic=2) as server:
        peers = [await server.connect() for _ in range(3)]
        for peer in peers[:2]:
            await subscribed(peer, "t")
        reply = await peers[2].request_reply({"type": "subscribe", "topic": "t"})
        assert reply["data"] == {"code": "topic_limit", "retryable": False}
        # Being subscribed already is not one more.
        reply = await peers[0].request_reply({"type": "subscribe", "topic": "t"})
        assert reply["type"] == "subscribed"
        await peers[0].close()
        await settle()
        await subscribed(peers[2], "t")


async def test_topics_of_one_connection_are_limited(autojump_clock):
    async with open_server(max_topics_per_connection=2) as server:
        peer = await server.connect()
        topics = {"type": "subscribe", "data": {"topics": ["a", "b", "c"]}}
        await peer.send(topics)
        replies = [await peer.receive() for _ in range(3)]
        assert [reply["type"] for reply in replies] == ["subscribed", "subscribed", "error"]
        assert replies[2]["data"]["code"] == "subscription_limit"
        assert replies[2]["topic"] == "c"
        await peer.request_reply({"type": "unsubscribe", "topic": "a"})
        await subscribed(peer, "c")


async def test_the_limits_hold_for_the_programs_own_subscriptions(autojump_clock):
    async with open_server(jwt_key=KEY, max_topics_per_connection=1) as server:
        await server.connect(token=token("ann"))
        assert server.supervisor.subscribe_user("ann", "a") == 1
        with pytest.raises(RemoteProtocolError):
            server.supervisor.subscribe_user("ann", "b")


async def test_a_message_beyond_the_size_closes_only_its_sender(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        big, other = await server.connect(), await server.connect()
        await big.send('{"type":"ping","data":"' + "x" * 1000 + '"}')
        assert await big.close_code() == 1009
        assert (await other.request_reply({"type": "ping"}))["type"] == "pong"


async def test_the_head_of_a_big_message_is_enough_to_refuse_it(autojump_clock):
    async with open_server(max_message_size=1000) as server:
        peer = await server.connect()
        await peer.send_bytes(masked(TEXT, b"x" * 70_000)[:14])
        assert await peer.close_code() == 1009


async def test_messages_beyond_the_rate_are_refused_and_then_their_sender(autojump_clock):
    async with open_server(message_rate=5.0) as server:
        peer = await server.connect()
        await peer.send(*[{"type": "ping"}] * (5 + 3))
        kinds = Counter([(await peer.receive())["type"] for _ in range(8)])
        assert kinds == {"pong": 5, "error": 3}
        await trio.sleep(1.0)
        assert (await peer.request_reply({"type": "ping"}))["type"] == "pong"
        await peer.send(*[{"type": "ping"}] * (5 + STRIKES))
        assert await peer.close_code() == 4005
        assert server.supervisor.statistics.traffic.rate_limited >= STRIKES


async def test_bytes_beyond_the_rate_are_refused(autojump_clock):
    async with open_server(byte_rate=2000.0) as server:
        peer = await server.connect()
        big = {"type": "ping", "data": "x" * 1500}
        assert (await peer.request_reply(big))["type"] == "pong"
        await peer.send(big)
        assert (await peer.receive())["data"]["code"] == "rate_limited"


async def test_a_head_beyond_the_size_is_refused_with_431(autojump_clock):
    async with open_server(max_request_head=1000) as server:
        assert (await server.dial().upgrade(headers={"X": "y" * 1000}))[0] == 431
