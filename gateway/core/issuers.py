"""Tokens of somebody else's issuer (OpenID Connect Core 1.0, RFC 7519): what is believed of them, for which tenant.

Which algorithms an issuer may use, its settings say; each is only used with keys of its own kind.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import jwt
import msgspec

from gateway.core.algorithms import KEY_TYPES, Algorithm
from gateway.core.scopes import END_USER
from gateway.core.tokens import BadToken, Unverified, check_times, to_ms, verified

MIN_RSA_BITS: Final = 2048
"""RFC 7518, section 3.3."""
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a key that signs (RFC 7518, section 6). What such a key signed proves nothing once it is published."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and what for."""

    name: str
    tenant: str
    """Whose end users its tokens name."""
    issuer: str
    """`iss`, to the letter."""
    audience: str
    """`aud`, or one of it."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    subject_claim: str = "sub"
    scope_claim: str | None = None
    """Which claim narrows the scopes, as words or a list; `None` = each token has all that an end user may have."""
    scopes: Mapping[str, str] = field(default_factory=dict)
    """What the claim's own words mean here; our scopes' names mean themselves."""
    leeway_ms: int = 30_000
    """How far the issuer's clock may be off."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """Who a foreign token names."""

    subject: str
    scopes: frozenset[str]
    expires_ms: int


class _Claims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    exp: float
    nbf: float = 0.0
    iat: float = 0.0


_Words = Annotated[list[str], msgspec.Meta(max_length=256)]


def fitting(token: Unverified, issuer: Issuer, keys: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the key of an issuer's set that may have signed a token; `None` if there is none, or no telling which.

    A token without `kid` is taken if a single key of the set can be meant.
    """
    kty = KEY_TYPES.get(token.algorithm)
    if token.algorithm not in issuer.algorithms:
        raise BadToken("wrong algorithm")
    able = [
        one
        for one in keys
        if one.get("kty") == kty
        and one.get("alg", token.algorithm) == token.algorithm
        and (token.key is None or one.get("kid") == token.key)
        and _is_for_checking(one)
    ]
    return able[0] if len(able) == 1 else None


def _is_for_checking(jwk: Mapping[str, Any]) -> bool:
    """Whether a key says that it checks signatures, or says nothing of it, and is a public one."""
    operations = jwk.get("key_ops", ["verify"])
    may_check = isinstance(operations, list) and "verify" in operations
    return may_check and jwk.get("use", "sig") == "sig" and not _PRIVATE & jwk.keys()


def check(token: Unverified, issuer: Issuer, jwk: Mapping[str, Any], now_ms: int) -> Stranger:
    """Return who a token names that this key signed. Raises `BadToken`."""
    try:
        key = jwt.PyJWK.from_dict(dict(jwk), algorithm=token.algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise BadToken("unknown key") from error
    if getattr(key, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and KEY_TYPES[token.algorithm] == "RSA":
        raise BadToken("unknown key")
    payload = verified(token, key, issuer.algorithms)
    try:
        claims = msgspec.json.decode(payload, type=_Claims)
        said: dict[str, Any] = msgspec.json.decode(payload)
    except msgspec.MsgspecError as error:
        raise BadToken("malformed") from error
    if claims.iss != issuer.issuer:
        raise BadToken("wrong issuer")
    if issuer.audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise BadToken("wrong audience")
    expires_ms = to_ms(claims.exp)
    begins_ms = max(to_ms(claims.nbf), to_ms(claims.iat))
    check_times(now_ms, begins_ms, expires_ms, issuer.leeway_ms, grace_ms=issuer.leeway_ms)
    subject = said.get(issuer.subject_claim)
    if not isinstance(subject, str) or not _SUBJECT.match(subject):
        raise BadToken("malformed")
    return Stranger(subject, _scopes(issuer, said), expires_ms + issuer.leeway_ms)


def _scopes(issuer: Issuer, said: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes of a token: those that its claim names and that end users may have."""
    if issuer.scope_claim is None:
        return END_USER
    value = said.get(issuer.scope_claim, "")
    try:
        words = value.split() if isinstance(value, str) else msgspec.convert(value, _Words)
    except msgspec.ValidationError as error:
        raise BadToken("malformed") from error
    return frozenset(issuer.scopes.get(word, word) for word in words) & END_USER
