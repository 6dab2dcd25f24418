"""The errors of a client: five exceptions, each of which calls for another reaction of the program.

* `ConnectError`: no connection could be made. `ConnectionRefused`: the server itself said no.
* `ConnectionLost`: the connection broke while a request was under way. The client reconnects, but
  only the program knows whether it may send that request a second time.
* `RequestError`: the server answered with an error; the connection stays open.
* `ClientClosed`: the client has ended and does not connect again.
"""

from __future__ import annotations

from ...protocol.errors import ErrorCode, MoorageError

# Besides all of 5xx, the HTTP answers that may change soon:
# 408 too slow, 425 too early, 429 too many requests.
_TRANSIENT_STATUS = frozenset({408, 425, 429})


class ConnectError(MoorageError):
    """No connection to the server could be made; the text says why."""

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        # True: another attempt would fail in the same way (the certificate is not trusted).
        self.permanent = permanent
        # Seconds that the server asked the client to wait (the Retry-After header), if it did.
        self.retry_after = retry_after


class ConnectionRefused(ConnectError):
    """The server answered the opening handshake with an HTTP status instead of an upgrade.

    `status` is that HTTP status. `code` is the machine-readable error code in the answer's body, or
    None when the body is no `error` envelope. `text` is what the body says for people.
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
    """The connection broke before the answer came: the server may have done the request or not.

    `code` is the close code that the server sent, or None when none arrived; `reason` is the text
    that came with it.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        detail = f" ({code})" if code is not None else ""
        super().__init__(f"the connection was lost{detail}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class RequestError(MoorageError):
    """The server answered a request with an error, or gave no answer in time (code `timeout`).

    `text` says what was wrong, for people. `code` is one of `ErrorCode`, or the text of a code that
    this version does not know. `retryable` tells whether the same request, unchanged, may succeed
    later.
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
        # The topic that the error is about, or None.
        self.topic = topic


class ClientClosed(MoorageError):
    """The client has ended: the program left its context, or the server told it to stay away.

    `code` is the close code of the last connection. It is 1000 when the program left, and None when
    the server refused to let the client reconnect (`__cause__` is then the `ConnectionRefused`).
    `reason` is the text that came with the code.
    """

    def __init__(self, code: int | None, reason: str = "") -> None:
        detail = f" ({code})" if code is not None else ""
        super().__init__(f"the client is closed{detail}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason
