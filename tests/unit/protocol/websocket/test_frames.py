import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from moorage.protocol.closing import CloseCause
from moorage.protocol.errors import ErrorCode
from moorage.protocol.websocket.frames import (
    MAX_FRAMES,
    FrameReader,
    Opcode,
    encode_binary,
    encode_close,
    encode_ping,
    encode_pong,
    encode_text,
    frame_end,
    parse_close,
    unmask,
)
from tests.fakes import BINARY, CLOSE, PING, PONG, TEXT, masked

CONTINUATION = 0x0
FIN = 0x80
LIMIT = 300  # bytes in a message; more than fit into a 7-bit length

INCOMPLETE = None


def naive_unmask(payload, key):
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def is_utf8_so_far(data, *, final):
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return not final and error.reason == "unexpected end of data"
    return True


def naive_read(data, limit=LIMIT):
    """RFC 6455, section 5, over all bytes at once: the messages, and the first fault's cause."""
    messages = []
    fragments = None  # opcode and bytes of the message under way
    frames = 0  # how many it has
    while True:
        if len(data) < 2:
            return messages, INCOMPLETE
        first, second = data[0], data[1]
        fin, opcode, short = first & FIN, first & 0x0F, second & 0x7F
        control = opcode >= 8
        if (
            first & 0x70
            or opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}
            or not second & 0x80
            or (control and (not fin or short > 125))
            or (not control and (opcode == CONTINUATION) != (fragments is not None))
        ):
            return messages, CloseCause.PROTOCOL_ERROR
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(data) < 2 + extra + 4:
            return messages, INCOMPLETE
        length = int.from_bytes(data[2 : 2 + extra]) if extra else short
        if (extra == 2 and length < 126) or (extra == 8 and length < 65_536) or length >= 1 << 63:
            return messages, CloseCause.PROTOCOL_ERROR
        held = fragments[1] if fragments and not control else b""
        if not control and len(held) + length > limit:
            return messages, CloseCause.MESSAGE_TOO_BIG
        if not control:
            frames = frames + 1 if fragments else 1
            if frames > 1024 + (len(held) + length) // 16:
                return messages, CloseCause.TOO_MANY_FRAGMENTS
        start = 2 + extra + 4
        payload = naive_unmask(data[start : start + length], data[start - 4 : start])
        if len(data) < start + length:
            kind = fragments[0] if fragments else opcode
            if kind == TEXT and not (control or is_utf8_so_far(held + payload, final=False)):
                return messages, CloseCause.INVALID_PAYLOAD
            return messages, INCOMPLETE
        data = data[start + length :]
        if opcode == CLOSE:
            if len(payload) == 1:
                return messages, CloseCause.PROTOCOL_ERROR
            code = int.from_bytes(payload[:2])
            sendable = code in {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
            if payload and not sendable:
                return messages, CloseCause.PROTOCOL_ERROR
            if not is_utf8_so_far(payload[2:], final=True):
                return messages, CloseCause.INVALID_PAYLOAD
            return [*messages, (CLOSE, payload)], INCOMPLETE
        if control:
            messages.append((opcode, payload))
            continue
        kind = fragments[0] if fragments else opcode
        payload = held + payload
        if kind == TEXT and not is_utf8_so_far(payload, final=bool(fin)):
            return messages, CloseCause.INVALID_PAYLOAD
        fragments = None if fin else (kind, payload)
        if fin:
            messages.append((kind, payload))


def outcome(reader):
    return reader.failure and reader.failure.close


def read_all(reader, data):
    """Feed a reader, in as many turns as it needs."""
    messages = reader.feed(data)
    while reader.has_more:
        messages += reader.feed(b"")
    return messages


def read_whole(data, limit=LIMIT):
    reader = FrameReader(limit)
    return read_all(reader, data), outcome(reader)


def raw_frame(first, payload, *, form=None, length=None, is_masked=True, key=b"\x11\xaa\x00\xff"):
    """One frame that may be illegal: a length of any form, a missing mask, a wrong length."""
    length = len(payload) if length is None else length
    form = form or (7 if length < 126 else 16 if length < 65_536 else 64)
    mask = 0x80 if is_masked else 0
    size = {
        7: lambda: bytes([mask | length]),
        16: lambda: bytes([mask | 126]) + length.to_bytes(2),
        64: lambda: bytes([mask | 127]) + length.to_bytes(8),
    }[form]()
    return bytes([first]) + size + (key + naive_unmask(payload, key) if is_masked else payload)


texts = st.text(max_size=12).map(str.encode)
sizes = st.sampled_from([0, 1, 3, 124, 125, 126, 127, LIMIT - 1, LIMIT, LIMIT + 1])
payloads = texts | st.binary(max_size=8) | sizes.map(lambda size: b"x" * size)
keys = st.binary(min_size=4, max_size=4)
whole_texts = st.builds(lambda text, key: raw_frame(FIN | TEXT, text, key=key), texts, keys)
short = st.binary(max_size=125) | texts
controls = st.builds(
    lambda opcode, payload: raw_frame(FIN | opcode, payload), st.sampled_from([PING, PONG]), short
)
closes = st.builds(
    lambda code, reason: raw_frame(FIN | CLOSE, code.to_bytes(2) + reason),
    st.sampled_from([1000, 1004, 1005, 1006, 1014, 1015, 2999, 3000, 4999, 5000, 0, 65_535]),
    texts | st.just(b"\xff"),
)
fragmented = st.lists(payloads, min_size=1, max_size=4).flatmap(
    lambda parts: st.builds(
        lambda kind, between: between.join(
            raw_frame(
                (FIN if index == len(parts) - 1 else 0) | (kind if index == 0 else CONTINUATION),
                part,
            )
            for index, part in enumerate(parts)
        ),
        st.sampled_from([TEXT, BINARY]),
        st.just(b"") | controls,
    )
)
# More than one turn takes, or than a message may have.
many = st.builds(
    lambda frame, count, last: frame * count + last,
    st.sampled_from(
        [raw_frame(FIN | PING, b""), raw_frame(FIN | TEXT, b"x"), raw_frame(CONTINUATION, b"")]
    ),
    st.sampled_from([MAX_FRAMES - 1, MAX_FRAMES, 2 * MAX_FRAMES + 1]),
    st.sampled_from([b"", raw_frame(FIN | CONTINUATION, b""), raw_frame(TEXT, b"x")]),
)


@st.composite
def odd_frames(draw):
    """A frame whose parts fit each other only by chance."""
    payload = draw(payloads)
    form = draw(st.sampled_from([16, 64] if len(payload) > 125 else [7, 16, 64]))
    first = draw(st.integers(0, 255) | st.sampled_from([FIN | TEXT, FIN | BINARY, TEXT]))
    return raw_frame(first, payload, form=form, is_masked=draw(st.integers(0, 9)) > 0)


streams = st.lists(
    st.one_of(whole_texts, whole_texts, controls, fragmented, closes, many, odd_frames()),
    max_size=6,
).map(b"".join)
half_text = "€".encode()[:2]


# --- however bytes are cut, the same events come out -----------------------------------------


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(0, 700), max_size=6), st.integers(0, 20))
def test_however_bytes_are_cut_the_same_events_come_out_as_soon_as_they_can(data, cuts, lost):
    data = data[: len(data) - lost]
    reader = FrameReader(LIMIT)
    messages = []
    places = sorted({*(cut for cut in cuts if cut < len(data)), 0, len(data)})
    for start, end in itertools.pairwise(places):
        messages += read_all(reader, data[start:end])
        assert (messages, outcome(reader)) == naive_read(data[:end])
    assert (messages, outcome(reader)) == naive_read(data)


@settings(max_examples=100, deadline=None)
@given(streams)
def test_one_byte_at_a_time_is_like_all_at_once(data):
    reader = FrameReader(LIMIT)
    messages = [message for byte in data for message in reader.feed(bytes([byte]))]
    assert (messages, outcome(reader)) == read_whole(data)


@settings(max_examples=100, deadline=None)
@given(streams, st.lists(st.integers(0, 20_000), max_size=6))
def test_whoever_does_not_wait_for_the_turns_of_a_chunk_gets_the_same_in_the_end(data, cuts):
    reader = FrameReader(LIMIT)
    places = sorted({*(cut for cut in cuts if cut < len(data)), 0, len(data)})
    messages = []
    for start, end in itertools.pairwise(places):
        messages += reader.feed(data[start:end])
    messages += read_all(reader, b"")
    assert (messages, outcome(reader)) == naive_read(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing(data):
    assert read_whole(data) == naive_read(data)


@given(st.binary(max_size=40), keys)
def test_masking_twice_gives_back_what_was_masked(payload, key):
    assert unmask(payload, key) == naive_unmask(payload, key)
    assert unmask(unmask(payload, key), key) == payload


def test_a_large_message_may_come_byte_by_byte():
    data = masked(TEXT, b"x" * 70_000)
    reader = FrameReader(70_000)
    messages = [message for byte in data for message in reader.feed(bytes([byte]))]
    assert messages == [(TEXT, b"x" * 70_000)]
    assert reader.waiting == 0


# --- every rule of section 5 -----------------------------------------------------------------

FINE = raw_frame(FIN | TEXT, b"before")
OPEN_TEXT = raw_frame(TEXT, b"open")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(raw_frame(FIN | 0x40 | TEXT, b"x"), id="rsv1"),
        pytest.param(raw_frame(FIN | 0x20 | TEXT, b"x"), id="rsv2"),
        pytest.param(raw_frame(FIN | 0x10 | TEXT, b"x"), id="rsv3"),
        pytest.param(raw_frame(FIN | 0x40 | PING, b"x"), id="rsv1-on-control"),
        *(pytest.param(raw_frame(FIN | op, b"x"), id=f"opcode-{op}") for op in (3, 4, 5, 6, 7)),
        *(pytest.param(raw_frame(FIN | op, b"x"), id=f"opcode-{op}") for op in range(11, 16)),
        pytest.param(raw_frame(FIN | TEXT, b"not masked", is_masked=False), id="unmasked-text"),
        pytest.param(raw_frame(FIN | PING, b"not masked", is_masked=False), id="unmasked-ping"),
        pytest.param(raw_frame(PING, b"x"), id="fragmented-ping"),
        pytest.param(raw_frame(CLOSE, b""), id="fragmented-close"),
        pytest.param(raw_frame(FIN | PING, b"x" * 126), id="ping-of-126"),
        pytest.param(raw_frame(FIN | PONG, b"x", form=16), id="pong-with-16-bit-length"),
        pytest.param(raw_frame(FIN | CLOSE, b"xx" * 70), id="close-of-140"),
        pytest.param(raw_frame(FIN | CONTINUATION, b"x"), id="nothing-to-continue"),
        pytest.param(OPEN_TEXT + raw_frame(FIN | TEXT, b"x"), id="text-within-a-message"),
        pytest.param(OPEN_TEXT + raw_frame(FIN | BINARY, b"x"), id="binary-within-a-message"),
        pytest.param(raw_frame(FIN | TEXT, b"x" * 125, form=16), id="16-bit-length-of-125"),
        pytest.param(raw_frame(FIN | BINARY, b"x", form=16), id="16-bit-length-of-1"),
        pytest.param(raw_frame(FIN | TEXT, b"x", form=64), id="64-bit-length-of-1"),
        pytest.param(raw_frame(FIN | TEXT, b"x" * 200, form=64), id="64-bit-length-of-200"),
        pytest.param(
            raw_frame(FIN | BINARY, b"", form=64, length=1 << 63), id="64-bit-length-signed"
        ),
        pytest.param(raw_frame(FIN | CLOSE, b"\x03"), id="half-a-close-code"),
        *(
            pytest.param(raw_frame(FIN | CLOSE, code.to_bytes(2)), id=f"close-{code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
        ),
    ],
)
def test_a_violation_is_a_protocol_error_and_what_stood_before_it_counts(frame):
    messages, cause = read_whole(FINE + frame + FINE)
    assert messages == [(TEXT, b"before")]
    assert cause is CloseCause.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(raw_frame(FIN | TEXT, b"\xff"), id="text"),
        pytest.param(raw_frame(FIN | TEXT, half_text), id="half-a-character"),
        pytest.param(raw_frame(FIN | TEXT, b"\xed\xa0\x80"), id="surrogate"),
        pytest.param(raw_frame(FIN | TEXT, b"\xff" * 200), id="long-text"),
        pytest.param(OPEN_TEXT + raw_frame(FIN | CONTINUATION, half_text), id="half-at-the-end"),
        pytest.param(raw_frame(FIN | CLOSE, b"\x03\xe8\xff"), id="close-reason"),
    ],
)
def test_text_that_is_not_utf_8_is_an_invalid_payload(frame):
    assert read_whole(FINE + frame) == ([(TEXT, b"before")], CloseCause.INVALID_PAYLOAD)


def test_illegal_utf_8_is_found_before_the_message_is_complete():
    reader = FrameReader(LIMIT)
    assert reader.feed(raw_frame(TEXT, b"good" + half_text)) == []
    assert reader.failure is None
    assert reader.feed(raw_frame(CONTINUATION, b"no")) == []
    assert reader.failure.close is CloseCause.INVALID_PAYLOAD


def test_illegal_utf_8_is_found_before_its_frame_is_complete():
    """It was noticed at the end of the frame, after as many bytes as a message may have."""
    text = "κόσμε".encode() + b"\xf4\x90\x80\x80" + b"edited" * 30
    frame = raw_frame(FIN | TEXT, text)
    wrong = len(frame) - len(text) + len("κόσμε".encode()) + 2  # the end of its first wrong byte
    reader = FrameReader(LIMIT)
    for byte in frame[: wrong - 1]:
        assert reader.feed(bytes([byte])) == []
    assert reader.failure is None
    reader.feed(frame[wrong - 1 : wrong])
    assert reader.failure.close is CloseCause.INVALID_PAYLOAD
    assert reader.waiting == 0


def test_a_character_may_be_cut_by_a_chunk():
    text = "€".encode() * 50
    frame = raw_frame(FIN | TEXT, text)
    for cut in range(len(frame)):
        reader = FrameReader(LIMIT)
        assert reader.feed(frame[:cut]) + reader.feed(frame[cut:]) == [(TEXT, text)]
        assert reader.settled


def test_a_character_may_be_cut_by_a_fragment():
    data = raw_frame(TEXT, half_text) + raw_frame(FIN | CONTINUATION, "€".encode()[2:])
    assert read_whole(data) == ([(TEXT, "€".encode())], None)


def test_control_frames_may_stand_between_fragments():
    data = OPEN_TEXT + raw_frame(FIN | PING, b"p") + raw_frame(FIN | CONTINUATION, b"ed")
    assert read_whole(data) == ([(PING, b"p"), (TEXT, b"opened")], None)


def test_a_whole_text_after_a_fragmented_one_is_read_fast_again():
    data = OPEN_TEXT + raw_frame(FIN | CONTINUATION, b"") + FINE + FINE
    assert read_whole(data)[0] == [(TEXT, b"open"), (TEXT, b"before"), (TEXT, b"before")]


def test_nothing_is_read_after_a_close_frame():
    reader = FrameReader(LIMIT)
    assert reader.feed(raw_frame(FIN | CLOSE, b"\x03\xe8bye") + FINE) == [(CLOSE, b"\x03\xe8bye")]
    assert reader.finished
    assert reader.failure is None
    assert reader.feed(FINE) == []


def test_nothing_is_read_after_a_violation():
    reader = FrameReader(LIMIT)
    reader.feed(raw_frame(FIN | 0x70 | TEXT, b"x"))
    assert reader.feed(FINE) == []
    assert reader.finished


def test_a_violation_is_seen_in_the_first_two_bytes():
    reader = FrameReader(LIMIT)
    reader.feed(b"\xf1\x80")
    assert reader.failure.close is CloseCause.PROTOCOL_ERROR
    assert reader.failure.code is ErrorCode.BAD_MESSAGE


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "size"), [(100, 101), (300, 301), (100_000, 100_001)])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_too_big_a_message_is_refused_by_its_header_alone(limit, size, opcode):
    header = masked(opcode, b"x" * size)[:-size]
    reader = FrameReader(limit)
    assert reader.feed(header) == []
    assert reader.failure.close is CloseCause.MESSAGE_TOO_BIG
    assert reader.failure.code is ErrorCode.TOO_LARGE
    assert reader.waiting == 0


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536])
def test_a_message_of_exactly_the_limit_is_read(size):
    for opcode in (TEXT, BINARY):
        assert read_whole(masked(opcode, b"x" * size), size) == ([(opcode, b"x" * size)], None)


def test_an_announced_exabyte_takes_no_memory():
    reader = FrameReader(LIMIT)
    reader.feed(raw_frame(FIN | BINARY, b"", length=1 << 60))
    assert reader.failure.close is CloseCause.MESSAGE_TOO_BIG
    assert reader.waiting == 0


def test_fragments_count_together_and_are_let_go_when_they_are_too_many():
    reader = FrameReader(10)
    reader.feed(raw_frame(TEXT, b"123456"))
    assert reader.waiting == 6
    reader.feed(raw_frame(CONTINUATION, b"12345")[:6])
    assert reader.failure.close is CloseCause.MESSAGE_TOO_BIG
    assert reader.waiting == 0


EMPTY = raw_frame(CONTINUATION, b"")


def test_empty_fragments_without_end_are_refused():
    """They were free of all limits: 686,000 a second kept a core busy for one peer."""
    reader = FrameReader(LIMIT)
    read_all(reader, raw_frame(TEXT, b"x") + EMPTY * 1023)
    assert reader.failure is None
    reader.feed(EMPTY)
    assert reader.failure.close is CloseCause.TOO_MANY_FRAGMENTS
    assert str(reader.failure) == "a message of 1 bytes may have at most 1024 frames"
    assert reader.waiting == 0


def test_empty_fragments_are_legal():
    """Autobahn's cases 6.1.2 and 6.1.3."""
    data = raw_frame(TEXT, b"") + EMPTY + raw_frame(CONTINUATION, b"x") + EMPTY * 2
    assert read_whole(data + raw_frame(FIN | CONTINUATION, b"")) == ([(TEXT, b"x")], None)


def test_the_fragments_that_a_message_may_have_grow_with_its_bytes():
    """Autobahn's cases of group 9 send megabytes in fragments of 64 bytes."""
    count = 3_000
    data = raw_frame(BINARY, b"x" * 16) + raw_frame(CONTINUATION, b"x" * 16) * count
    messages, cause = read_whole(data + raw_frame(FIN | CONTINUATION, b""), 16 * (count + 1))
    assert (messages, cause) == ([(BINARY, b"x" * 16 * (count + 1))], None)


def test_each_message_may_have_as_many_fragments():
    reader = FrameReader(LIMIT)
    message = raw_frame(TEXT, b"") + EMPTY * 1022 + raw_frame(FIN | CONTINUATION, b"x")
    assert read_all(reader, message * 3) == [(TEXT, b"x")] * 3


def test_control_frames_are_no_fragments_of_the_message_around_them():
    reader = FrameReader(LIMIT)
    read_all(reader, OPEN_TEXT + raw_frame(FIN | PING, b"") * 2_000)
    assert read_all(reader, raw_frame(FIN | CONTINUATION, b"ed")) == [(TEXT, b"opened")]


# --- turns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame", [raw_frame(FIN | PING, b""), raw_frame(FIN | TEXT, b""), raw_frame(FIN | BINARY, b"")]
)
def test_a_chunk_of_tiny_frames_is_read_in_turns(frame):
    """The 10,922 frames of 64 KiB were read in one turn, which held the loop for 28 ms."""
    count = 10_922
    reader = FrameReader(LIMIT)
    turns = [len(reader.feed(frame * count))]
    while reader.has_more:
        turns.append(len(reader.feed(b"")))
    assert turns == [MAX_FRAMES] * (count // MAX_FRAMES) + [count % MAX_FRAMES]
    assert reader.settled


def test_fragments_count_as_frames_of_a_turn():
    reader = FrameReader(LIMIT)
    assert reader.feed(OPEN_TEXT + EMPTY * (MAX_FRAMES + 9)) == []
    assert (reader.has_more, reader.fragments) == (True, MAX_FRAMES)
    assert reader.feed(b"") == []
    assert (reader.has_more, reader.fragments) == (False, 10)
    reader.feed(b"")
    assert reader.fragments == 0


def test_a_reader_with_nothing_left_is_settled():
    reader = FrameReader(LIMIT)
    for data, settled in (
        (FINE, True),
        (FINE[:1], False),
        (FINE[1:], True),
        (FINE[:9], False),
        (FINE[9:] + FINE, True),
        (OPEN_TEXT, False),
        (raw_frame(FIN | PING, b"x"), False),
        (raw_frame(FIN | CONTINUATION, b"x"), True),
        (FINE * MAX_FRAMES, True),
        (FINE * (MAX_FRAMES + 1), False),
        (b"", True),
        (raw_frame(FIN | CLOSE, b""), False),
    ):
        reader.feed(data)
        assert reader.settled is settled


def test_a_message_that_is_not_complete_at_once_is_counted_once_however_it_is_cut():
    reader = FrameReader(LIMIT)
    for count, data in enumerate((FINE, OPEN_TEXT + raw_frame(FIN | CONTINUATION, b"ed")) * 2):
        begun = set()
        for byte in data:
            reader.feed(bytes([byte]))
            if not reader.settled:
                begun.add(reader.begun)
        assert begun == {count + 1}


def test_what_is_complete_at_once_is_not_counted_as_begun():
    reader = FrameReader(LIMIT)
    reader.feed(FINE * 3 + raw_frame(FIN | PING, b"") + raw_frame(FIN | BINARY, b"x"))
    assert reader.begun == 0


def test_control_frames_do_not_count_against_a_message_under_way():
    reader = FrameReader(4)
    reader.feed(raw_frame(TEXT, b"1234"))
    assert reader.feed(raw_frame(FIN | PING, b"x" * 125)) == [(PING, b"x" * 125)]


def test_too_big_a_header_cut_in_the_middle_is_not_lost():
    """Six bytes of an eight-byte header were forgotten: what followed was read as frames."""
    frame = masked(TEXT, b"x" * 301)
    for cut in range(1, 8):
        reader = FrameReader(LIMIT)
        reader.feed(frame[:cut])
        reader.feed(frame[cut:8])
        assert reader.failure.close is CloseCause.MESSAGE_TOO_BIG, cut


# --- what the server writes ------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_another_implementation_reads_what_is_encoded(size):
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(encode_text(b"x" * size) + encode_binary(b"y" * size))
    text, binary = client.received_frames()
    assert (text.opcode, text.payload, text.message_finished) == (TEXT, "x" * size, True)
    assert (binary.opcode, bytes(binary.payload)) == (BINARY, b"y" * size)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_the_end_of_an_encoded_frame_is_found(size):
    first, second = encode_text(b"x" * size), encode_ping()
    data = first + second
    assert frame_end(data, 0) == len(first)
    assert frame_end(data, len(first)) == len(data)


def test_control_frames_carry_up_to_125_bytes():
    assert encode_ping() == b"\x89\x00"
    assert encode_pong(b"x" * 125) == b"\x8a\x7d" + b"x" * 125
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        encode_ping(b"x" * 126)


def test_a_close_frame_has_a_code_and_a_reason_or_neither():
    assert encode_close() == b"\x88\x00"
    assert encode_close(1000, "bye") == b"\x88\x05\x03\xe8bye"
    assert parse_close(b"") == (None, "")
    assert parse_close(b"\x03\xe8bye") == (1000, "bye")


def test_a_long_close_reason_is_cut_between_two_characters():
    frame = encode_close(4000, "€" * 60)
    code, reason = parse_close(frame[2:])
    assert len(frame) <= 127
    assert (code, reason) == (4000, "€" * 41)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_must_not_be_sent_is_refused(code):
    with pytest.raises(ValueError, match=str(code)):
        encode_close(code)


def test_opcodes_are_those_of_the_rfc():
    assert [int(opcode) for opcode in Opcode] == [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]
