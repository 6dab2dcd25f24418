"""Topic names, patterns over them, and matching.

A topic is a dotted name: `orders.eu.paid`. In a pattern, `*` stands for one segment or the rest of
one, and `**` stands for any number of segments, also none. Matching compares text only. That
`user:<id>` topics are private and `$` topics are the server's is a permission: see `access.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Final

from attrs import field, frozen

from ..errors import ErrorCode, LocalProtocolError, RemoteProtocolError, shorten

MAX_TOPIC_BYTES: Final = 255

_USER_PREFIX: Final = "user:"
_SERVER_PREFIX: Final = "$"

# Nearly all names consist of plain ASCII segments; this one match accepts them.
_PLAIN_TOPIC: Final = re.compile(r"[A-Za-z0-9_:$@/+-]+(?:\.[A-Za-z0-9_:$@/+-]+)*")
# \s includes the Unicode spaces. The others are C0, DEL, C1 and surrogates, which no UTF-8 holds.
_FORBIDDEN_CHARACTER: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _fault(name: str) -> str | None:
    """Return what is wrong with a dotted name, apart from wildcards; None if nothing is."""
    if not name:
        return "is empty"
    if bad := _FORBIDDEN_CHARACTER.search(name):
        return f"has {bad[0]!a} in it; spaces and control characters are not allowed"
    if len(name.encode()) > MAX_TOPIC_BYTES:
        return f"is longer than {MAX_TOPIC_BYTES} bytes of UTF-8"
    if "" in name.split("."):
        return "has an empty segment: a dot stands between two segments, neither first nor last"
    return None


def topic_fault(name: str) -> str | None:
    """Return what is wrong with a topic name, as the end of a sentence; None if nothing is."""
    if len(name) <= MAX_TOPIC_BYTES and _PLAIN_TOPIC.fullmatch(name):
        return None
    if fault := _fault(name):
        return fault
    if "*" in name:
        return "has a `*` in it, which only patterns may"
    return None


def check_topic(name: str) -> str:
    """Return the name of a topic unchanged if it is legal.

    A legal name has 1-255 bytes of UTF-8 without spaces, control characters or `*`, in non-empty
    segments separated by dots. Raises `RemoteProtocolError` (`bad_topic`) saying what is wrong.
    """
    if fault := topic_fault(name):
        raise RemoteProtocolError(
            f"topic {shorten(name)} {fault}",
            ErrorCode.BAD_TOPIC,
            # A name that is too long is not sent back.
            topic=name if len(name) <= MAX_TOPIC_BYTES else None,
        )
    return name


def require_topic(name: str) -> str:
    """Return the name of a topic, chosen by the program, unchanged if it is legal.

    Raises `LocalProtocolError` (`bad_topic`) saying what is wrong.
    """
    try:
        return check_topic(name)
    except RemoteProtocolError as error:
        raise LocalProtocolError(error.message, error.code, topic=error.topic) from None


def user_topic(user_id: str) -> str:
    """Return the name of this user's own topic.

    Raises `LocalProtocolError` (`bad_topic`) when the id cannot be part of a topic.
    """
    name = _USER_PREFIX + user_id
    if fault := topic_fault(name) if user_id else "is empty":
        raise LocalProtocolError(f"user id {shorten(user_id)} {fault}", ErrorCode.BAD_TOPIC)
    return name


def user_of(topic: str) -> str | None:
    """Return the id of the user whose own topic this is, or None for any other topic."""
    return topic[len(_USER_PREFIX) :] if topic.startswith(_USER_PREFIX) else None


def is_server_topic(topic: str) -> bool:
    """Tell whether this is one of the server's own topics, whose names begin with `$`."""
    return topic.startswith(_SERVER_PREFIX)


@frozen
class TopicPattern:
    """A pattern over topic names; made by `parse_pattern`."""

    # The pattern as it was written; settings, tokens and error messages show it.
    text: str

    def matches(self, topic: str) -> bool:
        """Tell whether the pattern covers this topic.

        The time is proportional to the topic's length, in the worst case times the pattern's.
        """
        return self._regex.fullmatch("." + topic) is not None

    @property
    def is_literal(self) -> bool:
        """Whether it has no wildcard, so that only the topic of the same name matches."""
        return "*" not in self.text

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.expression)

    @property
    def expression(self) -> str:
        """The regular expression for "." + topic, where every segment is a dot and its text.

        Between two `**` there is a block of a fixed number of segments. The first place where a
        block fits is always right, since a later place gains nothing for the blocks that follow. So
        each block is an atomic group, and backtracking into it cannot make matching slow. It fits
        only where it ends with a segment: `b` is not found at the start of `ba`.
        """
        blocks: list[list[str]] = [[]]
        for segment in self.text.split("."):
            if segment != "**":
                blocks[-1].append(_segment_expression(segment))
            elif len(blocks) == 1 or blocks[-1]:  # `**.**` means the same as `**`
                blocks.append([])
        first, *rest = ("".join(block) for block in blocks)
        if not rest:
            return first
        *middle, last = rest
        return "".join(
            [
                first,
                *(rf"(?>(?:\.[^.]++)*?{block}(?![^.]))" for block in middle),
                rf"(?:\.[^.]++)*?{last}" if last else r"(?:\.[^.]++)*+",
            ]
        )


def _segment_expression(segment: str) -> str:
    if segment == "*":
        return r"\.[^.]++"
    if segment.endswith("*"):
        return rf"\.{re.escape(segment[:-1])}[^.]*+"
    return rf"\.{re.escape(segment)}"


def parse_pattern(text: str) -> TopicPattern:
    """Read a pattern over topic names.

    `*` may be a whole segment (`orders.*.paid`) or the end of one (`batch_progress_*`, which also
    matches `batch_progress_`). `**` is a whole segment and stands for any number of segments.
    Raises `LocalProtocolError` (`bad_topic`) saying what is wrong.
    """
    fault = _fault(text)
    if fault is None:
        for segment in text.split("."):
            stem = segment.removesuffix("*")
            if "*" in stem and segment != "**":
                fault = (
                    f"has the segment {shorten(segment)}; `*` may be a whole segment or end one,"
                    " `**` may only be a whole segment"
                )
                break
    if fault is not None:
        raise LocalProtocolError(f"topic pattern {shorten(text)} {fault}", ErrorCode.BAD_TOPIC)
    return TopicPattern(text)


def _patterns(values: Iterable[str | TopicPattern]) -> tuple[TopicPattern, ...]:
    return tuple(
        value if isinstance(value, TopicPattern) else parse_pattern(value) for value in values
    )


def _new_cache() -> dict[str, bool]:
    return {}


@frozen
class PatternSet:
    """A set of patterns, such as a token or a setting allows; it covers what any of them covers.

    `PatternSet(("orders.*", "news"))`. Raises `LocalProtocolError` for a bad pattern.
    """

    patterns: tuple[TopicPattern, ...] = field(converter=_patterns)
    # How many answers `matches` remembers at most. The set of one connection needs few.
    cache_size: int = field(default=256, kw_only=True, eq=False, repr=False)
    _answers: dict[str, bool] = field(factory=_new_cache, init=False, eq=False, repr=False)

    def matches(self, topic: str) -> bool:
        """Tell whether any of the patterns covers this topic."""
        if self._everything:
            return True
        answer = self._answers.get(topic)
        if answer is None:
            if len(self._answers) >= self.cache_size:
                # Starting over is cheap, and needs no order of the entries as an LRU cache does.
                self._answers.clear()
            answer = self._answers[topic] = (
                topic in self._literals or self._regex.fullmatch("." + topic) is not None
            )
        return answer

    def __bool__(self) -> bool:
        return bool(self.patterns)

    @cached_property
    def _everything(self) -> bool:
        return any(pattern.text == "**" for pattern in self.patterns)

    @cached_property
    def _literals(self) -> frozenset[str]:
        return frozenset(pattern.text for pattern in self.patterns if pattern.is_literal)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        # It is compiled when it is first needed: most tokens never need it, and compiling costs
        # more than verifying the token.
        wild = [pattern.expression for pattern in self.patterns if not pattern.is_literal]
        return re.compile("|".join(wild) if wild else "(?!)")
