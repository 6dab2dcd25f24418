"""The admin commands' payloads: what may be in them, and what is said of what may not."""

from __future__ import annotations

import attrs
import msgspec
import pytest

from moorage.protocol.admin import answers, commands
from moorage.protocol.admin.commands import Command, read_command
from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.messages.codec import encode_value


def fault(data, kind) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        read_command(data, kind)
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    return caught.value.message


def test_there_is_a_payload_for_every_command():
    assert set(commands.REQUESTS) == set(Command)


@pytest.mark.parametrize(
    "command", [c for c in Command if c not in {"connection", "topic", "broadcast"}]
)
def test_no_data_reads_as_an_empty_object(command):
    kind = commands.REQUESTS[command]
    assert read_command(None, kind) == read_command({}, kind)


def test_fields_are_read_and_those_left_out_have_their_default():
    read = read_command({"user_id": "ann", "limit": 5}, commands.Connections)
    assert read == commands.Connections(user_id="ann", limit=5)


def test_a_user_may_be_a_number_as_in_a_token():
    assert read_command({"user_id": 42}, commands.Disconnect).user_id == 42


def test_null_is_as_good_as_left_out_where_there_is_no_default():
    data = {"user_id": None, "topic": None, "state": None, "cursor": None}
    assert read_command(data, commands.Connections) == commands.Connections()
    data = {"connection_ids": None, "code": None}
    assert read_command(data, commands.Disconnect) == commands.Disconnect()


def test_unknown_fields_are_named_with_those_that_are_known():
    text = fault({"quiet": 1, "for": 2}, commands.Cleanup)
    assert text == "`data` has unknown fields: 'quiet', 'for'; known are: quiet_for"


def test_a_command_without_fields_says_so():
    assert "this command has none" in fault({"all": True}, commands.Nothing)


def test_a_flood_of_unknown_fields_is_not_sent_back():
    assert len(fault({f"field{n}" * 50: n for n in range(1000)}, commands.Nothing)) < 1000


@pytest.mark.parametrize("data", ["x", 5, [], True])
def test_data_that_is_no_object_is_refused(data):
    assert fault(data, commands.Nothing) == "`data` must be an object"


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ({"limit": "ten"}, commands.Connections, "`data.limit`: expected an integer"),
        ({"limit": True}, commands.Connections, "`data.limit`: expected an integer"),
        ({"limit": 1.5}, commands.Topics, "`data.limit`: expected an integer"),
        (
            {"user_id": True},
            commands.Connections,
            "`data.user_id`: expected a string, an integer or null",
        ),
        ({"state": 1}, commands.Connections, "`data.state`: expected a string or null"),
        (
            {"connection_ids": "abc"},
            commands.Disconnect,
            "`data.connection_ids`: expected a list of strings or null",
        ),
        (
            {"connection_ids": ["abc", 1]},
            commands.Disconnect,
            "`data.connection_ids`: expected a list of strings or null",
        ),
        ({"code": "4000"}, commands.Disconnect, "`data.code`: expected an integer or null"),
        ({"reconnect": 1}, commands.Disconnect, "`data.reconnect`: expected true or false"),
        ({"reason": None}, commands.Disconnect, "`data.reason`: expected a string"),
        ({"quiet_for": "1"}, commands.Cleanup, "`data.quiet_for`: expected a number or null"),
        ({"timeout": []}, commands.Drain, "`data.timeout`: expected a number or null"),
        ({"events": "**"}, commands.Watch, "`data.events`: expected a list of strings"),
        ({}, commands.Connection, "`data.connection_id`: is required, and missing"),
        ({}, commands.Topic, "`data.topic`: is required, and missing"),
        ({"topic": 1}, commands.Topic, "`data.topic`: expected a string"),
        ({"everyone": True}, commands.Broadcast, "`data.message_type`: is required, and missing"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_what_it_should_be(data, kind, text):
    assert fault(data, kind) == text


def test_several_wrong_fields_are_named_at_once():
    text = fault({"limit": "x", "topic": 1}, commands.Connections)
    assert "data.limit" in text
    assert "data.topic" in text


def test_the_data_of_a_broadcast_may_be_anything():
    for data in (None, 1, "x", [1, {"a": None}], {"b": []}):
        read = read_command({"message_type": "news", "data": data}, commands.Broadcast)
        assert read.data == data


def test_answers_are_values_that_json_can_say():
    answer = answers.Actor(
        "supervisor", "supervisor", "serving", children=(answers.Actor("delivery", "service", ""),)
    )
    read = msgspec.json.decode(encode_value(answer))
    assert read["children"][0]["name"] == "delivery"
    assert set(read) == {field.name for field in attrs.fields(answers.Actor)}
