"""The answers to admin commands."""

from __future__ import annotations

import attrs
import msgspec

from moorage.protocol.admin import answers
from moorage.protocol.messages.codec import encode_value


def test_answers_are_values_that_json_can_say():
    answer = answers.Actor(
        "supervisor", "supervisor", "serving", children=(answers.Actor("delivery", "service", ""),)
    )
    read = msgspec.json.decode(encode_value(answer))
    assert read["children"][0]["name"] == "delivery"
    assert set(read) == {field.name for field in attrs.fields(answers.Actor)}
