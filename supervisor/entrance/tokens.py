"""Tokens: verifying the tokens of clients, and minting tokens.

A JWT says in its own header how it was signed, and the sender wrote that header. So a token never
chooses how a key is used. The keys are read once, and each is kept under the algorithms that it is
for; a token that names any other algorithm is refused before a key is touched. Otherwise an
attacker could sign a token with HS256 and a public RSA key as the secret (RFC 8725, section 2.1).
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, cast

import attrs
import jwt
import msgspec
from jwt.algorithms import Algorithm, get_default_algorithms

from ...protocol.errors import ErrorCode, RemoteProtocolError
from ...protocol.identity import Identity, identity_from_claims
from ...protocol.messages.codec import encode_value
from ..config.settings import Settings
from ..config.validators import ConfigurationError
from .keys import MIN_SECRETS, Key, read_key_file, read_keys

# Anyone can send a token, and reading one takes time in proportion to its length.
_MAX_TOKEN = 8192  # characters; a request head has room for twice as many
_MIN_TTL = 1.0  # seconds


class _PreparedAlgorithm(Algorithm):
    """An algorithm of PyJWT, with the keys for it already prepared.

    PyJWT prepares a key anew for each token. For HS256 that takes nearly half of the time: 70 µs a
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
    """Return a PyJWS that knows only those algorithms, each with the keys that are for it."""
    jws = jwt.PyJWS(algorithms=[])
    known = get_default_algorithms()
    for name in algorithms:
        fitting = [key for key in keys if name in key.algorithms]
        jws.register_algorithm(name, _PreparedAlgorithm(known[name], fitting))
    return jws


@attrs.frozen
class TokenVerifier:
    """The verifier of clients' tokens.

    It is made once, by `TokenVerifier.from_settings`, and used for every connection.
    """

    # In the order of the settings.
    keys: tuple[Key, ...] = ()
    # The algorithms that are accepted.
    algorithms: tuple[str, ...] = ()
    audience: frozenset[str] = frozenset()
    issuer: str | None = None
    leeway: float = 0.0  # seconds by which our clock and the issuer's may differ
    _jws: jwt.PyJWS = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(
            lambda self: _prepared(self.keys, self.algorithms),
            takes_self=True,
        ),
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Read the keys that the settings hold or name, and return a verifier.

        Raises ConfigurationError for a key or a file that cannot be used, for a private key, and
        for an algorithm that fits no key. It reads files, so it blocks.
        """
        read = partial(read_keys, allow_short=settings.jwt_allow_short_keys)
        keys = [key for text in settings.jwt_key for key in read(text, "jwt_key")]
        for path in settings.jwt_key_file:
            keys += read(read_key_file(path, "jwt_key_file"), "jwt_key_file", path)
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
        """The weaknesses of the keys that the operator should know of."""
        return tuple(key.concern for key in self.keys if key.concern)

    def verify(self, token: str) -> Identity:
        """Return the identity that a token proves.

        Raises RemoteProtocolError: `token_expired` for a genuine token whose time is over,
        `unauthorized` for everything else. Its text says what is wrong, without the token.
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
        # RFC 7519, section 4.1.3: who is not named by an `aud` that is there "MUST" refuse it.
        if not self.audience and claims.get("aud") is not None:
            _refuse("is for an audience: it has an `aud`, and this server has no `jwt_audience`")
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
            _refuse("holds no claims: its second part is not a JSON object")


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
    allow_short_key: bool = False,
) -> str:
    """Return a new token, which a server with this key, or its public half, accepts.

    `key` is a secret, or the PEM text of a private key. A secret of less than 32 bytes can be
    guessed, and signs only with `allow_short_key`, for a server that allows it as well. The token
    expires `ttl` seconds from now; None: never. `subscribe` and `publish` are topic patterns; None:
    the token does not restrict them. A server takes a token with an `audience` only if its
    `jwt_audience` names one. Raises ConfigurationError for a key that cannot sign, and
    RemoteProtocolError for claims that no server would accept.
    """
    if ttl is not None and not (math.isfinite(ttl) and ttl >= _MIN_TTL):
        raise ConfigurationError("ttl", f"{ttl:g} is too short", allowed="1 second or more")
    found = read_keys(key, "key", allow_short=allow_short_key)
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
            f"{algorithm} does not fit {signer.description}{_hint(algorithm)}",
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


def _accepted(keys: Sequence[Key], chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Return the algorithms to accept: those of the setting, or else the default of each key."""
    if not chosen:
        return tuple(dict.fromkeys(key.algorithms[0] for key in keys))
    fitting = dict.fromkeys(name for key in keys for name in key.algorithms)
    for name in chosen:
        if name not in fitting:
            raise ConfigurationError(
                "jwt_algorithms",
                f"{name} fits none of the keys configured{_hint(name)}",
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


def _hint(algorithm: str) -> str:
    """Say how long a secret must be for an algorithm that needs one; "" for all others."""
    size = MIN_SECRETS.get(algorithm)
    return "" if size is None else f": it needs a secret of {size} bytes or more"


def _refuse(problem: str) -> NoReturn:
    raise RemoteProtocolError(f"the token {problem}", ErrorCode.UNAUTHORIZED)


def _seconds(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    # `math.isfinite` would raise here: an integer of the token can be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        _refuse(f"has a `{claim}` that is not a number of seconds since 1970")
    return float(value)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud")
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    return tuple(entry for entry in entries if isinstance(entry, str))
