"""What can go wrong for a client: five exceptions, told apart by what the program should do.

* `ConnectError`: no connection came about. `ConnectionRefused` is the server's own answer.
* `ConnectionLost`: the connection went while a request was under way; the client reconnects, and
  only the program knows whether sending that request twice would do harm.
* `RequestError`: the server answered, with an error; the connection lives.
* `ClientClosed`: the client is at its end and will not come back.
"""

from __future__ import annotations

from ...protocol.errors import ErrorCode, MoorageError

# HTTP answers that may be different a moment later, besides all of 5xx:
# 408 too slow, 425 too early, 429 too many requests.
_TRANSIENT_STATUS = frozenset({408, 425, 429})


class ConnectError(MoorageError):
    """No connection to the server came about; its text says why."""

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        # True: trying again would end the same way (a certificate that is not trusted).
        self.permanent = permanent
        # Seconds that the server asked to be left alone (the Retry-After header), if it did.
        self.retry_after = retry_after


class ConnectionRefused(ConnectError):
    """The server answered the opening handshake with an HTTP status instead of an upgrade.

    `status` is that HTTP status, `code` the machine-readable error code of the answer's body
    (None when the body is not in the shape of an `error` envelope) and `text` what the body says
    for people.
    """

    def __init__(
        self,
        status: int,
        code: str | None = None,
        text: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        said = f": {text}" if text else ""
        super().__init__(
            f"the server answered HTTP {status}{said}",
            permanent=status < 500 and status not in _TRANSIENT_STATUS,
            retry_after=retry_after,
        )
        self.status = status
        self.code = code
        self.text = text


class ConnectionLost(MoorageError):
    """The connection went before the answer came: the request may or may not have been done.

    `code` is the close code that the server sent; None when none arrived.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        detail = f" ({code})" if code is not None else ""
        super().__init__(f"the connection was lost{detail}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class RequestError(MoorageError):
    """A request was answered with an error, or not in time (`code` is then `timeout`).

    `code` is one of `ErrorCode`, or the text of a code that this version does not know;
    `retryable` tells whether the same request may succeed later, unchanged.
    """

    def __init__(
        self,
        text: str,
        code: ErrorCode | str,
        *,
        retryable: bool = False,
        topic: str | None = None,
    ) -> None:
        super().__init__(f"{text} ({code})" if text else str(code))
        self.text = text
        self.code = code
        self.retryable = retryable
        # The topic that the error is about, where it is about one.
        self.topic = topic


class ClientClosed(MoorageError):
    """The client has ended for good: its context was left, or the server said to stay away.

    `code` is the close code of the last connection: 1000 when this side left, None when a
    reconnection was refused over HTTP (`__cause__` is then the `ConnectionRefused`).
    """

    def __init__(self, code: int | None, reason: str = "") -> None:
        detail = f" ({code})" if code is not None else ""
        super().__init__(f"the client is closed{detail}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason
