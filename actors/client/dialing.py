"""The way from a URL to an open stream: addresses, and dialing them."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias, cast
from urllib.parse import quote, urlsplit

import trio
from attrs import frozen

from .client_errors import ConnectError

# The characters that a request target may hold (RFC 3986, sections 3.3 and 3.4) although urllib
# calls them unsafe, and "%", since the URL may be quoted already.
_TARGET_SAFE: Final = "/%:@!$&'()*+,;=~-._?"


@frozen
class Address:
    """The address of a server, and the resource to ask it for."""

    # Used to connect, for the Host header and to check the TLS certificate.
    host: str
    port: int
    # The path and the query of the request.
    resource: str
    # None: no TLS.
    ssl_context: ssl.SSLContext | None = None
    # The Unix socket to connect to instead of host and port; None: use those.
    unix_socket: Path | None = None

    @property
    def host_header(self) -> str:
        """The value of the Host header, without the port if it is the scheme's usual one.

        Source: RFC 9110, section 7.2.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 80 if self.ssl_context is None else 443
        return host if self.port == usual else f"{host}:{self.port}"

    def __str__(self) -> str:
        return str(self.unix_socket) if self.unix_socket else f"{self.host}:{self.port}"


# What is said after an error that a wrong scheme may have caused.
NO_TLS_PERHAPS: Final = "; if this port does not speak TLS, try ws://"
TLS_PERHAPS: Final = "; if this port speaks TLS, try wss://"

# A function that opens the stream to an address. A program gives its own to go through a proxy or
# to stay in memory. It may raise OSError or ConnectError.
Dial: TypeAlias = Callable[[Address], Awaitable[trio.abc.Stream]]


def parse_address(
    url: str, *, ssl_context: ssl.SSLContext | None = None, unix_socket: Path | None = None
) -> Address:
    """Read a `ws://`, `wss://` or `ws+unix:///path/to.sock:/ws` URL.

    `unix_socket`, if given, replaces the URL's host and port as the place to connect to. Raises
    `ValueError` when the URL is not one of these; the text does not repeat the query, since that
    may hold a token.
    """
    if url.startswith("ws+unix://"):
        path, _, resource = url.removeprefix("ws+unix://").partition(":/")
        if not path.startswith("/"):
            raise ValueError("expected ws+unix:///absolute/path.sock:/ws")
        url, unix_socket = f"ws://localhost/{resource}", Path(path)
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError("expected a URL such as ws://host:8765/ws, wss://… or ws+unix:///x.sock:/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not hold a user name or password: give `token` instead")
    if parts.fragment:
        raise ValueError("a WebSocket URL has no #fragment (RFC 6455, section 3)")
    if parts.scheme == "wss":
        ssl_context = ssl_context or ssl.create_default_context()
    elif ssl_context is not None:
        raise ValueError("`ssl_context` is for wss:// URLs; this connection would be unencrypted")
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(
        host=parts.hostname,
        port=parts.port or (80 if ssl_context is None else 443),
        resource=quote(resource, safe=_TARGET_SAFE),
        ssl_context=ssl_context,
        unix_socket=unix_socket,
    )


async def dial(address: Address) -> trio.abc.Stream:
    """Open the stream to a server: TCP or a Unix socket, with TLS on it if the address says so.

    Raises `OSError` when nothing listens there, and `ConnectError` when the TLS handshake fails.
    Has no deadline of its own. Cancelling is safe: it closes what was open.
    """
    plain: trio.SocketStream
    if address.unix_socket is not None:
        plain = await trio.open_unix_socket(str(address.unix_socket))
    else:
        plain = await trio.open_tcp_stream(address.host, address.port)
    if address.ssl_context is None:
        return plain
    encrypted = trio.SSLStream(
        plain, address.ssl_context, server_hostname=address.host, https_compatible=True
    )
    try:
        await encrypted.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(plain)
        if not isinstance(error, trio.BrokenResourceError):
            raise
        cause = error.__cause__
        raise ConnectError(
            f"TLS failed: {_why_no_tls(cause or error)}",
            permanent=isinstance(cause, ssl.SSLCertVerificationError),
        ) from error
    return encrypted


def why_not_dialed(error: OSError) -> str:
    """Return in a few words why no stream could be opened: `connection refused`.

    A name may stand for several addresses, and each may fail for a reason of its own.
    """
    cause = error.__cause__
    group = cast("ExceptionGroup[Exception]", cause) if isinstance(cause, ExceptionGroup) else None
    causes = [error] if group is None else group.exceptions
    return ", ".join(dict.fromkeys(map(_why_not_reached, causes)))


def _why_not_reached(error: BaseException) -> str:
    match error:
        case socket.gaierror(errno=socket.EAI_AGAIN):
            return "the name servers do not answer"
        case socket.gaierror():
            return "this name is not known"
        case ConnectionRefusedError():
            return "connection refused, nothing listens there"
        case FileNotFoundError():
            return "there is no such socket"
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EADDRNOTAVAIL):
            return "there is no route to this address"
        case OSError(errno=errno.ETIMEDOUT):
            return "this address does not answer"
        case OSError(strerror=str(text)):
            return text.lower()
        case _:
            return str(error)


def _why_no_tls(error: BaseException) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate is not trusted: {error.verify_message}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "PACKET_LENGTH_TOO_LONG"):
            return "this port does not speak TLS; try ws://"
        case ssl.SSLError(reason="RECORD_LAYER_FAILURE" | "HTTP_REQUEST"):
            return "this port does not speak TLS; try ws://"
        case ssl.SSLEOFError():
            return f"the server hung up{NO_TLS_PERHAPS}"
        case ssl.SSLError(reason=str(reason)):
            return reason.replace("_", " ").lower()
        case _:
            return str(error)
