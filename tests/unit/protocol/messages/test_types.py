import json
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.messages.codec import decode, encode_value, head
from moorage.protocol.messages.types import (
    PROTOCOL_NAME,
    Authenticate,
    Authenticated,
    ErrorData,
    Gap,
    Goodbye,
    MessageType,
    TopicNames,
    Welcome,
    fields_of,
    read_payload,
    token_of,
    topics_of,
)

PAYLOADS = [
    Authenticate("secret"),
    TopicNames(("a", "b")),
    Welcome("c-1", PROTOCOL_NAME, 30.0, "7", ("a", "b")),
    Welcome("c-1", PROTOCOL_NAME, 30.0),
    Authenticated("7", "2023-01-01T12:00:00Z"),
    Authenticated("7"),
    Goodbye("draining", 2.5),
    Goodbye("draining"),
    Gap(3),
    ErrorData("topic_limit", retryable=False),
]


def message(type="subscribe", **fields):
    return decode(json.dumps({"type": type, **fields}).encode())


def test_the_types_are_those_of_the_protocol():
    assert " ".join(MessageType) == (
        "ping pong authenticate authenticated subscribe subscribed unsubscribe unsubscribed "
        "data published welcome heartbeat gap goodbye error"
    )


@pytest.mark.parametrize("type", MessageType)
def test_every_standard_type_may_be_sent(type):
    assert head(type) == b'{"type":"%b",' % type.value.encode()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_that_was_written_reads_the_same(payload):
    assert read_payload(json.loads(encode_value(payload)), type(payload)) == payload


def test_a_payload_is_written_under_the_names_of_the_protocol():
    assert json.loads(encode_value(Welcome("c-1", PROTOCOL_NAME, 30.0, topics=("a",)))) == {
        "connection_id": "c-1",
        "protocol": "moorage.v1",
        "heartbeat_interval": 30.0,
        "user_id": None,
        "topics": ["a"],
        "expires_at": None,
    }


def test_an_error_code_brings_its_own_word_on_trying_again():
    assert ErrorData.of(ErrorCode.TIMEOUT) == ErrorData("timeout", retryable=True)
    assert ErrorData.of(ErrorCode.FORBIDDEN) == ErrorData("forbidden", retryable=False)


def test_a_code_that_a_newer_server_knows_can_be_read():
    assert read_payload({"code": "brand_new", "retryable": True}, ErrorData).code == "brand_new"


def test_unknown_fields_of_a_payload_are_ignored():
    assert read_payload({"dropped": 3, "since": "then"}, Gap) == Gap(3)


def test_an_integer_will_do_for_a_number_of_seconds():
    assert read_payload({"reason": "r", "reconnect_after": 2}, Goodbye).reconnect_after == 2.0


@pytest.mark.parametrize(
    ("data", "kind", "complaint"),
    [
        (None, Gap, "`data` must be an object"),
        ([], Gap, "`data` must be an object"),
        ("dropped", Gap, "`data` must be an object"),
        ({}, Gap, "`data.dropped`: is required, and missing"),
        ({"dropped": "3"}, Gap, "`data.dropped`: expected an integer"),
        ({"dropped": 3.0}, Gap, "`data.dropped`: expected an integer"),
        ({"dropped": True}, Gap, "`data.dropped`: expected an integer"),
        ({"reason": 3}, Goodbye, "`data.reason`: expected a string"),
        ({"reason": "r", "reconnect_after": "2"}, Goodbye, "expected a number or null"),
        ({"code": "x", "retryable": 1}, ErrorData, "`data.retryable`: expected true or false"),
        ({"topics": "abc"}, TopicNames, "`data.topics`: expected a list of strings"),
        ({"topics": ["a", 5]}, TopicNames, "`data.topics`: expected a list of strings"),
        ({"user_id": "7", "expires_at": 5}, Authenticated, "expected a string or null"),
        (
            {"connection_id": 1, "heartbeat_interval": 10**400, "protocol": "p"},
            Welcome,
            "expected a string; `data.heartbeat_interval`: a number is too large",
        ),
    ],
)
def test_a_payload_of_the_wrong_shape_is_a_bad_message_and_named(data, kind, complaint):
    with pytest.raises(RemoteProtocolError) as caught:
        read_payload(data, kind)
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    assert complaint in str(caught.value)


def test_a_payload_class_of_ones_own_may_have_fields_of_other_kinds():
    @attrs.frozen
    class Order:
        due: datetime
        lines: list[int]

    assert read_payload({"due": "2023-01-01T12:00:00Z", "lines": [1]}, Order) == Order(
        datetime(2023, 1, 1, 12, tzinfo=UTC), [1]
    )
    with pytest.raises(RemoteProtocolError, match=r"`data\.due`: a value of the wrong type"):
        read_payload({"due": "soon", "lines": []}, Order)
    with pytest.raises(RemoteProtocolError, match=r"`data\.lines\[1\]`: expected an integer"):
        read_payload({"due": "2023-01-01T12:00:00Z", "lines": [1, "2"]}, Order)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", sorted({type(p) for p in PAYLOADS}, key=lambda k: k.__name__))
def test_whatever_the_data_is_there_is_a_payload_or_a_bad_message(kind):
    fields = attrs.fields_dict(kind)

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(fields, json_values)))
    def check(data):
        try:
            outcome = type(read_payload(data, kind))
        except RemoteProtocolError as error:
            outcome = error.code
        assert outcome in {kind, ErrorCode.BAD_MESSAGE}

    check()


def test_the_fields_of_an_object_are_its_own_and_of_anything_else_none():
    assert fields_of({"a": 1}) == {"a": 1}
    for value in (None, 5, "text", ["a"]):
        assert fields_of(value) == {}


def test_topics_of_one():
    assert topics_of(message(topic="a.b")) == ("a.b",)
    assert topics_of(message(topic="a.b", data={"other": 1})) == ("a.b",)
    assert topics_of(message(topic="a.b", data="anything")) == ("a.b",)


def test_topics_of_several_keep_their_order_and_come_once():
    assert topics_of(message(data={"topics": ["c", "a", "c", "b", "a"]})) == ("c", "a", "b")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "`subscribe` needs a `topic`, or a list of at least one in `data.topics`"),
        ({"data": None}, "needs a `topic`"),
        ({"data": ["a"]}, "needs a `topic`"),
        ({"data": "a"}, "needs a `topic`"),
        ({"data": {"topic": "a"}}, "needs a `topic`"),
        ({"data": {"topics": []}}, "needs a `topic`"),
        ({"data": {"topics": "a"}}, "`data.topics`: expected a list of strings"),
        ({"data": {"topics": None}}, "`data.topics`: expected a list of strings"),
        ({"data": {"topics": ["a", 1]}}, "`data.topics`: expected a list of strings"),
        ({"topic": "a", "data": {"topics": ["b"]}}, "not both"),
    ],
)
def test_a_subscribe_without_topics_that_can_be_read_is_a_bad_message(fields, complaint):
    with pytest.raises(RemoteProtocolError) as caught:
        topics_of(message(**fields))
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    assert complaint in str(caught.value)


@pytest.mark.parametrize("fields", [{"topic": "a b"}, {"data": {"topics": ["a", "a b"]}}])
def test_names_that_no_topic_can_have_are_left_to_who_answers_each_topic(fields):
    assert topics_of(message(**fields))[-1] == "a b"


def test_the_token_of_an_authenticate():
    assert token_of(message("authenticate", data={"token": "abc"})) == "abc"


@pytest.mark.parametrize(
    "data", [None, "secret", ["secret"], {}, {"token": ""}, {"token": 5}, {"token": ["secret"]}]
)
def test_without_a_token_the_answer_says_where_it_belongs_and_repeats_nothing(data):
    with pytest.raises(RemoteProtocolError, match=r"`data\.token`") as caught:
        token_of(message("authenticate", data=data))
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    assert "secret" not in str(caught.value)


def test_a_message_with_too_many_topics_is_bad():
    """One message of 9,000 topics held the event loop for 90 ms."""
    names = [f"t{number}" for number in range(1001)]
    payload = json.dumps({"type": "subscribe", "data": {"topics": names}}).encode()
    with pytest.raises(
        RemoteProtocolError, match="at most 1000 topics at once, not 1001"
    ) as caught:
        topics_of(decode(payload))
    assert caught.value.code is ErrorCode.BAD_MESSAGE
