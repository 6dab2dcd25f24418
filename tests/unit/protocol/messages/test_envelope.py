import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, LocalProtocolError
from moorage.protocol.messages.envelope import FIELD_RULES, Envelope, is_legal_id, is_legal_type

LEGAL = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")


def test_only_the_type_is_required():
    assert attrs.asdict(Envelope("ping")) == {
        "type": "ping",
        "topic": None,
        "data": None,
        "timestamp": None,
        "error": None,
        "id": None,
        "offset": None,
        "epoch": None,
    }


def test_an_envelope_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Envelope("ping").type = "pong"


@given(st.text(max_size=70) | st.text(alphabet=sorted(LEGAL), max_size=70))
def test_a_type_is_legal_as_the_naive_reading_of_the_rule_has_it(text):
    assert is_legal_type(text) == (1 <= len(text) <= 64 and set(text) <= LEGAL)


@pytest.mark.parametrize("text", ["a\n", "\na", "é", "a b", "", "a" * 65, "\uff41", "\u0661"])
def test_types_that_look_nearly_legal_are_not(text):
    assert not is_legal_type(text)


@pytest.mark.parametrize("id", [None, "", "x" * 64, 0, -(2**63), 2**63 - 1])
def test_legal_ids(id):
    assert is_legal_id(id)
    assert Envelope("a", id=id).id == id


@pytest.mark.parametrize("id", ["x" * 65, -(2**63) - 1, 2**63, True, 1.0, b"x", ["x"]])
def test_illegal_ids(id):
    assert not is_legal_id(id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", ""),
        ("type", 1),
        ("type", None),
        ("type", "a b"),
        ("type", "x" * 65_536),
        ("topic", 5),
        ("timestamp", 1.5),
        ("error", ["no"]),
        ("id", 2**63),
        ("id", True),
        ("id", "x" * 65),
        ("offset", -1),
        ("offset", 2**63),
        ("offset", 1.0),
        ("offset", True),
        ("epoch", 7),
    ],
)
def test_a_field_of_the_wrong_kind_is_the_programs_mistake_and_named(field, value):
    with pytest.raises(LocalProtocolError) as caught:
        Envelope(**{"type": "a", field: value})
    assert caught.value.code is ErrorCode.BAD_MESSAGE
    assert str(caught.value) == f"`{field}` must be {FIELD_RULES[field]}"


def test_there_is_a_rule_for_each_field():
    assert list(FIELD_RULES) == [field.name for field in attrs.fields(Envelope)]
