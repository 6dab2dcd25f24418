"""`moorage connect`: what is typed, what is printed, and how it ends."""

import json

import pytest
import trio

from moorage.protocol.errors import LocalProtocolError
from moorage.protocol.messages.envelope import Envelope
from moorage.supervisor.app import App
from moorage.supervisor.cli.connect import parse_line, typed_id, wire_id
from tests.fakes_cli import beside, serving


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


async def test_connect_waits_for_no_answer_before_it_sends_the_next_line(moorage, typed):
    # It once took the next line after an answer only, and said "no answer in time" after 5 s.
    app = App()

    @app.on("note")
    def note(context, message):
        """Answers nothing, as is right for most messages."""

    @app.on("slow")
    async def slow(context, message):
        await trio.sleep(0.1)
        context.reply("done")

    typed('{"type": "note", "id": 1}\n{"type": "slow", "id": 2}\n{"type": "ping", "id": 3}\n')
    async with serving(app, anonymous=True) as server:
        (url,) = server.addresses
        code, out, err = await beside(moorage, "connect", url, "--json", "--timeout", "1")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(one["type"], one["id"]) for one in answers] == [("pong", 3), ("done", 2)]


async def test_a_typed_id_is_no_id_of_the_client_itself(moorage, typed):
    app = App()

    @app.on("echo")
    def echo(context, message):
        context.reply("echo", message.data)

    typed_ids = (1, 2, -7, "1", "#1", "##", "x")
    lines = [json.dumps({"type": "echo", "id": one, "data": one}) for one in typed_ids]
    typed("".join(f"{line}\n" for line in lines))
    async with serving(app, anonymous=True) as server:
        (url,) = server.addresses
        code, out, _ = await beside(moorage, "connect", url, "--topic", "t", "--json")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(one["id"], one["data"]) for one in answers] == [(one, one) for one in typed_ids]


@pytest.mark.parametrize("id", [0, 1, -(2**63), 2**63 - 1, "", "1", "#", "#1", "##1", None])
def test_an_id_on_the_wire_is_a_text_and_comes_back_as_it_was(id):
    assert not isinstance(wire_id(id), int)
    assert typed_id(wire_id(id)) == id


@pytest.mark.parametrize("id", ["#x", "#", "#1.5", "#²", "#" + "9" * 60, 7])
def test_an_id_that_a_server_made_up_is_shown_as_it_is(id):
    assert typed_id(id) == id


@pytest.mark.parametrize(
    ("line", "topics", "said"),
    [
        ('{"type": "chat" "id": 2}', (), "expecting ',' delimiter, character 17, at '\"id\": 2}'"),
        ('{"type": "chat"', (), "expecting ',' delimiter, character 16, at the end of the line"),
        ("{type: 1}", ("t",), "expecting property name enclosed in double quotes, character 2"),
        ("[1, 2", (), "character 6, at the end of the line"),
        ('"one', (), "unterminated string starting at, character 1"),
        ('{"a": ' * 100_000, ("t",), "too many brackets within each other"),
        ('{"a": 1}', (), 'this object has no "type", and there is no topic'),
        ("hello", (), "there is no topic"),
        ("[1, 2]", (), "there is no topic"),
    ],
)
def test_a_line_that_is_no_message_is_answered_with_what_is_wrong_in_it(line, topics, said):
    with pytest.raises(LocalProtocolError) as caught:
        parse_line(line, topics)
    assert said in str(caught.value)


@pytest.mark.parametrize("line", ["[12:00:01] GET /", '"ready" she said', "NaN of it", "a {", ""])
def test_a_line_of_a_log_is_a_text_where_there_is_a_topic(line):
    assert parse_line(line, ("log",)) == Envelope(type="data", topic="log", data=line)


def test_a_line_is_a_message_or_data():
    assert parse_line('{"type": "ping"}', ()) == Envelope(type="ping")
    assert parse_line('{"a": 1}', ("t",)) == Envelope(type="data", topic="t", data={"a": 1})
    assert parse_line("[" * 100_000, ("t",)).data == "[" * 100_000
    assert parse_line(' {"type": "x", "more": 1}', ()) == Envelope(type="x")
