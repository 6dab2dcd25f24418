"""The `moorage` command: what it prints, how it ends, and that it never shows a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
from io import StringIO

import attrs
import pytest
import trio
from rich.console import Console

from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.app import App
from moorage.supervisor.cli import main
from moorage.supervisor.cli.connect import parse_line
from moorage.supervisor.cli.input import lines
from moorage.supervisor.cli.rendering import Display, is_progress, readable
from moorage.supervisor.cli.serve import banner
from moorage.supervisor.config.settings import Settings, about
from moorage.supervisor.config.sources import flag
from moorage.supervisor.entrance.tokens import TokenVerifier, mint_token
from moorage.supervisor.supervisor import open_supervisor
from tests.fakes import RecordingLogger

SECRET = "a secret of thirty-two bytes or so"
NAMES = tuple(attrs.fields_dict(Settings))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in os.environ:
        if name.startswith("MOORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def moorage(capsys):
    """Run the command in this process; returns exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return run


@pytest.fixture
def typed(monkeypatch):
    """Make a text the standard input, as a pipe that has ended."""
    opened = []

    def give(text: str) -> None:
        read, write = os.pipe()
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            pipe.write(text)
        opened.append(os.fdopen(read, encoding="utf-8"))
        monkeypatch.setattr("sys.stdin", opened[-1])

    yield give
    for file in opened:
        file.close()


def serving(app=None, **settings):
    return open_supervisor(Settings(port=0, **settings), app, logger=RecordingLogger())


@pytest.fixture
def anonymous_server():
    return serving(anonymous=True)


async def beside(moorage, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a thread, for it runs a loop of its own."""
    return await trio.to_thread.run_sync(moorage, *arguments)


# --- help, usage, exit codes


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


def test_every_setting_has_its_flag_in_the_help_of_serve(moorage):
    _, out, _ = moorage("serve", "--help")
    for name in NAMES:
        assert re.search(rf"{flag(name)}\b", out), name
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())
    assert "from 0 to 65535 (0: any free port)" in text
    assert "Default: 8765." in text
    assert "Allowed: disconnect" not in text or "overload" in text


VALUES = {
    "flag": None,
    "whole number": "1000",
    "number": "7",
    "path": "/tmp/x",
    "paths": "/tmp/x",
    "pairs": "a=latest",
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


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_given_as_a_flag(moorage, name):
    from moorage.supervisor.config.sources import KINDS

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
        (["serve", "--app", "json"], "app (from --app): 'json' is not one"),
        (["serve", "--app", "no_such_module:app"], "there is no module 'no_such_module'"),
        (["serve", "--app", "json:loads"], "'loads' of json is no App"),
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


# --- config


def test_show_prints_every_value_with_its_source_as_toml(moorage, tmp_path, monkeypatch):
    path = tmp_path / "moorage.toml"
    path.write_text("[overload]\n'prices.*' = 'latest'\n")
    monkeypatch.setenv("MOORAGE_PORT", "9000")
    code, out, _ = moorage("config", "show", "--config", str(path), "--path", "/x")
    assert code == 0
    assert all(re.search(rf"^(# )?{name} ", out, re.MULTILINE) for name in NAMES)
    assert re.search(r"^port = 9000 +# MOORAGE_PORT$", out, re.MULTILINE)
    assert re.search(r'^path = "/x" +# --path$', out, re.MULTILINE)
    assert re.search(r"^max_message_size = 65536 +# bytes; default$", out, re.MULTILINE)
    assert re.search(rf"# {re.escape(str(path))}:1$", out, re.MULTILINE)


def test_what_show_prints_can_be_loaded_again(moorage, tmp_path):
    _, first, _ = moorage("config", "show", "--overload", "a.*=latest", "--jwt-audience", 'x"y')
    path = tmp_path / "again.toml"
    path.write_text(first)
    code, second, _ = moorage("config", "show", "--config", str(path))
    assert code == 0
    strip = re.compile(r" +#.*")
    assert strip.sub("", second) == strip.sub("", first)


def test_secrets_are_redacted(moorage, monkeypatch):
    monkeypatch.setenv("MOORAGE_JWT_KEY", SECRET)
    code, out, err = moorage("config", "show")
    assert code == 0
    assert SECRET not in out + err
    assert re.search(r"^# jwt_key = redacted \(1 set\) +# MOORAGE_JWT_KEY$", out, re.MULTILINE)
    assert [name for name in NAMES if about(name).secret] == ["jwt_key"]


def test_check_reads_the_keys(moorage, tmp_path):
    code, out, _ = moorage("config", "check", "--jwt-key", SECRET, "--port", "1")
    assert (code, out) == (0, "ok: 2 settings given, the rest at default; keys: HS256\n")
    _, out, _ = moorage("config", "check", "--jwt-key", "short")
    assert out.startswith("warning: a secret of 5 bytes can be guessed")
    (tmp_path / "key").write_text("-----BEGIN PUBLIC KEY-----\n")
    code, _, err = moorage("config", "check", "--jwt-key-file", str(tmp_path / "key"))
    assert code == 2
    assert "jwt_key_file (from --jwt-key-file):" in err


# --- token


def test_a_minted_token_is_accepted_by_a_server_with_that_key(moorage, monkeypatch):
    monkeypatch.setenv("MOORAGE_JWT_KEY", SECRET)
    code, out, err = moorage(
        *("token", "--user", "ann", "--role", "admin", "--ttl", "15m", "--session", "s"),
        *("--subscribe", "orders.*", "--subscribe", "news", "--publish", "chat"),
        *("--audience", "shop", "--issuer", "me", "--info", '{"n": 1}'),
    )
    assert (code, err) == (0, "")
    settings = Settings(jwt_key=SECRET, jwt_audience="shop", jwt_issuer="me")
    identity = TokenVerifier.from_settings(settings).verify(out.strip())
    assert (identity.user_id, identity.role, identity.session_id) == ("ann", "admin", "s")
    assert identity.info == {"n": 1}
    assert identity.permissions.subscribe.matches("news")
    assert not identity.permissions.publish.matches("news")


@pytest.mark.parametrize(("ttl", "seconds"), [("90", 90), ("1h", 3600), ("7d", 604_800)])
def test_a_tokens_time_is_written_with_a_unit(moorage, ttl, seconds):
    _, out, _ = moorage("token", "--user", "ann", "--key", SECRET, "--ttl", ttl)
    claims = TokenVerifier.from_settings(Settings(jwt_key=SECRET))._claims(out.strip())
    assert claims["exp"] - claims["iat"] == seconds


def test_a_key_file_is_a_secret_or_pem(moorage, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    _, out, _ = moorage("token", "--user", "ann", "--key-file", str(tmp_path / "secret"))
    assert TokenVerifier.from_settings(Settings(jwt_key=SECRET)).verify(out.strip())


# --- publish and connect


async def test_publish_waits_for_the_server(moorage, anonymous_server):
    async with anonymous_server as server:
        (url,) = server.addresses
        arguments = (url, "--topic", "news", "--data", '{"n": 1}')
        assert await beside(moorage, "publish", *arguments) == (0, "", "")


async def test_publish_reads_its_data_from_a_file_or_standard_input(
    moorage, anonymous_server, tmp_path, monkeypatch
):
    (tmp_path / "data").write_text("[1, 2]")
    monkeypatch.setattr("sys.stdin", StringIO("null"))
    async with anonymous_server as server:
        (url,) = server.addresses
        for data in ("-", f"@{tmp_path / 'data'}"):
            code, _, _ = await beside(moorage, "publish", url, "--topic", "t", "--data", data)
            assert code == 0


async def test_publish_says_what_the_server_refused(moorage, anonymous_server):
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, err = await beside(moorage, "publish", url, "--topic", "a b")
    assert (code, out) == (1, "")
    assert "bad_topic" in err


async def test_a_token_comes_from_the_flag_or_the_environment(moorage, monkeypatch, typed):
    token = mint_token(SECRET, user="ann", publish=["mine"])
    async with serving(jwt_key=SECRET) as server:
        (url,) = server.addresses
        code, _, err = await beside(moorage, "publish", url, "--topic", "mine")
        assert code == 1
        assert "HTTP 401" in err
        code, _, _ = await beside(moorage, "publish", url, "--topic", "mine", "--token", token)
        assert code == 0
        monkeypatch.setenv("MOORAGE_TOKEN", token)
        code, _, err = await beside(moorage, "publish", url, "--topic", "other")
        assert code == 1
        assert "forbidden" in err
        assert token not in err


async def test_a_server_that_is_away_is_a_failure(moorage, typed):
    typed("")
    for command in (["publish", "--topic", "t"], ["connect"]):
        code, _, err = await beside(moorage, *command, "ws://127.0.0.1:9/ws", "--timeout", "0.3")
        assert code == 1
        assert "no connection to 127.0.0.1:9 within 0.3 s" in err


async def test_connect_publishes_lines_and_prints_what_arrives(moorage, anonymous_server, typed):
    typed('"one"\n{"n": 2}\n\nthree, not JSON\n4')
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, err = await beside(moorage, "connect", url, "--topic", "news")
    assert (code, err) == (0, "")
    assert [line[9:] for line in out.splitlines()] == [
        'news "one"',
        'news {"n": 2}',
        'news "three, not JSON"',
        "news 4",
    ]


async def test_two_thousand_lines_come_back_in_order(moorage, anonymous_server, typed, tmp_path):
    source = tmp_path / "numbers"
    source.write_text("".join(f"{n}\n" for n in range(2_000)))
    async with anonymous_server as server:
        (url,) = server.addresses
        with source.open() as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", file)
            code, out, _ = await beside(moorage, "connect", url, "--topic", "news", "--json")
    assert code == 0
    assert [json.loads(line)["data"] for line in out.splitlines()] == list(range(2_000))


async def test_connect_sends_messages_and_prints_the_replies_to_those_with_an_id(
    moorage, anonymous_server, typed
):
    typed(
        '{"type": "ping", "id": "mine", "data": 7}\n'
        '{"type": "subscribe", "topic": "news", "id": 1}\n'
        '{"type": "data", "topic": "news", "data": [1]}\n'
    )
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, _ = await beside(moorage, "connect", url, "--json")
    assert code == 0
    messages = [json.loads(line) for line in out.splitlines()]
    assert [(m["type"], m.get("id"), m.get("data")) for m in messages] == [
        ("pong", "mine", 7),
        ("subscribed", 1, messages[1].get("data")),
        ("data", None, [1]),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"type": "no_such_type"}', "unknown_type"),
        ('{"type": "no_such_type", "id": 1}', "unknown_type"),
        ('{"type": "subscribe", "topic": "a b"}', "bad_topic"),
        ('{"type": "data", "topic": "$x", "data": 1}', "forbidden"),
    ],
)
async def test_connect_ends_with_1_when_the_server_refused_something(
    moorage, anonymous_server, typed, line, said
):
    typed(line + "\n")
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, _ = await beside(moorage, "connect", url)
    assert code == 1
    assert said in out


async def test_connect_says_what_is_wrong_with_a_line_and_goes_on(moorage, anonymous_server, typed):
    typed('hello\n{"type": "a b"}\n{"type": "ping", "id": 1}\n')
    async with anonymous_server as server:
        (url,) = server.addresses
        code, out, err = await beside(moorage, "connect", url)
    assert code == 1
    first, second = err.splitlines()
    assert "there is no topic to publish this to: give --topic" in first
    assert "`type` must be a string of 1 to 64 characters" in second
    assert "pong" in out


async def test_connect_ends_when_the_server_says_stay_away(moorage, typed):
    app = App()

    @app.endpoint("/ws", raw=True)
    async def leave(connection):
        pass

    typed("")
    async with serving(app, anonymous=True) as server:
        (url,) = server.addresses
        code, _, err = await beside(moorage, "connect", url, "--listen", "--timeout", "1")
    assert code == 1
    assert err.startswith("moorage: ")


# --- what lines stand for


def test_a_line_is_a_message_or_data():
    assert parse_line('{"type": "ping"}', ()) == Envelope(type="ping")
    assert parse_line('{"a": 1}', ("t",)) == Envelope(type="data", topic="t", data={"a": 1})
    assert parse_line("[" * 100_000, ("t",)).data == "[" * 100_000
    assert parse_line(' {"type": "x", "more": 1}', ()) == Envelope(type="x")


async def test_lines_come_from_pipes_files_and_devices(tmp_path):
    async def all_of(fd):
        return [line async for line in lines(fd)]

    path = tmp_path / "text"
    path.write_bytes(b"one\r\ntw\xc3\xb6\n\nno end \xff")
    expected = ["one", "twö", "", "no end �"]
    with path.open("rb") as file:
        assert await all_of(file.fileno()) == expected
    read, write = os.pipe()
    os.write(write, path.read_bytes())
    os.close(write)
    assert await all_of(read) == expected
    os.close(read)
    null = os.open(os.devnull, os.O_RDONLY)
    assert await all_of(null) == []
    os.close(null)


# --- how messages look


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (Envelope(type="data", topic="t", data={"ä": 1}), '--:--:-- t {"ä": 1}'),
        (
            Envelope(type="chat", topic="t", timestamp="2023-01-01T12:34:56.789Z"),
            "12:34:56 t chat",
        ),
        (
            Envelope(type="error", error="no such thing", data={"code": "forbidden"}),
            "--:--:-- error: no such thing (forbidden)",
        ),
        (
            Envelope(type="gap", topic="t", data={"dropped": 7}),
            "--:--:-- t gap: 7 messages are missing",
        ),
        (
            Envelope(type="goodbye", data={"reason": "drain", "reconnect_after": 1.5}),
            "--:--:-- goodbye: drain (coming back in 1.5 s)",
        ),
        (
            Envelope(type="error", error="\x1b[2J\x07", data=7),
            "--:--:-- error: \\x1b[2J\\x07 (None)",
        ),
    ],
)
def test_a_message_is_one_line_that_cannot_steer_the_terminal(message, line):
    assert readable(message) == line


def progress(done, total, **more) -> Envelope:
    return Envelope(
        type="data", topic="batch_progress_7", data={"done": done, "total": total, **more}
    )


def test_progress_is_a_bar_on_a_terminal():
    out = StringIO()
    display = Display(Console(file=out, force_terminal=True, width=80, color_system=None))
    display.show(progress(1, 3, message="invoice [1]"))
    display.show(Envelope(type="data", topic="news", data="meanwhile"))
    display.show(progress(2.5, 3))
    display.show(progress(3, 3, message="done"))
    display.show(progress(1, 2))
    display.close()
    display.close()
    text = out.getvalue()
    assert "batch_progress_7" in text
    assert "1/3 invoice [1]" in text
    assert '--:--:-- news "meanwhile"' in text
    assert "3/3 done" in text
    assert "1/2" in text


def test_only_numbers_make_a_bar():
    assert is_progress(progress(1, 2))
    for message in (
        progress("1", 2),
        progress(True, 2),
        progress(1, None),
        attrs.evolve(progress(1, 2), topic="batch"),
        attrs.evolve(progress(1, 2), data=[1, 2]),
        attrs.evolve(progress(1, 2), type="chat"),
    ):
        assert not is_progress(message)


# --- serve, as its own process


_PROGRAM = "import sys; from moorage.supervisor.cli import main; sys.exit(main())"


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_greets_a_developer_and_drains_on_a_signal(moorage, typed, number):
    server = start("serve", "--port", "0")
    try:
        greeting = ""
        while "| " not in greeting:
            line = server.stderr.readline()
            assert line, greeting
            greeting += line
        assert "development mode" in greeting
        url = re.search(r"address +(ws://127\.0\.0\.1:\d+/ws)", greeting)[1]
        token = re.search(r"token +(\S+)", greeting)[1]
        assert f"connect {url} --topic news" in greeting
        typed('"It works!"\n')
        for arguments in ([], ["--token", token]):
            code, out, _ = moorage("connect", url, "--topic", "news", *arguments)
            assert code == 0
            assert out.endswith('news "It works!"\n') or arguments
        code, _, err = moorage("publish", url, "--topic", "news", "--token", token[:-4] + "AAAA")
        assert code == 1
        assert "401" in err
        server.send_signal(number)
        _, rest = server.communicate(timeout=20)
        assert server.returncode == 0
        assert "drained" in rest
        assert token not in rest
        assert "Traceback" not in rest
    finally:
        server.kill()
        server.communicate()


def test_serve_runs_the_app_of_a_module(moorage, typed, tmp_path, monkeypatch):
    (tmp_path / "my_chat_module.py").write_text(
        "from moorage.supervisor import App\n"
        "app = App()\n"
        "@app.on('shout')\n"
        "async def shout(context, message):\n"
        "    context.broadcast_to_topic('room', 'shouted', message.data.upper())\n"
    )
    monkeypatch.chdir(tmp_path)
    server = start("serve", "--port", "0", "--app", "my_chat_module:app")
    try:
        url = None
        while url is None:
            url = re.search(r"address +(ws://\S+)", server.stderr.readline())
        typed('{"type": "shout", "data": "hey"}\n')
        code, out, _ = moorage("connect", url[1], "--topic", "room")
        assert code == 0
        assert 'room shouted "HEY"' in out
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import surely_missing", "No module named 'surely_missing'"),
        ("def", "SyntaxError"),
    ],
)
def test_an_app_that_cannot_be_imported_is_a_failure_with_its_place(
    moorage, tmp_path, monkeypatch, text, said
):
    name = f"broken_app_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(f"\n{text}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = moorage("serve", "--app", f"{name}:app")
    assert code == 1
    assert f"importing {name} failed at {tmp_path / name}.py:2" in err
    assert said in err


def test_a_port_that_is_taken_names_the_flag():
    first = trio.run(taken_port)
    assert "port (from --port): cannot listen on 127.0.0.1 port" in first


async def taken_port() -> str:
    async with serving() as server:
        port = re.search(r":(\d+)/", server.addresses[0])[1]
        process = start("serve", "--port", port)
        _, err = await trio.to_thread.run_sync(process.communicate)
        assert process.returncode == 2
        return err


def test_the_output_may_be_closed_early():
    process = start("config", "show")
    process.stdout.close()
    with process:
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_ctrl_c_ends_connect_with_130():
    async def interrupt() -> tuple[int, str]:
        async with serving(anonymous=True) as server:
            process = start("connect", server.addresses[0], "--topic", "news")
            process.stdin.write('"here"\n')
            process.stdin.flush()
            await trio.to_thread.run_sync(process.stdout.readline)
            process.send_signal(signal.SIGINT)
            _, err = await trio.to_thread.run_sync(process.communicate)
            return process.returncode, err

    assert trio.run(interrupt) == (130, "")


def test_the_banner_has_lines_to_paste():
    text = banner("ws://127.0.0.1:1/ws", "TOKEN")
    assert "TOKEN" in text
    assert re.search(r"^  echo .* connect ws://127\.0\.0\.1:1/ws --topic news$", text, re.MULTILINE)
