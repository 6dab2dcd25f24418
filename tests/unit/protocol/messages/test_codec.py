import dataclasses
import enum
import json
import math
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.protocol.messages import codec
from moorage.protocol.messages.codec import (
    MAX_DEPTH,
    decode,
    decode_envelope,
    encode_envelope,
    encode_id,
    encode_value,
    head,
    splice,
    timestamp,
)
from moorage.protocol.messages.envelope import Envelope

STAMP = b"2023-11-14T22:13:20.123Z"

# UTF-8 has no surrogates, and a float is what JSON can say: no NaN, no infinity.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
types = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
ids = st.none() | st.integers(-(2**63), 2**63 - 1) | texts
envelopes = st.builds(
    Envelope,
    type=types,
    topic=st.none() | texts,
    data=values,
    timestamp=st.none() | texts,
    error=st.none() | texts,
    id=ids,
    offset=st.none() | st.integers(0, 2**63 - 1),
    epoch=st.none() | texts,
)


def with_data(data):
    return b'{"type":"a","data":' + data + b"}"


# Reading


def test_all_fields_are_read_and_data_stays_the_bytes_it_was():
    message = decode(
        b'{"type":"data","topic":"a.b","data": {"x" : [1.0, 1e2 ,"\\u00e9"]} ,"timestamp":"now",'
        b'"error":"no","id":"7","offset":3,"epoch":"e","unknown":{"ignored":[]}}'
    )
    assert bytes(message.data) == b'{"x" : [1.0, 1e2 ,"\\u00e9"]}'
    assert message.value() == {"x": [1.0, 100.0, "é"]}
    assert message.envelope() == Envelope(
        type="data",
        topic="a.b",
        data={"x": [1.0, 100.0, "é"]},
        timestamp="now",
        error="no",
        id="7",
        offset=3,
        epoch="e",
    )


def test_absent_data_is_empty_and_reads_as_null():
    assert bytes(decode(b'{"type":"a"}').data) == b""
    assert decode(b'{"type":"a"}').value() is None
    assert bytes(decode(with_data(b"null")).data) == b"null"
    assert decode(with_data(b"null")).value() is None


def test_null_for_an_optional_field_is_as_if_it_were_absent():
    fields = ["topic", "timestamp", "error", "id", "offset", "epoch"]
    payload = json.dumps({"type": "a", **dict.fromkeys(fields)}).encode()
    assert decode(payload).envelope() == Envelope("a")


def test_of_a_key_that_comes_twice_the_last_one_counts_as_in_javascript():
    message = decode(b'{"type":"a","id":1,"data":1,"type":"b","data":{"x":1,"x":2},"id":2}')
    assert (message.type, message.id, message.value()) == ("b", 2, {"x": 2})


def test_a_key_that_comes_twice_is_judged_each_time():
    with pytest.raises(RemoteProtocolError, match="`id` must be"):
        decode(b'{"type":"a","id":[],"id":1}')


def test_integers_keep_their_value_at_any_size_and_are_relayed_unread():
    big = b"123456789012345678901234567890"
    message = decode(with_data(big))
    assert bytes(message.data) == big
    assert message.value() == int(big)


def test_nul_is_data_when_it_is_escaped():
    assert decode(with_data(b'"\\u0000"')).value() == "\x00"


def test_surrogates_in_pairs_are_one_character():
    assert decode(with_data(b'"\\ud83d\\ude00"')).value() == "\U0001f600"


def test_keys_and_strings_full_of_brackets_are_not_nesting():
    text = '["\\' * 500
    payload = json.dumps({"type": "a", "data": {text: text}}).encode()
    assert decode(payload).value() == {text: text}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"]}\\"\\\\":'])
def test_nesting_is_allowed_to_100_levels_and_no_further(opening):
    closing = {b"[": b"]", b'{"a":': b"}"}.get(opening, b"}]")
    levels_each = 2 if closing == b"}]" else 1
    repeats = (MAX_DEPTH - 1) // levels_each
    within = with_data(opening * repeats + b"1" + closing * repeats)
    assert decode(within).type == "a"
    beyond = with_data(opening * (repeats + 1) + b"1" + closing * (repeats + 1))
    with pytest.raises(RemoteProtocolError, match="nested too deep"):
        decode(beyond)


def test_nesting_hidden_in_an_unknown_field_counts_as_well():
    with pytest.raises(RemoteProtocolError, match="nested too deep"):
        decode(b'{"type":"a","x":' + b"[" * 100 + b"]" * 100 + b"}")


def naive_depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(naive_depth, value), default=0) if isinstance(value, list) else 0


bracket_texts = st.text(alphabet='[]{}"\\,a', max_size=8)
bracket_values = st.recursive(
    bracket_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(bracket_texts, inner, max_size=3),
    max_leaves=25,
)


@given(bracket_values, st.integers(0, 8))
def test_depth_is_measured_as_by_the_naive_way(value, wraps):
    for _ in range(wraps):
        value = [value]
    depth = naive_depth(value)
    assert codec._depth(json.dumps(value).encode()) == max(depth, codec._ROUNDS)


@pytest.mark.parametrize(
    "number",
    [b"1e999", b"-1e999", b"9" * 5000, b'{"a":[1,2,1E+400]}'],
    ids=lambda n: n[:8].decode(),
)
def test_a_number_that_python_cannot_hold_is_relayed_but_not_read(number):
    message = decode(with_data(number))
    assert bytes(message.data) == number
    with pytest.raises(RemoteProtocolError, match="`data`: a number is too large") as caught:
        message.value()
    assert caught.value.code is ErrorCode.BAD_MESSAGE


def test_a_client_reads_numbers_too_large_as_infinity_as_javascript_does():
    payload = with_data(b'{"a":1e999,"b":-1e999,"c":' + b"9" * 5000 + b',"d":12345678901234567890}')
    assert decode_envelope(payload).data == {
        "a": math.inf,
        "b": -math.inf,
        "c": math.inf,
        "d": 12345678901234567890,
    }


def test_bytes_in_data_that_are_not_utf_8_are_found_when_read():
    message = decode(with_data(b'"\xff"'))
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        message.value()
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decode_envelope(with_data(b'["\xff"]'))
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decode_envelope(with_data(b'["\xff",1e999]'))


def test_a_client_may_read_from_text():
    assert decode_envelope('{"type":"a","data":"é"}').data == "é"
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decode_envelope('{"type":"a","data":"\ud800"}')


def read_all(payload):
    """Read a payload in every way; nothing but RemoteProtocolError may come out."""
    for read in (lambda: decode(payload).envelope(), lambda: decode_envelope(payload)):
        try:
            read()
        except RemoteProtocolError as error:
            code = error.code
        else:
            code = None
        assert code in {None, ErrorCode.BAD_MESSAGE}


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_remote_protocol_error(payload):
    read_all(payload)


@given(st.dictionaries(st.sampled_from([*attrs.fields_dict(Envelope), "x"]), values, max_size=8))
def test_random_fields_raise_nothing_but_remote_protocol_error(fields):
    read_all(json.dumps(fields).encode())


@given(envelopes, st.data())
def test_a_damaged_message_raises_nothing_but_remote_protocol_error(envelope, data):
    payload = bytearray(encode_envelope(envelope))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(payload)))
        what = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"', b"\\", b"\\ud800", b"[", b"}", b"1e999", b"\x00", b",", b"-"])
        )
        payload[position : position + data.draw(st.integers(0, 3))] = what
    read_all(bytes(payload))


def test_types_made_up_by_peers_are_not_remembered_without_bound():
    for number in range(2 * codec._MAX_KNOWN_TYPES):
        assert decode(b'{"type":"made.up.%d"}' % number).type == f"made.up.{number}"
    assert len(codec._known_types) <= codec._MAX_KNOWN_TYPES
    assert head("never.met.before") == b'{"type":"never.met.before",'
    with pytest.raises(RemoteProtocolError, match="`type` must be"):
        decode(b'{"type":"no good"}')


# Writing


@given(envelopes)
@example(Envelope("a", data=float("1e-320")))
def test_what_is_written_reads_the_same(envelope):
    payload = encode_envelope(envelope)
    assert decode_envelope(payload) == envelope
    assert decode(payload).envelope() == envelope
    assert json.loads(payload) == {
        name: value for name, value in attrs.asdict(envelope).items() if value is not None
    }


def test_fields_that_are_none_are_left_out():
    assert encode_envelope(Envelope("ping")) == b'{"type":"ping"}'
    assert encode_envelope(Envelope("a", data=0, id="")) == b'{"type":"a","id":"","data":0}'


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Point:
    x: float
    note: object = None


@dataclasses.dataclass
class Line:
    points: list[Point]


def test_values_of_many_kinds_can_be_written():
    moment = datetime(2023, 1, 1, 12, tzinfo=UTC)
    value = {
        "attrs": Point(1.5),
        "dataclass": Line([Point(1), Point(2.0, None)]),
        "moment": moment,
        "uuid": uuid.UUID(int=1),
        "decimal": Decimal("1.50"),
        "enum": Colour.RED,
        "code": ErrorCode.TIMEOUT,
        "tuple": (1, None),
        "set": {1},
        "bytes": b"x",
        "raw": msgspec.Raw(b'{"as": "is"}'),
        7: "an integer as a key",
    }
    assert json.loads(encode_value(value)) == {
        "attrs": {"x": 1.5, "note": None},
        "dataclass": {"points": [{"x": 1, "note": None}, {"x": 2.0, "note": None}]},
        "moment": "2023-01-01T12:00:00Z",
        "uuid": "00000000-0000-0000-0000-000000000001",
        "decimal": "1.50",
        "enum": "red",
        "code": "timeout",
        "tuple": [1, None],
        "set": [1],
        "bytes": "eA==",
        "raw": {"as": "is"},
        "7": "an integer as a key",
    }


@given(values)
def test_plain_values_are_written_as_json_module_reads_them(value):
    assert json.loads(encode_value(value)) == value


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_written_at_the_deepest_can_be_read():
    assert decode_envelope(encode_envelope(Envelope("a", data=deep(99)))).data == deep(99)


def test_null_as_a_word_in_a_text_is_no_reason_to_refuse():
    assert encode_value({"a": "null", "b": None}) == b'{"a":"null","b":null}'


def test_an_envelope_with_half_a_surrogate_pair_is_refused():
    with pytest.raises(LocalProtocolError, match="surrogate"):
        encode_envelope(Envelope("a", error="\ud800"))


# Putting together


@given(types, st.none() | texts, ids, st.none() | texts, st.none() | values)
def test_head_and_splice_make_the_message_that_they_say(type, topic, id, error, value):
    data = None if value is None else encode_value(value)
    payload = splice(head(type, topic, id, error), data, STAMP)
    assert decode_envelope(payload) == Envelope(
        type=type, topic=topic, data=value, timestamp=STAMP.decode(), error=error, id=id
    )
    assert b'"data"' in payload or value is None


def test_data_goes_through_byte_for_byte():
    raw = decode(with_data(b' {"b" : 1.0,\n"a":1e5} ')).data
    assert splice(head("data", "t", 7), raw, STAMP) == (
        b'{"type":"data","topic":"t","id":7,"data":{"b" : 1.0,\n"a":1e5},"timestamp":"%b"}' % STAMP
    )


@pytest.mark.parametrize("nothing", [None, b"", msgspec.Raw()])
def test_without_data_there_is_no_such_field(nothing):
    assert splice(head("heartbeat"), nothing, STAMP) == (
        b'{"type":"heartbeat","timestamp":"%b"}' % STAMP
    )


def test_head_escapes_what_a_peer_named():
    topic = '"},\\\x00\n'
    assert json.loads(splice(head("error", topic, topic, topic), None, STAMP)) == {
        "type": "error",
        "topic": topic,
        "id": topic,
        "error": topic,
        "timestamp": STAMP.decode(),
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"type": ""}, "`type` must be"),
        ({"type": 'a"'}, "`type` must be"),
        ({"type": "a" * 65}, "`type` must be"),
        ({"type": "a", "id": "x" * 65}, "`id` must be"),
        ({"type": "a", "id": 2**63}, "`id` must be"),
        ({"type": "a", "id": True}, "`id` must be"),
        ({"type": "a", "topic": "\ud800"}, "surrogate"),
        ({"type": "a", "error": "\ud800"}, "surrogate"),
        ({"type": "a", "id": "\ud800"}, "surrogate"),
    ],
)
def test_a_head_that_would_be_malformed_is_the_programs_mistake(arguments, complaint):
    with pytest.raises(LocalProtocolError, match=complaint) as caught:
        head(**arguments)
    assert caught.value.code is ErrorCode.BAD_MESSAGE


# Time stamps


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0, b"1970-01-01T00:00:00.000Z"),
        (1672574400.123, b"2023-01-01T12:00:00.123Z"),
        (1700000000.9994, b"2023-11-14T22:13:20.999Z"),
        (1700000000.9996, b"2023-11-14T22:13:21.000Z"),
        (951782400, b"2000-02-29T00:00:00.000Z"),
    ],
)
def test_a_time_stamp_is_rfc_3339_in_utc_with_milliseconds(seconds, stamp):
    assert timestamp(seconds) == stamp


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
def test_a_time_stamp_names_the_nearest_millisecond_whatever_came_before(moments):
    for seconds in [*moments, *reversed(moments)]:
        stamp = datetime.fromisoformat(timestamp(seconds).decode())
        assert abs(stamp.timestamp() - seconds) <= 0.000501


@pytest.mark.parametrize("id", [0, -(2**63), 2**63 - 1, "", 'a"b', "\u00e9"])
def test_the_id_of_an_answer_is_that_of_its_request(id):
    request = decode(encode_envelope(Envelope("a", id=id)))
    assert json.loads(encode_id(request.id)) == id


def test_an_object_and_a_list_are_read_one_level_deep():
    assert codec.read_fields(b' {"a": [1, {}], "b":"c", "a":2}') == {
        "a": msgspec.Raw(b"2"),
        "b": msgspec.Raw(b'"c"'),
    }
    assert codec.read_items(b"[1, [2 ]]") == [msgspec.Raw(b"1"), msgspec.Raw(b"[2 ]")]


@pytest.mark.parametrize("payload", [b"null", b"5", b'"x"'])
def test_json_of_another_kind_is_no_object_and_no_list(payload):
    assert codec.read_fields(payload) is codec.read_items(payload) is None


@pytest.mark.parametrize(
    ("read", "payload"),
    [
        (codec.read_fields, b""),
        (codec.read_fields, b'{"a":'),
        (codec.read_fields, b'{"a":[1,]}'),
        (codec.read_fields, b'{"a":1} x'),
        (codec.read_fields, b'{"a":' * 100_000),
        (codec.read_items, b"[1,]"),
        (codec.read_items, b"[" * 100_000),
    ],
)
def test_what_is_no_json_is_refused_however_little_of_it_is_built(read, payload):
    with pytest.raises(RemoteProtocolError):
        read(payload)


def test_raw_data_is_passed_on_unless_it_is_too_deep():
    fits, too_deep = (msgspec.Raw(b"[" * depth + b"]" * depth) for depth in (99, 100))
    codec.check_raw(fits)
    assert codec.encode_value(fits) == bytes(fits)
    with pytest.raises(RemoteProtocolError, match="more than 99 levels"):
        codec.check_raw(too_deep)
