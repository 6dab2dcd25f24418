import tracemalloc

import attrs
import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.actors.connection.mailbox import (
    PARCEL_OVERHEAD,
    Mailbox,
    MailboxShared,
    OverloadPolicy,
    Verdict,
)
from moorage.actors.transports.transport import COMMITTED
from moorage.protocol.websocket.frames import encode_text
from tests.fakes_routing import texts

DISCONNECT = OverloadPolicy.DISCONNECT
DROP_OLDEST = OverloadPolicy.DROP_OLDEST
LATEST = OverloadPolicy.LATEST
BACKPRESSURE = OverloadPolicy.BACKPRESSURE
WRITE_SIZE = 65_536  # bytes of parcels that become one write


class FakeSocket:
    """Takes as many bytes as there is room, as a kernel's buffer does."""

    def __init__(self, room=0):
        self.room = room
        self.taken = b""
        self.broken = False
        self.writes = 0

    def write(self, data):
        self.writes += 1
        if self.broken:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def gap_frame(topic, dropped):
    return f"<gap {topic} {dropped}>".encode()


def gap_text_frame(topic, dropped):
    return encode_text(gap_frame(topic, dropped))


class Fixture:
    """A mailbox of so many bytes, on a socket with so much room."""

    def __init__(self, limit=4_000, room=0, gap=gap_frame):
        self.time = 100.0
        self.socket = FakeSocket(room)
        shared = MailboxShared(limit, lambda: self.time, gap)
        self.mailbox = Mailbox(self.socket.write, shared)

    def drain(self):
        """Let the socket take everything; return what it has taken."""
        self.socket.room = 1 << 30
        assert self.mailbox.flush()
        return self.socket.taken


# --- while nothing waits ---------------------------------------------------------------------


def test_what_the_socket_takes_is_sent_and_takes_no_memory():
    box = Fixture(room=100)
    assert box.mailbox.put(b"frame", 2) is Verdict.SENT
    assert box.socket.taken == b"frame"
    assert (box.mailbox.size, box.mailbox.oldest) == (0, None)
    assert (box.mailbox.messages_out, box.mailbox.bytes_out) == (2, 5)


def test_what_the_socket_takes_in_part_is_kept():
    box = Fixture(room=3)
    assert box.mailbox.put(b"frame") is Verdict.QUEUED
    assert box.mailbox.size == 2
    assert box.mailbox.put(b"more") is Verdict.QUEUED
    assert box.mailbox.size == 2 + 4 + PARCEL_OVERHEAD
    assert box.drain() == b"framemore"
    assert box.mailbox.size == 0


def test_what_the_socket_does_not_take_at_all_is_kept():
    box = Fixture()
    assert box.mailbox.put(b"frame") is Verdict.QUEUED
    assert box.mailbox.oldest == 100.0
    assert box.drain() == b"frame"


def test_a_broken_socket_closes_the_mailbox():
    box = Fixture(room=10)
    box.socket.broken = True
    assert box.mailbox.put(b"frame") is Verdict.CLOSED
    assert box.mailbox.closed
    assert box.mailbox.put(b"frame") is Verdict.CLOSED
    assert box.socket.writes == 1
    assert box.mailbox.messages_out == 0


def test_a_socket_that_breaks_later_closes_the_mailbox_and_says_so():
    box = Fixture()
    box.mailbox.put(b"frame")
    box.socket.broken = True
    with pytest.raises(BrokenPipeError):
        box.mailbox.flush()
    assert box.mailbox.closed
    assert box.mailbox.size == 0
    assert box.mailbox.flush()


def test_the_oldest_is_what_waits_longest():
    box = Fixture()
    box.mailbox.put(b"in flight")
    box.time = 101.0
    box.mailbox.put(b"behind")
    assert box.mailbox.oldest == 100.0
    box.socket.room = len(b"in flight")
    assert not box.mailbox.flush()
    assert box.mailbox.oldest == 101.0


def test_waiting_parcels_leave_in_one_write():
    box = Fixture()
    for part in (b"a", b"b", b"c"):
        box.mailbox.put(part)
    box.socket.writes = 0
    box.drain()
    assert box.socket.writes == 2  # what was in flight, and the rest
    assert box.socket.taken == b"abc"


# --- the bound, and the verdicts -------------------------------------------------------------


def test_a_full_mailbox_overflows_and_keeps_what_it_had():
    box = Fixture(limit=PARCEL_OVERHEAD + 150)
    box.mailbox.put(b"first")
    assert box.mailbox.put(b"x" * 100) is Verdict.QUEUED
    size = box.mailbox.size
    assert box.mailbox.put(b"y" * 100, topic="t") is Verdict.OVERFLOWED
    assert box.mailbox.size == size
    assert box.mailbox.messages_out == 2
    assert box.drain() == b"first" + b"x" * 100


def test_many_tiny_parcels_are_charged_for_their_bookkeeping():
    """The memory that they took was four times what was charged for them."""
    limit = 1_000_000
    box = Fixture(limit)
    box.mailbox.put(b"first")
    tracemalloc.start()
    try:
        while box.mailbox.put(b"x%d" % box.mailbox.messages_out) is Verdict.QUEUED:
            pass
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 * limit < held <= limit


def test_tiny_parcels_that_may_be_dropped_are_charged_for_their_bookkeeping_as_well():
    limit = 1_000_000
    box = Fixture(limit)
    box.mailbox.put(b"first")
    tracemalloc.start()
    try:
        while not box.mailbox.dropped:
            box.mailbox.put(b"x%d" % box.mailbox.messages_out, 1, "a", DROP_OLDEST)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 * limit < held <= limit


def test_what_is_larger_than_the_mailbox_overflows_unless_the_socket_takes_it():
    box = Fixture(limit=100, room=1_000)
    assert box.mailbox.put(b"x" * 500) is Verdict.SENT
    box.socket.room = 10
    assert box.mailbox.put(b"x" * 500) is Verdict.OVERFLOWED


@pytest.mark.parametrize("policy", [DROP_OLDEST, LATEST, BACKPRESSURE])
def test_what_is_larger_than_the_mailbox_and_half_sent_stays_in_flight(policy):
    box = Fixture(limit=100, room=10)
    assert box.mailbox.put(b"x" * 500, 1, "t", policy) is Verdict.QUEUED
    assert box.drain() == b"x" * 500


def test_backpressure_refuses_nothing():
    box = Fixture(limit=10)
    for _ in range(5):
        assert box.mailbox.put(b"x" * 50, policy=BACKPRESSURE) is Verdict.QUEUED
    assert box.drain() == b"x" * 250


def test_drop_oldest_drops_the_oldest_of_its_own_topic_and_announces_it_in_its_place():
    box = Fixture(limit=4 * PARCEL_OVERHEAD + 150)
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[other]", 1, "other", DISCONNECT)
    for name in (b"[a1]", b"[a2]"):
        box.mailbox.put(name, 1, "a", DROP_OLDEST)
    box.mailbox.put(b"[reply]")
    assert box.mailbox.put(b"[a3]" + b"." * 60, 1, "a", DROP_OLDEST) is Verdict.DROPPED
    assert box.mailbox.dropped == 2
    assert box.drain() == b"[flight][other]<gap a 2>[reply][a3]" + b"." * 60


def test_latest_keeps_one_of_its_topic():
    box = Fixture()
    box.mailbox.put(b"[flight]")
    assert box.mailbox.put(b"[a1]", 1, "a", LATEST) is Verdict.QUEUED
    box.mailbox.put(b"[reply]")
    assert box.mailbox.put(b"[a2]", 1, "a", LATEST) is Verdict.DROPPED
    assert box.mailbox.put(b"[a3][a4]", 2, "a", LATEST, b"[a4]") is Verdict.DROPPED
    assert box.mailbox.dropped == 3
    assert box.mailbox.messages_out == 3
    assert box.drain() == b"[flight]<gap a 3>[reply][a4]"


def test_the_first_batch_under_latest_is_cut_to_its_last_frame():
    box = Fixture()
    box.mailbox.put(b"[flight]")
    assert box.mailbox.put(b"[a1][a2][a3]", 3, "a", LATEST, b"[a3]") is Verdict.DROPPED
    assert box.drain() == b"[flight]<gap a 2>[a3]"


@pytest.mark.parametrize("policy", [DROP_OLDEST, LATEST])
def test_what_finds_no_room_beside_other_topics_is_itself_dropped(policy):
    box = Fixture(limit=PARCEL_OVERHEAD + 220)
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"x" * 200)
    assert box.mailbox.put(b"[a1]", 1, "a", policy) is Verdict.DROPPED
    assert box.mailbox.put(b"[a2]", 1, "a", policy) is Verdict.DROPPED
    assert box.drain() == b"[flight]" + b"x" * 200 + b"<gap a 2>"


def test_what_is_in_flight_is_never_dropped():
    box = Fixture(room=2)
    box.mailbox.put(b"[a1]", 1, "a", LATEST)
    box.mailbox.put(b"[a2]", 1, "a", LATEST)
    box.socket.room = 3
    box.mailbox.flush()  # the rest of a1, and one byte of a2
    box.mailbox.put(b"[a3]", 1, "a", LATEST)
    box.mailbox.put(b"[a4]", 1, "a", LATEST)
    box.mailbox.discard_waiting()
    assert box.drain() == b"[a1][a2]"


def test_a_reply_takes_the_room_of_what_may_be_dropped_the_oldest_first():
    """It was refused, and the peer disconnected, while the mailbox was full of what may be lost."""
    box = Fixture(limit=5 * PARCEL_OVERHEAD + 500)
    box.mailbox.put(b"[flight]")
    for topic, policy in (("a", DROP_OLDEST), ("b", LATEST), ("a", DROP_OLDEST)):
        box.time += 1
        box.mailbox.put(f"[{topic}]".encode() + b"." * 100, 1, topic, policy)
    box.mailbox.put(b"[kept]", 1, "c", DISCONNECT)
    assert box.mailbox.put(b"[reply]" + b"." * 300) is Verdict.QUEUED
    assert box.mailbox.take_losses() == ({"a": 1, "b": 1}, 206)
    assert box.mailbox.take_losses() == ({}, 0)
    assert box.mailbox.size <= 5 * PARCEL_OVERHEAD + 500
    reply = b"[reply]" + b"." * 300
    assert box.drain() == b"[flight]<gap a 1><gap b 1>[a]" + b"." * 100 + b"[kept]" + reply


def test_what_may_be_dropped_also_makes_room_for_a_topic_that_must_not_miss_anything():
    box = Fixture(limit=2 * PARCEL_OVERHEAD + 150)
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[a]" + b"." * 100, 1, "a", DROP_OLDEST)
    assert box.mailbox.put(b"[c]" + b"." * 100, 1, "c", DISCONNECT) is Verdict.QUEUED
    assert box.drain() == b"[flight]<gap a 1>[c]" + b"." * 100


def test_a_reply_that_is_larger_than_all_that_may_be_dropped_overflows():
    box = Fixture(limit=2 * PARCEL_OVERHEAD + 150)
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[a]" + b"." * 100, 1, "a", DROP_OLDEST)
    assert box.mailbox.put(b"x" * 1_000) is Verdict.OVERFLOWED


def test_a_gap_that_has_left_is_followed_by_a_new_one():
    box = Fixture()
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[a1]", 1, "a", LATEST)
    box.mailbox.put(b"[a2]", 1, "a", LATEST)
    box.drain()
    box.socket.room = 0
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[a3]", 1, "a", LATEST)
    box.mailbox.put(b"[a4]", 1, "a", LATEST)
    assert box.drain() == b"[flight]<gap a 1>[a2][flight]<gap a 1>[a4]"


def test_a_stalled_peer_costs_no_more_for_what_it_drops():
    box = Fixture(limit=10_000)
    box.mailbox.put(b"[flight]")
    for number in range(5_000):
        box.mailbox.put(b"x" * 100, 1, f"topic-{number % 3}", DROP_OLDEST)
    assert box.mailbox.size <= 10_000 + 3 * PARCEL_OVERHEAD
    assert len(box.mailbox._parcels) < 100


def test_topics_that_come_and_go_leave_nothing_behind_in_a_mailbox_that_is_never_empty():
    """An empty queue stayed for every topic that had once waited."""
    box = Fixture(limit=10 * WRITE_SIZE)
    for _ in range(3):
        box.mailbox.put(b"x" * WRITE_SIZE)
    for number in range(50):
        box.mailbox.put(b"x" * WRITE_SIZE, 1, f"topic-{number}", LATEST)
        box.socket.room = WRITE_SIZE - 1
        assert not box.mailbox.flush()
    assert box.mailbox.size
    assert len(box.mailbox._live) <= 5


# --- the rest of what is huge ----------------------------------------------------------------


def test_the_rest_of_a_huge_message_is_not_copied_with_every_write():
    """Each write that took a little sliced all the rest: 16 MiB were copied 250 times."""
    box = Fixture(limit=1 << 30, room=WRITE_SIZE)
    box.mailbox.put(encode_text(b"x" * (1 << 24)))
    seen = {}  # the object is held, so that no other one can have its id
    while box.mailbox.size:
        seen[id(box.mailbox._in_flight)] = box.mailbox._in_flight
        box.socket.room = WRITE_SIZE
        box.mailbox.flush()
    assert len(seen) < 12  # each has at most half of the bytes of the one before
    assert box.socket.taken == encode_text(b"x" * (1 << 24))


def test_what_the_socket_has_taken_is_not_held_for_long():
    box = Fixture(limit=1 << 30, room=WRITE_SIZE)
    box.mailbox.put(encode_text(b"x" * (1 << 22)))
    while box.mailbox.size:
        assert len(box.mailbox._in_flight) <= max(2 * box.mailbox.size, WRITE_SIZE)
        box.socket.room = WRITE_SIZE
        box.mailbox.flush()


def test_no_write_offers_more_than_is_useful():
    box = Fixture(limit=1 << 30)
    box.mailbox.put(b"x" * (1 << 20))
    box.socket.room = 1 << 30
    box.socket.writes = 0
    assert box.mailbox.flush()
    assert box.socket.writes == (1 << 20) // WRITE_SIZE


# --- the end ---------------------------------------------------------------------------------


def test_a_closed_mailbox_forgets_everything_and_takes_nothing():
    box = Fixture()
    box.mailbox.put(b"in flight")
    box.mailbox.put(b"waiting")
    box.mailbox.close()
    assert (box.mailbox.size, box.mailbox.oldest) == (0, None)
    assert box.mailbox.put(b"more") is Verdict.CLOSED
    assert box.drain() == b""


def test_nothing_can_be_put_behind_the_last_frames():
    box = Fixture()
    box.mailbox.put(b"[owed]")
    box.mailbox.put_last(b"[close]")
    assert box.mailbox.put(b"[late]") is Verdict.CLOSED
    assert box.mailbox.put(b"[late]", 1, "a", LATEST) is Verdict.CLOSED
    assert box.drain() == b"[owed][close]"


def test_the_last_frames_have_room_in_a_full_mailbox():
    box = Fixture(limit=100)
    box.mailbox.put(b"x" * 100)
    box.mailbox.put_last(b"[close]")
    assert box.drain() == b"x" * 100 + b"[close]"


def test_discarding_leaves_what_is_in_flight():
    box = Fixture(room=3)
    box.mailbox.put(b"[flight]")
    box.mailbox.put(b"[waiting]")
    box.mailbox.put(b"[a1]", 1, "a", LATEST)
    box.mailbox.put(b"[a2]", 1, "a", LATEST)
    box.mailbox.discard_waiting()
    assert box.mailbox.size == len(b"[flight]") - 3
    assert box.mailbox.put(b"[a3]", 1, "a", LATEST) is Verdict.QUEUED
    assert box.drain() == b"[flight][a3]"


def frames_of(*sizes):
    return [encode_text(bytes([65 + number % 26]) * size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [(100,) * 500, (300,) * 500, (20_000, 100, 20_000, 70_000, 1)])
@pytest.mark.parametrize("taken", [0, 1, 150, 20_300, 66_000])
def test_discarding_also_drops_frames_that_are_in_flight_and_have_not_begun(sizes, taken):
    """A Close frame stood behind all of them, up to 256 KiB, and a slow client never saw it."""
    frames = frames_of(*sizes)
    box = Fixture(limit=1 << 20, room=taken)
    box.mailbox.put(b"".join(frames))
    box.mailbox.discard_waiting()
    assert box.mailbox.size <= COMMITTED + max(sizes) + 14
    kept = box.drain()
    assert len(kept) >= min(taken + COMMITTED, len(b"".join(frames)))
    assert kept == b"".join(frames[: len(texts(kept))])


def test_discarding_finds_the_frames_where_the_beginning_of_the_flight_was_cut_off():
    frames = frames_of(*[400] * 1_000)
    for more in range(0, 800, 37):
        box = Fixture(limit=1 << 20)
        box.mailbox.put(b"".join(frames))
        for room in (WRITE_SIZE, WRITE_SIZE, WRITE_SIZE, WRITE_SIZE - 1, more):
            box.socket.room = room
            box.mailbox.flush()
        assert len(box.mailbox._in_flight) < 250_000
        box.mailbox.discard_waiting()
        assert box.mailbox.size <= COMMITTED + 404
        kept = box.drain()
        assert kept == b"".join(frames[: len(texts(kept))])


async def test_nothing_passes_a_checkpoint():
    box = Fixture(limit=100)
    with trio.testing.assert_no_checkpoints():
        for policy in OverloadPolicy:
            box.mailbox.put(b"x" * 30, 1, policy.value, policy)
        box.mailbox.flush()
        box.mailbox.put_last(b"[close]")
        box.mailbox.discard_waiting()
        box.mailbox.close()


# --- all policies at once, against a naive model ---------------------------------------------


@attrs.define(eq=False)
class Entry:
    topic: str | None
    frames: list
    is_gap: bool = False
    dropped: int = 0
    droppable: bool = False

    def data(self):
        return gap_text_frame(self.topic, self.dropped) if self.is_gap else b"".join(self.frames)

    def cost(self):
        return PARCEL_OVERHEAD + (0 if self.is_gap else len(self.data()))


class NaiveMailbox:
    """The same rules over one list, looked through from its beginning every time."""

    def __init__(self, limit):
        self.limit = limit
        self.flight = b""
        self.entries = []
        self.sent = b""
        self.dropped = 0

    def size(self):
        return len(self.flight) + sum(entry.cost() for entry in self.entries)

    def put(self, frames, topic, policy, room):
        data = b"".join(frames)
        if not self.size():
            self.sent += data[:room]
            self.flight = data[room:]
            if not self.flight:
                return Verdict.SENT
            full = len(self.flight) > self.limit and policy is DISCONNECT
            return Verdict.OVERFLOWED if full else Verdict.QUEUED
        if topic is None or policy in {DISCONNECT, BACKPRESSURE}:
            if policy is not BACKPRESSURE:
                while not self.has_room(data):
                    droppable = [entry for entry in self.entries if entry.droppable]
                    if not droppable:
                        return Verdict.OVERFLOWED
                    self.drop_oldest(droppable[0].topic)
            self.entries.append(Entry(topic, frames))
            return Verdict.QUEUED
        before = self.dropped
        if policy is LATEST:
            while self.drop_oldest(topic):
                pass
            if len(frames) > 1:
                self.announce(topic, len(frames) - 1)
                frames = frames[-1:]
                data = frames[0]
        while not self.has_room(data) and self.drop_oldest(topic):
            pass
        if self.has_room(data):
            self.entries.append(Entry(topic, frames, droppable=True))
        else:
            self.announce(topic, len(frames))
        return Verdict.QUEUED if self.dropped == before else Verdict.DROPPED

    def has_room(self, data):
        return self.size() + PARCEL_OVERHEAD + len(data) <= self.limit

    def drop_oldest(self, topic):
        for entry in self.entries:
            if entry.topic == topic and entry.droppable:
                gap = next((e for e in self.entries if e.topic == topic and e.is_gap), None)
                if gap:
                    self.entries.remove(entry)
                    gap.dropped += len(entry.frames)
                else:
                    entry.is_gap, entry.droppable = True, False
                    entry.dropped = len(entry.frames)
                self.dropped += len(entry.frames)
                return True
        return False

    def announce(self, topic, count):
        gap = next((e for e in self.entries if e.topic == topic and e.is_gap), None)
        if not gap:
            gap = Entry(topic, [], is_gap=True)
            self.entries.append(gap)
        gap.dropped += count
        self.dropped += count

    def flush(self, room):
        while self.flight or self.entries:
            if not self.flight:
                while self.entries and len(self.flight) < WRITE_SIZE:
                    self.flight += self.entries.pop(0).data()
            self.sent += self.flight[:room]
            room, self.flight = max(0, room - len(self.flight)), self.flight[room:]
            if self.flight:
                return


POLICIES = {"a": DROP_OLDEST, "b": DROP_OLDEST, "c": LATEST, "d": LATEST, "e": DISCONNECT}

puts = st.tuples(
    st.sampled_from([*POLICIES, None, "backpressure"]),
    st.lists(st.sampled_from([10, 900, 25_000, 50_000]), min_size=1, max_size=3),
    st.sampled_from([0, 0, 0, 400, 1 << 20]),
)
flushes = st.sampled_from([0, 1, 30_000, 70_000, 1 << 20])


@settings(max_examples=200, deadline=None)
@given(st.lists(puts | flushes, max_size=25), st.sampled_from([1_000, 70_000, 200_000]))
def test_every_mix_of_policies_does_what_a_naive_mailbox_does(steps, limit):
    box, naive = Fixture(limit, gap=gap_text_frame), NaiveMailbox(limit)
    counts = dict.fromkeys([*POLICIES, None, "backpressure"], 0)
    for step in steps:
        box.time += 1
        if isinstance(step, int):
            box.socket.room = step
            box.mailbox.flush()
            naive.flush(step)
        else:
            name, sizes, room = step
            topic = None if name == "backpressure" else name
            policy = POLICIES.get(name, BACKPRESSURE if name == "backpressure" else DISCONNECT)
            frames = []
            for size in sizes:
                frames.append(encode_text(f"<{name} {counts[name]}>".encode() + b"." * size))
                counts[name] += 1
            box.socket.room = room
            verdict = box.mailbox.put(b"".join(frames), len(frames), topic, policy, frames[-1])
            assert verdict is naive.put(frames, topic, policy, room)
        assert box.mailbox.size == naive.size()
        assert box.mailbox.dropped == naive.dropped
        assert box.mailbox._in_flight[box.mailbox._taken :] == naive.flight
    naive.flush(1 << 30)
    assert box.drain() == naive.sent
    assert box.mailbox.size == 0
    check_gaps(naive.sent)


def check_gaps(stream):
    """Of a topic that drops, every message is delivered or counted by the gap in its place."""
    position = dict.fromkeys("abcd", 0)
    for text in texts(stream):
        words = text[1:].partition(b">")[0].decode().split()
        if words[0] == "gap":
            position[words[1]] += int(words[2])
        elif words[0] in position:
            assert int(words[1]) == position[words[0]]
            position[words[0]] += 1
