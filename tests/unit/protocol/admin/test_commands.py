"""The admin commands' payloads: what may be in them, and what is said of what may not."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from moorage.protocol.admin import commands
from moorage.protocol.admin.commands import COMMANDS, Command, read_raw_request, read_request
from moorage.protocol.errors import ErrorCode, RemoteProtocolError


def fault(data, kind) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        read_request(data, kind)
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    with pytest.raises(RemoteProtocolError) as raw:
        read_raw_request(json.dumps(data).encode(), kind)
    assert raw.value.message == caught.value.message
    return caught.value.message


def test_the_table_has_every_command_under_its_name():
    rows = [value for value in vars(commands).values() if isinstance(value, Command)]
    assert list(COMMANDS.values()) == rows
    assert all(name == command.name for name, command in COMMANDS.items())


def test_the_names_are_those_of_the_wire():
    assert list(COMMANDS) == [
        *("stats", "connections", "connection", "topics", "topic", "disconnect", "cleanup"),
        *("broadcast", "health", "suspend", "resume", "drain", "watch", "tree"),
    ]


def test_what_reports_progress_takes_time():
    assert [name for name, command in COMMANDS.items() if command.progress] == ["drain"]
    assert all(command.takes_time for command in COMMANDS.values() if command.progress)


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"connection", "topic", "broadcast"}))
def test_no_data_reads_as_an_empty_object(name):
    kind = COMMANDS[name].request
    empty = read_request({}, kind)
    assert read_request(None, kind) == empty
    for data in (b"", msgspec.Raw(), b"null", b"\n null ", b"{}"):
        assert read_raw_request(data, kind) == empty


def test_fields_are_read_and_those_left_out_have_their_default():
    read = read_request({"user_id": "ann", "limit": 5}, commands.ConnectionsRequest)
    assert read == commands.ConnectionsRequest(user_id="ann", limit=5)


def test_a_user_may_be_a_number_as_in_a_token():
    assert read_request({"user_id": 42}, commands.DisconnectRequest).user_id == 42


def test_null_is_as_good_as_left_out_where_there_is_no_default():
    data = {"user_id": None, "topic": None, "state": None, "cursor": None}
    assert read_request(data, commands.ConnectionsRequest) == commands.ConnectionsRequest()
    data = {"connection_ids": None, "code": None}
    assert read_request(data, commands.DisconnectRequest) == commands.DisconnectRequest()


def test_unknown_fields_are_named_with_those_that_are_known():
    text = fault({"quiet": 1, "for": 2}, commands.CleanupRequest)
    assert text == "`data` has unknown fields: 'quiet', 'for'; known are: quiet_for"


def test_a_command_without_fields_says_so():
    assert "this command has none" in fault({"all": True}, commands.EmptyRequest)


def test_a_flood_of_unknown_fields_is_not_sent_back():
    assert len(fault({f"field{n}" * 50: n for n in range(1000)}, commands.EmptyRequest)) < 1000


@pytest.mark.parametrize("data", ["x", 5, [], True])
def test_data_that_is_no_object_is_refused(data):
    assert fault(data, commands.EmptyRequest) == "`data` must be an object"


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ({"limit": "ten"}, commands.ConnectionsRequest, "`data.limit`: expected an integer"),
        ({"limit": True}, commands.ConnectionsRequest, "`data.limit`: expected an integer"),
        ({"limit": 1.5}, commands.TopicsRequest, "`data.limit`: expected an integer"),
        (
            {"user_id": True},
            commands.ConnectionsRequest,
            "`data.user_id`: expected a string, an integer or null",
        ),
        ({"state": 1}, commands.ConnectionsRequest, "`data.state`: expected a string or null"),
        (
            {"connection_ids": "abc"},
            commands.DisconnectRequest,
            "`data.connection_ids`: expected a list of strings or null",
        ),
        (
            {"connection_ids": ["abc", 1]},
            commands.DisconnectRequest,
            "`data.connection_ids`: expected a list of strings or null",
        ),
        ({"code": "4000"}, commands.DisconnectRequest, "`data.code`: expected an integer or null"),
        ({"reconnect": 1}, commands.DisconnectRequest, "`data.reconnect`: expected true or false"),
        ({"reason": None}, commands.DisconnectRequest, "`data.reason`: expected a string"),
        (
            {"quiet_for": "1"},
            commands.CleanupRequest,
            "`data.quiet_for`: expected a number or null",
        ),
        ({"timeout": []}, commands.DrainRequest, "`data.timeout`: expected a number or null"),
        ({"events": "**"}, commands.WatchRequest, "`data.events`: expected a list of strings"),
        ({}, commands.ConnectionRequest, "`data.connection_id`: is required, and missing"),
        ({}, commands.TopicRequest, "`data.topic`: is required, and missing"),
        ({"topic": 1}, commands.TopicRequest, "`data.topic`: expected a string"),
        (
            {"everyone": True},
            commands.BroadcastRequest,
            "`data.message_type`: is required, and missing",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_what_it_should_be(data, kind, text):
    assert fault(data, kind) == text


def test_several_wrong_fields_are_named_at_once():
    text = fault({"limit": "x", "topic": 1}, commands.ConnectionsRequest)
    assert "data.limit" in text
    assert "data.topic" in text


def test_the_data_of_a_broadcast_may_be_anything():
    for data in (None, 1, "x", [1, {"a": None}], {"b": []}):
        read = read_request({"message_type": "news", "data": data}, commands.BroadcastRequest)
        assert read.data == data


def test_of_json_a_field_that_may_be_anything_stays_json_and_the_others_are_read():
    data = b'{"message_type":"news","everyone":true,"exclude":["a"],"data": {"n":1e999}}'
    read = read_raw_request(data, commands.BroadcastRequest)
    assert (read.message_type, read.everyone, read.exclude) == ("news", True, ("a",))
    assert bytes(read.data) == b'{"n":1e999}'


def test_a_number_with_a_fraction_is_no_integer_in_json_either():
    with pytest.raises(RemoteProtocolError, match=r"`data.limit`: expected an integer"):
        read_raw_request(b'{"limit":5.0}', commands.ConnectionsRequest)


@pytest.mark.parametrize("field", ["data", "topic", "exclude", "colour"])
def test_a_long_value_is_not_built_wherever_it_stands(field):
    # As Python objects, these lists take 40 ms and 20 MB.
    nested = b"[" + b",".join([b"[]"] * 340_000) + b"]"
    data = b'{"message_type":"news","%b":%b}' % (field.encode(), nested)
    began = time.process_time()
    if field == "data":
        assert bytes(read_raw_request(data, commands.BroadcastRequest).data) == nested
    else:
        with pytest.raises(RemoteProtocolError, match=field):
            read_raw_request(data, commands.BroadcastRequest)
    assert time.process_time() - began < 0.02
