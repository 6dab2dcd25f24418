"""The contestants: their names, the packages they need, and the commands that start them."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from attrs import field, frozen

from bench.installing import (
    HERE,
    Environment,
    Unavailable,
    compiled,
    install_node,
    install_python,
)

FILES = HERE / "contestants"


@frozen
class Demands:
    """The limits that a scenario needs; a server's default is raised only if it is lower."""

    connections: int = 0
    connections_per_topic: int = 0
    messages_per_second: int = 0
    """The rate that one connection may reach; 0: it stays well below the default."""
    mailbox: int = 0
    """Bytes that may be on their way to one healthy connection."""
    jwt_key: str = ""
    """The secret that the load's tokens are signed with."""


@frozen
class Contestant:
    """One server that can be measured."""

    name: str
    about: str
    command: Callable[[Environment, Demands], list[str]]
    """Returns the command that starts it, without the port, which is last. Raises Unavailable."""
    prepare: Callable[[Environment], None]
    """Installs what it needs. Raises Unavailable."""
    port_flag: tuple[str, ...] = ()
    dialect: str = "plain"
    """`plain`: bare envelopes; `socketio`: envelopes in Socket.IO events."""
    scenarios: frozenset[str] = field(default=frozenset())
    """The scenarios in which it takes part by default; empty: all."""


def _moorage(environment: Environment, demands: Demands) -> list[str]:
    """Return `moorage serve` with its defaults: authentication, statistics and limits are on."""
    del environment
    flags = ["--jwt-key", demands.jwt_key]
    # (the limit that is needed, the default, the flag)
    raised = (
        (demands.connections, 10_000, "--max-total-connections"),
        (demands.connections_per_topic, 1_000, "--max-connections-per-topic"),
        (demands.messages_per_second, 100_000, "--message-rate"),
        (demands.mailbox, 1_048_576, "--max-mailbox-size"),
    )
    for needed, default, flag in raised:
        if needed > default:
            flags += [flag, str(needed)]
    if demands.messages_per_second > 100_000:
        flags += ["--byte-rate", str(demands.messages_per_second * 1_000)]
    return [str(Path(sys.executable).with_name("moorage")), "serve", *flags]


def _moorage_is_there(environment: Environment) -> None:
    del environment
    if not Path(sys.executable).with_name("moorage").exists():
        raise Unavailable("no `moorage` command beside this interpreter: `make setup` installs it")


def _limit(environment: Environment, demands: Demands) -> list[str]:
    del environment, demands
    return [str(compiled("limit", FILES / "limit.c"))]


def _compile_limit(environment: Environment) -> None:
    del environment
    compiled("limit", FILES / "limit.c")


def _python(file: str) -> Callable[[Environment, Demands], list[str]]:
    return lambda environment, _demands: [str(environment.python), str(FILES / file)]


def _websockets_with_token(environment: Environment, demands: Demands) -> list[str]:
    file = FILES / "websockets_server.py"
    return [str(environment.python), str(file), "--jwt-key", demands.jwt_key]


def _packages(*names: str) -> Callable[[Environment], None]:
    return lambda environment: install_python(environment, ("msgspec", *names))


def _node(file: str) -> Callable[[Environment, Demands], list[str]]:
    return lambda _environment, _demands: ["node", str(FILES / file)]


def _node_packages(environment: Environment) -> None:
    del environment
    install_node()


_ALL = (
    Contestant("moorage", "this project", _moorage, _moorage_is_there, port_flag=("--port",)),
    Contestant("limit", "a C loop of bare recv() and send()", _limit, _compile_limit),
    Contestant(
        "uwebsockets",
        "uWebSockets (C++) through socketify, native publish",
        _python("uwebsockets_server.py"),
        _packages("socketify"),
    ),
    Contestant(
        "picows",
        "picows (Cython) on uvloop",
        _python("picows_server.py"),
        _packages("picows", "uvloop"),
    ),
    Contestant(
        "websockets",
        "websockets on asyncio, broadcast()",
        _python("websockets_server.py"),
        _packages("websockets", "pyjwt"),
    ),
    Contestant(
        "websockets+token",
        "the same, verifying the token of each handshake",
        _websockets_with_token,
        _packages("websockets", "pyjwt"),
        scenarios=frozenset({"connect"}),
    ),
    Contestant(
        "trio-websocket",
        "trio-websocket, as in its documentation",
        _python("trio_websocket_server.py"),
        _packages("trio-websocket"),
    ),
    Contestant(
        "python-socketio",
        "python-socketio under uvicorn",
        _python("socketio_server.py"),
        _packages("python-socketio", "uvicorn"),
        dialect="socketio",
    ),
    Contestant(
        "channels",
        "Django Channels under daphne, in-memory layer",
        _python("channels_server.py"),
        _packages("channels", "daphne"),
    ),
    Contestant("ws", "Node's ws", _node("ws_server.js"), _node_packages),
    Contestant(
        "socket.io",
        "Node's socket.io",
        _node("socketio_server.js"),
        _node_packages,
        dialect="socketio",
    ),
)

CONTESTANTS: Mapping[str, Contestant] = MappingProxyType({each.name: each for each in _ALL})
"""All contestants by name. Moorage is the first, since the others are compared with it."""
