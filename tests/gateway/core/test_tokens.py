"""Our own tokens: what they say, and every way in which one is refused."""

import base64
from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from joserfc import jwt as other_jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import KeySet

from gateway.core.scopes import ALL
from gateway.core.signing import SigningKey
from gateway.core.tokens import (
    LEEWAY_MS,
    MAX_CHARS,
    MESSAGES,
    BadToken,
    Claims,
    TokenSigner,
    check_times,
    look,
    refused,
    to_ms,
)

NOW_MS = 1_795_323_600_000
OLD = SigningKey("old", b"o" * 32, NOW_MS + 1000, "ed25519")
NEW = SigningKey("new", b"n" * 32, NOW_MS + 2000, "ed25519")
MAC = SigningKey("mac", b"m" * 32, NOW_MS + 9000)
CLAIMS = Claims(
    iss="safelight", aud="safelight", sub="ann", client_id="key-1", tenant="acme", scope="generate read", epoch=3,
    jti="j1", iat=NOW_MS / 1000, nbf=NOW_MS / 1000, exp=NOW_MS / 1000 + 60,
)  # fmt: skip


def reason(text: str, now_ms: int = NOW_MS, *keys: SigningKey) -> str:
    """Return why a token is refused."""
    with pytest.raises(BadToken) as bad:
        TokenSigner(keys or [OLD, NEW]).check(look(text), now_ms)
    return bad.value.reason


def forged(head: Mapping[str, object], body: bytes = b"{}", signature: bytes = b"") -> str:
    """Return a token of these parts."""
    parts = (msgspec.json.encode(head), body, signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_token_says_what_was_signed() -> None:
    """To the millisecond, in letters that fit a header and a URL."""
    text = TokenSigner([OLD, NEW, MAC]).sign(CLAIMS)
    claims = TokenSigner([NEW]).check(look(text), NOW_MS)
    assert claims == CLAIMS
    assert claims.scopes == {"generate", "read"}
    assert claims.expires_ms == NOW_MS + 60_000
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert len(text) < 1024


def test_another_library_checks_a_token_by_our_key_set() -> None:
    """What we sign is what the RFCs say, and not only what we read ourselves."""
    signer = TokenSigner([OLD, NEW, MAC])
    published: Any = msgspec.json.decode(msgspec.json.encode(signer.jwks(NOW_MS)))
    assert [key["kid"] for key in published["keys"]] == ["old", "new"]
    assert not any("d" in key for key in published["keys"])
    with pytest.warns(SecurityWarning, match="RFC 9864"):  # it would rather have `Ed25519`, which few others know yet
        found = other_jwt.decode(signer.sign(CLAIMS), KeySet.import_key_set(published), algorithms=["EdDSA"])
    assert found.header["kid"] == "new"
    assert found.claims["sub"] == "ann"
    registry = other_jwt.JWTClaimsRegistry(now=lambda: NOW_MS // 1000, aud={"essential": True, "value": "safelight"})
    registry.validate(found.claims)


def test_scope_that_there_is_not_gives_nothing() -> None:
    """A token of a later version does not bring what this one lacks."""
    claims = msgspec.structs.replace(CLAIMS, scope="read paint")
    assert claims.scopes == {"read"} < ALL


def test_token_ends_to_the_millisecond() -> None:
    """A day is a day."""
    signer = TokenSigner([SigningKey("k", b"k" * 32, NOW_MS * 2, "ed25519")])
    token = look(signer.sign(msgspec.structs.replace(CLAIMS, exp=NOW_MS / 1000 + 86_400)))
    signer.check(token, NOW_MS + 86_400_000 - 1)
    with pytest.raises(BadToken, match="expired"):
        signer.check(token, NOW_MS + 86_400_000)


def test_token_counts_a_little_before_its_time() -> None:
    """Clocks of two nodes are never quite the same."""
    signer = TokenSigner([NEW])
    token = look(signer.sign(msgspec.structs.replace(CLAIMS, nbf=(NOW_MS + LEEWAY_MS) / 1000)))
    signer.check(token, NOW_MS)
    with pytest.raises(BadToken, match="not yet valid"):
        signer.check(token, NOW_MS - 1)


def test_key_counts_until_its_end() -> None:
    """A rotated key checks what it signed, until its grace is over."""
    text = TokenSigner([OLD]).sign(CLAIMS)
    assert TokenSigner([OLD, NEW]).check(look(text), NOW_MS + 1000) == CLAIMS
    assert reason(text, NOW_MS + 1001) == "unknown key"
    assert reason(text, NOW_MS, NEW) == "unknown key"
    assert [key["kid"] for key in TokenSigner([OLD, NEW]).jwks(NOW_MS + 1001)["keys"]] == ["new"]


def test_token_of_another_algorithm_is_refused() -> None:
    """`none`, and HMAC with the public key, which everybody has (RFC 8725, section 2.1)."""
    public = base64.urlsafe_b64decode(TokenSigner([NEW]).jwks(NOW_MS)["keys"][0]["x"] + "=")
    body = msgspec.json.encode(CLAIMS)
    hmac = jwt.PyJWS().encode(body, public, algorithm="HS256", headers={"kid": "new", "typ": "at+jwt"})
    assert reason(hmac) == "wrong algorithm"
    for name in ("none", "None", "NONE", "RS256", "Ed448", ""):
        assert reason(forged({"alg": name, "kid": "new", "typ": "at+jwt"}, body)) == "wrong algorithm"


@pytest.mark.parametrize("kid", ["", "neW", "new\x00", "../new", "k" * 500, "mac"])
def test_token_of_an_unknown_key_is_refused(kid: str) -> None:
    """A name is looked up and nothing else: no path, no address, no key of another use."""
    text = jwt.PyJWS().encode(
        msgspec.json.encode(CLAIMS), TokenSigner([NEW])._private, "EdDSA", headers={"kid": kid, "typ": "at+jwt"}
    )
    assert reason(text, NOW_MS, OLD, NEW, MAC) == "unknown key"


def test_token_that_brings_its_own_key_is_refused() -> None:
    """`jwk`, `jku` and `x5u` of a header are nothing to us (RFC 8725, section 3.10)."""
    mine = SigningKey("mine", b"e" * 32, NOW_MS * 2, "ed25519")
    jwk = TokenSigner([mine]).jwks(NOW_MS)["keys"][0]
    head = {"kid": "new", "typ": "at+jwt", "jwk": jwk, "jku": "https://evil.example/keys"}
    text = jwt.PyJWS().encode(msgspec.json.encode(CLAIMS), TokenSigner([mine])._private, "EdDSA", headers=head)
    assert reason(text) == "bad signature"


def test_token_without_a_key_or_of_another_kind_is_refused() -> None:
    """An ID token is no access token (RFC 9068, section 4)."""
    body, private = msgspec.json.encode(CLAIMS), TokenSigner([NEW])._private
    assert reason(jwt.PyJWS().encode(body, private, "EdDSA", headers={"typ": "at+jwt"})) == "unknown key"
    assert reason(jwt.PyJWS().encode(body, private, "EdDSA", headers={"kid": "new"})) == "malformed"
    spelt = jwt.PyJWS().encode(body, private, "EdDSA", headers={"kid": "new", "typ": "Application/AT+JWT"})
    assert TokenSigner([NEW]).check(look(spelt), NOW_MS) == CLAIMS


def test_token_of_another_audience_is_refused() -> None:
    """Signed by us, but for somebody else."""
    text = TokenSigner([NEW]).sign(msgspec.structs.replace(CLAIMS, aud="elsewhere"))
    assert reason(text) == "wrong audience"


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"", b"\xff", b'{"exp":"soon"}', msgspec.json.encode({**msgspec.to_builtins(CLAIMS), "exp": 1e300})],
)
def test_token_of_another_shape_is_refused(body: bytes) -> None:
    """Whatever an older or a foreign version of ours may have signed."""
    head = {"kid": "new", "typ": "at+jwt"}
    assert reason(jwt.PyJWS().encode(body, TokenSigner([NEW])._private, "EdDSA", headers=head)) == "malformed"


def test_no_changed_letter_passes() -> None:
    """Wherever it stands, and whatever it means; and nothing may stand beside a token."""
    signer = TokenSigner([NEW])
    text = signer.sign(CLAIMS)
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(BadToken):
            signer.check(look(changed), NOW_MS)
    for wrong in (text + "=", text + "A", " " + text, text + "\n", text[:-1], text.rpartition(".")[0], text + ".x"):
        with pytest.raises(BadToken):
            signer.check(look(wrong), NOW_MS)


def test_token_is_bounded_before_it_is_read() -> None:
    """Whoever sends a book has nothing of it parsed."""
    assert reason(f"{'a' * MAX_CHARS}.b.c") == "malformed"
    deep = forged({"alg": "EdDSA"}, b"[" * 2000)
    assert reason(deep) == "malformed"
    assert reason(forged({"alg": "EdDSA", "kid": "new", "crit": ["b64"], "b64": False})) == "malformed"
    assert reason(forged({"alg": ["EdDSA"]})) == "malformed"


@given(some.text(max_size=60) | some.lists(some.binary(max_size=20), min_size=3, max_size=3).map(
    lambda parts: ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
))  # fmt: skip
def test_no_other_text_passes(text: str) -> None:
    """Anything that a client may send is refused by name."""
    assert reason(text) in MESSAGES


def test_times_are_checked_with_leeway_and_grace() -> None:
    """A foreign clock may be ahead or behind."""
    check_times(100, 110, 91, leeway_ms=10, grace_ms=10)
    with pytest.raises(BadToken, match="expired"):
        check_times(100, 0, 90, leeway_ms=10, grace_ms=10)
    for wrong in (float("inf"), float("nan"), -1e30):
        with pytest.raises(BadToken, match="malformed"):
            to_ms(wrong)


def test_refusal_tells_why_and_what_time_it_is() -> None:
    """So that a wrong clock is found at once."""
    expired, unknown = refused("expired", 5), refused("unknown key", 6)
    assert (expired.code, expired.details) == ("token_expired", {"reason": "expired", "time_ms": 5})
    assert (unknown.code, unknown.details) == ("unauthorized", {"reason": "unknown key", "time_ms": 6})


def test_signer_needs_a_key() -> None:
    """The ledger makes one when it is made; one of another kind is none."""
    with pytest.raises(AssertionError):
        TokenSigner([MAC])
