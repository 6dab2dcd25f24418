"""The admin session: the actor of an operator's connection.

It has the same deadlines and the same kind of mailbox as a client's session, and ends in the same
way. Its requests are the admin commands, which the supervisor carries out, behind `CommandPort`. A
command that has to wait runs in a task of the session, beside further commands. So an operator can
wait for a drain and ask for statistics meanwhile, over one connection. A command is begun before
the next one is looked at: `resume` behind `drain` ends that draining.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol, cast

import attrs
import msgspec
import trio

from ...protocol.admin.commands import AnswerType
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.messages.codec import Incoming, encode_value, head
from ..connection.shared import Shared
from ..entrance.handshake import Accepted
from .message_connection import MessageConnection
from .requests import COMMON_REQUESTS

_MAX_UNFINISHED: Final = 16
"""Commands of one session that may be under way at the same time."""


_ROWS_PER_TURN: Final = 200
"""Rows of an answer that are encoded in one turn of the loop: 1.5 ms."""


class CommandPort(Protocol):
    """The port through which an admin session has its commands carried out."""

    def run(
        self,
        session: AdminSession,
        command: str,
        data: msgspec.Raw,
        on_progress: Callable[[Any], None],
    ) -> Any | Coroutine[Any, Any, Any]:
        """Carry out a command and return its result, or a coroutine that returns the result.

        `data` is JSON, and empty where the message has none. The result can be encoded as JSON.
        `on_progress` takes what is reported before the result.
        RemoteProtocolError: there is no such command, or it cannot be done as asked.
        """
        ...

    def unwatch(self, session: AdminSession) -> None:
        """End the session's stream of events, and deliver what is owed of it."""
        ...


class AdminSession(MessageConnection):
    """An operator's connection."""

    __slots__ = ("_commands", "_unfinished")

    def __init__(self, shared: Shared, accepted: Accepted, commands: CommandPort) -> None:
        super().__init__(shared, accepted, COMMON_REQUESTS)
        self._commands = commands
        self._unfinished = 0  # commands under way

    @property
    def operator(self) -> str:
        """The operator, for the log: the token's user and address, or the peer's process."""
        if self.user_id is None:
            return self.address
        return f"{self.user_id} at {self.address}" if self.address else self.user_id

    def refuse(self, message: Incoming, error: ProtocolError) -> None:
        """Answer a command that cannot be done; a wrong command never closes the connection."""
        if isinstance(error, RemoteProtocolError):
            self.answer_error(message, error)
        else:
            super().refuse(message, error)

    def _arrive(self) -> None:
        self._announce()
        if self.is_open:
            self._say_welcome(())

    def _deliver_owed(self) -> None:
        self._commands.unwatch(self)

    def _report_dropped(self, topic: str, messages: int) -> None:
        """Report nothing: the line would be an event, and for a stuck watcher the next loss."""

    def _run_other(self, message: Incoming) -> Awaitable[None] | None:
        """Carry out a command, or start a task that does, and return what waits for its start."""
        if message.topic is not None:
            text = "a command has no `topic`: put its parameters into `data`"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        on_progress = partial(self._answer, AnswerType.PROGRESS, message.id)
        result = self._commands.run(self, message.type, message.data, on_progress)
        if not inspect.iscoroutine(result):
            self._answer(AnswerType.RESULT, message.id, result)
            return None
        if self._unfinished >= _MAX_UNFINISHED or self.nursery is None:
            result.close()
            text = f"{self._unfinished} commands of this connection are under way already"
            raise RemoteProtocolError(text, ErrorCode.RATE_LIMITED)
        name = f"command {message.type} of {self.id}"
        self._unfinished += 1
        self.nursery.start_soon(self._run_command, message, result, name=name)
        return _one_turn_of_all_tasks()

    async def _run_command(self, message: Incoming, result: Coroutine[Any, Any, Any]) -> None:
        try:
            await self.finish(message, self._answer_when_done(message, result))
        finally:
            self._unfinished -= 1
            if self._ending is not None and not self._has_work():
                self._finish()

    def _has_work(self) -> bool:
        return self._unfinished > 0 or super()._has_work()

    async def _answer_when_done(self, message: Incoming, result: Awaitable[Any]) -> None:
        data = await encode_answer(await result)
        self.say(head(AnswerType.RESULT, id=message.id), data)

    def _answer(self, answer: AnswerType, request_id: str | int | None, data: Any) -> None:
        self.say(head(answer, id=request_id), encode_value(data))


async def _one_turn_of_all_tasks() -> None:
    """Return when a task that was just started has run up to its first wait.

    Trio runs the tasks of a turn in any order. If a task that runs now starts another, both have
    their next step in the next turn; only in the one after that it is certain that the other began.
    """
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()


async def encode_answer(answer: Any) -> bytes:
    """Return an answer as JSON, as `encode_value` does, with turns for other tasks in between.

    A page of 1,000 connections takes 7 ms. Cancelling is safe.
    """
    if not _is_long(answer):
        return encode_value(answer)
    members: list[bytes] = []
    for field in _fields(answer):
        value: Any = getattr(answer, field.name)
        data = await _encode_rows(_rows(value)) if _rows(value) else encode_value(value)
        members.append(encode_value(field.name) + b":" + data)
    return b"{" + b",".join(members) + b"}"


async def _encode_rows(rows: tuple[Any, ...]) -> bytes:
    encoded: list[bytes] = []
    if any(map(_is_long, rows)):
        encoded = [await encode_answer(row) for row in rows]
    else:
        for begin in range(0, len(rows), _ROWS_PER_TURN):
            encoded.append(encode_value(rows[begin : begin + _ROWS_PER_TURN])[1:-1])
            await trio.lowlevel.checkpoint()
    return b"[" + b",".join(encoded) + b"]"


def _is_long(answer: Any) -> bool:
    """Return whether an answer, or a part of it, has more rows than one turn encodes."""
    if not attrs.has(cast("type[Any]", type(answer))):
        return False
    parts = (_rows(getattr(answer, field.name)) for field in _fields(answer))
    return any(len(rows) > _ROWS_PER_TURN or any(map(_is_long, rows)) for rows in parts)


def _fields(answer: object) -> tuple[attrs.Attribute[Any], ...]:
    return attrs.fields(cast("Any", type(answer)))


def _rows(value: object) -> tuple[Any, ...]:
    """Return the rows of a field; none if it has no rows."""
    return cast("tuple[Any, ...]", value) if isinstance(value, tuple) else ()
