"""The memory of answers to requests with an `Idempotency-Key`."""

import pytest

from moorage.supervisor.http.idempotency import KEPT_FOR, MAX_BYTES, MAX_ENTRIES, IdempotencyMemory
from moorage.supervisor.http.responses import RequestRefused


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_not_everything_is_an_idempotency_key(key):
    with pytest.raises(RequestRefused, match="Idempotency-Key is"):
        IdempotencyMemory(lambda: 0.0).recall("alice", key, b"")


def test_answers_are_forgotten_with_time():
    now = 0.0
    memory = IdempotencyMemory(lambda: now)
    memory.remember("alice", "k", b"body", b"answer")
    now = KEPT_FOR - 1
    assert memory.recall("alice", "k", b"body") == b"answer"
    now = KEPT_FOR
    assert memory.recall("alice", "k", b"other") is None
    assert len(memory) == 0


def test_the_memory_is_bounded_in_entries_and_in_bytes():
    memory = IdempotencyMemory(lambda: 0.0)
    for number in range(MAX_ENTRIES + 5):
        memory.remember("alice", str(number), b"", b"")
    assert len(memory) == MAX_ENTRIES
    assert memory.recall("alice", "4", b"") is None
    assert memory.recall("alice", "5", b"") == b""
    for number in range(20):
        memory.remember("alice", f"large {number}", b"", bytes(MAX_BYTES // 10))
    assert len(memory) == 9
    assert memory.recall("alice", "large 19", b"") is not None
