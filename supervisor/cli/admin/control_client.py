"""The client of the control socket: the flags that say where it is, commands, and errors."""

import math
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import trio
from attrs import define, field, frozen
from cyclopts import Group, Parameter

from ....actors.client.backoff import Backoff
from ....actors.client.client import Client, open_client
from ....actors.client.client_errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    RequestError,
)
from ....actors.client.dialing import Address, dial, why_not_dialed
from ....protocol.admin.commands import AnswerT, Command, RequestT
from ....protocol.errors import ErrorCode, RemoteProtocolError
from ....protocol.messages.types import read_payload
from ...config.control_path import default_control_path
from ...config.validators import ConfigurationError
from ..exits import CommandError
from ..target import check_target, token_or_variable
from ..terminal.rendering import json_text, out_json

_GROUP = Group("Server", sort_key=20)

_MAX_ANSWER = 16_777_216
"""Bytes: four times what may wait in the mailbox of an admin session."""

_VARIABLE = "MOORAGE_CONTROL_SOCKET"

_MINT = "`moorage token --user NAME --role admin` mints one, with the server's key"


_FIELD = re.compile(r"`data\.([a-z_]+)`")

FLAG_NAMES: Final = {
    "user_id": "user",
    "connection_ids": "id",
    "message_type": "type",
    "events": "event",
}
"""The flags of those fields of requests that have another name on the command line."""


@frozen(kw_only=True)
class TargetServer:
    """The flags that say where the server is, and with which token to come."""

    control_socket: Annotated[
        Path | None,
        Parameter(
            metavar="PATH",
            group=_GROUP,
            help=f"Its control socket. Without it: ${_VARIABLE}, else where `moorage serve` "
            "makes it by default.",
        ),
    ] = None
    url: Annotated[
        str | None,
        Parameter(
            metavar="URL",
            group=_GROUP,
            help="Its control listener elsewhere, as ws://host:port/ or wss://…; needs a token "
            "with the role `admin`.",
        ),
    ] = None
    token: Annotated[
        str | None,
        Parameter(metavar="TOKEN", group=_GROUP, help="For --url. Without it: $MOORAGE_TOKEN."),
    ] = None
    patience: Annotated[
        float,
        Parameter(
            metavar="SECONDS", group=_GROUP, help="How long to wait for it, and for its answers."
        ),
    ] = 5.0

    def address(self) -> tuple[str, str]:
        """Return the URL to connect to, and its name in texts for people.

        ConfigurationError: the flags contradict each other, or the URL is none.
        """
        if self.url is not None:
            if self.control_socket is not None:
                text = "--control-socket and --url were both given"
                raise ConfigurationError("url", text, allowed="one of them")
            check_target(self.url)
            return self.url, self.url.partition("?")[0]
        path = self.control_socket or Path(os.environ.get(_VARIABLE) or default_control_path())
        return f"ws+unix://{path.absolute()}:/", str(path)

    def bearer(self) -> str | None:
        """Return the token to show; a Unix socket is shown none but that of the flag."""
        return token_or_variable(self.token) if self.url is not None else self.token


ServerFlags = Annotated[TargetServer, Parameter(name="*")]

THIS_MACHINES = TargetServer()
"""The server that is meant where no flag says otherwise."""

AsJson = Annotated[
    bool,
    Parameter(
        name="--json",
        negative=(),
        show_default=False,
        help="Print the server's answer as JSON.",
    ),
]


@define
class _Dialer:
    """Opens the stream to the server, and gives up at once where waiting would not help."""

    server: TargetServer
    name: str
    # Whether to connect again when the connection is lost: `top` does, and a command does not.
    comes_back: bool
    # Set once the session is open: only then can a command have been given.
    connected: bool = field(default=False, init=False)

    async def __call__(self, address: Address) -> trio.abc.Stream:
        if self.connected and not self.comes_back:
            raise ConnectError(f"the connection to {self.name} was lost", permanent=True)
        try:
            return await dial(address)
        except OSError as error:
            if self.connected:
                raise
            raise ConnectError(self._absence(error), permanent=True) from error

    def _absence(self, error: OSError) -> str:
        match error:
            case FileNotFoundError():
                found = "there is no such file"
            case ConnectionRefusedError():
                found = "nobody listens there any more"
            case PermissionError():
                return (
                    f"no access to {self.name}: a control socket is for the user that runs the "
                    "server, and for root"
                )
            case _:
                found = why_not_dialed(error)
        return (
            f"no server at {self.name} ({found}): start one with `moorage serve`, or say where it "
            f"is, with --control-socket PATH, ${_VARIABLE} or --url ws://HOST:PORT/"
        )


@asynccontextmanager
async def reach(server: TargetServer, *, comes_back: bool = False) -> AsyncGenerator[Client, None]:
    """Connect to the server's control socket; CommandError says what to try where that fails.

    Unless it `comes_back`, there is only one connection, so that no command is given twice.
    """
    url, name = server.address()
    token = server.bearer()
    dialer = _Dialer(server, name, comes_back)
    try:
        async with open_client(
            url,
            token=token,
            connect_deadline=server.patience,
            connect_timeout=server.patience,
            request_timeout=server.patience,
            max_message_size=_MAX_ANSWER,
            # A command that has lost its session is told so by the next attempt, so it comes soon.
            backoff=Backoff() if comes_back else Backoff(initial=0.1, maximum=0.1),
            dial=dialer,
        ) as client:
            dialer.connected = True
            yield client
    except ConnectionRefused as error:
        raise CommandError(_refusal(error, name, token)) from error
    except ClientClosed as error:
        if isinstance(error.__cause__, ConnectionRefused):
            raise CommandError(_refusal(error.__cause__, name, token)) from error
        detail = f": {error.reason}" if error.reason else ""
        raise CommandError(f"{name} has ended the session{detail}") from error


def _refusal(error: ConnectionRefused, name: str, token: str | None) -> str:
    said = f": {error.text}" if error.text else ""
    match error.status:
        case 401 if token is None:
            return (
                f"{name} lets nobody in without a token: give one with --token or $MOORAGE_TOKEN; "
                f"{_MINT}"
            )
        case 401 | 403:
            return f"{name} refused this token{said}; {_MINT}"
        case 404:
            return (
                f"{name} is no control socket{said}; the control listener is where the server's "
                "setting `control_port` says, and its path is `/`"
            )
        case _:
            return f"{name} answered HTTP {error.status}{said}"


async def ask(
    client: Client, command: Command[RequestT, Any], request: RequestT | None = None
) -> Any:
    """Have one command done, and return the `data` of its result as it came.

    A command that takes time may take as long as it does, any other `--patience`. CommandError: the
    server refuses. ConnectionLost, RequestError (code `timeout`): it may or may not have been done.
    """
    try:
        timeout = math.inf if command.takes_time else None
        reply = await client.request(command.name, request, timeout=timeout)
    except RequestError as error:
        raise refused(command, error) from error
    return reply.data


def refused(command: Command[Any, Any], error: RequestError) -> Exception:
    """Return the exception for a command that was answered with an error."""
    if error.code == ErrorCode.TIMEOUT:
        return error
    if error.code == ErrorCode.UNKNOWN_TYPE:
        return CommandError(
            f"the server does not know the command `{command.name}`: this is no control socket, "
            "or one of another version"
        )
    return CommandError(_FIELD.sub(_as_flag, error.text or str(error)))


def _as_flag(found: re.Match[str]) -> str:
    """Return the flag for a field of a request."""
    return f"--{FLAG_NAMES.get(found[1], found[1]).replace('_', '-')}"


def read_answer(command: Command[Any, AnswerT], data: Any) -> AnswerT:
    """Read a command's answer into its class; CommandError for one of another version."""
    try:
        return read_payload(data, command.answer)
    except RemoteProtocolError as error:
        raise CommandError(
            f"the answer to `{command.name}` has a form that this version does not know "
            f"({error}); --json prints it as it came"
        ) from error


def once(
    server: TargetServer,
    command: Command[RequestT, Any],
    request: RequestT | None = None,
    *,
    first: Callable[[Client], Awaitable[None]] | None = None,
) -> Any:
    """Connect, have one command done, and leave; return the `data` of its result as it came.

    `first` is awaited before the command is given.
    """

    async def converse() -> Any:
        async with reach(server) as client:
            if first is not None:
                await first(client)
            try:
                return await ask(client, command, request)
            except ConnectionLost as error:
                text = f"{error}, and nobody can tell whether `{command.name}` was done"
                raise CommandError(text) from error

    return trio.run(converse)


def print_json(data: Any) -> None:
    """Print one JSON document: on one line, or on several on a terminal."""
    out_json(json_text(data, indent=2 if sys.stdout.isatty() else None))
