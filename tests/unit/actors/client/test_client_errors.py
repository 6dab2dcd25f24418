import pytest

from moorage.actors.client.client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from moorage.protocol.errors import ErrorCode, MoorageError


@pytest.mark.parametrize("kind", [ClientClosed, ConnectError, ConnectionLost, RequestError])
def test_every_error_of_the_client_is_one_of_moorages(kind):
    assert issubclass(kind, MoorageError)


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        (200, True),
        (301, True),
        (400, True),
        (401, True),
        (403, True),
        (404, True),
        (408, False),
        (425, False),
        (426, True),
        (429, False),
        (500, False),
        (502, False),
        (503, False),
    ],
)
def test_a_refusal_that_time_may_mend_is_not_permanent(status, permanent):
    assert ConnectionRefused(status).permanent is permanent


def test_a_refusal_says_what_the_server_said():
    refusal = ConnectionRefused(403, "forbidden", "not from this page", retry_after=3.0)
    assert str(refusal) == "the server answered HTTP 403: not from this page"
    assert (refusal.status, refusal.code, refusal.retry_after) == (403, "forbidden", 3.0)
    assert str(ConnectionRefused(404)) == "the server answered HTTP 404"


def test_a_connect_error_may_be_tried_again_unless_it_says_otherwise():
    assert not ConnectError("no").permanent
    assert ConnectError("no").retry_after is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionLost(), "the connection was lost"),
        (ConnectionLost(1012), "the connection was lost (1012)"),
        (ConnectionLost(1012, "restart"), "the connection was lost (1012): restart"),
        (ConnectionLost(None, "silence"), "the connection was lost: silence"),
        (ClientClosed(1000, "left"), "the client is closed (1000): left"),
        (ClientClosed(None), "the client is closed"),
        (RequestError("no", ErrorCode.FORBIDDEN), "no (forbidden)"),
        (RequestError("", "brand_new"), "brand_new"),
    ],
)
def test_the_text_has_the_code_and_the_reason(error, text):
    assert str(error) == text
