"""Messages to JSON bytes and back.

A message is read once, by msgspec, into an `Incoming` whose `data` stays the bytes it was: a
publication is parsed no further than its envelope, and what its subscribers get is a `head`, those
very bytes, and a time stamp, put together by `splice`.

`decode`, `head`, `splice` and `timestamp` are on every message's way. The comments beside them say
what each trick bought: Python 3.11, msgspec 0.22, one core of a busy 2-core machine, so read
the figures as ratios.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, Final, cast

import attrs
import msgspec
from cattrs.preconf.msgspec import make_converter

from ..errors import ErrorCode, LocalProtocolError, RemoteProtocolError, shorten
from .envelope import (
    FIELD_RULES,
    MAX_ID_LENGTH,
    MAX_INTEGER,
    MIN_INTEGER,
    Envelope,
    is_legal_id,
    is_legal_type,
)
from .faults import (
    DATA_TOO_DEEP,
    MAX_DEPTH,
    SURROGATE,
    TOO_DEEP,
    explain,
    find_fault,
    holds_nonfinite,
)

# What turns attrs classes, datetimes, UUIDs and the like into what JSON can say.
converter: Final = make_converter()


# A Struct, where the rest of the package has attrs classes: msgspec fills one five times faster
# (0.24 against 1.25 microseconds). gc=False: it can be in no cycle, so the collector need not look.
class Incoming(msgspec.Struct, gc=False):
    """One message as it arrived: the fields of an `Envelope`, with `data` still JSON.

    `data` is empty when the message had none. It keeps the received bytes alive; whoever keeps it
    for long keeps `data.copy()`.
    """

    type: str
    topic: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    timestamp: str | None = None
    error: str | None = None
    # Limits given as types are tested by msgspec, in C, and only for messages that have the field.
    id: (
        Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
        | Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
        | None
    ) = None
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)] | None = None
    epoch: str | None = None

    def value(self) -> Any:
        """Return `data` as Python objects; None when there is none.

        Raises `RemoteProtocolError` (`bad_message`) for a number that Python cannot hold, which is
        all that can be wrong with `data` once `decode` has passed it.
        """
        if not self.data:
            return None
        try:
            return _decode_any(self.data)
        except _DECODE_ERRORS as error:
            raise _bad_message("`data`: " + explain(error, bytes(self.data))) from error

    def envelope(self) -> Envelope:
        """Return the message with its payload as Python objects; raises what `value` does."""
        return _with_value(self, self.value())


def _with_value(message: Incoming, value: Any) -> Envelope:
    return Envelope(
        type=message.type,
        topic=message.topic,
        data=value,
        timestamp=message.timestamp,
        error=message.error,
        id=message.id,
        offset=message.offset,
        epoch=message.epoch,
    )


_decode_incoming: Final = msgspec.json.Decoder(Incoming).decode
_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

# DecodeError covers ValidationError. The bytes of a frame have been found to be UTF-8, but a caller
# with bytes from elsewhere gets a clear answer too.
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Legal types met so far, and how a message of each begins. One look-up replaces the regular
# expression, in `decode` and in `head` (30 against 140 ns). Full, it stays as it is: a peer that
# makes up types takes this short cut from types not met yet, and that is all it can do.
_MAX_KNOWN_TYPES: Final = 1024
_known_types: Final[dict[str, bytes]] = {}


def decode(payload: bytes) -> Incoming:
    """Read one message, given as the UTF-8 bytes of a text frame.

    Of a key that comes twice the last one counts, as in JavaScript; unknown fields are ignored.
    Whether `topic` is a legal topic is for those who use it. Raises `RemoteProtocolError`
    (`bad_message`) saying what is wrong and what would be right, and nothing else, whatever the
    bytes.
    """
    try:
        message = _decode_incoming(payload)
    except _DECODE_ERRORS as error:
        raise _bad_message(explain(error, payload)) from error
    if message.type not in _known_types:
        _learn_type(message.type)
    # Counting costs 0.7 ns a byte, measuring the depth 10 to 30: nearly every message stops at the
    # first test, being short, and most others at the second.
    if len(payload) > 2 * MAX_DEPTH and payload.count(b"[") + payload.count(b"{") > MAX_DEPTH:
        _check_depth(payload)
    return message


def _bad_message(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, ErrorCode.BAD_MESSAGE)


def _learn_type(text: str) -> bytes:
    if not is_legal_type(text):
        raise _bad_message(f"`type` must be {FIELD_RULES['type']}, not {shorten(text)}")
    start = b'{"type":"%b",' % text.encode()
    if len(_known_types) < _MAX_KNOWN_TYPES:
        _known_types[text] = start
    return start


_BRACKETS: Final = b"[]{}"
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _BRACKETS)
# As signed bytes: +1 and -1.
_OPEN, _SHUT = b"\x01", b"\xff"
_STEPS: Final = bytes.maketrans(b"[{]}", _OPEN * 2 + _SHUT * 2)
# Rounds of taking the innermost pairs away before counting: what is shallow is gone by then.
_ROUNDS: Final = 4


def _depth(payload: bytes) -> int:
    """Return how deep valid JSON is nested, or `_ROUNDS` if it is less than that."""
    if b"\\" in payload:  # or an escaped quote would look like the end of its string
        payload = payload.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(payload.split(b'"')[::2])
    steps = outside_strings.translate(_STEPS, _NOT_BRACKETS)
    for _ in range(_ROUNDS):
        steps = steps.replace(_OPEN + _SHUT, b"")
    return _ROUNDS + max(accumulate(memoryview(steps).cast("b")), default=0)


def _check_depth(payload: bytes) -> None:
    if _depth(payload) > MAX_DEPTH:
        raise _bad_message(TOO_DEEP)


def decode_envelope(payload: bytes | str) -> Envelope:
    """Read one message with its payload as Python objects: for clients and tools.

    Raises what `decode` does, but a number that is too large reads as infinity, as it would in
    JavaScript: a client must be able to read whatever the server relayed unread.
    """
    if isinstance(payload, str):
        try:
            payload = payload.encode()
        except UnicodeEncodeError as error:
            raise _bad_message("a message must be text that UTF-8 can carry") from error
    message = decode(payload)
    try:
        return _with_value(message, _read_relayed(message.data))
    except UnicodeDecodeError as error:
        raise _bad_message(explain(error, payload)) from error


def _read_relayed(data: msgspec.Raw) -> Any:
    if not data:
        return None
    try:
        return _decode_any(data)
    except msgspec.ValidationError:  # a number out of range; all else has been ruled out
        return json.loads(bytes(data), parse_int=_read_integer)


def _read_integer(digits: str) -> int | float:
    # Past 308 digits a float is infinite, and far past that `int` refuses to read on.
    return int(digits) if len(digits) <= 308 else float(digits)


def encode_envelope(envelope: Envelope) -> bytes:
    """Write one message; fields that are None are left out.

    Raises `LocalProtocolError` (`bad_message`) naming what cannot be encoded.
    """
    fields = attrs.asdict(envelope, recurse=False)
    data = fields.pop("data")
    try:
        start = _encode({name: value for name, value in fields.items() if value is not None})
    except UnicodeEncodeError as error:
        raise _cannot_encode("the envelope", SURROGATE) from error
    if data is None:
        return start
    return b'%b,"data":%b}' % (start[:-1], encode_value(data))


def _cannot_encode(place: str, reason: str) -> LocalProtocolError:
    return LocalProtocolError(f"{place} cannot be sent: {reason}", ErrorCode.BAD_MESSAGE)


# msgspec writes these without help; of exactly these types, as subclasses may have hooks.
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def encode_value(value: Any) -> bytes:
    """Write a payload as JSON.

    Takes what JSON knows, and attrs classes, dataclasses, datetimes, UUIDs, decimals, enums and
    sets, nested in any way; bytes become base64. Raises `LocalProtocolError` (`bad_message`) that
    names the place of what cannot be written: infinity and NaN are among that, since JSON has no
    word for them, and so is nesting that `decode` would refuse.
    """
    # A flat dict of plain values, as most payloads are, takes 0.5 microseconds this way, and 2
    # by the converter, which looks into everything.
    plain = type(value) in _PLAIN or (
        type(value) is dict and _PLAIN.issuperset(map(type, value.values()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    )
    try:
        if not plain:
            value = converter.unstructure(value)
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _cannot_encode(*(find_fault(value) or ("`data`", str(error)))) from error
    # msgspec writes NaN and the infinities as null: only where one was written is there reason to
    # look closer.
    if (
        encoded.find(b"null") >= 0
        and holds_nonfinite(cast("object", value))
        and (fault := find_fault(value))
    ):
        raise _cannot_encode(*fault)
    if not plain and len(encoded) >= 2 * MAX_DEPTH and _depth(encoded) >= MAX_DEPTH:
        raise _cannot_encode("`data`", DATA_TOO_DEEP)
    return encoded


def encode_id(request_id: str | int) -> bytes:
    """Write the `id` of a request that `decode` has let through, for its answer."""
    return b"%d" % request_id if type(request_id) is int else _encode(request_id)


def head(
    type: str,
    topic: str | None = None,
    id: str | int | None = None,
    error: str | None = None,
) -> bytes:
    """Return how a message with these fields begins, for `splice` to complete.

    The topic is escaped, but need not be a legal one: an error has to name the one it refuses.
    Raises `LocalProtocolError` (`bad_message`) for an illegal type or id.
    """
    start = _known_types.get(type)
    if start is None:
        if not is_legal_type(type):
            raise LocalProtocolError(
                f"`type` must be {FIELD_RULES['type']}, not {shorten(type)}", ErrorCode.BAD_MESSAGE
            )
        start = _learn_type(type)
    if id is not None and not is_legal_id(id):
        raise LocalProtocolError(f"`id` must be {FIELD_RULES['id']}", ErrorCode.BAD_MESSAGE)
    # Adding a few short bytes is no slower than formatting or joining them (240 ns with a topic,
    # any way), and fields left out cost nothing.
    try:
        if topic is not None:
            start += b'"topic":' + _encode(topic) + b","
        if id is not None:
            start += b'"id":' + _encode(id) + b","
        if error is not None:
            start += b'"error":' + _encode(error) + b","
    except UnicodeEncodeError as fault:
        raise _cannot_encode("`topic`, `id` or `error`", SURROGATE) from fault
    return start


def splice(
    head: bytes,
    data: bytes | msgspec.Raw | None,
    stamp: bytes,
) -> bytes:
    """Complete a message: what `head` returned, the payload's JSON bytes, and a `timestamp`.

    None or no bytes at all: the message has no `data`. The payload is taken as it is.
    """
    if not data:
        return b'%b"timestamp":"%b"}' % (head, stamp)
    # One join allocates once, and takes a Raw without copying it to bytes first: 110 ns for 64
    # bytes and 490 for 16 KiB, where adding with `+` takes 190 and 1,370.
    return b"".join((head, b'"data":', data, b',"timestamp":"', stamp, b'"}'))


# "000Z" to "999Z": formatting the number costs more than all the rest of a time stamp.
_MILLISECONDS: Final = tuple(b"%03dZ" % number for number in range(1000))


@lru_cache(maxsize=2)  # the present second; the one before, while messages of both are stamped
def _second(whole_seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole_seconds)).encode()


def timestamp(seconds: float) -> bytes:
    """Return a point in time as RFC 3339 in UTC, to the nearest millisecond.

    `seconds` count from 1970, as `time.time()` does; years 1000 to 9999 can be written.
    """
    # The second's text is kept: 270 ns instead of 1,320.
    milliseconds = int(seconds * 1000 + 0.5)
    whole_seconds = milliseconds // 1000
    return _second(whole_seconds) + _MILLISECONDS[milliseconds - whole_seconds * 1000]
