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
        (["srve"], "`moorage` has no command 'srve'; did you mean serve?"),
        (["serve", "--max-total-conections", "7"], "--max-total-connections"),
        (["serve", "--port"], "--port needs a value: --port N"),
        (["serve", "extra"], "`moorage serve` does not take 'extra'"),
        (["serve", "--port", "1", "--port", "2"], "--port was given twice"),
        (["serve", "--anonymous=maybe"], "--anonymous: 'maybe' is not true or false"),
        (["serve", "-x"], "`moorage serve` has no flag -x"),
        (["nonsense"], "its commands are serve, connect, publish, token, admin, top, config"),
        (["admin", "--nope"], "`moorage admin` has no flag '--nope'"),
        (["admin", "connection"], "`moorage admin connection` needs ID"),
        (["admin", "stats", "--patience", "abc"], "--patience: 'abc' is not a number"),
        (["admin", "disconnect", "--code", "4x"], "--code: '4x' is not a whole number"),
        (["publish", "ws://x", "--topic", "a", "b"], "does not take 'b' here; a text with a space"),
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
        (["connect"], "`moorage connect` needs URL"),
        (["connect", "http://x"], "URL: expected a URL such as ws://"),
        (["publish", "ws://x"], "`moorage publish` needs --topic TOPIC"),
        (["publish", "ws://x", "--topic", "t", "--data", "hello"], "--data '\"hello\"'"),
        (["publish", "ws://x", "--topic", "t", "--data", "@/missing"], "/missing cannot be read"),
    ],
)
def test_a_wrong_usage_ends_with_2_and_a_sentence(moorage, arguments, said):
    code, out, err = moorage(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert all(line.startswith("moorage: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("nonsense", "moorage"),
        ("serve extra", "moorage serve"),
        ("serve --prt 3", "moorage serve"),
        ("admin topc", "moorage admin"),
        ("admin stats --patience abc", "moorage admin stats"),
        ("admin drain --timeout", "moorage admin drain"),
        ("config nonsense", "moorage config"),
        ("config show extra", "moorage config show"),
    ],
)
def test_a_usage_error_names_the_help_of_its_own_command(moorage, typed, command):
    # It was `moorage --help` for all of them, which tells of no flag.
    _, _, err = moorage(*typed.split())
    assert err.splitlines()[-1] == f"moorage: try: {command} --help"
    code, out, err = moorage(*command.split()[1:], "--help")
    assert (code, err) == (0, "")
    assert f"Usage: {command}" in out


WORDS_OF_A_LIBRARY = ("Unused Tokens", "unable to convert", "Invalid value", "parameter", "Unknown")


@pytest.mark.parametrize("command", ["serve", "connect ws://x", "token", "top", "admin drain"])
@pytest.mark.parametrize(
    "wrong", ["extra words", "--nope", "--port", "--timeout x", "--interval x", "--user", "-q", "="]
)
def test_no_usage_error_is_in_the_words_of_a_library(moorage, command, wrong):
    if command == "top":
        wrong = f"--once {wrong}"
    code, _, err = moorage(*command.split(), *wrong.split())
    assert code == 2
    assert not [word for word in WORDS_OF_A_LIBRARY if word in err]
