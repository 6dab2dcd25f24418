"""Tokens: made and checked with real keys of every family, and attacked in the known ways."""

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, rsa

from moorage.protocol.errors import ErrorCode, RemoteProtocolError
from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.entrance.keys import random_secret
from moorage.supervisor.entrance.tokens import TokenVerifier, mint_token
from tests.fakes_keys import FAMILIES, RSA, SECRET, private_pem, public_pem, verifier

OTHER = "another secret of thirty-two bytes"

OTHER_RSA = rsa.generate_private_key(65537, 2048)


def refusal(checker: TokenVerifier, token: str) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        checker.verify(token)
    if len(token) > 10:
        assert token not in str(caught.value)
        assert token.rsplit(".", 1)[-1] not in str(caught.value)
    return caught.value


def signed(claims, key=SECRET, algorithm="HS256", **headers) -> str:
    return jwt.encode(claims, key, algorithm, headers=headers or None)


def test_a_minted_token_says_who_its_bearer_is():
    token = mint_token(
        SECRET,
        user="ann",
        role="admin",
        subscribe=["orders.*"],
        publish=[],
        session="s1",
        info={"name": "Ann"},
        ttl=60,
    )
    identity = verifier(SECRET).verify(token)
    assert identity.user_id == "ann"
    assert identity.is_admin
    assert identity.session_id == "s1"
    assert identity.info == {"name": "Ann"}
    assert identity.permissions.subscribe.matches("orders.paid")
    assert not identity.permissions.subscribe.matches("news")
    assert not identity.permissions.publish.matches("orders.paid")
    assert 55 < identity.expires_at - time.time() <= 61


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_a_pem_key_implies_its_algorithm_on_both_ends(algorithm):
    key = FAMILIES[algorithm]
    token = mint_token(private_pem(key), user="ann")
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    checker = verifier(public_pem(key))
    assert checker.algorithms == (algorithm,)
    assert checker.verify(token).user_id == "ann"


def test_ed448_is_eddsa_too():
    key = ed448.Ed448PrivateKey.generate()
    token = mint_token(private_pem(key), user="ann")
    assert verifier(public_pem(key)).verify(token).user_id == "ann"


def test_tokens_of_other_programs_are_accepted():
    claims = {"sub": "ann", "exp": int(time.time()) + 60}
    assert verifier(SECRET).verify(signed(claims)).user_id == "ann"
    token = signed(claims, RSA, "RS256", kid="2024-1")
    assert verifier(public_pem(RSA)).verify(token).user_id == "ann"


def test_a_public_key_cannot_be_used_as_a_secret():
    """The confusion attack: HS256, with the bytes of the public PEM for a secret."""
    pem = public_pem(RSA)
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "mallory", "role": "admin"})
    )
    signer = jwt.get_algorithm_by_name("HS256")
    for secret in (pem, pem.strip(), pem.encode().hex()):
        signature = signer.sign(header + b"." + payload, secret.encode())
        token = b".".join((header, payload, base64.urlsafe_b64encode(signature).rstrip(b"=")))
        for keys in ((pem,), (pem, SECRET)):
            assert refusal(verifier(*keys), token.decode()).code is ErrorCode.UNAUTHORIZED


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None, 7, ["HS256"], {}])
def test_an_unsigned_token_is_never_accepted(name):
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": name}, {"sub": "mallory"})
    )
    for signature in ("", "AAAA"):
        token = f"{header}.{payload}.{signature}"
        with pytest.raises(RemoteProtocolError) as caught:
            verifier(SECRET).verify(token)
        assert caught.value.code is ErrorCode.UNAUTHORIZED


def test_an_algorithm_that_was_not_implied_works_only_once_it_is_configured():
    stronger = signed({"sub": "ann"}, SECRET * 2, "HS512")
    assert "it accepts HS256" in str(refusal(verifier(SECRET * 2), stronger))
    assert verifier(SECRET * 2, jwt_algorithms="HS512").verify(stronger).user_id == "ann"
    pss = signed({"sub": "ann"}, RSA, "PS256")
    assert "it accepts RS256" in str(refusal(verifier(public_pem(RSA)), pss))
    both = verifier(public_pem(RSA), jwt_algorithms=("RS256", "PS256"))
    assert both.verify(pss).user_id == "ann"


def test_several_keys_are_accepted_while_they_are_rotated():
    checker = verifier(SECRET, OTHER, public_pem(RSA))
    for key in (SECRET, OTHER, private_pem(RSA)):
        assert checker.verify(mint_token(key, user="ann")).user_id == "ann"
    foreign = mint_token(private_pem(OTHER_RSA), user="ann")
    assert "not signed with a key of this server" in str(refusal(checker, foreign))


def test_time_is_checked_with_the_leeway_on_both_ends():
    now = time.time()
    expired = signed({"sub": "ann", "exp": int(now) - 5})
    early = signed({"sub": "ann", "nbf": int(now) + 5})
    error = refusal(verifier(SECRET), expired)
    assert error.code is ErrorCode.TOKEN_EXPIRED
    assert "expired 5 s ago" in str(error) or "expired 6 s ago" in str(error)
    error = refusal(verifier(SECRET), early)
    assert error.code is ErrorCode.UNAUTHORIZED
    assert "not valid yet" in str(error)
    lenient = verifier(SECRET, jwt_leeway=10)
    assert lenient.verify(expired).user_id == lenient.verify(early).user_id == "ann"


def test_an_expired_forgery_is_unauthorized_not_expired():
    token = signed({"sub": "ann", "exp": 1}, OTHER)
    assert refusal(verifier(SECRET), token).code is ErrorCode.UNAUTHORIZED


@pytest.mark.parametrize("audience", ["chat", ["mail", "chat"]])
def test_the_audience_must_name_this_server_once_configured(audience):
    token = signed({"sub": "ann", "aud": audience})
    assert verifier(SECRET, jwt_audience=("chat", "x")).verify(token).user_id == "ann"
    assert "another audience" in str(refusal(verifier(SECRET, jwt_audience="shop"), token))


@pytest.mark.parametrize("audience", ["chat", ["mail", "chat"], [], 7])
def test_a_token_for_an_audience_is_refused_where_none_is_configured(audience):
    """A token that the issuer had made for another service opened this one."""
    token = signed({"sub": "ann", "aud": audience})
    assert "has no `jwt_audience`" in str(refusal(verifier(SECRET), token))


@pytest.mark.parametrize("expiry", [253_402_300_800, 4_000_000_000_000, 1e15])
def test_a_token_of_a_time_that_no_clock_shows_is_refused(expiry):
    """It was accepted, and then closed the connection with 1011: come back."""
    error = refusal(verifier(SECRET), signed({"sub": "ann", "exp": expiry}))
    assert error.code is ErrorCode.UNAUTHORIZED
    assert "beyond the year 9999" in str(error)
    with pytest.raises(RemoteProtocolError, match="9999"):
        mint_token(SECRET, user="ann", ttl=expiry)


@pytest.mark.parametrize("audience", [None, 7, [], [7, None], {"chat": 1}])
def test_a_token_without_a_usable_audience_is_refused_once_one_is_configured(audience):
    token = signed({"sub": "ann", "aud": audience})
    assert "another audience" in str(refusal(verifier(SECRET, jwt_audience="chat"), token))


def test_the_issuer_must_be_the_configured_one():
    checker = verifier(SECRET, jwt_issuer="https://login.example")
    assert checker.verify(mint_token(SECRET, user="ann", issuer="https://login.example"))
    for claims in ({"sub": "ann"}, {"sub": "ann", "iss": "https://evil.example"}):
        assert "another issuer" in str(refusal(checker, signed(claims)))


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\ud800", "\0", "x" * 100_000),
        *("." * 8000, "e30.e30.e30", "bnVsbA.bnVsbA.bnVsbA", "W10." * 3),
    ],
)
def test_what_is_no_token_is_refused(token):
    with pytest.raises(RemoteProtocolError) as caught:
        verifier(SECRET).verify(token)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "claims",
    [
        *("null", "[]", "7", '"ann"', "{", '{"sub":"ann"', "[" * 4000, '{"sub":' * 1000, "\xff"),
        *('{"sub":"ann","nbf":"soon"}', '{"sub":"ann","nbf":true}', '{"sub":"ann","exp":"x"}'),
        *('{"sub":"ann","exp":1e400}', '{"sub":"ann","exp":' + "9" * 400 + "}", '{"sub":null}'),
        *('{"sub":"ann","nbf":' + "9" * 400 + "}", '{"sub":""}', '{"sub":["ann"]}', "{}"),
    ],
)
def test_signed_nonsense_is_refused(claims):
    token = jwt.PyJWS().encode(claims.encode("latin-1"), SECRET, "HS256")
    assert refusal(verifier(SECRET), token).code is ErrorCode.UNAUTHORIZED


def test_without_keys_no_token_is_accepted():
    token = mint_token(SECRET, user="ann")
    assert "no key configured" in str(refusal(TokenVerifier.from_settings(Settings()), token))


def test_a_private_key_is_refused_as_a_verification_key():
    with pytest.raises(ConfigurationError, match=r"private.*can mint tokens.*pubout"):
        verifier(private_pem(RSA))


def test_a_private_key_in_a_file_is_refused_too_and_never_shown(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text(private_pem(RSA))
    with pytest.raises(ConfigurationError, match="jwt_key_file") as caught:
        TokenVerifier.from_settings(Settings(jwt_key_file=path))
    assert path.read_text().splitlines()[1] not in str(caught.value)


def test_an_algorithm_that_fits_no_key_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="RS256 fits none of the keys") as caught:
        verifier(SECRET, jwt_algorithms="RS256")
    assert caught.value.allowed == "HS256"


def test_a_key_that_no_algorithm_is_left_for_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="never be used"):
        verifier(SECRET, public_pem(RSA), jwt_algorithms="HS256")


def test_a_short_secret_works_only_where_it_is_allowed_and_is_reported():
    for call in (lambda: verifier("secret"), lambda: mint_token("secret", user="ann")):
        with pytest.raises(ConfigurationError, match="6 bytes can be guessed"):
            call()
    token = mint_token("secret", user="ann", allow_short_key=True)
    checker = verifier("secret", jwt_allow_short_keys=True)
    assert checker.verify(token).user_id == "ann"
    (concern,) = checker.concerns
    assert "6 bytes" in concern
    assert verifier(random_secret()).concerns == ()


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_what_its_algorithm_makes(algorithm, size):
    """RFC 7518, section 3.2; HS512 with 32 bytes passed."""
    good, bad = "x" * size, "x" * (size - 1)
    token = mint_token(good, user="ann", algorithm=algorithm)
    assert verifier(good, jwt_algorithms=algorithm).verify(token).user_id == "ann"
    with pytest.raises(ConfigurationError, match=f"{size} bytes or more"):
        verifier(bad, jwt_algorithms=algorithm)
    with pytest.raises(ConfigurationError, match=f"{size} bytes or more"):
        mint_token(bad, user="ann", algorithm=algorithm)
    verifier(bad, jwt_algorithms=algorithm, jwt_allow_short_keys=True)


def test_a_text_of_few_letters_may_be_many_bytes():
    assert verifier("\N{ANCHOR}" * 11).algorithms == ("HS256",)


def test_a_public_key_cannot_mint():
    with pytest.raises(ConfigurationError, match="cannot make them"):
        mint_token(public_pem(RSA), user="ann")


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_a_token_lives_a_second_at_least(ttl):
    with pytest.raises(ConfigurationError, match="ttl"):
        mint_token(SECRET, user="ann", ttl=ttl)


def test_a_token_may_be_minted_without_end_and_with_another_algorithm():
    token = mint_token(private_pem(RSA), user="ann", ttl=None, algorithm="PS384")
    checker = verifier(public_pem(RSA), jwt_algorithms="PS384")
    assert checker.verify(token).expires_at is None
    with pytest.raises(ConfigurationError, match="ES256 does not fit the RSA key"):
        mint_token(private_pem(RSA), user="ann", algorithm="ES256")


def test_claims_that_no_server_would_accept_are_not_minted():
    with pytest.raises(RemoteProtocolError, match=r"topics\.subscribe"):
        mint_token(SECRET, user="ann", subscribe=["a..b"])
    with pytest.raises(RemoteProtocolError, match="sub"):
        mint_token(SECRET, user="")


def test_keys_do_not_show_in_a_verifiers_repr():
    assert SECRET not in repr(verifier(SECRET))
    assert SECRET not in repr(Settings(jwt_key=SECRET))
