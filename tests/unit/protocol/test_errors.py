import copy
import pickle

import pytest

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import (
    ErrorCode,
    LocalProtocolError,
    MoorageError,
    ProtocolError,
    RemoteProtocolError,
    shorten,
)


def test_the_codes_are_those_of_the_protocol():
    assert " ".join(ErrorCode) == (
        "bad_message unknown_type unauthorized token_expired forbidden bad_topic not_subscribed "
        "topic_limit subscription_limit rate_limited too_large timeout internal unavailable"
    )


def test_only_what_passes_with_time_is_retryable():
    assert {code for code in ErrorCode if code.retryable} == {
        ErrorCode.RATE_LIMITED,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
    }


@pytest.mark.parametrize("kind", [RemoteProtocolError, LocalProtocolError])
def test_both_sides_errors_are_protocol_errors_and_ours(kind):
    assert issubclass(kind, ProtocolError)
    assert issubclass(kind, MoorageError)


def test_nobody_is_both_local_and_remote():
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)


def test_an_error_reads_as_its_message_and_knows_the_rest():
    error = RemoteProtocolError(
        "no such thing", ErrorCode.FORBIDDEN, topic="a.b", close=CloseCause.FORBIDDEN
    )
    assert str(error) == "no such thing"
    assert error.message == "no such thing"
    assert error.code is ErrorCode.FORBIDDEN
    assert error.topic == "a.b"
    assert error.close is CloseCause.FORBIDDEN


def test_topic_and_close_are_none_unless_given():
    error = LocalProtocolError("no", ErrorCode.INTERNAL)
    assert error.topic is None
    assert error.close is None


@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copying_and_pickling(clone):
    error = clone(
        RemoteProtocolError("no", ErrorCode.BAD_TOPIC, topic="t", close=CloseCause.BAD_MESSAGES)
    )
    assert type(error) is RemoteProtocolError
    assert (str(error), error.code) == ("no", ErrorCode.BAD_TOPIC)
    assert (error.topic, error.close) == ("t", CloseCause.BAD_MESSAGES)


def test_quoted_text_is_ascii_and_bounded():
    assert shorten("a\x00é\ud800") == r"'a\x00\xe9\ud800'"
    assert shorten("x" * 40) == repr("x" * 40)
    assert shorten("x" * 65_536) == repr("x" * 40) + "..."
