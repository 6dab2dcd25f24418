"""What an embedding program registers: endpoints, message handlers, authorizers, callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from ..actors.connection.connection import Connection
from ..actors.entrance.endpoint import Endpoint, UpgradeRequest
from ..actors.entrance.handshake import Answer
from ..actors.ports import Authorizer, Handler
from ..protocol.access import Action
from ..protocol.closing import CloseCause
from ..protocol.messages.envelope import FIELD_RULES, is_legal_type
from ..protocol.messages.topics import check_topic
from ..protocol.messages.types import MessageType

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

ConnectAuthorizer = Callable[[UpgradeRequest], Answer]
ConnectedCallback = Callable[[Connection], Awaitable[None] | None]
DisconnectedCallback = Callable[[Connection, CloseCause], Awaitable[None] | None]

_RESERVED: Final = frozenset(MessageType)


class App:
    """What a program adds to the server; pass it to `open_supervisor`.

    An app without an endpoint gets the standard one, at the `path` of the settings. Registering is
    over when the supervisor opens; the same app may serve several supervisors.
    """

    def __init__(self) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.handlers: dict[str, Handler] = {}
        self.authorizers: dict[Action, Authorizer] = {}
        self.connect_authorizer: ConnectAuthorizer | None = None
        self.connected_callbacks: list[ConnectedCallback] = []
        self.disconnected_callbacks: list[DisconnectedCallback] = []

    def endpoint(
        self,
        path: str,
        *,
        topics: Iterable[str] = (),
        require_auth: bool | None = None,
        authenticate_by_message: bool = False,
        raw: bool = False,
        subprotocols: Iterable[str] = (),
        max_message_size: int | None = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Serve a path; the decorated function runs beside each of its connections.

        The function takes the connection, may do nothing but wait, and is cancelled with it; when
        it returns, the connection goes on. `topics` are subscribed to on every client's behalf
        (`{user_id}` stands for its user). `require_auth` None leaves it to the settings;
        `authenticate_by_message` lets the token come in the first message. A `raw` endpoint's
        function iterates over `str` and `bytes` messages instead, and its end is the connection's.

        ValueError or TypeError: the path is taken, or the parts do not fit together.
        """

        def register(function: FunctionT) -> FunctionT:
            self.add_endpoint(
                path,
                function,
                topics=topics,
                require_auth=require_auth,
                authenticate_by_message=authenticate_by_message,
                raw=raw,
                subprotocols=subprotocols,
                max_message_size=max_message_size,
            )
            return function

        return register

    def add_endpoint(
        self,
        path: str,
        function: Callable[..., Any] | None = None,
        *,
        topics: Iterable[str] = (),
        require_auth: bool | None = None,
        authenticate_by_message: bool = False,
        raw: bool = False,
        subprotocols: Iterable[str] = (),
        max_message_size: int | None = None,
    ) -> Endpoint:
        """Serve a path, as `endpoint` does; without a function nothing runs beside."""
        if not path.startswith("/"):
            raise ValueError(f"an endpoint's path begins with a slash, as in '/ws', not {path!r}")
        if path in self.endpoints:
            raise ValueError(f"there is an endpoint at {path!r} already")
        if isinstance(topics, str):
            raise TypeError(f"`topics` is a set of topics, such as {{{topics!r}}}, not one string")
        names = tuple(topics)
        for name in names:
            check_topic(name.replace("{user_id}", "x"))
        if raw and (function is None or names or authenticate_by_message):
            raise ValueError(
                "a raw endpoint needs a function, and has neither topics nor `authenticate`: "
                "its messages are its own"
            )
        if function is not None and not _is_async(function):
            raise TypeError("an endpoint's function is `async def`: it runs beside the connection")
        if authenticate_by_message and require_auth is None:
            require_auth = True
        endpoint = Endpoint(
            path,
            names,
            require_auth,
            authenticate_by_message,
            handler=None if raw else function,
            raw_handler=function if raw else None,
            subprotocols=tuple(subprotocols),
            max_message_size=max_message_size,
        )
        self.endpoints[path] = endpoint
        return endpoint

    def on(self, message_type: str) -> Callable[[FunctionT], FunctionT]:
        """Handle a message type of the program's own: `handler(context, message)`.

        A plain function runs at once. An async one runs in a task of the connection, within
        `handler_timeout`, and is cancelled with it; the connection's further messages wait their
        turn behind it. ValueError: the type is illegal, the protocol's own, or taken.
        """
        if not is_legal_type(message_type):
            raise ValueError(f"a message type is {FIELD_RULES['type']}, not {message_type!r}")
        if message_type in _RESERVED:
            raise ValueError(f"{message_type!r} belongs to the protocol itself")
        if message_type in self.handlers:
            raise ValueError(f"there is a handler of {message_type!r} already")

        def register(function: FunctionT) -> FunctionT:
            self.handlers[message_type] = function
            return function

        return register

    def authorize_connect(self, function: ConnectAuthorizer) -> ConnectAuthorizer:
        """Ask this function, sync or async, before a client is let in; False refuses it.

        It is given the `UpgradeRequest`, whose `metadata` it may fill.
        """
        self.connect_authorizer = function
        return function

    def authorize_subscribe(self, function: Authorizer) -> Authorizer:
        """Ask this function, `f(connection, topic)`, sync or async; False refuses a subscription.

        It is asked after the settings and the token have allowed it, and answers within
        `authorize_timeout`.
        """
        self.authorizers["subscribe"] = function
        return function

    def authorize_publish(self, function: Authorizer) -> Authorizer:
        """Ask this function, `f(connection, topic)`, sync or async; False refuses a publication.

        It is asked for every single one, after the settings and the token have allowed it.
        """
        self.authorizers["publish"] = function
        return function

    def connected(self, function: FunctionT) -> FunctionT:
        """Call this function with every connection that has arrived."""
        self.connected_callbacks.append(function)
        return function

    def disconnected(self, function: FunctionT) -> FunctionT:
        """Call this function with every connection that has ended, and its `CloseCause`."""
        self.disconnected_callbacks.append(function)
        return function


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    )
