"""Tokens: which algorithms a key implies, verifying what clients bring, minting.

A JWT says in its own header how it was signed, and the sender wrote that header. So an algorithm
is never looked up by what a token says: the keys are read once, each is filed under the algorithms
that it is for, and a token that names any other is refused before a key is touched. That is what
keeps a public RSA key, which everybody may have, from being taken for an HS256 secret (RFC 8725,
section 2.1).
"""

import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import attrs
import jwt
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import Algorithm, get_default_algorithms

from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity, identity_from_claims
from ...protocol.messages.codec import encode_value
from ..config.settings import Settings
from ..config.validators import ConfigurationError

# A token comes from someone unknown, and reading one takes time in proportion to its length.
_MAX_TOKEN = 8192  # characters; a request head has room for twice as many
_MIN_SECRET = 32  # bytes: RFC 7518, section 3.2, for HS256
_MIN_RSA = 2048  # bits: RFC 7518, section 3.3
_MIN_TTL = 1.0  # seconds

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
_RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


@attrs.frozen
class Key:
    """One key as it was read, with the algorithms that it is good for, the implied one first."""

    # Bytes, or an object of `cryptography`: what the algorithm's own `prepare_key` returned.
    material: Any = attrs.field(repr=False)
    algorithms: tuple[str, ...]
    # How errors call it: what it is, never what it holds.
    description: str
    private: bool = False
    # What a careful operator should hear, or "".
    concern: str = ""


class _PreparedAlgorithm(Algorithm):
    """An algorithm of PyJWT, with the keys that are for it already prepared.

    PyJWT prepares a key anew for each token, which for HS256 costs more than all the rest: 70 µs a
    token instead of 36 µs.
    """

    def __init__(self, algorithm: Algorithm, keys: Sequence[Key]) -> None:
        self._algorithm = algorithm
        self._materials = tuple(key.material for key in keys)

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: Any) -> bytes:  # noqa: ARG002 - PyJWT's signature
        return self._algorithm.sign(msg, self._materials[0])

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:  # noqa: ARG002 - as above
        return any(self._algorithm.verify(msg, material, sig) for material in self._materials)

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> NoReturn:  # noqa: FBT001, FBT002 - as above
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> NoReturn:
        raise NotImplementedError


def _prepared(keys: Sequence[Key], algorithms: Sequence[str]) -> jwt.PyJWS:
    """Return a PyJWS that knows those algorithms only, and each with the keys that are for it."""
    jws = jwt.PyJWS(algorithms=[])
    known = get_default_algorithms()
    for name in algorithms:
        fitting = [key for key in keys if name in key.algorithms]
        jws.register_algorithm(name, _PreparedAlgorithm(known[name], fitting))
    return jws


class _UnusableKeyError(ValueError):
    """Says in words of ours why a key cannot be used; they hold nothing of the key."""


@attrs.frozen
class TokenVerifier:
    """Tells who the bearer of a token is.

    Made once, by `TokenVerifier.from_settings`, and used for every connection.
    """

    # In the order of the settings.
    keys: tuple[Key, ...] = ()
    # What is accepted, and with which of the keys.
    algorithms: tuple[str, ...] = ()
    audience: frozenset[str] = frozenset()
    issuer: str | None = None
    leeway: float = 0.0
    _jws: jwt.PyJWS = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(
            lambda self: _prepared(self.keys, self.algorithms),  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
            takes_self=True,
        ),
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Read the keys that the settings hold or name.

        Raises ConfigurationError for a key, or a file of one, that cannot verify anything, and for
        an algorithm that fits no key. Reads files, so it blocks for as long as that takes.
        """
        keys = [key for text in settings.jwt_key for key in read_keys(text, "jwt_key")]
        for path in settings.jwt_key_file:
            keys += read_keys(read_key_file(path, "jwt_key_file"), "jwt_key_file", path)
        for key in keys:
            if key.private:
                raise ConfigurationError(
                    "jwt_key_file" if settings.jwt_key_file else "jwt_key",
                    f"{key.description} is private, and whoever can read it can mint tokens",
                    allowed="its public half, as `openssl pkey -in key.pem -pubout` writes it",
                )
        return cls(
            keys=tuple(keys),
            algorithms=_accepted(keys, settings.jwt_algorithms),
            audience=frozenset(settings.jwt_audience),
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway,
        )

    @property
    def concerns(self) -> tuple[str, ...]:
        """What works and yet should be known to whoever runs the server."""
        return tuple(key.concern for key in self.keys if key.concern)

    def verify(self, token: str) -> Identity:
        """Return who the token speaks for.

        Raises RemoteProtocolError: `token_expired` for a genuine token whose time is over,
        `unauthorized` for everything else. Its text says what was wrong, without the token.
        """
        claims = self._claims(token)
        identity = identity_from_claims(claims)
        now = time.time()
        if identity.expires_at is not None and now >= identity.expires_at + self.leeway:
            raise RemoteProtocolError(
                f"the token expired {now - identity.expires_at:.0f} s ago; bring a new one",
                ErrorCode.TOKEN_EXPIRED,
            )
        not_before = _seconds(claims, "nbf")
        if not_before is not None and now < not_before - self.leeway:
            _refuse(f"is not valid yet: its `nbf` is {not_before - now:.0f} s ahead")
        if self.audience and self.audience.isdisjoint(_audience(claims)):
            _refuse("is for another audience: its `aud` names none of this server's")
        if self.issuer is not None and claims.get("iss") != self.issuer:
            _refuse("has another issuer: its `iss` is not the one that this server trusts")
        return identity

    def _claims(self, token: str) -> Mapping[str, Any]:
        if not self.keys:
            _refuse("cannot be checked: this server has no key configured")
        if len(token) > _MAX_TOKEN:
            _refuse(f"is longer than {_MAX_TOKEN} characters")
        if not token.isascii():
            _refuse("is not a JWT: three parts of base64url, with dots between")
        try:
            decoded = self._jws.decode_complete(token, "", self.algorithms)
        except jwt.InvalidSignatureError:
            _refuse("was not signed with a key of this server")
        except jwt.InvalidAlgorithmError:
            _refuse(
                "was signed with an algorithm for which this server has no key; it accepts "
                + ", ".join(self.algorithms)
            )
        except jwt.PyJWTError:
            _refuse("is not a JWT: three parts of base64url, with dots between")
        try:
            return msgspec.json.decode(decoded["payload"], type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            _refuse("holds no claims: its second part is no JSON object")


def mint_token(
    key: str,
    *,
    user: str,
    ttl: float | None = 3600.0,
    role: str | None = None,
    subscribe: Sequence[str] | None = None,
    publish: Sequence[str] | None = None,
    audience: Sequence[str] = (),
    issuer: str | None = None,
    session: str | None = None,
    info: Any = None,
    algorithm: str | None = None,
) -> str:
    """Make a token that a server with that key, or its public half, accepts.

    `key` is a secret or the PEM text of a private key, `ttl` seconds from now (None: it never
    expires), `subscribe` and `publish` topic patterns (None: not restricted). Raises
    ConfigurationError for a key that cannot sign, and RemoteProtocolError for claims that no server
    would accept.
    """
    if ttl is not None and not (math.isfinite(ttl) and ttl >= _MIN_TTL):
        raise ConfigurationError("ttl", f"{ttl:g} is too short", allowed="1 second or more")
    found = read_keys(key, "key")
    signer = next((k for k in found if k.private or isinstance(k.material, bytes)), None)
    if signer is None:
        raise ConfigurationError(
            "key",
            f"{found[0].description} is public: it verifies tokens, and cannot make them",
            allowed="a secret, or the PEM text of a private key",
        )
    if algorithm is not None and algorithm not in signer.algorithms:
        raise ConfigurationError(
            "algorithm",
            f"{algorithm} does not fit {signer.description}",
            allowed=", ".join(signer.algorithms),
        )
    now = int(time.time())
    topics = {
        action: list(patterns)
        for action, patterns in (("subscribe", subscribe), ("publish", publish))
        if patterns is not None
    }
    claims: dict[str, Any] = {
        "sub": user,
        "iat": now,
        "exp": None if ttl is None else now + math.ceil(ttl),
        "role": role,
        "topics": topics or None,
        "aud": audience[0] if len(audience) == 1 else list(audience) or None,
        "iss": issuer,
        "sid": session,
        "info": info,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    identity_from_claims(claims)
    name = algorithm or signer.algorithms[0]
    return _prepared([signer], [name]).encode(encode_value(claims), "", name)


def random_secret() -> str:
    """Return a new HS256 secret, as development mode uses for one run of the server."""
    return secrets.token_urlsafe(_MIN_SECRET)


def read_key_file(path: Path, setting: str) -> str:
    """Return the text of a key's file, without the final line end that editors add to a secret."""
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            setting, f"{path} cannot be read: {reason}", allowed="a readable file with a key"
        ) from error


def read_keys(text: str, setting: str, path: Path | None = None) -> list[Key]:
    """Return the keys that a text holds: one secret, or one for each PEM block.

    Raises ConfigurationError in the name of `setting` for what is neither.
    """
    where = f"{path}: " if path else ""
    # A variable that had to be a single line has `\n` written out.
    pem = text.replace("\\n", "\n") if "-----BEGIN" in text else ""
    blocks = list(_PEM_BLOCK.finditer(pem))
    try:
        if blocks:
            # Openssl writes an EC key's curve into a block of its own before the key.
            return [_pem_key(m[0], m[1]) for m in blocks if m[1] != "EC PARAMETERS"]
        if pem:
            raise _UnusableKeyError("it begins like PEM, but no block of it is whole")
        return [_secret_key(text)]
    except _UnusableKeyError as error:
        problem = str(error)
    except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError):
        # The libraries' own texts may cite what they read.
        problem = "it is no key that can be used"
    raise ConfigurationError(
        setting,
        where + problem,
        allowed="a secret in plain text, or PEM text of an RSA (2048 bits or more), EC (P-256, "
        "P-384, P-521), Ed25519 or Ed448 key",
    )


def _secret_key(text: str) -> Key:
    # PyJWT's check for what must not be a secret: SSH keys, DER, a JWK's JSON.
    material = cast("bytes", get_default_algorithms()["HS256"].prepare_key(text))
    size = len(material)
    concern = (
        f"a secret of {size} bytes can be guessed offline from one token; "
        f"take {_MIN_SECRET} bytes or more"
        if size < _MIN_SECRET
        else ""
    )
    return Key(material, _SECRET_ALGORITHMS, "the secret", concern=concern)


def _pem_key(block: str, label: str) -> Key:
    data = block.encode()
    if label == "CERTIFICATE":
        key: Any = x509.load_pem_x509_certificate(data).public_key()
    elif "PRIVATE" in label:
        if "ENCRYPTED" in block:
            raise _UnusableKeyError("it is encrypted, and nobody is there to type the password")
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


def _accepted(keys: Sequence[Key], chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to accept: the algorithms chosen, else what each key implies."""
    if not chosen:
        return tuple(dict.fromkeys(key.algorithms[0] for key in keys))
    fitting = dict.fromkeys(name for key in keys for name in key.algorithms)
    for name in chosen:
        if name not in fitting:
            raise ConfigurationError(
                "jwt_algorithms",
                f"{name} fits none of the keys configured",
                allowed=", ".join(fitting),
            )
    for key in keys:
        if not set(key.algorithms) & set(chosen):
            raise ConfigurationError(
                "jwt_algorithms",
                f"none of {', '.join(chosen)} fits {key.description}, which would never be used",
                allowed="also one of " + ", ".join(key.algorithms),
            )
    return chosen


def _refuse(problem: str) -> NoReturn:
    raise RemoteProtocolError(f"the token {problem}", ErrorCode.UNAUTHORIZED)


def _seconds(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    # Compared, not asked whether it is finite: an integer can be too long for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        _refuse(f"has a `{claim}` that is not a number of seconds since 1970")
    return float(value)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud")
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    return tuple(entry for entry in entries if isinstance(entry, str))
