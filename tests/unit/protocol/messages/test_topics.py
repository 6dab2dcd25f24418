import re
import time
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from moorage.protocol.messages.topics import (
    PatternSet,
    TopicPattern,
    check_topic,
    is_server_topic,
    parse_pattern,
    require_topic,
    user_of,
    user_topic,
)

# Few letters, so that patterns and topics meet.
segments = st.text(alphabet="ab", min_size=1, max_size=3)
topics = st.lists(segments, min_size=1, max_size=7).map(".".join)
pattern_segments = (
    segments | st.just("*") | st.just("**") | st.text(alphabet="ab", max_size=2).map("{}*".format)
)
patterns = st.lists(pattern_segments, min_size=1, max_size=7).map(".".join)


def naive_match(pattern, topic):
    """Apply the rule word by word, trying every way to match."""
    if not pattern:
        return not topic
    first, *rest = pattern
    if first == "**":
        return any(naive_match(rest, topic[skip:]) for skip in range(len(topic) + 1))
    if not topic:
        return False
    stem = first.removesuffix("*")
    fits = topic[0] == first or (stem != first and topic[0].startswith(stem))
    return fits and naive_match(rest, topic[1:])


@given(patterns, topics)
@example("**.a.**.b.**", "a.a.b")
@example("**.**", "a")
@example("a.**.b", "a.b")
@example("**.a.*.a.**.b", "a.a.a.b.a.b")
@example("**.b.**", "ba.b")  # the start of `ba` was taken for the segment `b`
@example("a.**.b.**", "a.ba.a.b.a")
def test_a_pattern_matches_what_the_naive_matcher_matches(pattern, topic):
    assert parse_pattern(pattern).matches(topic) == naive_match(
        pattern.split("."), topic.split(".")
    )


def test_every_short_pattern_matches_what_the_naive_matcher_matches():
    names = [name for count in range(1, 5) for name in product(("a", "ab", "b"), repeat=count)]
    for segments in (
        each
        for count in range(1, 5)
        for each in product(("a", "ab", "a*", "*", "**"), repeat=count)
    ):
        pattern = parse_pattern(".".join(segments))
        for name in names:
            assert pattern.matches(".".join(name)) == naive_match(segments, name), (segments, name)


@given(st.lists(patterns, max_size=4), st.lists(topics, max_size=20))
def test_a_set_matches_what_any_of_its_patterns_matches(texts, names):
    pattern_set = PatternSet(texts, cache_size=2)
    for name in [*names, *names]:
        assert pattern_set.matches(name) == any(parse_pattern(t).matches(name) for t in texts)


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("orders.*.paid", "orders.eu.paid", True),
        ("orders.*.paid", "orders.eu.de.paid", False),
        ("orders.*.paid", "orders.paid", False),
        ("batch_progress_*", "batch_progress_17", True),
        ("batch_progress_*", "batch_progress_", True),
        ("batch_progress_*", "batch_progress_17.log", False),
        ("orders.**", "orders", True),
        ("orders.**", "orders.eu.paid", True),
        ("orders.**", "orders2", False),
        ("**.paid", "paid", True),
        ("**", "anything.at:all", True),
        ("*", "one", True),
        ("*", "one.two", False),
        ("a+b", "aab", False),
        ("a+b", "a+b", True),
        ("user:*", "user:7", True),
        ("news", "news", True),
        ("news", "News", False),
    ],
)
def test_patterns_by_example(pattern, topic, matches):
    assert parse_pattern(pattern).matches(topic) is matches
    assert PatternSet((pattern,)).matches(topic) is matches


def test_a_pattern_made_to_backtrack_is_answered_at_once():
    pattern = parse_pattern(".".join(["**", "a*", "**", "a"] * 12 + ["b"]))
    started = time.perf_counter()
    assert not pattern.matches(".".join(["a"] * 127))
    # Without the atomic groups, there is no waiting for this one.
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("text", ["a**", "***", "*a", "a*b", "**.*a", "a.*b*", "**a"])
def test_a_star_elsewhere_than_at_the_end_of_a_segment_is_refused(text):
    with pytest.raises(LocalProtocolError, match="may be a whole segment or end one") as caught:
        parse_pattern(text)
    assert caught.value.code is ErrorCode.BAD_TOPIC


@pytest.mark.parametrize("text", ["", ".", "a..*", "a b", "*.", "\x00", "é" * 128, "\ud800*"])
def test_a_pattern_obeys_the_rules_of_topic_names(text):
    with pytest.raises(LocalProtocolError, match="topic pattern"):
        parse_pattern(text)


LEGAL_TOPICS = [
    "a",
    "orders.eu.paid",
    "user:7",
    "user:jane@example.org",
    "$sys.load",
    "größe.日本",
    "a/b+c#d",
    "x" * 255,
    "é" * 127,
    "👍",
]


@pytest.mark.parametrize("name", LEGAL_TOPICS)
def test_a_legal_topic_is_returned_as_it_is(name):
    assert check_topic(name) is name


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "is empty"),
        ("a b", "' ' in it"),
        ("a\tb", r"'\t' in it"),
        ("a\x00", r"'\x00' in it"),
        ("a\x7f", r"'\x7f' in it"),
        ("a\x85b", r"'\x85' in it"),
        ("a\u2003b", r"'\u2003' in it"),
        ("a\u3000b", r"'\u3000' in it"),
        ("\ud800", r"'\ud800' in it"),
        ("a\n", r"'\n' in it"),
        (".a", "empty segment"),
        ("a.", "empty segment"),
        ("a..b", "empty segment"),
        (".", "empty segment"),
        ("a.*", "which only patterns may"),
        ("**", "which only patterns may"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("x" * 65_536, "longer than 255 bytes"),
    ],
)
def test_an_illegal_topic_is_refused_with_what_is_wrong(name, complaint):
    with pytest.raises(RemoteProtocolError, match=re.escape(complaint)) as caught:
        check_topic(name)
    assert caught.value.code is ErrorCode.BAD_TOPIC
    assert len(str(caught.value)) < 300


def test_the_error_names_the_topic_unless_it_is_too_long_to_send_back():
    with pytest.raises(RemoteProtocolError) as caught:
        check_topic("a..b")
    assert caught.value.topic == "a..b"
    with pytest.raises(RemoteProtocolError) as caught:
        check_topic("a" * 65_536)
    assert caught.value.topic is None


@given(st.text(max_size=300) | topics)
def test_a_topic_is_legal_as_the_naive_reading_of_the_rule_has_it(name):
    legal = (
        1 <= len(name.encode("utf-8", "surrogatepass")) <= 255
        and not any(c.isspace() or ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in name)
        and "*" not in name
        and all(name.split("."))
    )
    try:
        check_topic(name)
    except RemoteProtocolError:
        assert not legal
    else:
        assert legal


def test_a_users_topic_and_back():
    assert user_topic("7") == "user:7"
    assert user_of("user:7") == "7"
    assert user_of("orders.user:7") is None
    # All that follows the colon is the user: `user:7.orders` is not user 7's.
    assert user_of("user:7.orders") == "7.orders"


@pytest.mark.parametrize("user_id", ["", "a b", "a..b", "*", "x" * 251, "\ud800"])
def test_a_user_id_that_no_topic_can_hold_is_refused(user_id):
    with pytest.raises(LocalProtocolError, match="user id") as caught:
        user_topic(user_id)
    assert caught.value.code is ErrorCode.BAD_TOPIC


def test_topics_of_the_server_begin_with_a_dollar():
    assert is_server_topic("$sys")
    assert not is_server_topic("sys.$")


def test_patterns_and_sets_of_the_same_texts_are_equal():
    assert parse_pattern("a.*") == TopicPattern("a.*")
    used = PatternSet(["a.*", "b"])
    assert used.matches("a.x")
    assert used == PatternSet((parse_pattern("a.*"), "b"))
    assert used != PatternSet(["b"])


def test_a_set_of_nothing_matches_nothing_and_is_false():
    assert not PatternSet(())
    assert not PatternSet(()).matches("a")
    assert PatternSet(("a",))


def test_a_set_remembers_no_more_answers_than_its_cache_may_hold():
    pattern_set = PatternSet(("a.*",), cache_size=10)
    for number in range(1000):
        assert pattern_set.matches(f"a.{number}")
        assert len(pattern_set._answers) <= 10


def test_a_set_with_a_bad_pattern_is_refused():
    with pytest.raises(LocalProtocolError, match="topic pattern 'a b'"):
        PatternSet(("a", "a b"))


def test_a_topic_that_the_program_chose_is_the_programs_mistake():
    assert require_topic("a.b") == "a.b"
    with pytest.raises(LocalProtocolError, match="empty segment") as caught:
        require_topic("a..b")
    assert (caught.value.code, caught.value.topic) == (ErrorCode.BAD_TOPIC, "a..b")
