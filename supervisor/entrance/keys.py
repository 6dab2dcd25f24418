"""Keys: reading them, and the algorithms that each is good for.

Keys are read once, when the server starts, and each is kept under the algorithms that it is for.
"""

import re
import secrets
from pathlib import Path
from typing import Any, cast

import attrs
import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from ..config.validators import ConfigurationError

# RFC 7518, section 3.2: "A key of the same size as the hash output [...] or larger MUST be used".
MIN_SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes
_MIN_SECRET = min(MIN_SECRETS.values())
_MIN_RSA = 2048  # bits: RFC 7518, section 3.3

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

_ANY_KEY = (
    "a secret in plain text, or PEM text of an RSA (2048 bits or more), EC (P-256, P-384, P-521), "
    "Ed25519 or Ed448 key"
)


@attrs.frozen
class Key:
    """A key, with the algorithms that it may be used with; the first one is the default."""

    # Bytes, or an object of `cryptography`: what the algorithm's own `prepare_key` returned.
    material: Any = attrs.field(repr=False)
    algorithms: tuple[str, ...]
    # Its name in errors: its kind, never its content.
    description: str
    private: bool = False
    # A weakness that the operator should know of, or "".
    concern: str = ""


class _UnusableKeyError(ValueError):
    """A key cannot be used; the text says why, and holds nothing of the key."""

    def __init__(self, problem: str, allowed: str = _ANY_KEY) -> None:
        super().__init__(problem)
        self.allowed = allowed


def random_secret() -> str:
    """Return a new HS256 secret, as development mode uses for one run of the server."""
    return secrets.token_urlsafe(_MIN_SECRET)


def read_key_file(path: Path, setting: str) -> str:
    """Return the text of a key file, without the line end that editors add to a secret.

    Raises ConfigurationError in the name of `setting` if it cannot be read. Blocks.
    """
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            setting, f"{path} cannot be read: {reason}", allowed="a readable file with a key"
        ) from error


def read_keys(
    text: str, setting: str, path: Path | None = None, *, allow_short: bool = False
) -> list[Key]:
    """Return the keys that a text holds: one secret, or one for each PEM block.

    `allow_short` lets a secret be shorter than its algorithm demands. Raises ConfigurationError in
    the name of `setting` if a key cannot be used.
    """
    where = f"{path}: " if path else ""
    # In an environment variable on a single line, line ends are written as `\\n`.
    pem = text.replace("\\n", "\n") if "-----BEGIN" in text else ""
    blocks = list(_PEM_BLOCK.finditer(pem))
    try:
        if blocks:
            # OpenSSL writes an EC key's curve into a block of its own, before the key.
            return [_pem_key(m[0], m[1]) for m in blocks if m[1] != "EC PARAMETERS"]
        if pem:
            raise _UnusableKeyError("it begins like PEM, but no block of it is whole")
        return [_secret_key(text, setting, allow_short=allow_short)]
    except _UnusableKeyError as error:
        problem, allowed = str(error), error.allowed
    except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError):
        # The libraries' own texts may quote the key.
        problem, allowed = "it is no key that can be used", _ANY_KEY
    raise ConfigurationError(setting, where + problem, allowed=allowed)


def _secret_key(text: str, setting: str, *, allow_short: bool) -> Key:
    # PyJWT refuses texts that must not be a secret: SSH keys, DER, a JWK's JSON.
    material = cast("bytes", get_default_algorithms()["HS256"].prepare_key(text))
    size = len(material)
    concern = ""
    if size < _MIN_SECRET:
        problem = f"a secret of {size} bytes can be guessed offline from one token"
        if not allow_short:
            permission = "allow_short_key" if setting == "key" else "jwt_allow_short_keys = true"
            raise _UnusableKeyError(
                problem,
                f"{_MIN_SECRET} bytes or more, such as `openssl rand -hex 32` prints; "
                f"for tests only, a shorter one with {permission}",
            )
        concern = f"{problem}; take {_MIN_SECRET} bytes or more"
    fitting = tuple(
        name for name, smallest in MIN_SECRETS.items() if allow_short or size >= smallest
    )
    return Key(material, fitting, f"the secret of {size} bytes", concern=concern)


def _pem_key(block: str, label: str) -> Key:
    data = block.encode()
    if label == "CERTIFICATE":
        key: Any = x509.load_pem_x509_certificate(data).public_key()
    elif "PRIVATE" in label:
        if "ENCRYPTED" in block:
            raise _UnusableKeyError("it is encrypted, and a server cannot ask for its password")
        key = serialization.load_pem_private_key(data, password=None)
    else:
        key = serialization.load_pem_public_key(data)
    kind, algorithms = _kind(key)
    return Key(key, algorithms, f"the {kind} key", private="PRIVATE" in label)


def _kind(key: Any) -> tuple[str, tuple[str, ...]]:
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        if key.key_size < _MIN_RSA:
            raise _UnusableKeyError(f"it is an RSA key of {key.key_size} bits, which can be broken")
        return "RSA", _RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            raise _UnusableKeyError(f"it is an EC key on the curve {key.curve.name}")
        return f"EC ({key.curve.name})", (_CURVES[key.curve.name],)
    if isinstance(
        key,
        ed25519.Ed25519PublicKey
        | ed25519.Ed25519PrivateKey
        | ed448.Ed448PublicKey
        | ed448.Ed448PrivateKey,
    ):
        return "Ed25519 or Ed448", ("EdDSA",)
    raise _UnusableKeyError("it is a key of another kind")
