"""The app: endpoints, message handlers, authorizers and callbacks that a program registers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from ..actors.connection.raw import RawConnection
from ..actors.entrance.endpoint import Endpoint, UpgradeRequest
from ..actors.entrance.handshake import Answer
from ..actors.session.session import Authorizer, Handler, Session
from ..protocol.access import USER_ID, Action
from ..protocol.closing import CloseCause
from ..protocol.messages.envelope import FIELD_RULES, is_legal_type
from ..protocol.messages.topics import require_topic
from ..protocol.messages.types import MessageType

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
AuthorizerT = TypeVar("AuthorizerT", bound=Authorizer)

ConnectAuthorizer = Callable[[UpgradeRequest], Answer]
ConnectedCallback = Callable[[Session | RawConnection], Awaitable[None] | None]
DisconnectedCallback = Callable[[Session | RawConnection, CloseCause], Awaitable[None] | None]
ConnectAuthorizerT = TypeVar("ConnectAuthorizerT", bound=ConnectAuthorizer)
ConnectedT = TypeVar("ConnectedT", bound=ConnectedCallback)
DisconnectedT = TypeVar("DisconnectedT", bound=DisconnectedCallback)

_RESERVED: Final = frozenset(MessageType)


class App:
    """The endpoints, handlers and hooks of a program; pass it to `open_supervisor`.

    An app without an endpoint gets the standard one, at the `path` of the settings. Register
    everything before the supervisor opens. Several supervisors may serve the same app.
    """

    def __init__(self) -> None:
        # For the supervisor: the endpoints by path, and the handlers by message type.
        self.endpoints: dict[str, Endpoint] = {}
        self.handlers: dict[str, Handler] = {}
        # For the supervisor: the hooks that may refuse, each None or absent until it is registered.
        self.authorizers: dict[Action, Authorizer] = {}
        self.connect_authorizer: ConnectAuthorizer | None = None
        # For the supervisor: the functions to call, in the order in which they were registered.
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

        The function is async and takes the connection. It is cancelled when the connection ends;
        when it returns, the connection goes on. Every client is subscribed to `topics`, in which
        `{user_id}` stands for its user. `require_auth` None leaves it to the settings whether a
        token is needed; `authenticate_by_message` lets the token come in the first message.
        `max_message_size` is in bytes. The function of a `raw` endpoint iterates over `str` and
        `bytes` messages, and its connection ends when it returns.

        ValueError or TypeError: the path is taken, the arguments do not fit together, or the
        function takes other arguments. LocalProtocolError: a topic's name is illegal.
        """
        _check_parentheses(path, "endpoint", "/ws")

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
        """Serve a path, as `endpoint` does, with or without a function; return the endpoint."""
        if not path.startswith("/"):
            raise ValueError(f"an endpoint's path begins with a slash, as in '/ws', not {path!r}")
        if path in self.endpoints:
            raise ValueError(f"there is an endpoint at {path!r} already")
        if isinstance(topics, str):
            raise TypeError(f"`topics` is a set of topics, such as {{{topics!r}}}, not one string")
        names = tuple(topics)
        for name in names:
            require_topic(name.replace(USER_ID, "x"))
        if raw and (function is None or names or authenticate_by_message):
            raise ValueError(
                "a raw endpoint needs a function, and can have neither `topics` nor "
                "`authenticate_by_message`: Moorage does not know its messages"
            )
        if function is not None:
            _check_takes(function, "endpoint(connection)")
            if not _is_async(function):
                raise TypeError(
                    "an endpoint's function is `async def`: it runs beside the connection"
                )
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
        """Handle a message type of the program's own with `handler(context, message)`.

        A plain function runs at once. An async one runs in a task of the connection, within
        `handler_timeout`, and is cancelled with the connection; further messages of the connection
        wait until it is done. ValueError: the type is illegal, the protocol's own, or taken.
        TypeError: the function does not take these two arguments.
        """
        _check_parentheses(message_type, "on", "chat")
        if not is_legal_type(message_type):
            raise ValueError(f"a message type is {FIELD_RULES['type']}, not {message_type!r}")
        if message_type in _RESERVED:
            raise ValueError(f"{message_type!r} belongs to the protocol itself")
        if message_type in self.handlers:
            raise ValueError(f"there is a handler of {message_type!r} already")

        def register(function: FunctionT) -> FunctionT:
            _check_takes(function, "handler(context, message)")
            self.handlers[message_type] = function
            return function

        return register

    def authorize_connect(self, function: ConnectAuthorizerT) -> ConnectAuthorizerT:
        """Ask this function, sync or async, before a client is let in; only False refuses it.

        It takes the `UpgradeRequest`, to whose `metadata` it may add, and answers within
        `handshake_timeout`. ValueError: there is such a function already. TypeError: it takes
        other arguments; so it is with all hooks.
        """
        _check_takes(function, "authorizer(request)")
        if self.connect_authorizer is not None:
            raise ValueError("there is a function that authorizes connecting already")
        self.connect_authorizer = function
        return function

    def authorize_subscribe(self, function: AuthorizerT) -> AuthorizerT:
        """Ask this function, `f(connection, topic)`, sync or async; False refuses a subscription.

        It is asked after the settings and the token have allowed it, and answers within
        `authorize_timeout`. ValueError: there is such a function already.
        """
        self._authorize("subscribe", function)
        return function

    def authorize_publish(self, function: AuthorizerT) -> AuthorizerT:
        """Ask this function, `f(connection, topic)`, sync or async; False refuses a publication.

        It is asked for every publication of a client, after the settings and the token have allowed
        it, and answers within `authorize_timeout`. ValueError: there is such a function already.
        """
        self._authorize("publish", function)
        return function

    def _authorize(self, action: Action, function: Authorizer) -> None:
        _check_takes(function, "authorizer(connection, topic)")
        # A second one must not take the place of the first: what that refuses would be allowed.
        if action in self.authorizers:
            raise ValueError(f"there is a function that authorizes to {action} already")
        self.authorizers[action] = function

    def connected(self, function: ConnectedT) -> ConnectedT:
        """Call this function, sync or async, with every connection that has been let in.

        An async one runs within `handler_timeout`, and is cancelled with the connection.
        """
        _check_takes(function, "callback(connection)")
        self.connected_callbacks.append(function)
        return function

    def disconnected(self, function: DisconnectedT) -> DisconnectedT:
        """Call this function, sync or async, with each ended connection, and its `CloseCause`.

        The connection's `topics` and `subscriptions` are those that it had when it ended.
        An async one runs within `handler_timeout`; a server that stops waits for it.
        """
        _check_takes(function, "callback(connection, cause)")
        self.disconnected_callbacks.append(function)
        return function


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    )


def _check_parentheses(given: object, name: str, example: str) -> None:
    """Refuse a function where a name is expected: the decorator was written without parentheses."""
    if not isinstance(given, str):
        is_bare = callable(given)
        raise TypeError(
            f"expected `@app.{name}({example!r})`, with what it is for in parentheses, not "
            + (f"`@app.{name}` alone" if is_bare else f"{given!r}")
        )


def _check_takes(function: Callable[..., Any], form: str) -> None:
    """Refuse a function that cannot be called in this form, such as `handler(context, message)`."""
    if not callable(function):
        raise TypeError(f"expected a function to be called as {form}, not {function!r}")
    arguments = form[form.index("(") + 1 : -1].split(", ")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C do not tell theirs
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"expected {form}, not {name}{signature}: {error}") from None
