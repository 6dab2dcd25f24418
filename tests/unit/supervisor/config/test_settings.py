"""The settings: defaults, what each allows, and what an error says."""

import math
from pathlib import Path

import attrs
import pytest

from moorage.supervisor.config.about import Group
from moorage.supervisor.config.settings import Settings, about, validator
from moorage.supervisor.config.topic_rules import TopicRule
from moorage.supervisor.config.validators import ConfigurationError

NAMES = tuple(attrs.fields_dict(Settings))


def refused(**settings) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**settings)
    return caught.value


def test_the_defaults_are_those_of_the_design():
    settings = Settings()
    assert (settings.host, settings.port, settings.path) == ("127.0.0.1", 8765, "/ws")
    deadlines = {
        "handshake_timeout": 10,
        "heartbeat_interval": 30,
        "pong_timeout": 10,
        "connection_timeout": 300,
        "write_timeout": 10,
        "close_timeout": 5,
        "token_grace": 25,
        "drain_timeout": 30,
    }
    limits = {
        "max_total_connections": 10_000,
        "max_connections_per_topic": 1_000,
        "max_connections_per_user": 0,
        "max_connections_per_address": 0,
        "max_message_size": 65_536,
        "max_mailbox_size": 1_048_576,
        "max_request_head": 16_384,
    }
    for name, value in (deadlines | limits).items():
        assert getattr(settings, name) == value, name


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_what_it_is_and_what_it_allows(name):
    assert isinstance(about(name).group, Group)
    assert about(name).help.endswith(".")
    assert about(name).help[0].isupper()
    assert validator(name).allowed
    assert validator(name).problem(getattr(Settings(), name)) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_duration_size_and_rate_has_its_unit(name):
    is_number = type(getattr(Settings(), name)) in (int, float)
    assert bool(about(name).unit) == (is_number and not name.endswith("port"))


def test_settings_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().port = 1
    with pytest.raises(TypeError):
        Settings(topics={"a": TopicRule()}).topics["b"] = TopicRule()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", wrong) for wrong in (-1, 65_536, "8765", 1.5, True, None)),
        *(("pong_timeout", wrong) for wrong in (0, -1, math.nan, math.inf, "10", None, True)),
        *(("token_grace", wrong) for wrong in (-0.1, math.inf)),
        *(("max_total_connections", wrong) for wrong in (0, -1, 1e4)),
        *(("host", wrong) for wrong in ("", "a b", "[::1]:80", "127.0.0.1:80", None, "a/b")),
        *(("path", wrong) for wrong in ("", "ws", "/ws?x=1", "/a b", "/ä", "/a#b")),
        *(("anonymous", wrong) for wrong in (1, "yes", None)),
        *(("allowed_origins", wrong) for wrong in ("example.org", "https://a.b/", "HTTPS://a.b")),
        *(("trusted_proxies", wrong) for wrong in ("10.0.0.1/8", "proxy", "300.0.0.1")),
        *(("subscribe_patterns", wrong) for wrong in ("", "a..b", "a b", ["ok", 7])),
        *(("topics", wrong) for wrong in ("latest", ["a"], None)),
        *(("jwt_algorithms", wrong) for wrong in ("none", "hs256", "ES256K")),
        *(("jwt_key", wrong) for wrong in ("", " ", ("x", ""))),
        *(("unix_socket", wrong) for wrong in ("", "/" + "x" * 107, "/" + "é" * 54)),
        *(("log_format", wrong) for wrong in ("xml", "JSON", None)),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(name, value):
    error = refused(**{name: value})
    assert error.setting == name
    assert error.allowed == validator(name).allowed
    assert str(error).startswith(f"{name}: ")
    assert error.problem in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("host", right) for right in ("::1", "localhost", "127.0.0.2")),
        *(("path", right) for right in ("/", "/a/b", "/a%20b", "/~x;v=1")),
        *(("allowed_origins", right) for right in ("null", "https://a.b:8443", "http://[::1]:1")),
        ("unix_socket", "/" + "x" * 106),
        ("drain_timeout", 0),
        ("heartbeat_interval", 1),
        ("topics", {"prices.*": {"overload": "latest"}, "**": TopicRule(client_publish=False)}),
    ],
)
def test_a_right_value_is_taken(name, value):
    Settings(**{name: value})


def test_a_wrong_topic_rule_is_refused_by_the_name_of_its_key():
    error = refused(topics={"a.*": {"overload": "explode"}})
    assert error.setting == 'topics."a.*".overload'


def test_one_text_stands_for_a_list_of_one():
    settings = Settings(allowed_origins="https://a.b", jwt_key_file="key.pem")
    assert settings.allowed_origins == ("https://a.b",)
    assert settings.jwt_key_file == (Path("key.pem"),)


def test_without_a_key_the_server_is_in_development_mode():
    assert Settings().development
    assert not Settings(jwt_key="secret").development
    assert not Settings(jwt_key_file="key.pem").development


def test_any_origin_means_this_machines_without_a_key():
    assert Settings().origins == {"loopback"}
    assert Settings(allowed_origins="https://a.b").origins == {"loopback", "https://a.b"}
    assert Settings(jwt_key="secret").origins == {"*"}
    assert Settings(jwt_key="secret", allowed_origins="loopback").origins == {"loopback"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_development_mode_is_for_loopback_only(host):
    error = refused(host=host, anonymous=True)
    assert error.setting == "host"
    assert "no key is configured" in str(error)
    assert "can be reached from other machines" in str(error)
    assert "jwt_key" in error.allowed
    Settings(host=host, jwt_key="secret")


def test_settings_that_need_each_other_are_checked_together():
    assert refused(tls_key="key.pem").setting == "tls_key"
    assert refused(jwt_algorithms="HS512").setting == "jwt_algorithms"


def test_a_key_is_not_in_the_repr():
    shown = repr(Settings(jwt_key=("secret one", "secret two")))
    assert "secret" not in shown
    assert "2 redacted" in shown


def test_the_level_of_the_log_may_be_written_in_capitals():
    assert Settings(log_level="INFO").log_level == "info"
    with pytest.raises(ConfigurationError, match="'loud' is not one of them"):
        Settings(log_level="LOUD")
    with pytest.raises(ConfigurationError, match="log_level"):
        Settings(log_level=3)
