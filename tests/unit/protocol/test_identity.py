import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.protocol.identity import ANONYMOUS, Identity, Permissions, identity_from_claims
from moorage.protocol.messages.topics import PatternSet


def test_the_least_a_token_says_is_its_user():
    identity = identity_from_claims({"sub": "jane"})
    assert identity == Identity(user_id="jane")
    assert identity.permissions == Permissions(subscribe=None, publish=None)
    assert not identity.is_admin
    assert not identity.is_anonymous


def test_all_claims_are_read():
    identity = identity_from_claims(
        {
            "sub": "jane",
            "exp": 1_700_000_000,
            "role": "admin",
            "sid": "s-1",
            "jti": "t-1",
            "topics": {"subscribe": ["orders.*"], "publish": []},
            "info": {"team": "red"},
            "iat": 1,
            "unknown": "ignored",
        }
    )
    assert identity.user_id == "jane"
    assert identity.expires_at == 1_700_000_000.0
    assert identity.is_admin
    assert identity.session_id == "s-1"
    assert identity.permissions.subscribe == PatternSet(("orders.*",))
    assert identity.permissions.publish == PatternSet(())
    assert identity.info == {"team": "red"}


def test_a_user_given_as_an_integer_becomes_text():
    assert identity_from_claims({"sub": 7}).user_id == "7"
    assert identity_from_claims({"sub": 0}).user_id == "0"


def test_the_session_is_sid_or_else_jti():
    assert identity_from_claims({"sub": "a", "jti": "t"}).session_id == "t"
    assert identity_from_claims({"sub": "a", "jti": "t", "sid": "s"}).session_id == "s"
    assert identity_from_claims({"sub": "a"}).session_id is None


def test_only_the_role_admin_is_admin():
    assert not identity_from_claims({"sub": "a", "role": "user"}).is_admin
    assert not identity_from_claims({"sub": "a", "role": "Admin"}).is_admin


def test_a_side_that_topics_leaves_out_is_not_restricted():
    permissions = identity_from_claims({"sub": "a", "topics": {"subscribe": ["a"]}}).permissions
    assert permissions.publish is None
    assert permissions.subscribe is not None


def test_anonymous_is_nobody():
    assert ANONYMOUS.is_anonymous
    assert not ANONYMOUS.is_admin
    assert ANONYMOUS.expires_at is None


@pytest.mark.parametrize(
    ("claims", "claim"),
    [
        ({}, "sub"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": True}, "sub"),
        ({"sub": 1.5}, "sub"),
        ({"sub": ["a"]}, "sub"),
        ({"sub": 10**5000}, "sub"),
        ({"sub": "a b"}, "sub"),
        ({"sub": "a\x00"}, "sub"),
        ({"sub": "*"}, "sub"),
        ({"sub": "x" * 300}, "sub"),
        ({"sub": "\ud800"}, "sub"),
        ({"sub": "a", "exp": "soon"}, "exp"),
        ({"sub": "a", "exp": True}, "exp"),
        ({"sub": "a", "exp": math.nan}, "exp"),
        ({"sub": "a", "exp": math.inf}, "exp"),
        ({"sub": "a", "exp": 10**400}, "exp"),
        ({"sub": "a", "exp": 253_402_300_800}, "exp"),
        ({"sub": "a", "role": ["admin"]}, "role"),
        ({"sub": "a", "role": 1}, "role"),
        ({"sub": "a", "sid": 1}, "sid"),
        ({"sub": "a", "jti": {}}, "jti"),
        ({"sub": "a", "topics": ["a"]}, "topics"),
        ({"sub": "a", "topics": "a"}, "topics"),
        ({"sub": "a", "topics": {"subscribe": "a"}}, "topics.subscribe"),
        ({"sub": "a", "topics": {"subscribe": None}}, "topics.subscribe"),
        ({"sub": "a", "topics": {"publish": [1]}}, "topics.publish"),
        ({"sub": "a", "topics": {"publish": ["a b"]}}, "topics.publish"),
        ({"sub": "a", "topics": {"publish": ["a*b"]}}, "topics.publish"),
    ],
)
def test_a_wrong_claim_is_unauthorized_and_named(claims, claim):
    with pytest.raises(RemoteProtocolError) as caught:
        identity_from_claims(claims)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert str(caught.value).startswith(f"the token's `{claim}` ")
    assert len(str(caught.value)) < 300


def test_a_misspelt_restriction_does_not_pass_as_none():
    with pytest.raises(RemoteProtocolError, match="'subscibe'"):
        identity_from_claims({"sub": "a", "topics": {"subscibe": []}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(["sub", "exp", "role", "sid", "jti", "topics", "info"], json_values),
    )
)
def test_whatever_the_claims_are_there_is_an_identity_or_unauthorized(claims):
    try:
        outcome = identity_from_claims(claims).user_id
    except RemoteProtocolError as error:
        outcome = error.code
    # UNAUTHORIZED is a string as well; any other code is not to be.
    assert outcome
    assert outcome is ErrorCode.UNAUTHORIZED or not isinstance(outcome, ErrorCode)
