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


def nested(levels):
    """A message of so many levels, the envelope's own included."""
    return b'{"type":"a","data":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


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


# Each kind of malformed message, and the answer that it gets.
MALFORMED = {
    "nothing": (b"", "the message is empty"),
    "white space": (b" \n", "the message is empty"),
    "an array": (b"[]", 'one JSON object, such as {"type":"ping"}, not an array'),
    "an array around a message": (b'[{"type":"a"}]', "not an array"),
    "a string": (b'"ping"', "not a string"),
    "an integer": (b"3", "not an integer"),
    "a number": (b"3.5", "not a number with a fraction"),
    "a number too large, alone": (b"1e999", "a number"),
    "true": (b"true", "not true or false"),
    "null": (b"null", "not null"),
    "text that is not JSON": (b"hello", "this is not JSON"),
    "a Python dict": (b"{'type':'a'}", "keys must be strings"),
    "NUL alone": (b"\x00", "this is not JSON"),
    "NUL in a string": (b'{"type":"a\x00"}', "this is not JSON"),
    "NUL in data": (with_data(b'"\x00"'), "this is not JSON"),
    "NUL after the message": (b'{"type":"a"}\x00', "trailing characters"),
    "NUL escaped in the type": (b'{"type":"a\\u0000"}', r"not 'a\x00'"),
    "a line break in a string": (with_data(b'"a\nb"'), "this is not JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"type":"a"}', "this is not JSON"),
    "UTF-16": ('{"type":"a"}'.encode("utf-16-le"), "this is not JSON"),
    "bytes that are not UTF-8": (b'{"type":"\xff"}', "text in UTF-8"),
    "bytes that are not UTF-8 as data": (with_data(b"\xff"), "this is not JSON"),
    "a lone surrogate in the type": (b'{"type":"\\ud800"}', "half of a surrogate pair"),
    "a lone surrogate in data": (with_data(b'"\\ud800"'), "half of a surrogate pair"),
    "a lone surrogate deep in data": (with_data(b'{"a":["\\uDC00 "]}'), "half of a surrogate pair"),
    "a lone surrogate as a key": (b'{"type":"a","\\ud800":1}', "half of a surrogate pair"),
    "a lone surrogate in a field unknown": (b'{"type":"a","u":"\\udfff"}', "half of a surrogate"),
    "surrogates in the wrong order": (with_data(b'"\\udc00\\ud800"'), "half of a surrogate pair"),
    "a surrogate before a letter": (with_data(b'"\\ud800\\u0041"'), "half of a surrogate pair"),
    "a message cut short": (b'{"type":"a","data":{"x":1', "ends before it is complete"),
    "a string cut short": (b'{"type":"a', "ends before it is complete"),
    "an escape cut short": (b'{"type":"a\\', "ends before it is complete"),
    "two messages": (b'{"type":"a"}{"type":"b"}', "trailing characters"),
    "a trailing comma": (b'{"type":"a",}', "trailing comma"),
    "a comment": (b'{"type":"a"/**/}', "this is not JSON"),
    "NaN": (with_data(b"NaN"), "this is not JSON"),
    "infinity": (with_data(b"-Infinity"), "this is not JSON"),
    "a leading zero": (with_data(b"01"), "invalid number"),
    "a plus sign": (with_data(b"+1"), "this is not JSON"),
    "a hexadecimal number": (with_data(b"0x10"), "this is not JSON"),
    "a bad escape": (with_data(b'"\\x41"'), "invalid escaped character"),
    "a key that is not a string": (b'{"type":"a",1:2}', "keys must be strings"),
    "no type": (b"{}", "`type` is missing"),
    "no type, but other fields": (b'{"topic":"a","data":1}', "`type` is missing"),
    "a type in capitals": (b'{"Type":"a"}', "`type` is missing"),
    "type null": (b'{"type":null}', "`type` must be a string of 1 to 64"),
    "type a number": (b'{"type":1}', "`type` must be a string of 1 to 64"),
    "type an object": (b'{"type":{}}', "not an object"),
    "type empty": (b'{"type":""}', "`type` must be a string of 1 to 64"),
    "type with a space": (b'{"type":"a b"}', "not 'a b'"),
    "type with a letter from elsewhere": ('{"type":"é"}'.encode(), r"not '\xe9'"),
    "type of 65 characters": (b'{"type":"' + b"a" * 65 + b'"}', "1 to 64 characters"),
    "type of 64 KiB": (b'{"type":"' + b"a" * 65_536 + b'"}', "1 to 64 characters"),
    "topic a number": (b'{"type":"a","topic":1}', "`topic` must be a string, not an integer"),
    "topic a list": (b'{"type":"a","topic":["a"]}', "`topic` must be a string, not an array"),
    "timestamp a number": (b'{"type":"a","timestamp":1.5}', "`timestamp` must be a string"),
    "error an object": (b'{"type":"a","error":{}}', "`error` must be a string, not an object"),
    "epoch a number": (b'{"type":"a","epoch":0}', "`epoch` must be a string"),
    "id true": (b'{"type":"a","id":true}', "`id` must be a string of up to 64"),
    "id a fraction": (b'{"type":"a","id":1.5}', "`id` must be a string of up to 64"),
    "id a list": (b'{"type":"a","id":[1]}', "`id` must be"),
    "id of 65 characters": (b'{"type":"a","id":"' + b"x" * 65 + b'"}', "up to 64 characters"),
    "id of 2^63": (b'{"type":"a","id":9223372036854775808}', "an integer of 64 bits"),
    "id of 2^64": (b'{"type":"a","id":18446744073709551616}', "an integer of 64 bits"),
    "id of -2^63-1": (b'{"type":"a","id":-9223372036854775809}', "an integer of 64 bits"),
    "id of 5,000 digits": (b'{"type":"a","id":' + b"9" * 5000 + b"}", "an integer of 64 bits"),
    "id beyond a double": (b'{"type":"a","id":1e400}', "an integer of 64 bits"),
    "offset negative": (b'{"type":"a","offset":-1}', "`offset` must be an integer from 0"),
    "offset of 2^63": (b'{"type":"a","offset":9223372036854775808}', "`offset` must be"),
    "offset of 2^64": (b'{"type":"a","offset":18446744073709551616}', "`offset` must be"),
    "offset a fraction": (b'{"type":"a","offset":1.5}', "not a number with a fraction"),
    "offset a string": (b'{"type":"a","offset":"1"}', "not a string"),
    "101 levels": (nested(101), "up to 100 levels"),
    "10,000 levels of arrays": (nested(10_000), "up to 100 levels"),
    "10,000 levels of objects": (with_data(b'{"a":' * 9_999 + b"1" + b"}" * 9_999), "100 levels"),
    "10,000 levels, never closed": (b"[" * 10_000, "not an array"),
    "10,000 levels of data, never closed": (b'{"type":"a","data":' + b"[" * 10_000, "100 levels"),
}


@pytest.mark.parametrize(("payload", "answer"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_gets_a_clear_answer(payload, answer):
    for read in (decode, decode_envelope):
        with pytest.raises(RemoteProtocolError) as caught:
            read(payload)
        assert caught.value.code is ErrorCode.BAD_MESSAGE
        assert answer in str(caught.value)
        # It is sent back: what the peer sent must not make it long, nor unfit for a log line.
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


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
    BROKEN = math.nan


@attrs.frozen
class Point:
    x: float
    note: object = None


@dataclasses.dataclass
class Line:
    points: list[Point]


class Flat(msgspec.Struct):
    x: float
    me: "Flat | None" = None


# cattrs leaves classes like these whole for msgspec.
@attrs.frozen
class Holder:
    flat: Flat = attrs.Factory(lambda: Flat(1.0))
    line: Line = attrs.Factory(lambda: Line([]))


@attrs.define
class Loop:
    me: object = None


@dataclasses.dataclass
class Knot:
    me: "Knot | None" = None


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


def loop_of_lists():
    loop = []
    loop.append(loop)
    return loop


def loop_of_objects():
    loop = Loop()
    loop.me = {"again": [loop]}
    return loop


def flat_loop():
    flat = Flat(1.0)
    flat.me = flat
    return flat


def knot():
    knot = Knot()
    knot.me = knot
    return knot


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


UNWRITABLE = {
    "NaN": (math.nan, "`data` cannot be sent: it is nan"),
    "infinity in a flat dict": ({"a": math.inf}, "`data.a` cannot be sent: it is inf"),
    "infinity deep down": ({"a": [1, None, {"b": -math.inf}]}, "`data.a[2].b`"),
    "NaN in an attrs class": ([Point(math.nan)], "`data[0].x`"),
    "NaN in a dataclass": (Line([Point(1, {"y": math.nan})]), "`data.points[0].note.y`"),
    "NaN in a Struct": ({"s": Flat(math.nan)}, "`data.s.x`"),
    "NaN in a Struct in an attrs class": (Holder(flat=Flat(math.nan)), "`data.flat.x`"),
    "NaN in a dataclass in one": (Holder(line=Line([Point(math.nan)])), "`data.line.points[0].x`"),
    "NaN in an enum": (Colour.BROKEN, "it is nan"),
    "an object": ({"a": object()}, "`data.a` cannot be sent: JSON has no form for a object"),
    "a function": ([len], "`data[0]`"),
    "a complex number": (1 + 2j, "no form for a complex"),
    "an object in a class": (Point(1, object()), "`data.note`"),
    "a tuple as a key": ({"a": {(1, 2): 3}}, "`data.a` cannot be sent: it has the key '(1, 2)'"),
    "None as a key": ({None: 1}, "keys must be strings or numbers"),
    "a lone surrogate": ({"a": "\ud800"}, "`data.a` cannot be sent: half of a surrogate pair"),
    "a lone surrogate as a key": ({"\ud800": 1}, r"in the key '\ud800', half of a surrogate pair"),
    "an integer of 5,000 digits": ([10**5000], "`data[0]`"),
    "a list that holds itself": (loop_of_lists(), "holds itself"),
    "an object that holds itself": (loop_of_objects(), "holds itself"),
    "a dataclass that holds itself": (knot(), "holds itself"),
    "a Struct that holds itself": ([flat_loop()], "holds itself"),
    "100 levels, as the envelope is one more": (deep(100), "more than 99 levels"),
    "10,000 levels": (deep(10_000), "more than 99 levels"),
}


@pytest.mark.parametrize(("value", "complaint"), UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_what_json_cannot_say_is_refused_and_its_place_named(value, complaint):
    with pytest.raises(LocalProtocolError) as caught:
        encode_value(value)
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    assert complaint in str(caught.value)


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
