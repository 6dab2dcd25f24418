"""The validators: what an error says, whatever the setting."""

import attrs
import pytest

from moorage.supervisor.config.validators import (
    ConfigurationError,
    each,
    number,
    one_of,
    optional,
    shown,
    text,
    whole_number,
)

WORDS = one_of(("red", "green"))


@pytest.mark.parametrize(
    ("validator", "allowed"),
    [
        (whole_number(), "a whole number, 0 or more"),
        (whole_number(0, 9, lowest_means="off"), "a whole number, from 0 to 9 (0: off)"),
        (number(), "a number, above 0"),
        (number(0.5, or_equal=True), "a number, 0.5 or more"),
        (WORDS, "red, green"),
        (optional(WORDS), "red, green"),
        (each(WORDS), "red, green (or several)"),
    ],
)
def test_a_validator_says_what_it_allows(validator, allowed):
    assert validator.allowed == allowed


def test_an_optional_value_may_be_none():
    assert optional(WORDS).problem(None) is None
    assert optional(WORDS).problem("blue") == "'blue' is not one of them"


def test_the_first_wrong_entry_of_a_list_is_named():
    assert each(WORDS).problem(("red", "blue", "black")) == "'blue' is not one of them"
    assert each(WORDS).problem("red") == "'red' is not a list"


def test_only_text_is_checked_as_text():
    short = text("a short text", lambda value: "it is long" if len(value) > 3 else None)
    assert short.problem("abc") is None
    assert short.problem("abcd") == "it is long"
    assert short.problem(7) == "7 is not text"


def test_attrs_calls_a_validator_and_the_error_names_the_field():
    @attrs.frozen
    class Lamp:
        colour: str = attrs.field(validator=WORDS)

    Lamp("red")
    with pytest.raises(ConfigurationError, match=r"^colour: 'blue' is not one of them; allowed:"):
        Lamp("blue")


def test_an_error_can_be_given_its_source_later():
    error = ConfigurationError("port", "-1 is too small", allowed="a whole number")
    located = error.from_source("moorage.toml:3")
    assert str(located) == "port (from moorage.toml:3): -1 is too small; allowed: a whole number"
    assert str(error.from_source(None)) == str(error)


def test_an_error_keeps_the_source_that_it_has():
    error = ConfigurationError("port", "-1 is too small", source="moorage.toml:3")
    assert error.from_source("--port").source == "moorage.toml:3"


def test_an_error_repeats_no_more_than_a_line_of_a_wrong_value():
    assert shown("x" * 50) == repr("x" * 50)
    assert len(shown("x" * 10_000)) < 80
