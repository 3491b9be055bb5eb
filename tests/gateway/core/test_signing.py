import base64
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.signing import BadSignature, Signer, SigningKey, digest

OLD = SigningKey("old", b"o" * 32, 1_000)
NEW = SigningKey("new", b"n" * 32, 2_000)


class Card(msgspec.Struct, frozen=True):
    name: str
    until_ms: int


CARD = Card("Zoë", 5)


@given(some.sampled_from(["t1", "g1", "a1", "r1"]), some.text(max_size=30), some.integers(0, 2**53))
def test_signed_text_gives_the_payload_back(kind: str, name: str, until_ms: int) -> None:
    """Whatever the payload says; the text is safe in a URL."""
    signer = Signer([NEW])
    text = signer.sign(kind, Card(name, until_ms))
    assert signer.check(kind, text, Card, 0) == Card(name, until_ms)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_no_flipped_bit_passes() -> None:
    """Every bit of every character counts, also those that base64 would not need."""
    signer = Signer([NEW])
    raw = signer.sign("t1", CARD).encode()
    for place in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(BadSignature):
            signer.check("t1", flipped.decode("latin-1"), Card, 0)


@given(some.text(max_size=80))
def test_no_other_text_passes(text: str) -> None:
    """Anything a client may send is refused by name."""
    with pytest.raises(BadSignature):
        Signer([NEW]).check("t1", text, Card, 0)


@given(some.binary(max_size=40), some.sampled_from(["", ".", "=", "\n", " "]))
def test_nothing_may_stand_beside_a_signed_text(more: bytes, mark: str) -> None:
    """Neither before nor behind nor between."""
    signer = Signer([NEW])
    text = signer.sign("t1", CARD)
    added = mark + base64.urlsafe_b64encode(more).decode()
    for wrong in (text + added, added + text, text.replace(".", "." + added)):
        if wrong != text:
            with pytest.raises(BadSignature):
                signer.check("t1", wrong, Card, 0)


@pytest.mark.parametrize("signed_as", ["t1", "g1", "a1", "r1"])
def test_kinds_never_pass_as_each_other(signed_as: str) -> None:
    """A grant is no token, also when its kind is rewritten."""
    signer = Signer([NEW])
    text = signer.sign(signed_as, CARD)
    for asked in {"t1", "g1", "a1", "r1"} - {signed_as}:
        for attempt in (text, asked + text[2:]):
            with pytest.raises(BadSignature):
                signer.check(asked, attempt, Card, 0)


def test_signer_signs_with_the_newest_and_checks_with_all() -> None:
    """What was signed before a new key came still counts."""
    text = Signer([OLD]).sign("t1", CARD)
    both = Signer([OLD, NEW])
    assert both.check("t1", text, Card, 0) == CARD
    assert both.sign("t1", CARD).split(".")[1] == "new"


def test_key_stops_counting_after_its_time() -> None:
    """Until its last millisecond it does."""
    text = Signer([OLD]).sign("t1", CARD)
    assert Signer([OLD, NEW]).check("t1", text, Card, 1_000) == CARD
    with pytest.raises(BadSignature, match="too old"):
        Signer([OLD, NEW]).check("t1", text, Card, 1_001)


def test_unknown_key_is_refused() -> None:
    """A key of the same name but another secret is refused as well."""
    text = Signer([OLD]).sign("t1", CARD)
    with pytest.raises(BadSignature, match="unknown"):
        Signer([NEW]).check("t1", text, Card, 0)
    with pytest.raises(BadSignature, match="wrong"):
        Signer([SigningKey("old", b"x" * 32, 1_000)]).check("t1", text, Card, 0)


def test_signature_covers_key_and_kind() -> None:
    """Two keys with one secret do not pass for each other."""
    twin = SigningKey("twin", NEW.secret, 2_000)
    text = Signer([NEW]).sign("t1", CARD)
    with pytest.raises(BadSignature):
        Signer([twin]).check("t1", text.replace(".new.", ".twin."), Card, 0)


def test_signer_needs_a_key() -> None:
    """The ledger makes one when it is made."""
    with pytest.raises(AssertionError):
        Signer([])


def test_signing_key_does_not_show_its_secret() -> None:
    """Its `repr` has the id alone."""
    assert repr(NEW) == "SigningKey(id='new')"


def test_digest_is_the_sha256_of_a_key() -> None:
    """What the ledger keeps says nothing of the key."""
    assert digest("sk-sl-1") == hashlib.sha256(b"sk-sl-1").hexdigest()
