"""The command line: help, usage, and how commands end; never by a traceback."""

import re

import pytest


def test_without_arguments_it_teaches(moorage):
    code, out, err = moorage()
    assert (code, err) == (0, "")
    for word in ("serve", "connect", "publish", "token", "config", "$ moorage", "130"):
        assert word in out


@pytest.mark.parametrize(
    "command", ["serve", "connect", "publish", "token", "config show", "config check"]
)
def test_the_help_of_every_command_has_an_example(moorage, command):
    code, out, _ = moorage(*command.split(), "--help")
    assert code == 0
    assert re.search(rf"\$ .*moorage {command}", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["srve"], 'Did you mean "serve"?'),
        (["serve", "--max-total-conections", "7"], "--max-total-connections"),
        (["serve", "--port"], "--port"),
        (["serve", "extra"], "extra"),
        (["serve", "--port", "http"], "port (from --port): 'http' is not a whole number; allowed"),
        (["serve", "--host", "0.0.0.0"], "no key is configured"),
        (["serve", "--config", "/missing.toml"], "/missing.toml cannot be read"),
        (["serve", "--jwt-key-file", "/missing.pem"], "jwt_key_file (from --jwt-key-file)"),
        (["serve", "--tls-certificate", "/missing.pem"], "tls_certificate (from --tls-cert"),
        (["serve", "--app", "json"], "app (from --app): 'json' is not of that form"),
        (["serve", "--app", "no_such_module:app"], "there is no module 'no_such_module'"),
        (["serve", "--app", "json:loads"], "'loads' of json is not an App"),
        (["serve", "--app", "json:nothing"], "'nothing' of json is missing"),
        (["token", "--user", "ann"], "--key, --key-file or $MOORAGE_JWT_KEY"),
        (["token", "--key", "x"], "--user"),
        (["token", "--key", "x", "--user", "a", "--ttl", "soon"], "'soon' is not a time"),
        (["token", "--key", "x", "--user", "a", "--info", "{"], "this is not JSON"),
        (["token", "--key", "x", "--key-file", "y", "--user", "a"], "both given"),
        (["connect"], "URL"),
        (["connect", "http://x"], "URL: expected a URL such as ws://"),
        (["publish", "ws://x"], "--topic"),
        (["publish", "ws://x", "--topic", "t", "--data", "hello"], "--data '\"hello\"'"),
        (["publish", "ws://x", "--topic", "t", "--data", "@/missing"], "/missing cannot be read"),
    ],
)
def test_a_wrong_usage_ends_with_2_and_a_sentence(moorage, arguments, said):
    code, out, err = moorage(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert all(line.startswith("moorage: ") for line in err.splitlines())
