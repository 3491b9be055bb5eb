"""Foreign tokens: which key may have signed one, and what is believed of it."""

import base64
from dataclasses import replace
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.core.algorithms import KEY_TYPES
from gateway.core.issuers import Issuer, Stranger, check, fitting
from gateway.core.scopes import END_USER
from gateway.core.tokens import BadToken, look

NOW_MS = 1_795_323_600_000
ISSUER = Issuer("idp", "acme", "https://idp.example", "gateway", algorithms=("RS256", "PS256", "ES256", "EdDSA"))
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
JWKS: dict[str, dict[str, Any]] = {
    "RS256": {**RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "kid": "r", "use": "sig"},
    "ES256": {**ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "kid": "e"},
    "EdDSA": {**OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True), "kid": "d", "alg": "EdDSA"},
}
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
CLAIMS = {"iss": ISSUER.issuer, "aud": "gateway", "sub": "auth0|ann", "exp": NOW_MS // 1000 + 60}


def signed(algorithm: str = "ES256", kid: str | None = None, **claims: object) -> str:
    """Return a token of the issuer; a claim of `None` is left out."""
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    head = {"kid": kid or JWKS[algorithm]["kid"]}
    return jwt.PyJWS().encode(msgspec.json.encode(body), PRIVATE[algorithm], algorithm, headers=head)


def stranger(text: str, issuer: Issuer = ISSUER, now_ms: int = NOW_MS) -> Stranger:
    """Return who a token names."""
    token = look(text)
    key = fitting(token, issuer, list(JWKS.values()))
    assert key is not None
    return check(token, issuer, key, now_ms)


def reason(text: str, issuer: Issuer = ISSUER, now_ms: int = NOW_MS) -> str:
    """Return why a token is refused."""
    with pytest.raises(BadToken) as bad:
        stranger(text, issuer, now_ms)
    return bad.value.reason


@pytest.mark.parametrize("algorithm", JWKS)
def test_token_names_its_end_user(algorithm: str) -> None:
    """By each kind of key; it ends with the leeway, and has what an end user may have."""
    expires_ms = (NOW_MS // 1000 + 60) * 1000 + ISSUER.leeway_ms
    assert stranger(signed(algorithm)) == Stranger("auth0|ann", END_USER, expires_ms)


def test_claims_are_checked() -> None:
    """Each with its own reason."""
    assert reason(signed(iss="https://idp.example/")) == "wrong issuer"
    assert reason(signed(aud="another")) == "wrong audience"
    assert reason(signed(aud=["another", "third"])) == "wrong audience"
    assert stranger(signed(aud=["another", "gateway"])).subject == "auth0|ann"
    assert reason(signed(exp=None)) == "malformed"
    assert reason(signed(exp=NOW_MS // 1000 - 30)) == "expired"
    assert stranger(signed(exp=NOW_MS // 1000 - 29)).subject == "auth0|ann"
    late, fine = NOW_MS // 1000 + 31, NOW_MS // 1000 + 30
    for text in (signed(nbf=late), signed(iat=late)):
        assert reason(text) == "not yet valid"
    assert stranger(signed(nbf=fine, iat=fine)).subject == "auth0|ann"
    for subject in (None, "", 7, "a b", "x" * 129, "grüße"):
        assert reason(signed(sub=subject)) == "malformed"


def test_subject_is_in_the_claim_that_the_settings_name() -> None:
    """An e-mail address, if that is what the tenant goes by."""
    assert stranger(signed(email="ann@a.example"), replace(ISSUER, subject_claim="email")).subject == "ann@a.example"


def test_scopes_are_narrowed_by_the_claim_that_the_settings_name() -> None:
    """As words or as a list, with the issuer's own words; never to more than an end user may have."""
    issuer = replace(ISSUER, scope_claim="scp", scopes={"images:write": "generate"})
    assert stranger(signed(scp="read images:write openid admin"), issuer).scopes == {"read", "generate"}
    assert stranger(signed(scp=["cancel"]), issuer).scopes == {"cancel"}
    assert stranger(signed(), issuer).scopes == frozenset()
    assert reason(signed(scp={"read": True}), issuer) == "malformed"


def test_algorithm_is_the_issuers_and_the_key_of_its_kind() -> None:
    """What the settings do not list is refused, as is a public key used as a secret."""
    assert reason(signed("EdDSA"), replace(ISSUER, algorithms=("ES256",))) == "wrong algorithm"
    secret = base64.urlsafe_b64decode(JWKS["EdDSA"]["x"] + "=")
    hmac = jwt.PyJWS().encode(msgspec.json.encode(CLAIMS), secret, "HS256", headers={"kid": "d"})
    assert reason(hmac) == "wrong algorithm"
    assert fitting(look(signed("ES256", kid="r")), ISSUER, list(JWKS.values())) is None
    assert {"none", "HS256", "HS384", "HS512"}.isdisjoint(KEY_TYPES)


def test_key_must_be_one_that_may_sign() -> None:
    """A key for encryption, for another algorithm or of another name signed nothing; two alike are no telling."""
    token, key = look(signed()), JWKS["ES256"]
    assert fitting(token, ISSUER, [key]) is key
    for other in ({"use": "enc"}, {"alg": "ES384"}, {"kid": "x"}, {"kty": "RSA"}, {"key_ops": ["encrypt"]}):
        assert fitting(token, ISSUER, [{**key, **other}]) is None
    for ops in ("verify", None, {"verify": True}):
        assert fitting(token, ISSUER, [{**key, "key_ops": ops}]) is None
    assert fitting(token, ISSUER, [{**key, "key_ops": ["verify"]}]) is not None
    assert fitting(token, ISSUER, [key, key]) is None
    nameless = look(jwt.PyJWS().encode(msgspec.json.encode(CLAIMS), EC, "ES256"))
    assert fitting(nameless, ISSUER, [JWKS["RS256"], key]) is key


@pytest.mark.parametrize("algorithm", JWKS)
def test_key_that_was_published_with_its_secret_is_no_key(algorithm: str) -> None:
    """Anybody may have signed with it."""
    kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    private = {**kind.to_jwk(PRIVATE[algorithm], as_dict=True), "kid": JWKS[algorithm]["kid"]}
    token = look(signed(algorithm))
    assert fitting(token, ISSUER, [private]) is None
    assert fitting(token, ISSUER, [private, JWKS[algorithm]]) is JWKS[algorithm]


@pytest.mark.parametrize("change", [{"x": "AA"}, {"crv": "P-0"}, {"x": None}, {"y": "?"}])
def test_broken_key_is_no_key(change: dict[str, object]) -> None:
    """An issuer's mistake is told as an unknown key, and not as ours."""
    with pytest.raises(BadToken, match="unknown key"):
        check(look(signed()), ISSUER, {**JWKS["ES256"], **change}, NOW_MS)


def test_small_key_is_no_key() -> None:
    """RFC 7518, section 3.3: 2048 bits or more."""
    small = rsa.generate_private_key(65537, 1024)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        text = jwt.PyJWS().encode(msgspec.json.encode(CLAIMS), small, "RS256", headers={"kid": "r"})
    key = {**RSAAlgorithm.to_jwk(small.public_key(), as_dict=True), "kid": "r"}
    with pytest.raises(BadToken, match="unknown key"):
        check(look(text), ISSUER, key, NOW_MS)


def test_forged_signature_and_broken_claims_are_refused() -> None:
    """Of the right key's name, but not of the key; and of the key, but no claims."""
    other = ec.generate_private_key(ec.SECP256R1())
    text = jwt.PyJWS().encode(msgspec.json.encode(CLAIMS), other, "ES256", headers={"kid": "e"})
    assert reason(text) == "bad signature"
    empty = jwt.PyJWS().encode(b"{}", EC, "ES256", headers={"kid": "e"})
    assert reason(empty) == "malformed"
