"""The parts of a server: made of the settings, wired to each other, and not running yet."""

from __future__ import annotations

import attrs
import pytest

from moorage.actors.connection.limits import ConnectionLimits
from moorage.supervisor.app import App
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.parts import Parts, make_parts
from moorage.supervisor.server_lifecycle import ServerState
from tests.fakes import RecordingLogger, open_server
from tests.fakes_routing import texts


def parts_of(**settings) -> Parts:
    return make_parts(Settings(**settings), App(), RecordingLogger())


def test_making_them_needs_no_event_loop_and_starts_nothing():
    parts = parts_of()
    assert parts.lifecycle.state is ServerState.STARTING
    nurseries = parts.nurseries
    assert (nurseries.services, nurseries.connections, nurseries.listeners) == (None, None, None)


def test_each_connections_limits_are_those_of_the_settings():
    chosen = {"heartbeat_interval": 7.0, "pong_timeout": 3.0, "handshake_timeout": 4.0}
    parts = parts_of(**chosen, message_rate=9.0, max_message_size=5_000)
    limits = parts.shared.limits
    for name in attrs.fields_dict(ConnectionLimits).keys() - {"authentication_timeout"}:
        assert getattr(limits, name) == getattr(parts.settings, name)
    assert limits.authentication_timeout == 4.0


def test_what_all_connections_share_is_the_servers_own():
    parts = parts_of(max_mailbox_size=12_345)
    shared = parts.shared
    assert shared.tick is parts.tick
    assert shared.life is parts.hub
    assert shared.traffic is parts.statistics.traffic is parts.router.traffic
    assert shared.mailbox.limit == 12_345
    assert parts.hub.lifecycle is parts.lifecycle


def test_a_gap_is_a_message_of_its_topic_that_says_how_many_were_dropped():
    (text,) = texts(parts_of().shared.mailbox.gap_frame("t", 7))
    assert text.startswith(b'{"type":"gap","topic":"t","data":{"dropped":7}')


def test_a_topics_options_are_found_by_the_settings_rules():
    parts = parts_of(topics={"a.*": {"max_subscribers": 3}}, max_connections_per_topic=5)
    assert parts.router.options_of("a.b").max_subscribers == 3
    assert parts.router.options_of("b").max_subscribers == 5


def test_two_servers_share_nothing():
    one, other = parts_of(), parts_of()
    for field in attrs.fields(Parts):
        assert getattr(one, field.name) is not getattr(other, field.name), field.name


def test_a_key_that_cannot_be_used_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="jwt_key"):
        parts_of(jwt_key="-----BEGIN nonsense")


async def test_an_endpoint_decides_which_kind_of_actor_a_client_gets(autojump_clock):
    app = App()
    app.add_endpoint("/ws")

    @app.endpoint("/raw", raw=True)
    async def once(connection):
        kinds.append(type(server.actor(connection.id)).__name__)

    kinds: list[str] = []
    async with open_server(app) as server:
        peer = await server.connect()
        kinds.append(type(server.actor(peer.id)).__name__)
        raw = server.dial()
        await raw.upgrade("/raw")
        assert await raw.close_code() == 1000
    assert kinds == ["SessionActor", "RawActor"]


@pytest.mark.parametrize(("state", "word"), [("suspended", "suspended"), ("drained", "suspended")])
async def test_newcomers_are_told_why_nobody_is_let_in(autojump_clock, state, word):
    async with open_server() as server:
        server.supervisor.suspend()
        if state == "drained":
            await server.supervisor.drain()
        status, _, body = await server.dial().upgrade()
        assert (status, f"this server is {word}".encode() in body) == (503, True)
