"""Bearer tokens: JSON Web Tokens (RFC 7519, RFC 9068) signed with Ed25519 (RFC 8037), and why one is refused.

A token is bounded before it is parsed and its signature is checked before anything else that it says counts. The
algorithm is the key's, never the header's (RFC 8725, section 3.1): what names another one is refused, `none` and HMAC
with a public key among them. The caller checks what only the ledger knows: whether the token or its key was revoked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from gateway.core.scopes import ALL
from gateway.core.signing import SigningKey
from protocol.errors import ClientFault

ISSUER: Final = "safelight"
AUDIENCE: Final = "safelight"
TYPE: Final = "at+jwt"
"""RFC 9068, section 2.1: no other kind of JWT passes as an access token."""
ALGORITHM: Final = "EdDSA"
LEEWAY_MS: Final = 30_000
"""How far the clocks of nodes may be apart: a token of one that is ahead counts that much too early."""
MAX_CHARS: Final = 8192
Reason = Literal[
    "missing", "malformed", "unknown key", "wrong algorithm", "bad signature", "wrong issuer", "wrong audience",
    "expired", "not yet valid", "revoked",
]  # fmt: skip
MESSAGES: Final[Mapping[Reason, str]] = {
    "missing": "send `Authorization: Bearer` with an API key or a token",
    "malformed": "the credential is neither an API key nor a token",
    "unknown key": "the API key is unknown, or the key that signed the token is",
    "wrong algorithm": "the token is signed with an algorithm that is not taken here",
    "bad signature": "the credential's signature is wrong",
    "wrong issuer": "nobody here trusts the token's issuer",
    "wrong audience": "the token is for another audience",
    "expired": "the token's time is over; get a new one",
    "not yet valid": "the token does not count yet; is a clock wrong?",
    "revoked": "the credential was revoked",
}


class BadToken(Exception):
    """The token is refused; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def refused(reason: Reason, time_ms: int) -> ClientFault:
    """Return what a client is told: why, and what time it is here, so that a wrong clock is found at once."""
    code = "token_expired" if reason == "expired" else "unauthorized"
    return ClientFault(code, MESSAGES[reason], details={"reason": reason, "time_ms": time_ms})


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token as it came: nothing of this may be believed, it only says with whose keys to check."""

    text: str
    algorithm: str
    key: str | None
    type: str
    issuer: str


class _Head(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str = ""


class _Issued(msgspec.Struct):
    iss: str = ""


class Claims(msgspec.Struct, frozen=True):
    """What a token of ours says; times are seconds since 1970, with fractions (RFC 7519, section 2)."""

    iss: str
    aud: str
    sub: str
    client_id: str
    """The API key that it was made with."""
    tenant: str
    scope: str
    epoch: int
    jti: str
    iat: float
    nbf: float
    exp: float

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that it has and that there are."""
        return frozenset(self.scope.split()) & ALL

    @property
    def expires_ms(self) -> int:
        """When it ends, in milliseconds since 1970."""
        return to_ms(self.exp)


_JWS: Final = jwt.PyJWS()
_UNCHECKED: Final[Any] = {"verify_signature": False}


def look(text: str) -> Unverified:
    """Return whose a token says it is. Raises `BadToken` `malformed`, for one that is too long as well."""
    if len(text) > MAX_CHARS or text.count(".") != 2 or not text.isascii():
        raise BadToken("malformed")
    try:
        found = _JWS.decode_complete(text, options=_UNCHECKED)
        head = msgspec.convert(found["header"], _Head)
        issued = msgspec.json.decode(found["payload"], type=_Issued)
    except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadToken("malformed") from error
    return Unverified(text, head.alg, head.kid, head.typ.lower(), issued.iss)


def verified(token: Unverified, key: Any, algorithms: Sequence[str]) -> bytes:
    """Return the payload of a token that `key` signed. Raises `BadToken`."""
    if token.algorithm not in algorithms:
        raise BadToken("wrong algorithm")
    try:
        payload: bytes = _JWS.decode_complete(token.text, key, algorithms=[token.algorithm])["payload"]
    except jwt.PyJWTError as error:
        raise BadToken("bad signature") from error
    return payload


def check_times(now_ms: int, not_before_ms: int, expires_ms: int, leeway_ms: int, grace_ms: int = 0) -> None:
    """Raise `BadToken` unless a token counts now; `grace_ms` is how long it counts after its end."""
    if expires_ms + grace_ms <= now_ms:
        raise BadToken("expired")
    if not_before_ms > now_ms + leeway_ms:
        raise BadToken("not yet valid")


def to_ms(seconds: float) -> int:
    """Return a claim's time in milliseconds. Raises `BadToken` where it is none that any calendar has."""
    if not abs(seconds) < 2**43:
        raise BadToken("malformed")
    return round(seconds * 1000)


class TokenSigner:
    """Signs tokens with the newest of the `ed25519` keys and checks them with all of them."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        mine = [key for key in keys if key.kind == "ed25519"]
        assert mine, "tokens need a key; the ledger makes one when it is made"
        newest = max(mine, key=lambda key: key.not_after_ms)
        self._newest = newest.id
        self._private = Ed25519PrivateKey.from_private_bytes(newest.secret)
        self._public = {key.id: (_public(key), key.not_after_ms) for key in mine}

    def sign(self, claims: Claims) -> str:
        """Return the token that says this."""
        head = {"kid": self._newest, "typ": TYPE}
        return _JWS.encode(msgspec.json.encode(claims), self._private, algorithm=ALGORITHM, headers=head)

    def knows(self, token: Unverified, now_ms: int) -> bool:
        """Whether the key that a token names counts now."""
        found = self._public.get(token.key or "")
        return found is not None and found[1] >= now_ms

    def check(self, token: Unverified, now_ms: int) -> Claims:
        """Return what a token of ours says. Raises `BadToken`; whether it was revoked is the caller's to check."""
        if token.type not in {TYPE, f"application/{TYPE}"}:
            raise BadToken("malformed")
        if not self.knows(token, now_ms):
            raise BadToken("unknown key")
        assert token.key is not None, "one that is known has a name"
        payload = verified(token, self._public[token.key][0], [ALGORITHM])
        try:
            claims = msgspec.json.decode(payload, type=Claims)
        except msgspec.MsgspecError as error:
            raise BadToken("malformed") from error
        if claims.aud != AUDIENCE:
            raise BadToken("wrong audience")
        check_times(now_ms, to_ms(claims.nbf), claims.expires_ms, LEEWAY_MS)
        return claims

    def jwks(self, now_ms: int) -> dict[str, Any]:
        """Return the public keys that count now, as a JWK set (RFC 7517, RFC 8037)."""
        return {"keys": [_as_jwk(name, key) for name, (key, until_ms) in self._public.items() if until_ms >= now_ms]}


def _public(key: SigningKey) -> Ed25519PublicKey:
    return Ed25519PrivateKey.from_private_bytes(key.secret).public_key()


def _as_jwk(name: str, key: Ed25519PublicKey) -> dict[str, Any]:
    return {**OKPAlgorithm.to_jwk(key, as_dict=True), "kid": name, "use": "sig", "alg": ALGORITHM}
