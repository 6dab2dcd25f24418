"""The flags: one for each setting, with its help."""

import re

import pytest

from moorage.supervisor.config.sources import KINDS, flag
from tests.fakes_cli import SECRET


def test_every_setting_has_its_flag_in_the_help_of_serve(moorage):
    _, out, _ = moorage("serve", "--help")
    for name in KINDS:
        assert re.search(rf"{flag(name)}\b", out), name
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())
    assert "from 0 to 65535 (0: any free port)" in text
    assert "Default: 8765." in text
    assert "overload (disconnect, drop_oldest, latest)" in text
    assert "--overload" not in text


VALUES = {
    "flag": None,
    "whole number": "1000",
    "number": "7",
    "path": "/tmp/x",
    "paths": "/tmp/x",
    "rules": '{"a.*": {"overload": "latest"}}',
}
TEXTS = {
    "host": "localhost",
    "path": "/x",
    "jwt_key": SECRET,
    "jwt_algorithms": "HS512",
    "allowed_origins": "null",
    "trusted_proxies": "10.0.0.0/8",
    "log_format": "json",
    "log_level": "debug",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_setting_can_be_given_as_a_flag(moorage, name):
    value = TEXTS.get(name, VALUES.get(KINDS[name], "word"))
    given = [flag(name)] if value is None else [flag(name), value]
    needed = {
        "jwt_algorithms": ["--jwt-key", SECRET],
        "tls_key": ["--tls-certificate", "x"],
        "http_tls": ["--tls-certificate", "x"],
    }
    code, out, err = moorage("config", "show", *given, *needed.get(name, []))
    assert (code, err) == (0, "")
    assert re.search(rf"^(# )?{name} = .*{flag(name)}$", out, re.MULTILINE)


def test_a_switch_can_be_turned_off(moorage):
    _, out, _ = moorage("config", "show", "--no-query-token")
    assert re.search(r"^query_token = false .*--query-token$", out, re.MULTILINE)


def test_the_flag_that_rules_replaced_says_what_to_write(moorage):
    code, _, err = moorage("config", "show", "--overload", "a.*=latest")
    assert code == 2
    assert "overload (from --overload): there is no such setting; write --topics '{" in err


def test_every_error_of_the_topic_rules_is_named(moorage):
    rules = '{"a": {"overload": "explode", "max_subscriber": 1}}'
    code, _, err = moorage("config", "check", "--topics", rules)
    assert code == 2
    assert err.splitlines() == [
        (
            "moorage: topics.\"a\".overload (from --topics): 'explode' is not one of them; "
            "allowed: disconnect, drop_oldest, latest"
        ),
        (
            'moorage: topics."a".max_subscriber (from --topics): there is no such key; '
            "did you mean max_subscribers?"
        ),
    ]


def test_no_flag_is_broken_in_two_on_a_narrow_terminal(moorage, monkeypatch):
    # `--max-connections-per-addres` was on one line and `s N` on the next.
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = moorage("serve", "--help")
    assert max(map(len, out.splitlines())) <= 80
    for name in KINDS:
        value = "" if KINDS[name] == "flag" else r" [A-Z]+"
        assert re.search(rf"^│ {flag(name)}{value} ", out, re.MULTILINE), name
