"""The client's half of the opening handshake: from an open stream to an open WebSocket.

trio-websocket speaks the protocol, and the client uses its public interface only. This file shields
the rest of the client from five properties of it (version 0.12.2):

* Its reader task raises into the nursery that it was given: for a refusal, for a bad answer, and
  for a ping that arrives while the client closes. So it gets a nursery of its own, and what it
  raises ends there.
* If the server closes the connection before it has answered, `wrap_client_stream` waits without an
  end; and it collects the body of a refusal without a limit. So the stream beneath it raises in
  both cases.
* A send that is cancelled half-way leaves half a frame on the wire. So the stream closes itself
  then, and nothing can be written after the half.
* `aclose` returns at once, with the socket open, if the peer closed first. So the caller that
  opened the stream closes the stream.
* It counts the characters of a text, and a character has up to four bytes. So it bounds the memory
  of a message, and the keeper of the connection counts the bytes of the whole one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import Any, Final, cast

import trio
import trio_websocket
from attrs import define, field

from ...protocol.messages.types import PROTOCOL_NAME, fields_of
from .backoff import parse_retry_after
from .client_errors import ConnectError, ConnectionRefused
from .dialing import TLS_PERHAPS, Address

# Bytes of the answer to the upgrade request, the body of a refusal included.
MAX_ANSWER: Final = 65_536

# A record of the type `alert` (RFC 8446, section 5.1): what a TLS server says to other bytes.
_TLS_ALERT: Final = b"\x15\x03"

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")

_log: Final = logging.getLogger("moorage.client")


@define(eq=False)
class WatchedStream(trio.abc.Stream):
    """The stream beneath trio-websocket: it notes when bytes arrive, and raises when it fails.

    Cancelling `send_all` closes the stream; cancelling the other methods is safe.
    """

    inner: trio.abc.Stream
    # How many seconds one write may take.
    write_timeout: float
    # Whether there is no TLS beneath it: a server that wants TLS then hangs up.
    is_plain: bool = False
    # When the last bytes came from the server, by `trio.current_time()`; the watch for silence
    # reads it.
    heard_at: float = field(factory=trio.current_time, init=False)
    # Set once nothing more can arrive: the server closed, or the stream broke.
    ended: trio.Event = field(factory=trio.Event, init=False)
    # The bytes of the server's answer so far; None once the server has accepted the upgrade.
    _answer: bytearray | None = field(factory=bytearray, init=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the data, or close the stream, since nothing may follow half a frame.

        Raises `trio.BrokenResourceError` if the server takes no bytes for `write_timeout` seconds.
        """
        try:
            with trio.fail_after(self.write_timeout):
                await self.inner.send_all(data)
        except BaseException as error:
            await trio.aclose_forcefully(self.inner)
            if isinstance(error, trio.TooSlowError):
                raise trio.BrokenResourceError("the server takes no more bytes") from error
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the inner stream can be written to."""
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what has arrived, or b"" at the end.

        Raises `ConnectError` when the stream ends or `MAX_ANSWER` bytes have come without a proper
        answer to the upgrade request.
        """
        try:
            data = await self.inner.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.ended.set()
            if self._answer is not None:
                raise self._no_upgrade() from error
            raise
        if not data:
            self.ended.set()
            if self._answer is not None:
                raise self._no_upgrade()
            return data
        self.heard_at = trio.current_time()
        if self._answer is not None:
            self._answer += data
            self._check_answer(self._answer)
        return data

    async def aclose(self) -> None:
        """Close the inner stream."""
        self.ended.set()
        await self.inner.aclose()

    def _check_answer(self, answer: bytearray) -> None:
        status = _STATUS_LINE.match(answer)
        if status is not None and status[1] == b"101" and b"\r\n\r\n" in answer:
            # From here on, the limits of trio-websocket apply.
            self._answer = None
        elif answer.startswith(_TLS_ALERT):
            raise ConnectError("this port speaks TLS; try wss://")
        elif len(answer) > MAX_ANSWER:
            raise ConnectError(
                f"the server answered the upgrade request with more than {MAX_ANSWER} bytes"
            )

    def _no_upgrade(self) -> ConnectError:
        # A refusal is complete if its body ends where the connection ends (RFC 9112, section 6.3).
        head, end, body = bytes(self._answer or b"").partition(b"\r\n\r\n")
        status = _STATUS_LINE.match(head)
        if status is None or not end:
            hint = TLS_PERHAPS if self.is_plain and not head else ""
            return ConnectError(
                f"the server closed the connection without answering the upgrade{hint}"
            )
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        return _refusal(int(status[1]), [(name, value) for name, _, value in lines], body)


async def run_websocket(
    stream: WatchedStream,
    address: Address,
    headers: list[tuple[bytes, bytes]],
    max_message_size: int,
    *,
    task_status: trio.TaskStatus[trio_websocket.WebSocketConnection],
) -> None:
    """Do the opening handshake on a stream, report the open WebSocket, and run it to its end.

    It is made for `nursery.start`, which raises `ConnectError` if the server does not upgrade.
    Later on it raises nothing: when the connection breaks, the task that reads from the WebSocket
    gets the error. The caller closes the stream. A message of more than `max_message_size`
    characters ends the connection while it arrives. Cancelling is safe.
    """
    failure: ConnectError | None = None
    upgraded = False
    try:
        async with trio.open_nursery() as nursery:
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                # The parameter is annotated for sockets and TLS, but any stream will do.
                cast("Any", stream),
                address.host_header,
                address.resource,
                subprotocols=[PROTOCOL_NAME],
                extra_headers=headers,
                max_message_size=max_message_size,
                receive_buffer_size=None,
            )
            upgraded = True
            task_status.started(websocket)
    except* Exception as group:  # noqa: BLE001 - only trio-websocket's reader runs in there
        failure = _explain(_first(group))
        _log.debug("%s: the WebSocket broke: %s", address, failure)
    if failure is not None and not upgraded:
        raise failure


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = group.exceptions[0]
    return error


def _explain(error: BaseException) -> ConnectError:
    match error:
        case ConnectError():
            return error
        case trio_websocket.ConnectionRejected():
            return _refusal(error.status_code, error.headers, error.body or b"")
        case _:
            failure = ConnectError(f"the server's answer to the upgrade request is wrong: {error}")
            failure.__cause__ = error
            return failure


def _refusal(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> ConnectionRefused:
    """Read an HTTP refusal; its body is an `error` envelope if a Moorage server sent it."""
    retry_after: float | None = None
    for name, value in headers:
        if name.strip().lower() == b"retry-after":
            retry_after = parse_retry_after(value.decode("latin-1"))
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    envelope = fields_of(said)
    text, code = envelope.get("error"), fields_of(envelope.get("data")).get("code")
    return ConnectionRefused(
        status,
        code if isinstance(code, str) else None,
        # The beginning of a proxy's error page is enough to recognise it.
        text if isinstance(text, str) else body[:200].decode("utf-8", "replace").strip(),
        retry_after=retry_after,
    )
