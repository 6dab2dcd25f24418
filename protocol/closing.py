"""The causes for which connections end, and the close codes that tell the peer.

The two are kept apart on purpose:

* A `CloseCode` goes over the wire. Its range tells a client whether to reconnect, so a client need
  not know each code: 4000-4499 mean "come back", 4500-4999 mean "stay away".
* A `CloseCause` is the reason for which *this server* ended a connection. The set is closed: logs,
  metrics and statistics count by cause, and the first cause of a connection wins.
"""

from __future__ import annotations

from enum import Enum, IntEnum, unique
from typing import Final, Self


class CloseCode(IntEnum):
    """A status code of a Close frame: RFC 6455 section 7.4.1, and Moorage's own from 4000 on."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013

    # 4000-4499: come back
    DRAIN = 4000
    HEARTBEAT_TIMEOUT = 4001
    CONNECTION_TIMEOUT = 4002
    SLOW_CONSUMER = 4003
    TOKEN_EXPIRED = 4004
    RATE_LIMITED = 4005
    POSITION_LOST = 4006
    RECONNECT = 4007
    MESSAGE_TIMEOUT = 4008

    # 4500-4999: stay away
    UNAUTHORIZED = 4500
    BAD_MESSAGES = 4501
    FORBIDDEN = 4502
    DISCONNECTED = 4503
    TOO_MANY_CONNECTIONS = 4504
    SESSION_ENDED = 4505


@unique
class CloseCause(Enum):
    """The one reason for which a connection ended; its value is the name in logs and metrics."""

    _value_: str

    # The code of the server's Close frame; None: nothing can be sent any more.
    code: CloseCode | None
    # A short text for people in the Close frame (RFC 6455, section 5.5, leaves it 123 bytes).
    reason: str

    # fmt: off
    PEER_CLOSED          = "peer_closed", CloseCode.NORMAL, "closed by the peer"
    PEER_VANISHED        = "peer_vanished", None, "the peer went away without a Close frame"
    PROTOCOL_ERROR       = "protocol_error", CloseCode.PROTOCOL_ERROR, "WebSocket protocol error"
    UNSUPPORTED_DATA     = "unsupported_data", CloseCode.UNSUPPORTED_DATA, "text messages only"
    INVALID_PAYLOAD      = "invalid_payload", CloseCode.INVALID_PAYLOAD, "text that is not UTF-8"
    MESSAGE_TOO_BIG      = "message_too_big", CloseCode.MESSAGE_TOO_BIG, "message too big"
    TOO_MANY_FRAGMENTS   = "too_many_fragments", CloseCode.POLICY_VIOLATION, "too many fragments"
    MESSAGE_TIMEOUT      = "message_timeout", CloseCode.MESSAGE_TIMEOUT, "a message took too long"
    HEARTBEAT_TIMEOUT    = "heartbeat_timeout", CloseCode.HEARTBEAT_TIMEOUT, "heartbeat unanswered"
    CONNECTION_TIMEOUT   = "connection_timeout", CloseCode.CONNECTION_TIMEOUT, "silent for too long"
    WRITE_TIMEOUT        = "write_timeout", None, "the socket takes no more bytes"
    SLOW_CONSUMER        = "slow_consumer", CloseCode.SLOW_CONSUMER, "reading too slowly"
    TOKEN_EXPIRED        = "token_expired", CloseCode.TOKEN_EXPIRED, "token expired"
    RATE_LIMITED         = "rate_limited", CloseCode.RATE_LIMITED, "sending too fast"
    BAD_MESSAGES         = "bad_messages", CloseCode.BAD_MESSAGES, "too many bad messages"
    UNAUTHORIZED         = "unauthorized", CloseCode.UNAUTHORIZED, "bad or missing token"
    FORBIDDEN            = "forbidden", CloseCode.FORBIDDEN, "not allowed"
    DISCONNECTED         = "disconnected", CloseCode.DISCONNECTED, "an administrator ended it"
    RECONNECT            = "reconnect", CloseCode.RECONNECT, "please reconnect"
    SERVER_FULL          = "server_full", CloseCode.TRY_AGAIN_LATER, "the server is full"
    GAVE_WAY             = "gave_way", CloseCode.TRY_AGAIN_LATER, "no token came in time"
    TOO_MANY_CONNECTIONS = (
        "too_many_connections", CloseCode.TOO_MANY_CONNECTIONS, "too many connections",
    )
    SESSION_ENDED        = "session_ended", CloseCode.SESSION_ENDED, "session ended"
    POSITION_LOST        = "position_lost", CloseCode.POSITION_LOST, "subscribe afresh"
    DRAINED              = "drained", CloseCode.DRAIN, "draining; please reconnect"
    STOPPED              = "stopped", CloseCode.GOING_AWAY, "the server is going away"
    ENDPOINT_FINISHED    = "endpoint_finished", CloseCode.NORMAL, "finished"
    INTERNAL_ERROR       = "internal_error", CloseCode.INTERNAL_ERROR, "internal error"
    # fmt: on

    def __new__(cls, value: str, code: CloseCode | None, reason: str) -> Self:
        """Make a member of one row of the table above."""
        member = object.__new__(cls)
        member._value_ = value
        member.code = code
        member.reason = reason
        return member

    @property
    def expected(self) -> bool:
        """Whether a connection may end so in normal operation; if not, its log line is an error."""
        return self is not CloseCause.INTERNAL_ERROR


# The codes below 4000 after which the server would only refuse the same client again. 1010: the
# server lacks an extension; 3000 and 3003 are IANA's "Unauthorized" and "Forbidden".
_FINAL_CODES: Final = frozenset({1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003})


def should_reconnect(code: int | None) -> bool:
    """Tell whether a client whose connection ended with this close code should come back.

    `None` means that no Close frame arrived (the network broke, the server died): the client should
    come back. So it should for an unknown code outside Moorage's ranges, since one more attempt
    costs little, and staying away by mistake costs the connection. The ranges are those of RFC
    6455, section 7.4.2; the upper half of the private range means "stay away".
    """
    if code is None:
        return True
    if 4000 <= code <= 4999:
        return code < 4500
    return code not in _FINAL_CODES


def is_sendable_close_code(code: int) -> bool:
    """Tell whether a Close frame may carry this code.

    RFC 6455, section 7.4, forbids 1004, 1005, 1006 and 1015 on the wire and reserves 1016-2999 for
    later versions. 1012-1014 are registered with IANA; libraries and programs use 3000-4999.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
