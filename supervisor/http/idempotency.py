"""The answers to requests with an `Idempotency-Key`, so that repeating a request does nothing.

A back end that got no answer does not know whether its request was done. It sends the request again
with the same key, and gets the first answer. The memory is bounded in entries, in bytes and in
time; the oldest entries go first. It belongs to this process: behind a load balancer, a repetition
that reaches another server is done again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from .responses import RequestRefused

KEPT_FOR: Final = 3600.0
"""Seconds for which an answer is remembered: longer than any sensible client tries again."""

MAX_ENTRIES: Final = 10_000
MAX_BYTES: Final = 8_388_608
"""The bound on all answers and keys together; each entry counts `_OVERHEAD` bytes more."""

_OVERHEAD: Final = 256
_MAX_KEY: Final = 255  # characters


@attrs.frozen
class _Entry:
    """One request that was done."""

    fingerprint: bytes  # of its body
    answer: bytes
    expires: float  # by the memory's clock
    size: int  # bytes charged


@attrs.define(eq=False)
class IdempotencyMemory:
    """Answers, by user and key. Its methods are synchronous, so no request is half-known."""

    now: Callable[[], float]  # seconds
    _entries: OrderedDict[tuple[str, str], _Entry] = attrs.field(
        factory=OrderedDict[tuple[str, str], _Entry]
    )
    _size: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, user_id: str, key: str, body: bytes) -> bytes | None:
        """Return the answer to this very request; None if the request is new.

        RequestRefused: 400 for a key that cannot be one, 422 for one that was used with another
        body (draft-ietf-httpapi-idempotency-key-header, section 2.7).
        """
        if not 0 < len(key) <= _MAX_KEY or not key.isascii() or not key.isprintable():
            text = f"an Idempotency-Key is 1 to {_MAX_KEY} printable ASCII characters"
            raise RequestRefused(400, "bad_idempotency_key", text)
        self._forget_expired()
        entry = self._entries.get((user_id, key))
        if entry is None:
            return None
        if entry.fingerprint != _fingerprint(body):
            text = "this Idempotency-Key was used with another body; take a new one"
            raise RequestRefused(422, "idempotency_key_reused", text)
        return entry.answer

    def remember(self, user_id: str, key: str, body: bytes, answer: bytes) -> None:
        """Keep an answer; the oldest are forgotten where there is no room."""
        size = _OVERHEAD + len(user_id) + len(key) + len(answer)
        expires = self.now() + KEPT_FOR
        self._entries[user_id, key] = _Entry(_fingerprint(body), answer, expires, size)
        self._size += size
        while len(self._entries) > MAX_ENTRIES or self._size > MAX_BYTES:
            self._forget_oldest()

    def _forget_expired(self) -> None:
        # Entries are in the order in which they were made, and so in which they expire.
        while self._entries and next(iter(self._entries.values())).expires <= self.now():
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._size -= entry.size


def _fingerprint(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
