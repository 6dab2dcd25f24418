"""`moorage config`: the settings in force, as TOML, and whether they can be used."""

import re

import pytest

from moorage.supervisor.config.settings import about
from moorage.supervisor.config.sources import KINDS, load
from moorage.supervisor.config.topic_rules import TopicRule
from tests.fakes_cli import SECRET


def test_show_prints_every_value_with_its_source_as_toml(moorage, tmp_path, monkeypatch):
    path = tmp_path / "moorage.toml"
    path.write_text("[topics.'prices.*']\noverload = 'latest'\n")
    monkeypatch.setenv("MOORAGE_PORT", "9000")
    code, out, _ = moorage("config", "show", "--config", str(path), "--path", "/x")
    assert code == 0
    assert all(re.search(rf"^(# )?{name} ", out, re.MULTILINE) for name in KINDS)
    assert re.search(r"^port = 9000 +# MOORAGE_PORT$", out, re.MULTILINE)
    assert re.search(r'^path = "/x" +# --path$', out, re.MULTILINE)
    assert re.search(r"^max_message_size = 65536 +# bytes; default$", out, re.MULTILINE)
    assert re.search(rf"# {re.escape(str(path))}:1$", out, re.MULTILINE)


def test_what_show_prints_can_be_loaded_again(moorage, tmp_path):
    rules = '{"a.*": {"overload": "latest"}, "**": {"max_subscribers": 7}, "news": {}}'
    _, first, _ = moorage("config", "show", "--topics", rules, "--jwt-audience", 'x"y')
    path = tmp_path / "again.toml"
    path.write_text(first)
    code, second, _ = moorage("config", "show", "--config", str(path))
    assert code == 0
    strip = re.compile(r" +#.*")
    assert strip.sub("", second) == strip.sub("", first)
    assert list(load({}, {}, path).settings.topics.items()) == [
        ("a.*", TopicRule(overload="latest")),
        ("**", TopicRule(max_subscribers=7)),
        ("news", TopicRule()),
    ]


def test_show_prints_the_rules_in_their_order_with_every_key(moorage):
    rules = '{"a.*": {"overload": "latest"}, "**": {"max_subscribers": 7}}'
    _, out, _ = moorage("config", "show", "--topics", rules)
    assert re.search(r"^# topics = 2 rules, below +# --topics$", out, re.MULTILINE)
    assert out.endswith(
        """
[topics."a.*"]
overload = "latest"
# max_subscribers is not set  # connections
client_publish = true

[topics."**"]
overload = "disconnect"
max_subscribers = 7      # connections
client_publish = true
"""
    )


def test_secrets_are_redacted(moorage, monkeypatch):
    monkeypatch.setenv("MOORAGE_JWT_KEY", SECRET)
    code, out, err = moorage("config", "show")
    assert code == 0
    assert SECRET not in out + err
    assert re.search(r"^# jwt_key = redacted \(1 set\) +# MOORAGE_JWT_KEY$", out, re.MULTILINE)
    assert [name for name in KINDS if about(name).secret] == ["jwt_key"]


def test_check_reads_the_keys(moorage, tmp_path):
    code, out, _ = moorage("config", "check", "--jwt-key", SECRET, "--port", "1")
    assert code == 0
    assert out.endswith("\nok: 2 settings given, the rest at default; keys: HS256\n")
    (tmp_path / "key").write_text("-----BEGIN PUBLIC KEY-----\n")
    code, _, err = moorage("config", "check", "--jwt-key-file", str(tmp_path / "key"))
    assert code == 2
    assert "jwt_key_file (from --jwt-key-file):" in err


@pytest.mark.parametrize("how", ["flag", "variable", "file"])
def test_a_key_that_can_be_guessed_is_refused_with_its_source_and_a_better_one(
    moorage, tmp_path, monkeypatch, how
):
    """A key of five bytes was accepted, with a line in the log."""
    arguments, source = [], "jwt_key (from MOORAGE_JWT_KEY)"
    if how == "flag":
        arguments, source = ["--jwt-key", "short"], "jwt_key (from --jwt-key)"
    elif how == "variable":
        monkeypatch.setenv("MOORAGE_JWT_KEY", "short")
    else:
        (tmp_path / "key").write_text("short\n")
        arguments = ["--jwt-key-file", str(tmp_path / "key")]
        source = f"jwt_key_file (from --jwt-key-file): {tmp_path / 'key'}"
    for command in (["config", "check"], ["serve"]):
        code, _, err = moorage(*command, *arguments)
        assert code == 2
        assert err.startswith(f"moorage: {source}: a secret of 5 bytes can be guessed")
        assert "openssl rand -hex 32" in err
        assert "jwt_allow_short_keys" in err
    code, out, _ = moorage("config", "check", "--jwt-allow-short-keys", *arguments)
    assert code == 0
    assert out.startswith("warning: a secret of 5 bytes can be guessed")


def test_check_says_what_the_settings_leave_open(moorage):
    _, out, _ = moorage("config", "check", "--jwt-key", SECRET)
    lines = out.splitlines()
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["note", "query_token = true"],
        ["note", 'allowed_origins = ["*"]'],
        ["note", 'publish_patterns = ["**"]'],
    ]
    _, out, _ = moorage("config", "check", "--jwt-key", SECRET, "--host", "0.0.0.0", "--anonymous")
    assert [line.split(":")[0] for line in out.splitlines()] == ["warning"] * 3 + ["ok"]


def test_all_errors_of_a_configuration_are_named(moorage, tmp_path, monkeypatch):
    path = tmp_path / "moorage.toml"
    path.write_text("prot = 1\nmax_mailbox_size = 0\n")
    monkeypatch.setenv("MOORAGE_PONG_TIMEOUT", "never")
    monkeypatch.setenv("MOORAGE_CONFIG", str(path))
    code, _, err = moorage("config", "check")
    assert code == 2
    assert err.splitlines() == [
        f"moorage: prot (from {path}:1): there is no such setting; did you mean port?",
        (
            f"moorage: max_mailbox_size (from {path}:2): 0 is too small; "
            "allowed: a whole number, 1 or more"
        ),
        (
            "moorage: pong_timeout (from MOORAGE_PONG_TIMEOUT): 'never' is not a number; "
            "allowed: a number, above 0"
        ),
    ]


PROGRAM = """
from moorage import App
chat = App()
"""


def test_check_imports_the_program_as_serve_does(moorage, tmp_path, monkeypatch):
    # `--app` was once an unknown flag to it, so a unit could not check what it would serve.
    (tmp_path / "checked_program.py").write_text(PROGRAM)
    (tmp_path / "checked_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert moorage("config", "check", "--app", "checked_program:chat")[0] == 0
    code, _, err = moorage("config", "check", "--app", "checked_program:app")
    assert (code, "allowed: checked_program:chat" in err) == (2, True)
    code, _, err = moorage("config", "check", "--app", "checked_broken:app")
    assert (code, "ZeroDivisionError" in err) == (1, True)
    monkeypatch.setenv("MOORAGE_APP", "checked_program:app")
    code, _, err = moorage("config", "check")
    assert (code, "app (from MOORAGE_APP)" in err) == (2, True)


def test_a_level_of_the_log_in_capitals_is_taken(moorage, monkeypatch):
    monkeypatch.setenv("MOORAGE_LOG_LEVEL", "Debug")
    for arguments, level in ((["--log-level", "INFO"], "info"), ([], "debug")):
        code, out, _ = moorage("config", "show", *arguments)
        assert code == 0
        assert f'log_level = "{level}"' in out
