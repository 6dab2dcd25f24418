"""The envelope: one message of the protocol as a value."""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import Attribute, field, frozen

from ..errors import ErrorCode, LocalProtocolError

MAX_ID_LENGTH: Final = 64
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1

_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

# What each field must be, as the end of "`field` must be ...". Errors about messages that arrive
# (`faults.py`) and about envelopes that programs make (below) use the same words.
FIELD_RULES: Final = {
    "type": "a string of 1 to 64 characters out of a-z A-Z 0-9 _ . : -",
    "topic": "a string",
    "data": "any JSON value",
    "timestamp": "a string, in RFC 3339 form",
    "error": "a string",
    "id": "a string of up to 64 characters or an integer of 64 bits",
    "offset": "an integer from 0 to 2^63-1",
    "epoch": "a string",
}


def is_legal_type(text: str) -> bool:
    """Tell whether a message may have this type: 1-64 characters of `a-z A-Z 0-9 _ . : -`."""
    return _TYPE.fullmatch(text) is not None


def _refuse(name: str) -> LocalProtocolError:
    return LocalProtocolError(f"`{name}` must be {FIELD_RULES[name]}", ErrorCode.BAD_MESSAGE)


def _check_type(_: Envelope, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not is_legal_type(value):
        raise _refuse(attribute.name)


def _check_text(_: Envelope, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise _refuse(attribute.name)


def _check_id(_: Envelope, attribute: Attribute[Any], value: Any) -> None:
    if not is_legal_id(value):
        raise _refuse(attribute.name)


def is_legal_id(value: object) -> bool:
    """Tell whether a message may have this id. None, which means no id, is legal."""
    if type(value) is int:  # the most common case comes first: `head` asks for every reply
        return MIN_INTEGER <= value <= MAX_INTEGER
    if isinstance(value, str):
        return len(value) <= MAX_ID_LENGTH
    return value is None


def _check_offset(_: Envelope, attribute: Attribute[Any], value: Any) -> None:
    if value is None:
        return
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise _refuse(attribute.name)


@frozen
class Envelope:
    """One message with its payload as Python objects, for clients, tools and embedding programs.

    Raises `LocalProtocolError` (`bad_message`) when a field is not what the protocol allows. The
    server itself works on `codec.Incoming`, which leaves the payload unparsed.
    """

    # The kind of the message; it decides which handler gets it.
    type: str = field(validator=_check_type)
    # The topic that the message is about.
    topic: str | None = field(default=None, validator=_check_text)
    # The payload: any JSON value. Absent and null mean the same.
    data: Any = None
    # RFC 3339 in UTC. The server stamps every message that it sends and ignores stamps it receives.
    timestamp: str | None = field(default=None, validator=_check_text)
    # What went wrong, in words for people; only on `error` messages.
    error: str | None = field(default=None, validator=_check_text)
    # The sender of a request chooses it; every direct reply carries it back.
    id: str | int | None = field(default=None, validator=_check_id)
    # The position in a topic that keeps history, and the name of the count it belongs to.
    offset: int | None = field(default=None, validator=_check_offset)
    epoch: str | None = field(default=None, validator=_check_text)
