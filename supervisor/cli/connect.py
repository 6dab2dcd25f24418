"""`moorage connect`: send what is typed, print what arrives."""

import json
import logging
import re
import sys
from typing import Annotated, Any, Final, cast

import attrs
import trio
from cyclopts import Parameter

from ...actors.client.client import Client, open_client
from ...actors.client.client_errors import RequestError
from ...actors.client.message_buffer import MessageBuffer
from ...protocol.errors import ErrorCode, LocalProtocolError
from ...protocol.messages.codec import encode_envelope
from ...protocol.messages.envelope import Envelope
from ...protocol.messages.types import MessageType
from .exits import Exit
from .target import Target, Timeout, Token, check_target, token_or_variable
from .terminal.display import Display
from .terminal.input import lines
from .terminal.rendering import out, out_json, readable, say

_TOPIC = "Topic to subscribe to. Repeatable; what is typed is published to the first."
_LISTEN = "Stay connected after the end of the input."
_JSON = "Print each message as its JSON, one on a line."

_NOBODYS_TOPIC: Final = "moorage.connect.end_of_input"

# It begins the id on the wire of a message that has a number as its id, or a text that begins so.
# The client numbers its own requests, and must not take an answer to a typed one for its own.
_TYPED: Final = "#"
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")


def connect(
    url: Target,
    /,
    *,
    topic: Annotated[list[str] | None, Parameter(metavar="TOPIC", negative=(), help=_TOPIC)] = None,
    token: Token = None,
    timeout: Timeout = 5.0,
    listen: Annotated[bool, Parameter(negative=(), show_default=False, help=_LISTEN)] = False,
    json_: Annotated[
        bool, Parameter(name="--json", negative=(), show_default=False, help=_JSON)
    ] = False,
) -> int:
    """Connect to a server, print what arrives and send what is typed.

    A line that is a JSON object with a "type" is sent as that message. Any
    other line is published to the first --topic: as JSON if it is JSON, as a
    text if it is not; a line that begins with { must be JSON. Answers are
    printed when they come, and nothing waits for them. A lost connection is
    made again.

    On a terminal, the messages of a topic that have the type "progress", and
    numbers "done" and "total" in their data, are shown as a bar.

    The input may be a pipe. At its end, the command waits for the answers,
    prints them and ends; the exit code is 1 if anything was refused. With
    --listen it stays connected.

    For example:
      $ moorage connect ws://127.0.0.1:8765/ws --topic news --topic orders
      $ tail -f app.log | moorage connect ws://127.0.0.1:8765/ws --topic log
      $ moorage connect wss://example.org/ws --topic news --json --listen </dev/null
      $ echo '{"type": "ping", "id": 1}' | moorage connect ws://127.0.0.1:8765/ws
    """
    check_target(url)
    # The client logs lost connections, and when it will try again.
    logging.basicConfig(handlers=[_Remarks()])
    logging.getLogger("moorage.client").setLevel(logging.INFO)
    conversation = Conversation(topics=tuple(topic or ()), as_json=json_, listen=listen)
    return trio.run(conversation.run, url, token_or_variable(token), timeout)


@attrs.define
class Conversation:
    """One run of `moorage connect`, from connecting to the end of the input."""

    topics: tuple[str, ...]
    as_json: bool
    # True: the end of the input does not end the run.
    listen: bool
    # Shows messages on a terminal; None where the output is no terminal and gets plain lines.
    display: Display | None = attrs.field(init=False, default=None)
    # True once the server, or the command itself, has refused something: the exit code says so.
    refused: bool = attrs.field(init=False, default=False)

    async def run(self, url: str, token: str | None, patience: float) -> int:
        """Connect, send the input, print what arrives; return the exit code."""
        if sys.stdout.isatty() and not self.as_json:
            self.display = Display()
        try:
            async with (
                open_client(
                    url,
                    token=token,
                    topics=self.topics,
                    connect_deadline=patience,
                    request_timeout=patience,
                ) as client,
                trio.open_nursery() as nursery,
            ):
                self._greet(client, url)
                nursery.start_soon(self._print_all, client)
                await self._send_all(client)
                if self.listen:
                    await trio.sleep_forever()
                await self._deliver_owed(client)
                nursery.cancel_scope.cancel()
        finally:
            if self.display is not None:
                self.display.close()
        return Exit.FAILURE if self.refused else Exit.OK

    def _greet(self, client: Client, url: str) -> None:
        if not sys.stdin.isatty():
            return
        who = f"as {client.user_id}" if client.user_id else "as an anonymous user"
        say(f"connected to {url} {who}. Ctrl-D ends.")
        if self.topics:
            say(f"subscribed to {', '.join(self.topics)}; what you type goes to {self.topics[0]}.")
        else:
            say('type messages, such as {"type": "subscribe", "topic": "news"}.')

    async def _print_all(self, client: Client) -> None:
        async for message in client.messages():
            self._print(attrs.evolve(message, id=typed_id(message.id)))

    def _print(self, message: Envelope) -> None:
        if message.type == MessageType.ERROR:
            self.refused = True
        if self.as_json:
            out_json(encode_envelope(message).decode())
        elif self.display is not None:
            self.display.show(message)
        else:
            out(readable(message))

    async def _send_all(self, client: Client) -> None:
        async for line in lines():
            if not line.strip():
                continue
            try:
                message = parse_line(line, self.topics)
                await client.send(
                    message.type, message.data, topic=message.topic, id=wire_id(message.id)
                )
            except LocalProtocolError as error:
                self.refused = True
                say(str(error))

    async def _deliver_owed(self, client: Client) -> None:
        """Wait until the server has dealt with all that was sent, and print its answers.

        The server deals with messages in order, so an answer to the last one says that the others
        are done. The last one is an unsubscribe, because a ping overtakes messages that wait for
        the program's handlers. What a handler has published leaves in the server's next tick; the
        answer to the second ping comes after that.
        """
        if client.statistics().connections > 1:
            say("the connection was lost for a while, and some of the input may be lost with it")
            self.refused = True
        try:
            await client.request(MessageType.UNSUBSCRIBE, topic=_NOBODYS_TOPIC)
        except RequestError as error:
            if error.code == ErrorCode.TIMEOUT:
                say("the server is still busy with the input; wait longer for it with --timeout")
                self.refused = True
            # Any other error, such as "not subscribed", is an answer as well.
        await client.request(MessageType.PING)
        await client.request(MessageType.PING)
        waiting = cast("MessageBuffer", client.messages())
        while len(waiting):
            await trio.lowlevel.checkpoint()


def parse_line(line: str, topics: tuple[str, ...]) -> Envelope:
    """Return the message that a typed line stands for.

    Raises LocalProtocolError, which says what would be right, where there is none.
    """
    problem = ""
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        problem, value = _json_problem(line, error), line
    except RecursionError:
        problem, value = "this has too many brackets within each other", line
    # A line of a log may begin with a bracket or a quote, but hardly with a brace.
    if problem and line.lstrip().startswith(("{",) if topics else ("{", "[", '"')):
        raise LocalProtocolError(problem, ErrorCode.BAD_MESSAGE)
    if isinstance(value, dict) and "type" in value:
        fields = cast("dict[str, Any]", value)
        known = ("type", "topic", "data", "id")
        return Envelope(**{name: fields[name] for name in known if name in fields})
    if not topics:
        what = 'this object has no "type", and ' if isinstance(value, dict) else ""
        raise LocalProtocolError(
            f"{what}there is no topic to publish this to: give --topic, or type a message, such as "
            '{"type": "subscribe", "topic": "news"}',
            ErrorCode.BAD_MESSAGE,
        )
    return Envelope(type=MessageType.DATA, topic=topics[0], data=value)


def _json_problem(line: str, error: ValueError) -> str:
    """Return what is wrong with a line that is not JSON, and where."""
    if not isinstance(error, json.JSONDecodeError):
        return f"this is not JSON: {error}"
    what = error.msg[:1].lower() + error.msg[1:]
    rest = line[error.pos :].rstrip()
    where = f"at {rest[:20]!r}" if rest else "at the end of the line"
    return f"this is not JSON: {what}, character {error.pos + 1}, {where}"


def wire_id(typed: str | int | None) -> str | None:
    """Return the id that is sent for a typed one: a text that no request of the client has."""
    if isinstance(typed, int) or (typed is not None and typed.startswith(_TYPED)):
        return f"{_TYPED}{typed}"
    return typed


def typed_id(wire: str | int | None) -> str | int | None:
    """Return the id that was typed for the one on the wire."""
    if not isinstance(wire, str) or not wire.startswith(_TYPED):
        return wire
    rest = wire.removeprefix(_TYPED)
    if rest.startswith(_TYPED):
        return rest
    return int(rest) if _INTEGER.fullmatch(rest) else wire


class _Remarks(logging.Handler):
    """Prints what the client logs, which may have words of the server in it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message of one record."""
        say(record.getMessage())
