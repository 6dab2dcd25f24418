"""Keys: what can be read as one, and what is said of what cannot."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.config.validators import ConfigurationError
from moorage.supervisor.entrance.tokens import TokenVerifier, mint_token
from tests.fakes_keys import FAMILIES, RSA, SECRET, private_pem, public_pem, verifier


def test_pem_on_a_single_line_with_written_out_line_ends_is_read():
    line = public_pem(RSA).replace("\n", "\\n")
    token = mint_token(private_pem(RSA), user="ann")
    assert verifier(line).verify(token).user_id == "ann"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (lambda: public_pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (lambda: public_pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (lambda: public_pem(RSA)[:80], "no block of it is whole"),
        (lambda: public_pem(RSA).replace("A", "B"), "no key that can be used"),
        (lambda: "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ", "no key that can be used"),
        (lambda: '{"kty":"oct","k":"c2VjcmV0"}', "no key that can be used"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_configuration_error(key, problem):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        verifier(key())
    assert caught.value.setting == "jwt_key"
    assert "PEM text" in caught.value.allowed


def test_an_encrypted_private_key_says_so():
    pem = RSA.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    ).decode()
    with pytest.raises(ConfigurationError, match="encrypted"):
        mint_token(pem, user="ann")


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"missing\.pem cannot be read: No such file"):
        TokenVerifier.from_settings(Settings(jwt_key_file=tmp_path / "missing.pem"))


def test_keys_come_from_files_several_to_a_file(tmp_path):
    secret, public = tmp_path / "secret", tmp_path / "public.pem"
    secret.write_text(SECRET + "\n")
    public.write_text(public_pem(RSA) + public_pem(FAMILIES["ES256"]))
    checker = TokenVerifier.from_settings(Settings(jwt_key_file=[secret, public]))
    assert checker.algorithms == ("HS256", "RS256", "ES256")
    for key in (SECRET, private_pem(RSA), private_pem(FAMILIES["ES256"])):
        assert checker.verify(mint_token(key, user="ann")).user_id == "ann"
