"""Every setting of the server: its name, default, validator, unit and help, each written once.

The flags and the help of `moorage serve`, the `MOORAGE_` variables, the keys of the TOML file,
`moorage config show` and the reference page are read off this class: adding a field adds them all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import attrs
from attrs import field

from ...protocol.loopback import LOOPBACK, is_loopback
from .about import About, Group, described, description
from .converters import to_lower, to_path, to_paths, to_texts
from .topic_rules import TOPIC_RULES, TopicRule, topic_rules
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
    Validator,
    each,
    number,
    one_of,
    optional,
    whole_number,
)

# The algorithms of each family of keys; a key implies the first one of its family.
ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
LOG_FORMATS = ("auto", "console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def about(name: str) -> About:
    """Return the description of the setting of that name; KeyError where there is none."""
    return description(attrs.fields_dict(Settings)[name])


def validator(name: str) -> Validator:
    """Return what checks the values of the setting of that name."""
    return cast("Validator", attrs.fields_dict(Settings)[name].validator)


def _redacted(value: tuple[str, ...]) -> str:
    return f"({len(value)} redacted)" if value else "()"


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of a server; every one has a default that is fit for production.

    Times are in seconds, sizes in bytes, rates per second. Raises ConfigurationError, which names
    the setting and what it allows, for a value that cannot be used. Files that are named here are
    not read before the server starts.
    """

    # --- Listening: read by entrance/listeners.py when the server starts; `path` by
    # entrance/admission.py.
    host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=described(
            Group.LISTENING, "Address to listen on; :: for all, 0.0.0.0 for all of IPv4."
        ),
    )
    port: int = field(
        default=8765,
        validator=whole_number(0, 65_535, lowest_means="any free port"),
        metadata=described(Group.LISTENING, "TCP port to listen on."),
    )
    path: str = field(
        default="/ws",
        validator=URL_PATH,
        metadata=described(Group.LISTENING, "URL path of the standard endpoint."),
    )
    unix_socket: Path | None = field(
        default=None,
        converter=to_path,
        validator=optional(UNIX_PATH),
        metadata=described(Group.LISTENING, "Unix socket to listen on as well as on TCP."),
    )
    tls_certificate: Path | None = field(
        default=None,
        converter=to_path,
        validator=optional(ANY_PATH),
        metadata=described(
            Group.LISTENING, "PEM file with the certificate chain; turns ws:// into wss://."
        ),
    )
    tls_key: Path | None = field(
        default=None,
        converter=to_path,
        validator=optional(ANY_PATH),
        metadata=described(
            Group.LISTENING,
            "PEM file with the certificate's private key; not needed if the certificate's file "
            "holds it too.",
        ),
    )
    backlog: int = field(
        default=1024,
        validator=whole_number(1, 65_535),
        metadata=described(
            Group.LISTENING,
            "Connections that may wait in the kernel until they are accepted.",
            "connections",
        ),
    )

    # --- Identity: the keys and claims are read by entrance/tokens.py, the patterns by parts.py,
    # the others by entrance/admission.py.
    jwt_key: tuple[str, ...] = field(
        default=(),
        converter=to_texts,
        validator=each(NOT_EMPTY),
        repr=_redacted,
        metadata=described(
            Group.IDENTITY,
            "Key that verifies tokens: plain text is an HS256 secret, PEM text is a public key. "
            "There may be several, for rotating keys. Without any key the server is in development "
            "mode, on loopback addresses only.",
            secret=True,
        ),
    )
    jwt_key_file: tuple[Path, ...] = field(
        default=(),
        converter=to_paths,
        validator=each(ANY_PATH),
        metadata=described(Group.IDENTITY, "File that holds such a key. There may be several."),
    )
    jwt_allow_short_keys: bool = field(
        default=False,
        validator=FLAG,
        metadata=described(
            Group.IDENTITY,
            "A secret may have less bytes than its algorithm demands (HS256 32, HS384 48, HS512 "
            "64), and may be guessed then: for tests.",
        ),
    )
    jwt_algorithms: tuple[str, ...] = field(
        default=(),
        converter=to_texts,
        validator=each(one_of(ALGORITHMS)),
        metadata=described(
            Group.IDENTITY,
            "Algorithms to accept instead of those that the keys imply (a secret implies HS256, "
            "RSA RS256, EC its curve's, Ed25519 EdDSA); each must fit one of the keys.",
        ),
    )
    jwt_audience: tuple[str, ...] = field(
        default=(),
        converter=to_texts,
        validator=each(NOT_EMPTY),
        metadata=described(
            Group.IDENTITY,
            "A token's `aud` must name one of these; unset: tokens with an `aud` are refused.",
        ),
    )
    jwt_issuer: str | None = field(
        default=None,
        validator=optional(NOT_EMPTY),
        metadata=described(
            Group.IDENTITY, "A token's `iss` must be this; unset: it is not checked."
        ),
    )
    jwt_leeway: float = field(
        default=0.0,
        validator=number(or_equal=True),
        metadata=described(
            Group.IDENTITY, "Difference that the clocks of issuer and server may have.", "seconds"
        ),
    )
    anonymous: bool = field(
        default=False,
        validator=FLAG,
        metadata=described(Group.IDENTITY, "Clients may connect without a token."),
    )
    query_token: bool = field(
        default=True,
        validator=FLAG,
        metadata=described(
            Group.IDENTITY,
            "A token may be in the URL's query, ?token=…: convenient, but proxies log URLs.",
        ),
    )
    allowed_origins: tuple[str, ...] = field(
        default=("*",),
        converter=to_texts,
        validator=each(ORIGIN),
        metadata=described(
            Group.IDENTITY,
            "Origins whose pages may connect; * for any, loopback for those of this machine. In "
            "development mode * is no more than loopback.",
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        converter=to_texts,
        validator=each(NETWORK),
        metadata=described(
            Group.IDENTITY, "Networks of proxies whose X-Forwarded-For is believed."
        ),
    )
    subscribe_patterns: tuple[str, ...] = field(
        default=("**",),
        converter=to_texts,
        validator=each(PATTERN),
        metadata=described(
            Group.IDENTITY, "Topics that clients may subscribe to; a token can only narrow this."
        ),
    )
    publish_patterns: tuple[str, ...] = field(
        default=("**",),
        converter=to_texts,
        validator=each(PATTERN),
        metadata=described(
            Group.IDENTITY, "Topics that clients may publish to; a token can only narrow this."
        ),
    )

    # --- Deadlines: parts.py hands handshake_timeout to entrance/admission.py, and makes the others
    # part of the limits that each connection lives by.
    handshake_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES,
            "Time for a client's request, its upgrade and its token together.",
            "seconds",
        ),
    )
    heartbeat_interval: float = field(
        default=30.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES,
            "Time without any byte from a peer after which it is sent a heartbeat; for each "
            "connection up to a tenth less, so that not all are sent one at the same time.",
            "seconds",
        ),
    )
    pong_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES, "Time to answer a heartbeat; any bytes count as an answer.", "seconds"
        ),
    )
    connection_timeout: float = field(
        default=300.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES,
            "Time without any byte from a peer after which it is closed, asked or not; without "
            "effect where heartbeat_interval and pong_timeout together are shorter.",
            "seconds",
        ),
    )
    message_timeout: float = field(
        default=60.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES,
            "Time for a client's message to arrive as a whole, from its first byte on.",
            "seconds",
        ),
    )
    write_timeout: float = field(
        default=10.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES, "Time for a peer whose buffers are full to take something.", "seconds"
        ),
    )
    close_timeout: float = field(
        default=5.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES, "Time for the peer to answer the closing handshake.", "seconds"
        ),
    )
    token_grace: float = field(
        default=25.0,
        validator=number(or_equal=True),
        metadata=described(
            Group.DEADLINES,
            "Time after a token's end in which the client may send a new one.",
            "seconds",
        ),
    )
    handler_timeout: float = field(
        default=30.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES, "Time for a message handler of the program.", "seconds"
        ),
    )
    authorize_timeout: float = field(
        default=5.0,
        validator=number(),
        metadata=described(
            Group.DEADLINES,
            "Time for an `authorize_subscribe` or `authorize_publish` hook of the program.",
            "seconds",
        ),
    )

    # --- Draining: read by core.py and drain.py.
    drain_timeout: float = field(
        default=30.0,
        validator=number(or_equal=True, lowest_means="stop at once"),
        metadata=described(
            Group.DRAINING, "Time for clients to leave when the server shuts down.", "seconds"
        ),
    )
    reconnect_rate: float = field(
        default=500.0,
        validator=number(),
        metadata=described(
            Group.DRAINING,
            "Drained clients that the other servers can take; their return is spread accordingly.",
            "clients per second",
        ),
    )

    # --- Limits, checked before memory is taken: hub.py reads those of users and addresses,
    # entrance/admission.py max_request_head, and parts.py the others: it hands them to the routing,
    # the admission and the mailboxes, or makes them part of a connection's limits.
    max_total_connections: int = field(
        default=10_000,
        validator=whole_number(1),
        metadata=described(
            Group.LIMITS,
            "Connections at one time; further ones are refused with HTTP 503.",
            "connections",
        ),
    )
    max_handshakes: int = field(
        default=1_000,
        validator=whole_number(1),
        metadata=described(
            Group.LIMITS,
            "Handshakes under way, beside the connections; as many clients again may be being "
            "refused. Beyond it, the oldest silent one of the address that has most gives way.",
            "handshakes",
        ),
    )
    max_connections_per_topic: int = field(
        default=1_000,
        validator=whole_number(1),
        metadata=described(
            Group.LIMITS,
            "Subscribers that one topic may have, where no rule of `topics` says otherwise.",
            "connections",
        ),
    )
    max_connections_per_user: int = field(
        default=0,
        validator=whole_number(lowest_means="no limit"),
        metadata=described(Group.LIMITS, "Connections that one user may have.", "connections"),
    )
    max_connections_per_address: int = field(
        default=0,
        validator=whole_number(lowest_means="no limit"),
        metadata=described(
            Group.LIMITS, "Connections that may come from one network address.", "connections"
        ),
    )
    max_topics_per_connection: int = field(
        default=100,
        validator=whole_number(1),
        metadata=described(Group.LIMITS, "Topics that one connection may subscribe to.", "topics"),
    )
    max_message_size: int = field(
        default=65_536,
        validator=whole_number(1),
        metadata=described(Group.LIMITS, "Size of one message from a client.", "bytes"),
    )
    max_mailbox_size: int = field(
        default=1_048_576,
        validator=whole_number(1),
        metadata=described(
            Group.LIMITS, "Memory for all that may wait to be sent to one connection.", "bytes"
        ),
    )
    max_request_head: int = field(
        default=16_384,
        validator=whole_number(256),
        metadata=described(
            Group.LIMITS, "Size of the request line and headers of an upgrade.", "bytes"
        ),
    )
    max_inbox_size: int = field(
        default=262_144,
        validator=whole_number(1),
        metadata=described(
            Group.LIMITS,
            "Memory for all that may wait for the message handlers of one connection.",
            "bytes",
        ),
    )
    message_rate: float = field(
        default=100_000.0,
        validator=number(or_equal=True, lowest_means="no limit"),
        metadata=described(
            Group.LIMITS,
            "Messages that one connection may send; of a message in fragments, each is counted.",
            "messages per second",
        ),
    )
    message_burst: int = field(
        default=0,
        validator=whole_number(lowest_means="as much as one second's"),
        metadata=described(
            Group.LIMITS, "Messages that it may send at once, before the rate counts.", "messages"
        ),
    )
    byte_rate: float = field(
        default=134_217_728.0,
        validator=number(or_equal=True, lowest_means="no limit"),
        metadata=described(
            Group.LIMITS, "Bytes of messages that one connection may send.", "bytes per second"
        ),
    )
    byte_burst: int = field(
        default=0,
        validator=whole_number(lowest_means="as much as one second's"),
        metadata=described(
            Group.LIMITS,
            "Bytes that it may send at once, before the rate counts; at least as many as "
            "max_message_size and 64 KiB together.",
            "bytes",
        ),
    )

    # --- HTTP: read by http/service.py.
    http_port: int | None = field(
        default=None,
        validator=optional(whole_number(0, 65_535, lowest_means="any free port")),
        metadata=described(
            Group.HTTP,
            "TCP port of health, metrics, REST and dashboard; unset: the server has none of them.",
        ),
    )
    http_host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=described(Group.HTTP, "Address to serve HTTP on; /metrics needs no token there."),
    )
    max_http_connections: int = field(
        default=256,
        validator=whole_number(1),
        metadata=described(
            Group.HTTP,
            "HTTP connections at one time; idle ones give way to further ones.",
            "connections",
        ),
    )
    http_tls: bool = field(
        default=False,
        validator=FLAG,
        metadata=described(
            Group.HTTP, "Serve HTTPS instead, with the certificate of tls_certificate."
        ),
    )

    # --- Control: read by entrance/listeners.py; max_loop_lag by operations/snapshots.py.
    control_socket: Path | None = field(
        default=None,
        converter=to_path,
        validator=optional(UNIX_PATH),
        metadata=described(
            Group.CONTROL,
            "Unix socket for operators. They need no token, because only the server's user can "
            "open it. Unset: `moorage serve` takes $XDG_RUNTIME_DIR/moorage/control.sock, for root "
            "/run/moorage/control.sock, or else ~/.moorage/control.sock.",
        ),
    )
    control_host: str = field(
        default="127.0.0.1",
        validator=HOST,
        metadata=described(Group.CONTROL, "Address for operators with a token of the role admin."),
    )
    control_port: int = field(
        default=0,
        validator=whole_number(0, 65_535, lowest_means="off"),
        metadata=described(
            Group.CONTROL, "TCP port for such operators; it has TLS if tls_certificate is set."
        ),
    )
    max_loop_lag: float = field(
        default=1.0,
        validator=number(or_equal=True, lowest_means="off"),
        metadata=described(
            Group.CONTROL,
            "Lag of the event loop above which the server reports that it is not ready.",
            "seconds",
        ),
    )

    # --- Logs: read by telemetry/logs.py; slow_turn by parts.py and server.py.
    log_format: str = field(
        default="auto",
        validator=one_of(LOG_FORMATS),
        metadata=described(
            Group.LOGS, "Form of log lines; auto: console on a terminal, else json."
        ),
    )
    log_level: str = field(
        default="info",
        converter=to_lower,
        validator=one_of(LOG_LEVELS, any_case=True),
        metadata=described(Group.LOGS, "Level of the least severe lines that are logged."),
    )
    # Less would log pauses that a busy machine causes itself; more would hide what users feel.
    slow_turn: float = field(
        default=0.1,
        validator=number(or_equal=True, lowest_means="off"),
        metadata=described(
            Group.LOGS,
            "Time for which anything may hold the event loop before that is logged, with a stack.",
            "seconds",
        ),
    )

    # --- Topics: parts.py hands them to topics/topic.py.
    topics: Mapping[str, TopicRule] = field(
        factory=dict[str, TopicRule],
        converter=topic_rules,
        validator=TOPIC_RULES,
        metadata=described(
            Group.TOPICS,
            "Options of topics, by topic pattern; the first pattern that matches counts, in the "
            "order in which they are written.",
        ),
    )

    @property
    def development(self) -> bool:
        """True if no key is configured, so that no token can be verified."""
        return not self.jwt_key and not self.jwt_key_file

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may connect; without a key none but this machine's, by `*`."""
        named = frozenset(self.allowed_origins)
        return named - {"*"} | {LOOPBACK} if self.development else named

    def __attrs_post_init__(self) -> None:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ConfigurationError(
                "tls_key", "there is no certificate for it", allowed="a key with tls_certificate"
            )
        if self.development and not is_loopback(self.host):
            raise ConfigurationError(
                "host",
                f"{self.host!r} can be reached from other machines, and no key is configured: "
                "without one (development mode) no client's identity can be checked",
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
