"""Running the program's message handlers: at once where they are plain functions, or to the end.

Nothing that a handler does leaves here but the answer to its message. A handler that fails is
logged and answered with `internal`, one that takes too long with `timeout`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import trio

from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.messages.codec import Incoming
from ...protocol.messages.topics import check_topic
from .context import Context

if TYPE_CHECKING:
    from .session import Session


def run_handler(session: Session, message: Incoming) -> Awaitable[None] | None:
    """Let the program's handler of the message's type do it; return what is left to await."""
    handler = session.port.handlers.get(message.type)
    if handler is None:
        text = f"nothing here handles messages of type {message.type!r}"
        raise RemoteProtocolError(text, ErrorCode.UNKNOWN_TYPE)
    if message.topic is not None:
        check_topic(message.topic)
    result: object = handler(Context(session, message), message.envelope())
    if inspect.isawaitable(result):
        return result
    _expect_nothing(message, result)
    return None


async def finish(session: Session, message: Incoming, unfinished: Awaitable[Any]) -> None:
    """Await what a message has started, within `handler_timeout`, and answer if it fails."""
    scope = trio.move_on_after(session.port.limits.handler_timeout)
    try:
        with scope:
            _expect_nothing(message, await unfinished)
    except ProtocolError as error:
        session.refuse(message, error)
    except Exception as error:  # noqa: BLE001 - containment
        on_handler_error(session, message, error)
    if scope.cancelled_caught:
        session.port.traffic.handler_timeouts += 1
        session.log("error", "handler_timed_out", message_type=message.type)
        text = f"`{message.type}` was not done in time, and was given up"
        session.answer_error(message, RemoteProtocolError(text, ErrorCode.TIMEOUT))


def on_handler_error(session: Session, message: Incoming, error: Exception) -> None:
    """Log a handler's failure, and tell the client no more than that there was one."""
    session.port.traffic.handler_errors += 1
    session.log("error", "handler_failed", message_type=message.type, exc_info=error)
    text = f"`{message.type}` failed on the server"
    session.answer_error(message, RemoteProtocolError(text, ErrorCode.INTERNAL))


def _expect_nothing(message: Incoming, result: object) -> None:
    """Refuse a value that a handler returned, since it would be lost."""
    if result is not None:
        text = (
            f"the handler of {message.type!r} returned a {type(result).__name__}, which goes "
            "nowhere; to answer a message, call `context.reply(type, data)`"
        )
        raise TypeError(text)
