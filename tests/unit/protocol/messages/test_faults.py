"""The answers to faulty JSON, that a peer has sent or that a program wants to send."""

import dataclasses
import enum
import math

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.protocol.messages.codec import decode, decode_envelope, encode_value
from moorage.protocol.messages.faults import find_fault, holds_nonfinite


def nested(levels):
    """A message of so many levels, the envelope's own included."""
    return b'{"type":"a","data":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def with_data(data):
    return b'{"type":"a","data":' + data + b"}"


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


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


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


numbers = st.floats() | st.integers(-9, 9) | st.none()
values = st.recursive(
    numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=9,
)


@given(values)
def test_the_quick_look_for_infinity_and_nan_finds_what_the_thorough_one_does(value):
    assert holds_nonfinite(value) is (find_fault(value) is not None)


def test_infinity_is_found_in_sets_tuples_and_enums():
    assert holds_nonfinite({"a": ({1.0, math.inf},)})
    assert holds_nonfinite([Colour.BROKEN])
    assert not holds_nonfinite([Colour.RED, (1.0, {2.0}), "inf"])
