"""Listeners: sockets to which clients connect, by TCP, TLS or a Unix path."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from ...actors.containment import contain
from ..config.settings import Settings
from ..config.validators import ConfigurationError
from .descriptors import Shortage, check_room

_PEER_GONE: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ENETDOWN),
        *(errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH),
        *(errno.EOPNOTSUPP, errno.ENETUNREACH),
    }
)
"""Errors of accept() about a connection that was broken before it was accepted; accept(2):
"already-pending network errors on the new socket", and EPERM for "firewall rules forbid
connection"."""

_ACCEPTS_PER_TURN: Final = 64
"""Connections that are accepted before other tasks have a turn."""

_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of socket() and bind() where a machine has no IPv6, or IPv6 without an address."""

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_ROOM_PAUSE: Final = 0.1
"""Seconds to wait when no descriptor or memory is left; connections stay in the backlog."""

_ROOM_MADE_PAUSE: Final = 0.01
"""Seconds to wait when somebody has given way; the socket is closed in one of the next turns."""

_BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept() that say that this socket will never accept again: it is no socket (any more),
or does not listen (any more)."""

_FAILURE_PAUSES: Final = (0.1, 0.2, 0.5, 1.0)
"""Seconds to wait after a failure that nobody has foreseen; the last one for all that follow."""


@attrs.frozen
class Listener:
    """A listening socket, with its URL and its TLS context."""

    socket: socket.socket
    url: str  # scheme and address, to which a path is appended
    tls: ssl.SSLContext | None = None
    unix_path: Path | None = None  # of a Unix socket; `close` removes it

    def close(self) -> None:
        """Stop listening, and remove the path of a Unix socket."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
            if self.unix_path is not None:
                # It may be gone, or not ours to remove any more, after a change of user. A file
                # that stays is replaced at the next start.
                with contextlib.suppress(OSError):
                    self.unix_path.unlink()

    async def accept_all(
        self,
        start: Callable[[socket.socket, str], None],
        shortage: Shortage,
        *,
        leave: float = 0.0,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """Accept connections until closed, and call `start` with each and its peer's address.

        `shortage` learns when there is no descriptor or memory for another one; `leave` is the part
        of the reserve of descriptors that is never used (see `check_room`). `make_room` is asked
        then to let a handshake give way, and returns whether one has. After any other
        failure, also one of `start`, it goes on a moment later; of several in a row, the first is
        logged. Cancelling is safe. OSError: the listening socket is broken for good, and was not
        closed by `close`.
        """
        task = trio.lowlevel.current_task()
        failures = 0  # in a row
        while self.socket.fileno() >= 0:  # it may be closed before this task has its first turn
            try:
                with trio.CancelScope(deadline=shortage.over_at):
                    await trio.lowlevel.wait_readable(self.socket)
            except trio.ClosedResourceError:
                return
            shortage.end_if_over()
            for _ in range(_ACCEPTS_PER_TURN):
                connected = None
                try:
                    if leave:
                        check_room(leave)
                    connected, address = self.socket.accept()
                    # A Unix socket's peer has no address: accept() gives "" then.
                    start(connected, str(address[0]) if address else "")
                    failures = 0
                    continue
                except BlockingIOError:
                    break
                except OSError as error:
                    if connected is None and error.errno in _PEER_GONE:
                        continue
                    if connected is None and error.errno in _BROKEN:
                        if self.socket.fileno() < 0:
                            return
                        raise
                    if connected is None and error.errno in _NO_ROOM:
                        shortage.note(error)
                        pause = _ROOM_MADE_PAUSE if make_room() else _NO_ROOM_PAUSE
                    else:
                        pause = self._after_failure(connected, error, failures, shortage, task)
                        failures += 1
                except BaseException as error:  # noqa: BLE001 - `contain` raises what has to go on
                    pause = self._after_failure(connected, error, failures, shortage, task)
                    failures += 1
                await trio.sleep(pause)
                break

    def _after_failure(
        self,
        connected: socket.socket | None,
        error: BaseException,
        failures: int,
        shortage: Shortage,
        task: trio.lowlevel.Task,
    ) -> float:
        """Close what was accepted, log the failure if it is the first, and return the pause."""
        if connected is not None:
            connected.close()

        def log(error: BaseException) -> None:
            if failures == 0:
                text = str(error) or type(error).__name__
                shortage.log_event("error", "accept_failed", error=text, address=self.url)

        contain(error, log, task)
        return _FAILURE_PAUSES[min(failures, len(_FAILURE_PAUSES) - 1)]


async def open_listeners(
    settings: Settings, log_event: Callable[..., None] | None = None
) -> list[Listener]:
    """Listen where the settings say; log the addresses that this machine does not have.

    ConfigurationError: the setting that it names cannot be used.
    """
    context = _tls_context(settings)
    scheme = "ws" if context is None else "wss"
    listeners = await open_tcp_listeners(
        settings.host, settings.port, settings.backlog, scheme, context, log_event=log_event
    )
    try:
        if settings.unix_socket is not None:
            listeners.append(open_unix_listener(settings.unix_socket, "unix_socket"))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def open_control_listeners(
    settings: Settings, log_event: Callable[..., None] | None = None
) -> list[Listener]:
    """Listen for operators where the settings say; log and raise as `open_listeners` does."""
    listeners: list[Listener] = []
    if settings.control_port:
        context = _tls_context(settings)
        scheme = "ws" if context is None else "wss"
        listeners += await open_tcp_listeners(
            settings.control_host,
            settings.control_port,
            settings.backlog,
            scheme,
            context,
            prefix="control_",
            log_event=log_event,
        )
    try:
        if settings.control_socket is not None:
            path = settings.control_socket
            listeners.append(open_unix_listener(path, "control_socket", mode=0o600))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def open_tcp_listeners(
    host: str,
    port: int,
    backlog: int,
    scheme: str,
    context: ssl.SSLContext | None = None,
    *,
    prefix: str = "",
    log_event: Callable[..., None] | None = None,
) -> list[Listener]:
    """Listen on every address of a host; `::` stands for every address of this machine.

    An address that this machine does not have, such as `localhost`'s of IPv6 where there is no
    IPv6, is skipped and logged, as long as another one can be used. `scheme` is for the listeners'
    URLs. ConfigurationError: one of the other addresses cannot be used, or there is none; it names
    the setting `host` or `port`, with the prefix.
    """
    addresses = await _addresses_of(host, port, prefix)
    listeners: list[Listener] = []
    missing: list[tuple[str, OSError]] = []
    for family, address in addresses:
        shown = f"[{address}]" if family == socket.AF_INET6 else address
        try:
            listening = socket.create_server(
                (address, port), family=family, backlog=backlog, dualstack_ipv6=False
            )
        except OSError as error:
            if error.errno in _NO_SUCH_ADDRESS:
                missing.append((address, error))
                continue
            for listener in listeners:
                listener.close()
            raise _cannot_listen(address, port, error, prefix) from error
        listening.setblocking(False)  # noqa: FBT003 - the standard library's signature
        port = listening.getsockname()[1]  # if any free one: the same for the other addresses
        listeners.append(Listener(listening, f"{scheme}://{shown}:{port}", context))
    if not listeners:
        address, error = missing[0]
        raise _cannot_listen(address, port, error, prefix) from error
    for address, error in missing:
        if log_event is not None:
            log_event("warning", "address_skipped", address=address, error=error.strerror)
    return listeners


async def _addresses_of(
    host: str, port: int, prefix: str
) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host; ConfigurationError if it has none."""
    if host == "::":
        # One socket for each family. One for both would show IPv4 clients as `::ffff:192.0.2.1`,
        # in logs, in limits and to the program.
        return [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - as asked for
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        text = f"{host!r} has no address: {error}"
        raise ConfigurationError(f"{prefix}host", text) from error
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _cannot_listen(address: str, port: int, error: OSError, prefix: str) -> ConfigurationError:
    text = f"cannot listen on {address} port {port}: {error.strerror or error}"
    return ConfigurationError(f"{prefix}port", text, allowed="a free port, or 0 for any")


def open_unix_listener(path: Path, setting: str, mode: int | None = None) -> Listener:
    """Listen on a Unix socket; replace the file that a dead server has left.

    `mode` is the file's permissions; None leaves them to the umask. ConfigurationError: the path is
    in use, or cannot be used.
    """
    remove_stale(path, setting)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The umask is narrowed while binding. If the mode were set afterwards, others could connect
        # in the moment between.
        before = os.umask(0o777 & ~mode) if mode is not None else None
        try:
            listening.bind(str(path))
        finally:
            if before is not None:
                os.umask(before)
        listening.listen(1024)
        listening.setblocking(False)  # noqa: FBT003 - the standard library's signature
    except OSError as error:
        listening.close()
        text = f"cannot listen on {path}: {error.strerror or error}"
        raise ConfigurationError(setting, text, allowed="a path in a writable folder") from error
    return Listener(listening, f"ws+unix://{path.absolute()}:", unix_path=path)


def remove_stale(path: Path, setting: str) -> None:
    """Remove the file of a Unix socket that no process listens on any more.

    ConfigurationError: a process listens on it, or it is not a socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            text = f"{path} exists, and is not a socket"
            raise ConfigurationError(setting, text, allowed="a path of its own")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # noqa: FBT003 - the standard library's signature
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except BlockingIOError:
                pass  # its backlog is full, so a process listens
            except OSError as error:
                text = f"{path}: {error.strerror or error}"
                raise ConfigurationError(setting, text) from error
        text = f"another server listens on {path}"
        raise ConfigurationError(setting, text, allowed="a path of its own")


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        text = f"{settings.tls_certificate} cannot be used: {error}"
        allowed = "PEM files with a certificate chain and its private key"
        raise ConfigurationError("tls_certificate", text, allowed=allowed) from error
    return context
