import pytest

from moorage.protocol.closing import CloseCause, CloseCode, is_sendable_close_code, should_reconnect


@pytest.mark.parametrize("code", [4000, 4007, 4123, 4499])
def test_codes_of_the_lower_half_of_the_private_range_mean_come_back(code):
    assert should_reconnect(code)


@pytest.mark.parametrize("code", [4500, 4505, 4777, 4999])
def test_codes_of_the_upper_half_of_the_private_range_mean_stay_away(code):
    assert not should_reconnect(code)


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1011, 1012, 1013, 1014])
def test_ends_that_time_may_mend_mean_come_back(code):
    assert should_reconnect(code)


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003])
def test_ends_that_would_only_recur_mean_stay_away(code):
    assert not should_reconnect(code)


@pytest.mark.parametrize("code", [0, 999, 2000, 3500, 5000, 65535])
def test_a_code_that_nobody_defined_means_come_back(code):
    assert should_reconnect(code)


def test_every_code_of_our_own_is_named_as_its_range_says():
    come_back = {code.name for code in CloseCode if code >= 4000 and should_reconnect(code)}
    assert come_back == {
        "DRAIN",
        "HEARTBEAT_TIMEOUT",
        "CONNECTION_TIMEOUT",
        "SLOW_CONSUMER",
        "TOKEN_EXPIRED",
        "RATE_LIMITED",
        "POSITION_LOST",
        "RECONNECT",
        "MESSAGE_TIMEOUT",
    }


def test_sendable_codes_are_those_of_rfc_6455_and_its_registry():
    sendable = {code for code in range(-1, 70_000) if is_sendable_close_code(code)}
    assert sendable == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


@pytest.mark.parametrize("code", CloseCode)
def test_every_close_code_that_has_a_name_may_be_sent(code):
    assert is_sendable_close_code(code)


@pytest.mark.parametrize("cause", CloseCause)
def test_a_cause_has_a_name_for_logs_and_a_reason_that_fits_a_close_frame(cause):
    assert cause.value == cause.name.lower()
    assert CloseCause(cause.value) is cause
    # RFC 6455 section 5.5: 125 bytes, two of which are the code.
    assert 0 < len(cause.reason.encode()) <= 123


def test_only_where_the_socket_is_past_use_does_a_cause_have_no_code():
    assert {cause for cause in CloseCause if cause.code is None} == {
        CloseCause.PEER_VANISHED,
        CloseCause.WRITE_TIMEOUT,
    }


def test_only_an_internal_error_is_unexpected():
    assert [cause for cause in CloseCause if not cause.expected] == [CloseCause.INTERNAL_ERROR]


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (CloseCause.PEER_CLOSED, 1000),
        (CloseCause.ENDPOINT_FINISHED, 1000),
        (CloseCause.STOPPED, 1001),
        (CloseCause.INTERNAL_ERROR, 1011),
        (CloseCause.DRAINED, 4000),
        (CloseCause.SLOW_CONSUMER, 4003),
        (CloseCause.DISCONNECTED, 4503),
        (CloseCause.SESSION_ENDED, 4505),
    ],
)
def test_the_code_of_a_cause_is_the_one_in_the_protocol(cause, code):
    assert cause.code == code
