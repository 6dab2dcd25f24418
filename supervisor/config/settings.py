"""Every setting of the server: its name, default, unit, rule and help, each written once.

The flags and the help of `moorage serve`, the `MOORAGE_` variables, the keys of the TOML file
and `moorage config show` are all read off this class, so adding a field here adds all of them.
"""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import cast

import attrs
from attrs import field

from .validators import (
    ANY_PATH,
    FLAG,
    HOST,
    NETWORK,
    NOT_EMPTY,
    ORIGIN,
    PATTERN,
    UNIX_PATH,
    URL_PATH,
    ConfigurationError,
    Rule,
    each,
    each_pair,
    number,
    one_of,
    optional,
    whole_number,
)

__all__ = ["About", "ConfigurationError", "Group", "Settings", "about", "is_loopback", "rule"]

# What the key of each family can verify; the first of a family is what a key implies by itself.
ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
OVERLOAD_POLICIES = ("disconnect", "drop_oldest", "latest")
LOG_FORMATS = ("auto", "console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


class Group(StrEnum):
    """The heading under which a setting is shown."""

    LISTENING = "Listening"
    IDENTITY = "Identity"
    DEADLINES = "Deadlines"
    LIMITS = "Limits"
    OVERLOAD = "Overload"
    HTTP = "HTTP"
    CONTROL = "Control"
    LOGS = "Logs"


@attrs.frozen
class About:
    """What a field's metadata holds under `"about"`; the command and the docs are made of it."""

    group: Group
    help: str
    unit: str = ""
    # A secret is shown as a fingerprint at most: in errors, in `config show`, in repr().
    secret: bool = False


def _about(group: Group, text: str, unit: str = "", *, secret: bool = False) -> dict[str, About]:
    return {"about": About(group, text, unit, secret=secret)}


def about(name: str) -> About:
    """Return what is known of the setting of that name; KeyError where there is none."""
    return attrs.fields_dict(Settings)[name].metadata["about"]


def rule(name: str) -> Rule:
    """Return what decides on the setting of that name, and can say what it allows."""
    return cast("Rule", attrs.fields_dict(Settings)[name].validator)


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    """Take one string for a list of one: a program's easiest slip, and `tuple("*")` hides it."""
    return (value,) if isinstance(value, str) else tuple(value)


def _paths(
    value: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> tuple[Path, ...]:
    if isinstance(value, str | os.PathLike):
        return (Path(value),)
    return tuple(Path(entry) for entry in value)


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)


def _policies(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(value))


def _redacted(value: tuple[str, ...]) -> str:
    return f"({len(value)} redacted)" if value else "()"


@attrs.frozen(kw_only=True)
class Settings:
    """How a server behaves; every setting has a default that is fit for production.

    Times are in seconds, sizes in bytes, rates per second. Raises ConfigurationError, which names
    the setting and what it allows, for a value that cannot be used. Files that are named here are
    not read before the server starts.
    """

    # --- Listening: read by listeners.py when the server starts.
    host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=_about(Group.LISTENING, "Address to listen on; 0.0.0.0 or :: for every one."),
    )
    port: int = field(
        default=8765,
        validator=whole_number(0, 65_535, lowest_means="any free port"),
        metadata=_about(Group.LISTENING, "TCP port to listen on."),
    )
    path: str = field(
        default="/ws",
        validator=URL_PATH,
        metadata=_about(Group.LISTENING, "URL path of the standard endpoint."),
    )
    unix_socket: Path | None = field(
        default=None,
        converter=_path,
        validator=optional(UNIX_PATH),
        metadata=_about(Group.LISTENING, "Unix socket to listen on as well."),
    )
    tls_certificate: Path | None = field(
        default=None,
        converter=_path,
        validator=optional(ANY_PATH),
        metadata=_about(
            Group.LISTENING, "PEM file with the certificate chain; turns ws:// into wss://."
        ),
    )
    tls_key: Path | None = field(
        default=None,
        converter=_path,
        validator=optional(ANY_PATH),
        metadata=_about(
            Group.LISTENING,
            "PEM file with the certificate's private key; not needed where the certificate's file "
            "holds it too.",
        ),
    )
    backlog: int = field(
        default=1024,
        validator=whole_number(1, 65_535),
        metadata=_about(
            Group.LISTENING,
            "Connections that the kernel keeps waiting to be accepted.",
            "connections",
        ),
    )

    # --- Identity: read by tokens.py and by the handshake.
    jwt_key: tuple[str, ...] = field(
        default=(),
        converter=_texts,
        validator=each(NOT_EMPTY),
        repr=_redacted,
        metadata=_about(
            Group.IDENTITY,
            "Key that verifies tokens: plain text is an HS256 secret, PEM text a public key. "
            "Several while keys are rotated. No key at all means development mode, for loopback "
            "addresses only.",
            secret=True,
        ),
    )
    jwt_key_file: tuple[Path, ...] = field(
        default=(),
        converter=_paths,
        validator=each(ANY_PATH),
        metadata=_about(Group.IDENTITY, "File that holds such a key. Several are allowed."),
    )
    jwt_algorithms: tuple[str, ...] = field(
        default=(),
        converter=_texts,
        validator=each(one_of(ALGORITHMS)),
        metadata=_about(
            Group.IDENTITY,
            "Algorithms to accept in place of what each key implies (a secret HS256, RSA RS256, EC "
            "its curve's, Ed25519 EdDSA); each must fit one of the keys.",
        ),
    )
    jwt_audience: tuple[str, ...] = field(
        default=(),
        converter=_texts,
        validator=each(NOT_EMPTY),
        metadata=_about(
            Group.IDENTITY, "A token's `aud` must name one of these; unset: not checked."
        ),
    )
    jwt_issuer: str | None = field(
        default=None,
        validator=optional(NOT_EMPTY),
        metadata=_about(Group.IDENTITY, "A token's `iss` must be this; unset: not checked."),
    )
    jwt_leeway: float = field(
        default=0.0,
        validator=number(or_equal=True),
        metadata=_about(
            Group.IDENTITY, "How far the clocks of issuer and server may be apart.", "seconds"
        ),
    )
    anonymous: bool = field(
        default=False,
        validator=FLAG,
        metadata=_about(Group.IDENTITY, "Let clients connect without a token."),
    )
    query_token: bool = field(
        default=True,
        validator=FLAG,
        metadata=_about(
            Group.IDENTITY,
            "Accept a token in the URL's query, ?token=…: convenient, but proxies log URLs.",
        ),
    )
    allowed_origins: tuple[str, ...] = field(
        default=("*",),
        converter=_texts,
        validator=each(ORIGIN),
        metadata=_about(Group.IDENTITY, "Origins whose pages may connect; * for any."),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        converter=_texts,
        validator=each(NETWORK),
        metadata=_about(
            Group.IDENTITY, "Networks whose X-Forwarded-For is believed, such as 10.0.0.0/8."
        ),
    )
    subscribe_patterns: tuple[str, ...] = field(
        default=("**",),
        converter=_texts,
        validator=each(PATTERN),
        metadata=_about(
            Group.IDENTITY, "Topics that clients may subscribe to; a token can only narrow this."
        ),
    )
    publish_patterns: tuple[str, ...] = field(
        default=("**",),
        converter=_texts,
        validator=each(PATTERN),
        metadata=_about(
            Group.IDENTITY, "Topics that clients may publish to; a token can only narrow this."
        ),
    )

    # --- Deadlines: each is a cancel scope's; which one, the handshake and connection say.
    handshake_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=_about(
            Group.DEADLINES, "For request head, upgrade and authentication together.", "seconds"
        ),
    )
    heartbeat_interval: float = field(
        default=30.0,
        validator=number(),
        metadata=_about(Group.DEADLINES, "Quiet time before a heartbeat is sent.", "seconds"),
    )
    pong_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=_about(
            Group.DEADLINES, "For the answer to a heartbeat; any bytes count.", "seconds"
        ),
    )
    connection_timeout: float = field(
        default=300.0,
        validator=number(),
        metadata=_about(Group.DEADLINES, "Silence after which a peer counts as gone.", "seconds"),
    )
    write_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=_about(
            Group.DEADLINES, "For a peer whose buffers are full to take something.", "seconds"
        ),
    )
    close_timeout: float = field(
        default=5.0,
        validator=number(),
        metadata=_about(
            Group.DEADLINES, "For the peer's half of the closing handshake.", "seconds"
        ),
    )
    token_grace: float = field(
        default=25.0,
        validator=number(or_equal=True),
        metadata=_about(
            Group.DEADLINES, "In which an expired token can be renewed in place.", "seconds"
        ),
    )
    drain_timeout: float = field(
        default=30.0,
        validator=number(or_equal=True, lowest_means="stop at once"),
        metadata=_about(
            Group.DEADLINES, "For clients to leave once the server shuts down.", "seconds"
        ),
    )
    handler_timeout: float = field(
        default=30.0,
        validator=number(),
        metadata=_about(Group.DEADLINES, "For a message handler of the program.", "seconds"),
    )
    authorize_timeout: float = field(
        default=5.0,
        validator=number(),
        metadata=_about(Group.DEADLINES, "For an authorize hook of the program.", "seconds"),
    )

    # --- Limits: checked before memory is taken.
    max_total_connections: int = field(
        default=10_000,
        validator=whole_number(1),
        metadata=_about(Group.LIMITS, "Connections at one time; above it 503.", "connections"),
    )
    max_connections_per_topic: int = field(
        default=1_000,
        validator=whole_number(1),
        metadata=_about(Group.LIMITS, "Subscribers of one topic.", "connections"),
    )
    max_connections_per_user: int = field(
        default=0,
        validator=whole_number(lowest_means="no limit"),
        metadata=_about(Group.LIMITS, "Connections of one user.", "connections"),
    )
    max_connections_per_address: int = field(
        default=0,
        validator=whole_number(lowest_means="no limit"),
        metadata=_about(Group.LIMITS, "Connections from one network address.", "connections"),
    )
    max_topics_per_connection: int = field(
        default=100,
        validator=whole_number(1),
        metadata=_about(Group.LIMITS, "Topics that one connection may subscribe to.", "topics"),
    )
    max_message_size: int = field(
        default=65_536,
        validator=whole_number(1),
        metadata=_about(Group.LIMITS, "One message from a client.", "bytes"),
    )
    max_mailbox_size: int = field(
        default=1_048_576,
        validator=whole_number(1),
        metadata=_about(Group.LIMITS, "What may wait to be sent to one connection.", "bytes"),
    )
    max_request_head: int = field(
        default=16_384,
        validator=whole_number(256),
        metadata=_about(Group.LIMITS, "The request line and headers of an upgrade.", "bytes"),
    )
    max_inbox_size: int = field(
        default=262_144,
        validator=whole_number(1),
        metadata=_about(
            Group.LIMITS, "What may wait for one connection's message handlers.", "bytes"
        ),
    )
    message_rate: float = field(
        default=100_000.0,
        validator=number(or_equal=True, lowest_means="no limit"),
        metadata=_about(Group.LIMITS, "Messages from one connection.", "messages per second"),
    )
    message_burst: int = field(
        default=0,
        validator=whole_number(lowest_means="as much as one second's"),
        metadata=_about(Group.LIMITS, "Messages at once before the rate counts.", "messages"),
    )
    byte_rate: float = field(
        default=134_217_728.0,
        validator=number(or_equal=True, lowest_means="no limit"),
        metadata=_about(Group.LIMITS, "Bytes of messages from one connection.", "bytes per second"),
    )
    byte_burst: int = field(
        default=0,
        validator=whole_number(lowest_means="as much as one second's"),
        metadata=_about(Group.LIMITS, "Bytes at once before the rate counts.", "bytes"),
    )

    # --- Overload: read by the delivery task, and by drain.
    overload: Mapping[str, str] = field(
        factory=dict[str, str],
        converter=_policies,
        validator=each_pair(PATTERN, one_of(OVERLOAD_POLICIES)),
        metadata=_about(
            Group.OVERLOAD,
            "What happens to a subscriber whose mailbox is full, by topic pattern; the first that "
            "matches counts, and without one it is disconnected.",
        ),
    )
    reconnect_rate: float = field(
        default=500.0,
        validator=number(),
        metadata=_about(
            Group.OVERLOAD,
            "Drained clients that the rest of the fleet can take; their return is spread by it.",
            "clients per second",
        ),
    )

    # --- HTTP: read by http/listening.py; a service beside the connections.
    http_port: int | None = field(
        default=None,
        validator=optional(whole_number(0, 65_535, lowest_means="any free port")),
        metadata=_about(
            Group.HTTP,
            "TCP port of health, metrics, REST and dashboard; unset: there is no HTTP.",
        ),
    )
    http_host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=_about(Group.HTTP, "Address to serve HTTP on; metrics need no token there."),
    )
    http_tls: bool = field(
        default=False,
        validator=FLAG,
        metadata=_about(Group.HTTP, "Serve HTTPS, with the certificate of tls_certificate."),
    )

    # --- Control: read by control.py.
    control_socket: Path | None = field(
        default=None,
        converter=_path,
        validator=optional(UNIX_PATH),
        metadata=_about(
            Group.CONTROL,
            "Unix socket for operators, who need no token: its file is the server's user's alone. "
            "Without it, `moorage serve` takes $XDG_RUNTIME_DIR/moorage/control.sock, "
            "/run/moorage/control.sock for root, or ~/.moorage/control.sock.",
        ),
    )
    control_host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=_about(Group.CONTROL, "Address for operators who show a token of role admin."),
    )
    control_port: int = field(
        default=0,
        validator=whole_number(0, 65_535, lowest_means="off"),
        metadata=_about(
            Group.CONTROL, "TCP port for such operators; with TLS where a certificate is set."
        ),
    )
    max_loop_lag: float = field(
        default=1.0,
        validator=number(or_equal=True, lowest_means="off"),
        metadata=_about(
            Group.CONTROL,
            "Lag of the event loop above which the server says that it is not ready.",
            "seconds",
        ),
    )

    # --- Logs
    log_format: str = field(
        default="auto",
        validator=one_of(LOG_FORMATS),
        metadata=_about(Group.LOGS, "How log lines look; auto: console on a terminal, else json."),
    )
    log_level: str = field(
        default="info",
        validator=one_of(LOG_LEVELS),
        metadata=_about(Group.LOGS, "The least severe lines that are logged."),
    )

    @property
    def development(self) -> bool:
        """Whether no key is configured, so that no token can be trusted."""
        return not self.jwt_key and not self.jwt_key_file

    def __attrs_post_init__(self) -> None:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ConfigurationError(
                "tls_key", "there is no certificate for it", allowed="a key with tls_certificate"
            )
        if self.development and not is_loopback(self.host):
            raise ConfigurationError(
                "host",
                f"{self.host!r} can be reached from other machines, and no key is configured: "
                "without one (development mode) nobody's identity can be checked",
                allowed="127.0.0.1, ::1 or localhost; or set jwt_key or jwt_key_file",
            )
        if self.http_tls and self.tls_certificate is None:
            raise ConfigurationError(
                "http_tls", "there is no certificate for it", allowed="true with tls_certificate"
            )
        if self.http_port is not None and self.development and not is_loopback(self.http_host):
            raise ConfigurationError(
                "http_host",
                f"{self.http_host!r} can be reached from other machines, and no key is configured",
                allowed="127.0.0.1, ::1 or localhost; or set jwt_key or jwt_key_file",
            )
        if self.development and self.control_port and not is_loopback(self.control_host):
            raise ConfigurationError(
                "control_host",
                f"{self.control_host!r} can be reached from other machines, and no key is "
                "configured: no administrator's token can be checked",
                allowed="127.0.0.1, ::1 or localhost; or set jwt_key or jwt_key_file",
            )
        if self.jwt_algorithms and self.development:
            raise ConfigurationError(
                "jwt_algorithms",
                "there is no key to use them with",
                allowed="algorithms with jwt_key or jwt_key_file",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
