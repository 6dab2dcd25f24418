"""Keys of every family for tests, and what verifies tokens by them."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from moorage.supervisor.config.settings import Settings
from moorage.supervisor.entrance.tokens import TokenVerifier

SECRET = "a secret of thirty-two bytes or so"

RSA = rsa.generate_private_key(65537, 2048)
FAMILIES = {
    "RS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def private_pem(key) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_pem(key) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def verifier(*keys: str, **settings) -> TokenVerifier:
    return TokenVerifier.from_settings(Settings(jwt_key=keys, **settings))
