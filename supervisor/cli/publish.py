"""`moorage publish`: publish one message, and tell by the exit code whether it was taken."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import trio
from cyclopts import Parameter

from ...actors.client.client import open_client
from ..config.validators import ConfigurationError
from .target import Target, Timeout, Token, check_target, token_or_variable
from .terminal.rendering import compact

_DATA = "The payload, as JSON; `-` reads it from standard input, `@FILE` from a file."


def publish(
    url: Target,
    /,
    *,
    topic: Annotated[str, Parameter(metavar="TOPIC", help="Topic to publish to.")],
    data: Annotated[str, Parameter(metavar="JSON", allow_leading_hyphen=True, help=_DATA)] = "null",
    token: Token = None,
    timeout: Timeout = 5.0,
) -> None:
    """Publish one message to a topic.

    The command waits for the server's answer. The exit code is 0 if the server
    took the message. If it refused it, its reason is printed, and the code is 1.

    For example:
      $ moorage publish ws://127.0.0.1:8765/ws --topic news --data '{"n": 1}'
      $ date +'"%c"' | moorage publish ws://127.0.0.1:8765/ws --topic clock --data -
      $ moorage publish wss://example.org/ws --topic orders --data @order.json
    """
    check_target(url)
    payload = read_data(data)

    async def publish_it() -> None:
        async with open_client(
            url,
            token=token_or_variable(token),
            connect_deadline=timeout,
            request_timeout=timeout,
        ) as client:
            await client.publish(topic, payload)

    trio.run(publish_it)


def read_data(data: str) -> Any:
    """Return the payload that `--data` gives; raises ConfigurationError where that is not JSON."""
    text, where = data, "--data"
    try:
        if data == "-":
            text, where = sys.stdin.read(), "standard input"
        elif data.startswith("@"):
            text, where = Path(data[1:]).read_text("utf-8"), data[1:]
    except OSError as error:
        raise ConfigurationError("data", f"{data[1:]} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("data", f"{where} is not UTF-8 text") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            "data",
            f"this is not JSON: {error}",
            allowed=f"JSON; a text is written with its quotes, as in --data '{compact('hello')}'",
            source=where,
        ) from error
