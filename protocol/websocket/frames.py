"""WebSocket frames: those that a server writes, and those that it reads from its clients.

The rules are those of RFC 6455, section 5. Two facts make this file fast:

* A server's frames are not masked, so the bytes of one publication are the same for every
  subscriber. `encode_text` encodes them once, and all subscribers share them.
* Nearly all frames that clients send are whole, unfragmented, masked text frames shorter than
  64 KiB. `FrameReader.feed` recognises them by their first byte and reads all of them in a chunk in
  one loop, without slicing the chunk up. All other frames (fragments, control frames, binary,
  64-bit lengths, illegal ones, and those that a chunk does not complete) go through
  `FrameReader._read_frame`, which follows the RFC's text.

Nothing in this file waits or uses a socket.
"""

from __future__ import annotations

import codecs
from enum import IntEnum
from typing import Final

from ..closing import CloseCause, is_sendable_close_code
from ..errors import ErrorCode, RemoteProtocolError


class Opcode(IntEnum):
    """The kind of a frame (RFC 6455, section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


# Plain integers for the loop below: comparing with a member of an IntEnum costs four times as much.
_CONTINUATION: Final = int(Opcode.CONTINUATION)
_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)
_CLOSE: Final = int(Opcode.CLOSE)

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_WHOLE_TEXT: Final = _FIN | _TEXT
_KNOWN_OPCODES: Final = frozenset(int(opcode) for opcode in Opcode)

_MAX_CONTROL_PAYLOAD: Final = 125
"""Bytes; RFC 6455, section 5.5."""

MAX_HEADER: Final = 14
"""Bytes of the longest header of a client's frame: a 64-bit length, and a masking key."""

MAX_FRAMES: Final = 256
"""Frames that one `feed` reads.

A chunk of 64 KiB can hold 10,922. Reading them took 20 to 29 ms, and up to 50 ms with what they ask
for. Acting on 256 takes 0.8 ms mostly, and 3 ms if each is answered with an error.
"""

_TURN: Final = range(MAX_FRAMES)

_FREE_FRAMES: Final = 1024
_BYTES_PER_FRAME: Final = 16
"""A message may have `_FREE_FRAMES` frames, and one more for each `_BYTES_PER_FRAME` bytes.

Empty fragments are legal, and so are fragments of one byte, as a peer makes them that sends what is
typed; only without end they are an attack. Fragments of 16 bytes and more are never too many.
"""

_NOT_UTF8: Final = "a text message must be UTF-8"

_SHORT_TEXT_HEADERS: Final = tuple(bytes((_WHOLE_TEXT, length)) for length in range(126))

Messages = list[tuple[int, bytes]]


def encode_text(payload: bytes) -> bytes:
    """Return one whole text frame, as a server sends it.

    `payload` must be UTF-8; it is not checked. Any number of recipients can share the result.
    """
    length = len(payload)
    if length < 126:
        return _SHORT_TEXT_HEADERS[length] + payload
    return _header(_WHOLE_TEXT, length) + payload


def encode_binary(payload: bytes) -> bytes:
    """Return one whole binary frame, as a server sends it."""
    return _header(_FIN | _BINARY, len(payload)) + payload


def encode_ping(payload: bytes = b"") -> bytes:
    """Return a Ping frame. Raises ValueError for a payload of more than 125 bytes."""
    return _encode_control(Opcode.PING, payload)


def encode_pong(payload: bytes = b"") -> bytes:
    """Return a Pong frame. Raises ValueError for a payload of more than 125 bytes."""
    return _encode_control(Opcode.PONG, payload)


def encode_close(code: int | None = None, reason: str = "") -> bytes:
    """Return a Close frame with a code and a reason, or with neither if the code is None.

    A reason that is too long is cut between two characters. Raises ValueError for a code that must
    not go over the wire, such as 1005 or 1006 (RFC 6455, section 7.4).
    """
    if code is None:
        return _encode_control(Opcode.CLOSE, b"")
    if not is_sendable_close_code(code):
        message = f"close code {code} must not be sent; 1000-1014 (but 1004-1006) and 3000-4999 may"
        raise ValueError(message)
    text = reason.encode()[: _MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return _encode_control(Opcode.CLOSE, code.to_bytes(2) + text)


def parse_close(payload: bytes) -> tuple[int | None, str]:
    """Return the code and the reason of a Close frame's payload, as `FrameReader` gives it."""
    if not payload:
        return None, ""
    return int.from_bytes(payload[:2]), payload[2:].decode()


def _encode_control(opcode: Opcode, payload: bytes) -> bytes:
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        message = f"a control frame carries at most 125 bytes, not {len(payload)}"
        raise ValueError(message)
    return bytes((_FIN | opcode, len(payload))) + payload


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2)
    return bytes((first, 127)) + length.to_bytes(8)


def frame_end(data: bytes, start: int) -> int:
    """Return where a server's frame ends that begins at `start`; its header must be there."""
    length = data[start + 1]
    if length < 126:
        return start + 2 + length
    if length == 126:
        return start + 4 + int.from_bytes(data[start + 2 : start + 4])
    return start + 10 + int.from_bytes(data[start + 2 : start + 10])


def unmask(payload: bytes, key: bytes) -> bytes:
    """Return the payload with the masking key applied; it masks and unmasks.

    One XOR of two big integers takes 0.7 µs for 64 bytes and 30 µs for 16 KiB. A translation table
    for each of the key's four bytes takes 2.5 µs and 31 µs.
    """
    length = len(payload)
    repeated = (key * ((length + 3) >> 2))[:length]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(length)


class FrameReader:
    """The reader of one client's frames, out of chunks of bytes that may be cut anywhere.

    A message is a pair of opcode and payload: TEXT (checked to be UTF-8), BINARY, PING, PONG or
    CLOSE (checked as RFC 6455, section 7.4, demands; see `parse_close`). Fragments come out joined.
    The payload of a frame is unmasked and checked as it arrives, so a frame of many chunks costs
    each of them its share, and text that is not UTF-8 is found before its frame is complete.

    The first violation ends the reading: `failure` then holds the `RemoteProtocolError` whose
    `close` says how to close. Messages before the violation are still returned. Bytes after it are
    ignored, as they are after a Close frame.
    """

    __slots__ = (
        "_final",
        "_frames",
        "_key",
        "_left",
        "_message",
        "_opcode",
        "_rest",
        "_rest_begun",
        "_text_check",
        "begun",
        "failure",
        "finished",
        "fragments",
        "has_more",
        "max_message_size",
        "settled",
    )

    def __init__(self, max_message_size: int) -> None:
        """Set the size of the largest message, in bytes; a larger one is a violation."""
        self.max_message_size = max_message_size
        # Bytes that are not read yet: the beginning of a header or of a control frame, or frames
        # beyond those of one turn.
        self._rest = b""
        self._rest_begun = False  # whether `begun` has counted the frame in `_rest`
        # The message that is being read: its opcode, its payload so far, how many frames it has,
        # and for text the decoder that finds illegal UTF-8 as soon as it arrives.
        self._opcode = 0
        self._message: bytearray | None = None
        self._frames = 0
        self._text_check: codecs.IncrementalDecoder | None = None
        # The frame that is being read: how many bytes of its payload have not arrived, the masking
        # key, turned so that it begins with the next byte's, and the FIN bit.
        self._left = 0
        self._key: bytes = b""
        self._final = False
        # Whether the latest `feed` has returned all that it took: nothing is unfinished, unread or
        # wrong, and each frame completed a message. If so, its caller need not ask further.
        self.settled = True
        # Whether frames are left that may be complete: `feed(b"")` reads them, as another turn.
        self.has_more = False
        # How many frames of the latest `feed` completed no message. Valid if it is not settled.
        self.fragments = 0
        # The number of the messages that began and were not complete at once. While it stays the
        # same, and the reader is not settled, the same message is unfinished.
        self.begun = 0
        self.failure: RemoteProtocolError | None = None
        self.finished = False

    def feed(self, chunk: bytes) -> Messages:
        """Take bytes that have arrived; return the messages that they complete, in order.

        At most `MAX_FRAMES` frames are read; see `has_more`.
        """
        messages: Messages = []
        data = chunk
        position = 0
        if not self.settled:
            if self.finished:
                return messages
            self.fragments = 0
            self.has_more = False
            if self._rest:
                data = self._rest + chunk
                self._rest = b""
            elif self._left:
                position = self._read_payload(data, 0, messages)
                if self.finished:
                    return messages
        end = len(data)
        last = end - 6  # where the last frame can begin: a header has six bytes at least
        limit = self.max_message_size
        whole_text = _WHOLE_TEXT if self._message is None else -1
        for _ in _TURN:
            if position > last:
                break
            length = data[position + 1] - _MASKED
            if data[position] == whole_text and 0 <= length < 127:
                start = position + 6
                if length == 126:
                    start = position + 8
                    length = data[position + 2] << 8 | data[position + 3]
                    if length < 126:
                        start = end + 1  # not in its shortest form: `_read_frame` refuses it
                stop = start + length
                if stop <= end and length <= limit:
                    # This is `unmask` written out: a call would add a fifth to its time.
                    key = data[start - 4 : start]
                    payload = (
                        int.from_bytes(data[start:stop])
                        ^ int.from_bytes((key * ((length + 3) >> 2))[:length])
                    ).to_bytes(length)
                    if not payload.isascii() and not _is_utf8(payload):
                        self._fail(CloseCause.INVALID_PAYLOAD, _NOT_UTF8)
                        return messages
                    messages.append((_TEXT, payload))
                    position = stop
                    continue
            after = self._read_frame(data, position, messages)
            if self.finished:
                return messages
            if after == position:
                break
            position = after
            whole_text = _WHOLE_TEXT if self._message is None else -1
        else:
            self.has_more = position < end
        if position < end or not self.settled:
            self._set_aside(data, position)
        return messages

    @property
    def unfinished(self) -> bool:
        """Whether a frame or a message has begun and is not complete."""
        return self._message is not None or bool(self._rest)

    @property
    def unread(self) -> int:
        """How many bytes `feed` has taken and not read yet."""
        return len(self._rest)

    @property
    def waiting(self) -> int:
        """How many bytes of incomplete or unread messages are held."""
        return len(self._rest) + len(self._message or b"")

    def _set_aside(self, data: bytes, position: int) -> None:
        """Note what is unfinished at the end of a turn, and keep the bytes that are not read."""
        rest = data[position:] if position else data
        if 2 <= len(rest) < 6 and not self.has_more:
            violation = self._violation(rest[0], rest[1])
            if violation is not None:
                self._fail(CloseCause.PROTOCOL_ERROR, violation)
                return
        begins = bool(rest) and self._message is None
        if begins:
            self._count_beginning(position)
        self._rest = rest
        self._rest_begun = begins
        self.settled = not rest and self._message is None and not self.fragments

    def _count_beginning(self, position: int) -> None:
        """Count the message whose first frame is at this position, once however it is cut."""
        if position or not self._rest_begun:
            self.begun += 1

    def _read_frame(self, data: bytes, position: int, messages: Messages) -> int:
        """Read one frame of any kind; return where its bytes end.

        That is the end of the data if its payload goes on, and `position` if its header, or a
        control frame, is not complete.
        """
        first = data[position]
        second = data[position + 1]
        opcode = first & 0x0F
        violation = self._violation(first, second)
        if violation is not None:
            self._fail(CloseCause.PROTOCOL_ERROR, violation)
            return position
        start = position + _header_length(second)
        if start > len(data):
            return position
        length = second & 0x7F
        if opcode & 0x8:
            return self._read_control(opcode, data, start, start + length, messages) or position
        if length > 125:
            long = length == 127
            length = int.from_bytes(data[position + 2 : start - 4])
            # "the minimal number of bytes MUST be used to encode the length", and of a 64-bit one
            # "the most significant bit MUST be 0" (section 5.2)
            if length < 126 or (long and not 1 << 16 <= length < 1 << 63):
                self._fail(CloseCause.PROTOCOL_ERROR, "the length is not in its shortest form")
                return position
        size = length + len(self._message or b"")
        if size > self.max_message_size:
            limit = self.max_message_size
            self._fail(CloseCause.MESSAGE_TOO_BIG, f"a message may have at most {limit} bytes")
            return position
        key = data[start - 4 : start]
        if self._message is None:
            stop = start + length
            if first & _FIN and stop <= len(data):
                payload = unmask(data[start:stop], key)
                if opcode == _TEXT and not _is_utf8(payload):
                    self._fail(CloseCause.INVALID_PAYLOAD, _NOT_UTF8)
                else:
                    messages.append((opcode, payload))
                return stop
            self._begin_message(opcode, position)
        self._frames += 1
        most = _FREE_FRAMES + size // _BYTES_PER_FRAME
        if self._frames > most:
            text = f"a message of {size} bytes may have at most {most} frames"
            self._fail(CloseCause.TOO_MANY_FRAGMENTS, text)
            return position
        self._left, self._key, self._final = length, key, bool(first & _FIN)
        return self._read_payload(data, start, messages)

    def _violation(self, first: int, second: int) -> str | None:
        """Return the rule of section 5 that the first two bytes of a frame break, or None."""
        opcode = first & 0x0F
        if first & _RESERVED:
            return "reserved bits are set, and no extension was negotiated"
        if opcode not in _KNOWN_OPCODES:
            return f"opcode {opcode} is reserved"
        if not second & _MASKED:
            return "a client's frames must be masked"
        if opcode & 0x8:
            if not first & _FIN:
                return "a control frame must not be fragmented"
            if second & 0x7F > _MAX_CONTROL_PAYLOAD:
                return "a control frame carries at most 125 bytes"
        elif opcode == _CONTINUATION and self._message is None:
            return "there is no message to continue"
        elif opcode != _CONTINUATION and self._message is not None:
            return "a new message began before the fragmented one ended"
        return None

    def _read_control(
        self, opcode: int, data: bytes, start: int, stop: int, messages: Messages
    ) -> int:
        """Read a control frame whose payload has these limits; return its end, 0 if it is cut."""
        if stop > len(data):
            return 0
        payload = unmask(data[start:stop], data[start - 4 : start])
        if opcode == _CLOSE:
            if len(payload) == 1:
                self._fail(CloseCause.PROTOCOL_ERROR, "a close code has two bytes")
                return stop
            if payload and not is_sendable_close_code(int.from_bytes(payload[:2])):
                code = int.from_bytes(payload[:2])
                self._fail(
                    CloseCause.PROTOCOL_ERROR, f"{code} is not a close code that may be sent"
                )
                return stop
            if not _is_utf8(payload[2:]):
                self._fail(CloseCause.INVALID_PAYLOAD, "a close reason must be UTF-8")
                return stop
            self._finish()  # "the peer MUST NOT send any more data frames" (section 5.5.1)
        messages.append((opcode, payload))
        return stop

    def _begin_message(self, opcode: int, position: int) -> None:
        """Begin to gather a message that is not whole, or not complete yet."""
        self._count_beginning(position)
        self._opcode = opcode
        self._message = bytearray()
        self._frames = 0
        if opcode == _TEXT:
            self._text_check = codecs.getincrementaldecoder("utf-8")()
        self.settled = False

    def _read_payload(self, data: bytes, position: int, messages: Messages) -> int:
        """Add what has arrived of a frame's payload to its message; return where that ends."""
        assert self._message is not None  # noqa: S101 - `_begin_message` has made it
        stop = min(position + self._left, len(data))
        piece = unmask(data[position:stop], self._key)
        check = self._text_check
        self._left -= len(piece)
        complete = self._final and not self._left
        # The decoder has something to say only about what is not ASCII or follows half a character.
        if check is not None and (not piece.isascii() or check.getstate()[0]):
            try:
                check.decode(piece, complete)
            except UnicodeDecodeError:
                self._fail(CloseCause.INVALID_PAYLOAD, _NOT_UTF8)
                return stop
        self._message += piece
        if complete:
            messages.append((self._opcode, bytes(self._message)))
            self._message = self._text_check = None
        elif self._left:
            turn = len(piece) & 3
            self._key = self._key[turn:] + self._key[:turn]
        else:
            self.fragments += 1
        return stop

    def _fail(self, cause: CloseCause, text: str) -> None:
        too_big = cause is CloseCause.MESSAGE_TOO_BIG
        code = ErrorCode.TOO_LARGE if too_big else ErrorCode.BAD_MESSAGE
        self.failure = RemoteProtocolError(text, code, close=cause)
        self._finish()

    def _finish(self) -> None:
        """Read nothing more, and let go of what is held."""
        self.finished = True
        self.settled = self.has_more = False
        self._rest = b""
        self._message = self._text_check = None


def _header_length(second: int) -> int:
    """Return how many bytes the header of a masked frame has, by its second byte."""
    length = second & 0x7F
    return 6 if length < 126 else 8 if length == 126 else 14


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
