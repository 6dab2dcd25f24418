"""The hub: every connection is found by id and by user, and no entry is ever left behind."""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import RemoteProtocolError
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.hub import Hub
from moorage.supervisor.parts import make_parts
from tests.fakes import RecordingLogger, open_server
from tests.fakes_containment import Bug, errors, failing
from tests.fakes_server import (
    KEY,
    assert_nothing_left,
    echo_app,
    settle,
    subscribed,
    token,
    upgraded,
    welcomed,
)


@attrs.define(eq=False)
class Entry:
    """A connection, as far as the tables know one."""

    id: str
    user_id: str | None = None
    address: str = ""


def make_hub(*, max_per_user: int = 0, max_per_address: int = 0) -> Hub:
    settings = Settings(
        max_connections_per_user=max_per_user, max_connections_per_address=max_per_address
    )
    return make_parts(settings, App(), RecordingLogger()).hub


def test_a_connection_is_found_by_id_and_by_user():
    hub = make_hub()
    one, two = Entry("1", "ann"), Entry("2", "ann")
    hub.enter(one)
    hub.enter(two)
    assert hub.by_id["1"] is one
    assert hub.of_user("ann") == (one, two)
    assert hub.of_user("bob") == ()
    assert len(hub) == 2


def test_going_through_all_connections_is_safe_while_they_leave():
    hub = make_hub()
    for number in range(5):
        hub.enter(Entry(str(number)))
    for entry in hub:
        hub.leave(entry)
    assert len(hub) == 0


def test_removing_what_never_was_in_changes_nothing():
    hub = make_hub()
    hub.enter(Entry("1", "ann", "192.0.2.1"))
    hub.leave(Entry("2", "ann", "192.0.2.1"))
    assert len(hub.of_user("ann")) == 1
    assert hub.by_address == {"192.0.2.1": 1}


@pytest.mark.parametrize("field", ["user_id", "address"])
def test_one_too_many_is_refused_and_changes_nothing(field):
    hub = make_hub(max_per_user=2, max_per_address=2)
    present = [Entry(str(number), **{field: "x"}) for number in range(2)]
    for entry in present:
        hub.enter(entry)
    with pytest.raises(RemoteProtocolError) as caught:
        hub.enter(Entry("3", **{field: "x"}))
    assert caught.value.close is CloseCause.TOO_MANY_CONNECTIONS
    assert list(hub) == present
    assert hub.by_address.get("x", 2) == 2
    hub.leave(present[0])
    hub.enter(Entry("4", **{field: "x"}))  # there is room again


def test_a_user_one_too_many_is_not_counted_for_its_address():
    hub = make_hub(max_per_user=1, max_per_address=2)
    hub.enter(Entry("1", "ann", "192.0.2.1"))
    with pytest.raises(RemoteProtocolError):
        hub.enter(Entry("2", "ann", "192.0.2.1"))
    hub.enter(Entry("3", "bob", "192.0.2.1"))
    assert hub.by_address == {"192.0.2.1": 2}


def test_a_user_that_becomes_known_later_is_found_and_limited():
    hub = make_hub(max_per_user=1)
    first, second = Entry("1"), Entry("2")
    for entry in (first, second):
        hub.enter(entry)
        entry.user_id = "ann"
    hub.enter_user(first, None)
    hub.enter_user(first, "ann")  # a renewed token: the same user again
    with pytest.raises(RemoteProtocolError):
        hub.enter_user(second, None)
    assert hub.of_user("ann") == (first,)


def test_addresses_are_not_limited_where_there_are_none():
    hub = make_hub(max_per_address=1)
    hub.enter(Entry("1"))  # by a Unix socket
    hub.enter(Entry("2"))
    assert hub.by_address == {}


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 9),
            st.sampled_from([None, "ann", "bob"]),
            st.sampled_from(["", "192.0.2.1", "192.0.2.2"]),
        )
    )
)
def test_the_tables_agree_with_a_plain_list_of_connections(steps):
    hub = make_hub(max_per_user=3, max_per_address=4)
    present: dict[str, Entry] = {}
    for arrives, number, user_id, address in steps:
        key = str(number)
        if not arrives:
            if key in present:
                hub.leave(present.pop(key))
        elif key not in present:
            entry = Entry(key, user_id, address)
            of_user = sum(e.user_id == user_id for e in present.values())
            of_address = sum(e.address == address for e in present.values())
            fits = (user_id is None or of_user < 3) and (not address or of_address < 4)
            if fits:
                hub.enter(entry)
                present[key] = entry
            else:
                with pytest.raises(RemoteProtocolError):
                    hub.enter(entry)
        users = {e.user_id for e in present.values()} - {None}
        addresses = {e.address for e in present.values()} - {""}
        assert hub.by_id == present
        assert set(hub.by_user) == users
        assert set(hub.by_address) == addresses


# Limits, seen by clients


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
            return server.actor(message["data"]["connection_id"]).address

        assert await come("10.0.0.1", "198.51.100.1") == "198.51.100.1"
        assert await come("10.0.0.2", "198.51.100.2") == "198.51.100.2"
        # What stands before the trusted part anybody can make up.
        with pytest.raises(EOFError, match="4504"):
            await come("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.7")
        # Nobody else is believed.
        assert await come("192.0.2.1", "198.51.100.77") == "192.0.2.1"
        with pytest.raises(EOFError, match="4504"):
            await come("192.0.2.1", "198.51.100.78")


# Callbacks


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("which", ["connected", "disconnected"])
async def test_a_callback_that_raises_is_logged_and_nothing_else(
    autojump_clock, which, asynchronous
):
    app, seen = App(), []
    getattr(app, which)(failing(asynchronous, Bug()))
    getattr(app, which)(lambda connection, *cause: seen.append(connection.id))
    async with open_server(app) as server:
        peer = await server.connect()
        await trio.sleep(2)
        await peer.close()
        await trio.sleep(2)
        assert seen == [peer.id]  # the other callback was called all the same
        (line,) = errors(server)
        assert (line["event"], line["connection_id"]) == ("callback_failed", peer.id)
        assert server.log.of("disconnected")[0]["cause"] == "peer_closed"


async def test_callbacks_tell_of_every_connection_that_came_and_of_no_other(autojump_clock):
    app, came, went = App(), [], []
    app.connected(lambda connection: came.append(connection.id))
    app.disconnected(lambda connection, cause: went.append((connection.id, cause)))
    async with open_server(app, jwt_key=KEY, max_connections_per_user=1) as server:
        peer = await server.connect(token=token("ann"))
        extra = server.dial()
        await extra.upgrade(headers={"Authorization": f"Bearer {token('ann')}"})
        assert await extra.close_code() == 4504
        extra.transport.close()
        await settle()
        assert went == []  # it never was connected, so it is not disconnected either
        await peer.close()
        await settle()
        assert came == [peer.id]
        assert went == [(peer.id, CloseCause.PEER_CLOSED)]


async def test_async_callbacks_run_in_time(autojump_clock):
    app, done = App(), []

    @app.connected
    async def connected(connection):
        await trio.sleep(1)
        done.append("connected")

    @app.disconnected
    async def disconnected(connection, cause):
        await trio.sleep(1)
        done.append(cause)

    async with open_server(app) as server:
        peer = await server.connect()
        await trio.sleep(2)
        await peer.close()
        await trio.sleep(2)
        assert done == ["connected", CloseCause.PEER_CLOSED]


async def test_disconnected_callbacks_are_done_before_the_server_is_gone(autojump_clock):
    app, done = App(), []

    @app.disconnected
    async def disconnected(connection, cause):
        await trio.sleep(1)  # such as a write to a database
        done.append(cause)

    async with open_server(app) as server:
        await server.connect()
    assert done == [CloseCause.STOPPED]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("how", ["closes", "vanishes", "is sent away", "stops"])
async def test_a_callback_about_the_end_sees_what_the_connection_was_subscribed_to(
    autojump_clock, how, asynchronous
):
    """The topics were empty already, so that nobody could be told who had left."""
    app, seen = App(), []

    def note(connection, cause):
        topics = {name: one.by_client for name, one in connection.subscriptions.items()}
        seen.append((set(connection.topics), topics))

    async def note_later(connection, cause):
        await trio.sleep(1)
        note(connection, cause)

    app.disconnected(note_later if asynchronous else note)
    async with open_server(app) as server:
        peer = await subscribed(await server.connect(), "a", "gone")
        session = server.supervisor.connection(peer.id)
        session.subscribe("b")
        session.unsubscribe("gone")
        match how:
            case "closes":
                await peer.close()
            case "vanishes":
                peer.transport.close()
            case "is sent away":
                session.disconnect()
                await peer.close()
        if how != "stops":
            await trio.sleep(5)
            assert_nothing_left(server)
            assert set(session.topics) == set()  # of a handle that was there before
    assert seen == [({"a", "b"}, {"a": True, "b": False})]


@pytest.mark.parametrize("asked_for", [False, True])
async def test_what_a_connection_was_subscribed_to_is_kept_only_for_who_asks(
    autojump_clock, asked_for
):
    app, ended = App(), []
    if asked_for:
        app.disconnected(lambda connection, cause: ended.append(set(connection.topics)))
    async with open_server(app) as server:
        peer = await subscribed(await server.connect(), "a")
        actor = server.actor(peer.id)
        actor.disconnect()
        await settle()  # the goodbye is under way
        assert server.router.topics == {}
        assert (actor._at_end is not None) is asked_for
        await peer.close()
        await settle()
        assert actor._at_end is None
        assert ended == [{"a"}] * asked_for


async def test_a_callback_is_told_of_the_end_of_raw_connections_too(autojump_clock):
    app, ended = echo_app(), []
    app.disconnected(lambda connection, cause: ended.append((connection.path, cause)))
    async with open_server(app) as server:
        peer = await upgraded(server.dial(), "/raw")
        await peer.close()
        await settle()
        assert ended == [("/raw", CloseCause.PEER_CLOSED)]
