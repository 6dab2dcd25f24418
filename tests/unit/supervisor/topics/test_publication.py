"""A publication: all that subscribers need of a message, and its frame, made once."""

from __future__ import annotations

import json

import msgspec
import pytest

from moorage.protocol.messages.codec import head
from moorage.supervisor.topics.publication import Publication
from tests.fakes_routing import Subscriber, texts

STAMP = b"2026-01-01T00:00:00.000Z"


def of(data: bytes | msgspec.Raw, **more) -> Publication:
    return Publication("t", "said", head("said", "t"), data, STAMP, **more)


def test_its_frame_is_a_message_with_topic_data_and_stamp():
    (text,) = texts(of(b'{"a":1}').frame())
    assert json.loads(text) == {
        "type": "said",
        "topic": "t",
        "data": {"a": 1},
        "timestamp": STAMP.decode(),
    }


@pytest.mark.parametrize("data", ['{ "b":1.0 , "a" : 1e400 }', '"\\u00e9é"', "[]"])
def test_what_a_client_published_goes_out_byte_by_byte(data):
    raw = msgspec.Raw(data.encode())
    assert f'"data":{data},'.encode() in of(raw).frame()


def test_nobody_is_left_out_unless_it_is_said():
    assert of(b"1").left_out == frozenset()
    out = Subscriber("out")
    assert out in of(b"1", left_out=frozenset({out})).left_out
