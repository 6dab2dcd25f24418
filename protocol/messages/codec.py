"""The codec: messages to JSON bytes and back.

msgspec reads a message once, into an `Incoming` whose `data` stays the bytes that arrived. So a
publication is parsed no further than its envelope. Its subscribers get a `head`, those same bytes,
and a time stamp, which `splice` puts together.

Every message passes `decode`, `head`, `splice` and `timestamp`. The comments beside them give the
gain of each trick. They were measured with Python 3.11 and msgspec 0.22 on one core of a busy
2-core machine, so read the figures as ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, Final, TypeVar, cast

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

LevelT = TypeVar("LevelT")

# Turns attrs classes, datetimes, UUIDs and the like into values that JSON can hold.
converter: Final = make_converter()


# This is a Struct, where the rest of the package has attrs classes, because msgspec fills it five
# times faster (0.24 against 1.25 microseconds). gc=False, because it cannot be part of a cycle, so
# the garbage collector need not visit it.
class Incoming(msgspec.Struct, gc=False):
    """One message as it arrived: the fields of an `Envelope`, with `data` still JSON.

    `data` is empty when the message had none. It keeps all received bytes of the message in memory;
    code that stores it for long stores `data.copy()`.
    """

    type: str
    topic: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    timestamp: str | None = None
    error: str | None = None
    # msgspec tests limits that are part of the type in C, and only for messages with the field.
    id: (
        Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
        | Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
        | None
    ) = None
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)] | None = None
    epoch: str | None = None

    def value(self) -> Any:
        """Return `data` as Python objects; None when there is none.

        Raises `RemoteProtocolError` (`bad_message`) for a number that Python cannot hold: nothing
        else can be wrong with `data` that `decode` has let through.
        """
        if not self.data:
            return None
        try:
            return _decode_any(self.data)
        except _DECODE_ERRORS as error:
            raise _bad_message("`data`: " + explain(error, bytes(self.data))) from error

    def envelope(self) -> Envelope:
        """Return the message with its payload as Python objects. Raises what `value` does."""
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

# DecodeError includes ValidationError. The bytes of a frame are known to be UTF-8, but a caller
# with other bytes also gets a clear answer.
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# The legal types seen so far, and the first bytes of a message of each. One look-up replaces the
# regular expression, in `decode` and in `head` (30 against 140 ns). A full table takes no more
# types: the worst that a peer can do by inventing types is to deny new ones this short cut.
_MAX_KNOWN_TYPES: Final = 1024
_known_types: Final[dict[str, bytes]] = {}


def decode(payload: bytes) -> Incoming:
    """Read one message, given as the UTF-8 bytes of a text frame.

    If a key comes twice, the last one counts, as in JavaScript. Unknown fields are ignored. `topic`
    is any string: the code that uses it checks whether it is a legal topic. Whatever the bytes are,
    the only exception is `RemoteProtocolError` (`bad_message`), whose text says what is wrong and
    what would be right.
    """
    try:
        message = _decode_incoming(payload)
    except _DECODE_ERRORS as error:
        raise _bad_message(explain(error, payload)) from error
    if message.type not in _known_types:
        _learn_type(message.type)
    # Counting costs 0.7 ns a byte, and measuring the depth 10 to 30 ns. Nearly every message is
    # short, so that the first test is enough; for most others the second one is.
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
# How often the innermost pairs are taken away before counting; shallow JSON has none left then.
_ROUNDS: Final = 4


def _depth(payload: bytes) -> int:
    """Return how deep valid JSON is nested, or `_ROUNDS` if it is less deep than that."""
    if b"\\" in payload:  # otherwise an escaped quote would look like the end of its string
        payload = payload.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(payload.split(b'"')[::2])
    steps = outside_strings.translate(_STEPS, _NOT_BRACKETS)
    for _ in range(_ROUNDS):
        steps = steps.replace(_OPEN + _SHUT, b"")
    return _ROUNDS + max(accumulate(memoryview(steps).cast("b")), default=0)


def _check_depth(payload: bytes) -> None:
    if _depth(payload) > MAX_DEPTH:
        raise _bad_message(TOO_DEEP)


_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_fields(payload: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Read a JSON object no deeper than its names; None if it is JSON of another kind.

    Its syntax is checked to the end, and nothing of the values is built: 1 MiB of nested lists
    takes 2 ms, and 46 ms as Python objects. If a name comes twice, the last one counts. The bytes
    must be UTF-8. Raises `RemoteProtocolError` (`bad_message`) for what is no JSON.
    """
    return _read_level(_decode_fields, payload)


def read_items(payload: bytes | msgspec.Raw) -> list[msgspec.Raw] | None:
    """Read a JSON list in the same way: its items, and nothing of what is in them."""
    return _read_level(_decode_items, payload)


def _read_level(
    decode_level: Callable[[bytes | msgspec.Raw], LevelT], payload: bytes | msgspec.Raw
) -> LevelT | None:
    try:
        return decode_level(payload)
    except msgspec.ValidationError:  # no object, or no list; a wrong name is a DecodeError
        return None
    except _DECODE_ERRORS as error:
        raise _bad_message(explain(error, bytes(payload))) from error


def check_raw(data: msgspec.Raw) -> None:
    """Check that valid JSON may be the `data` of a message, unparsed.

    Raises `RemoteProtocolError` (`bad_message`) for nesting that `decode` would refuse there. Of
    JSON with many brackets, 64 KiB take up to 2 ms.
    """
    payload = bytes(data)
    if payload.count(b"[") + payload.count(b"{") >= MAX_DEPTH and _depth(payload) >= MAX_DEPTH:
        raise _bad_message(f"`data` cannot be sent: {DATA_TOO_DEEP}")


def decode_envelope(payload: bytes | str) -> Envelope:
    """Read one message with its payload as Python objects, for clients and tools.

    Raises what `decode` does. A number that is too large reads as infinity, as in JavaScript,
    because a client must be able to read whatever the server relayed without reading it.
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
    except msgspec.ValidationError:  # a number out of range: `decode` has refused all else
        return json.loads(bytes(data), parse_int=_read_integer)


def _read_integer(digits: str) -> int | float:
    # Above 308 digits a float is infinite, and `int` refuses to read many more.
    return int(digits) if len(digits) <= 308 else float(digits)


def encode_envelope(envelope: Envelope) -> bytes:
    """Return one message as JSON; fields that are None are left out.

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


# msgspec writes values of exactly these types without help; subclasses may have hooks.
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def encode_value(value: Any) -> bytes:
    """Return a payload as JSON.

    The payload may be any JSON value, and attrs classes, dataclasses, datetimes, UUIDs, decimals,
    enums and sets, nested in any way; bytes become base64. A `msgspec.Raw` is JSON already, and is
    passed on as it is: whoever made it has checked it, with `check_raw`.

    Raises `LocalProtocolError` (`bad_message`) that names the place of a value that cannot be
    written. Infinity and NaN are such values, since JSON cannot express them, and so is nesting
    that `decode` would refuse.
    """
    # Most payloads are flat dicts of plain values. They take 0.5 microseconds this way, and 2 with
    # the converter, which looks into every value.
    plain = type(value) in _PLAIN or (
        type(value) is dict and _PLAIN.issuperset(map(type, value.values()))  # pyright: ignore[reportUnknownArgumentType]
    )
    try:
        if not plain:
            if isinstance(value, msgspec.Raw):
                return bytes(value)
            value = converter.unstructure(value)
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _cannot_encode(*(find_fault(value) or ("`data`", str(error)))) from error
    # msgspec writes NaN and the infinities as null, so the value needs a closer look only where a
    # null was written.
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
    """Return the `id` of a request as JSON, for its answer; `decode` has checked it."""
    return b"%d" % request_id if type(request_id) is int else _encode(request_id)


def head(
    type: str,
    topic: str | None = None,
    id: str | int | None = None,
    error: str | None = None,
) -> bytes:
    """Return the beginning of a message with these fields; `splice` completes it.

    The topic is escaped but need not be legal, since an error has to name the topic it refuses.
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
    # Adding a few short bytes is no slower than formatting or joining them (240 ns with a topic in
    # each case), and fields that are left out cost nothing.
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
    """Return a whole message: the result of `head`, the payload's JSON bytes, and a `timestamp`.

    Without payload (None or no bytes) the message has no `data`. The payload is not checked.
    """
    if not data:
        return b'%b"timestamp":"%b"}' % (head, stamp)
    # One join allocates once, and takes a Raw without copying it to bytes first. It takes 110 ns
    # for 64 bytes and 490 ns for 16 KiB, where adding with `+` takes 190 and 1,370 ns.
    return b"".join((head, b'"data":', data, b',"timestamp":"', stamp, b'"}'))


# "000Z" to "999Z": formatting the number would cost more than the rest of a time stamp.
_MILLISECONDS: Final = tuple(b"%03dZ" % number for number in range(1000))


@lru_cache(maxsize=2)  # the present second, and the one before at the change between them
def _second(whole_seconds: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole_seconds)).encode()


def timestamp(seconds: float) -> bytes:
    """Return a point in time in RFC 3339 form, in UTC, to the nearest millisecond.

    `seconds` count from 1970, as those of `time.time()`; the years may be 1000 to 9999.
    """
    # The text of the second is cached: 270 ns instead of 1,320.
    milliseconds = int(seconds * 1000 + 0.5)
    whole_seconds = milliseconds // 1000
    return _second(whole_seconds) + _MILLISECONDS[milliseconds - whole_seconds * 1000]
