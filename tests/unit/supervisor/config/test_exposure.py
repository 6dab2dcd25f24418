"""The exposures: what the settings leave open, and what strangers could abuse of it."""

import attrs
import pytest

from moorage.supervisor import server as server_module
from moorage.supervisor.config.exposure import exposures
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.listeners import open_listeners
from tests.fakes import open_server
from tests.fakes_server import KEY

TIGHT = {
    "jwt_key": KEY,
    "query_token": False,
    "allowed_origins": "https://a.example",
    "publish_patterns": "chat.*",
}
ALL = ["query_token", "allowed_origins", "publish_patterns"]


def found(**settings) -> dict[str, bool]:
    return {one.setting: one.serious for one in exposures(Settings(**settings))}


def test_the_defaults_are_named_and_are_not_serious_on_a_loopback_address():
    assert found() == {"query_token": False, "publish_patterns": False}
    assert found(jwt_key=KEY, anonymous=True) == dict.fromkeys(ALL, False)


def test_what_is_closed_is_not_named():
    assert found(**TIGHT) == {}
    assert found(**TIGHT, host="0.0.0.0", anonymous=True) == {}


def test_tokens_in_urls_are_serious_where_nothing_hides_them_on_the_way():
    assert found(jwt_key=KEY, host="0.0.0.0")["query_token"] is True
    assert found(jwt_key=KEY, host="::", tls_certificate="a.pem")["query_token"] is False


@pytest.mark.parametrize("setting", ["allowed_origins", "publish_patterns"])
def test_what_needs_no_token_is_serious_where_others_can_reach_it(setting):
    assert found(jwt_key=KEY, host="0.0.0.0")[setting] is False
    assert found(jwt_key=KEY, host="0.0.0.0", anonymous=True)[setting] is True


async def test_a_server_logs_once_what_strangers_could_abuse(autojump_clock, monkeypatch):
    """A reachable server with the defaults said nothing of it."""

    def open_on_loopback(settings, *others):
        return open_listeners(attrs.evolve(settings, host="127.0.0.1"), *others)

    monkeypatch.setattr(server_module, "open_listeners", open_on_loopback)
    async with open_server(jwt_key=KEY, host="0.0.0.0") as server:
        (line,) = server.log.of("exposed")
        assert line["setting"] == "query_token"
        assert "no TLS" in line["meaning"]
    async with open_server(jwt_key=KEY) as server:
        assert server.log.of("exposed") == []


async def test_a_server_logs_a_key_that_can_be_guessed(autojump_clock):
    """Only `moorage serve` did; a program's own server said nothing."""
    async with open_server(jwt_key="short", jwt_allow_short_keys=True) as server:
        (line,) = server.log.of("weak_key")
        assert "5 bytes" in line["concern"]
