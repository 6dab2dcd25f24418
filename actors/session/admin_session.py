"""The admin session: the same actor as every session, with other commands.

It lives by the same deadlines, has the same kind of mailbox, and is ended the same way. What it may
ask for are the admin commands; what they do is the supervisor's business, behind `CommandPort`. A
command that takes its time runs in a task of the session, beside further commands, so that one
connection can watch a drain and ask for statistics meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar, Final, Protocol

from ...protocol.admin.commands import AnswerType
from ...protocol.errors import ErrorCode, ProtocolError, RemoteProtocolError
from ...protocol.messages.codec import Incoming, encode_value, head
from ...protocol.messages.types import MessageType
from ..entrance.handshake import Accepted
from ..ports import ActorPort
from .handlers import finish
from .requests import Request, authenticate, ping
from .session import Session

_MAX_UNFINISHED: Final = 16
"""Commands of one session that may be under way at one time."""


class CommandPort(Protocol):
    """What an admin session asks its supervisor for."""

    def run(
        self,
        session: ControlSession,
        command: str,
        data: Any,
        on_progress: Callable[[Any], None],
    ) -> Any | Coroutine[Any, Any, Any]:
        """Do a command, or return the coroutine that does; its result is ready for JSON.

        RemoteProtocolError: there is no such command, or it cannot be done as asked.
        """
        ...


class ControlSession(Session):
    """An operator's connection."""

    __slots__ = ("_commands", "_unfinished")

    requests: ClassVar[Mapping[str, Request]] = {
        MessageType.PING: ping,
        MessageType.AUTHENTICATE: authenticate,
    }

    def __init__(self, port: ActorPort, accepted: Accepted, commands: CommandPort) -> None:
        super().__init__(port, accepted)
        self._commands = commands
        self._unfinished = 0  # commands under way

    @property
    def who(self) -> str:
        """Who acts here, for the log: the token's user and address, or the peer's process."""
        if self.user_id is None:
            return self.address
        return f"{self.user_id} at {self.address}" if self.address else self.user_id

    def refuse(self, message: Incoming, error: ProtocolError) -> None:
        """Answer a command that cannot be done; asking wrongly is no reason to close."""
        if isinstance(error, RemoteProtocolError):
            self.answer_error(message, error)
        else:
            super().refuse(message, error)

    def _run_other(self, message: Incoming) -> Awaitable[None] | None:
        """Do one command, or start a task that does."""
        if message.topic is not None:
            text = "a command has no `topic`: what it is about goes into `data`"
            raise RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)
        on_progress = partial(self._answer, AnswerType.PROGRESS, message.id)
        result = self._commands.run(self, message.type, message.value(), on_progress)
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
        return None

    async def _run_command(self, message: Incoming, result: Coroutine[Any, Any, Any]) -> None:
        try:
            await finish(self, message, self._answer_when_done(message, result))
        finally:
            self._unfinished -= 1

    async def _answer_when_done(self, message: Incoming, result: Awaitable[Any]) -> None:
        self._answer(AnswerType.RESULT, message.id, await result)

    def _answer(self, answer: AnswerType, request_id: str | int | None, data: Any) -> None:
        self.say(head(answer, id=request_id), encode_value(data))
