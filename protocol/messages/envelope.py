"""The envelope: one message of the protocol, as a value."""

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
# (codec.py) and about envelopes that programs make (below) say the same.
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
    """Tell whether a message may have this id; None, meaning no id, is one."""
    if type(value) is int:  # the most common first: `head` asks this for every reply
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
    """One message, its payload as Python objects: for clients, tools and embedding programs.

    Raises `LocalProtocolError` (`bad_message`) when a field is not what the protocol allows.
    The server itself works on `codec.Incoming`, which leaves the payload unparsed.
    """

    # What kind of message this is; decides who handles it.
    type: str = field(validator=_check_type)
    # The topic that it is about.
    topic: str | None = field(default=None, validator=_check_text)
    # The payload: anything that JSON can say. Absent and null are the same.
    data: Any = None
    # RFC 3339, UTC. The server stamps all that it sends and ignores those that it gets.
    timestamp: str | None = field(default=None, validator=_check_text)
    # What went wrong, for people; on `error` messages only.
    error: str | None = field(default=None, validator=_check_text)
    # Chosen by the sender of a request; every direct reply carries it back.
    id: str | int | None = field(default=None, validator=_check_id)
    # Position in a topic that keeps history, and the name of the count that it belongs to.
    offset: int | None = field(default=None, validator=_check_offset)
    epoch: str | None = field(default=None, validator=_check_text)
