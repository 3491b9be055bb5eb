"""Identifiers: how they are made and which texts pass for one."""

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ALPHABET, ULID_LENGTH, asset_id, is_asset_id, is_ulid, is_upload_id, make_ulid

ULID = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


@given(st.integers(0, 2**48 - 1), st.integers())
def test_made_ulid_is_a_ulid_and_an_upload_id(time_ms: int, seed: int) -> None:
    """Any time of 48 bits and any chance give 26 characters of the alphabet."""
    made = make_ulid(time_ms, random.Random(seed))
    assert len(made) == ULID_LENGTH
    assert set(made) <= set(ALPHABET)
    assert is_ulid(made)
    assert is_upload_id(made)


@given(st.integers(0, 2**48 - 2), st.integers(), st.integers())
def test_later_ulid_sorts_after_an_earlier_one(time_ms: int, seed: int, other: int) -> None:
    """The text order of ULIDs is their order in time, whatever chance adds."""
    assert make_ulid(time_ms, random.Random(seed)) < make_ulid(time_ms + 1, random.Random(other))


def test_ulid_begins_with_its_time() -> None:
    """The first ten characters are the milliseconds in base 32."""
    digits = 0
    for character in make_ulid(1_795_323_600_000, random.Random(1))[:10]:
        digits = digits * 32 + ALPHABET.index(character)
    assert digits == 1_795_323_600_000


@pytest.mark.parametrize("text", [ULID.lower(), ULID[:-1], ULID + "0", "8" + ULID[1:], ULID[:-1] + "I", ULID + "\n"])
def test_ulid_is_refused_when_misspelt(text: str) -> None:
    """Lower case, wrong lengths, letters left out of the alphabet and more than 128 bits are no ULID."""
    assert not is_ulid(text)


def test_upload_id_is_wider_than_a_ulid() -> None:
    """Clients make it up, so any 26 of `0-9A-Z` will do, and nothing else."""
    assert is_upload_id("ILOU" + "Z" * 22)
    assert not is_upload_id("z" * 26)
    assert not is_upload_id("Z" * 26 + "\n")


def test_asset_id_is_the_hash_of_the_content() -> None:
    """Bytes and a view of them have the same id, which passes for one."""
    content = b"a picture"
    assert asset_id(content) == f"sha256:{sha256(content).hexdigest()}"
    assert asset_id(memoryview(content)) == asset_id(content)
    assert is_asset_id(asset_id(content))


@pytest.mark.parametrize("text", ["sha256:9f2c", "sha256:" + "A" * 64, "sha1:" + "a" * 64, "sha256:" + "a" * 64 + "\n"])
def test_asset_id_is_refused_when_misspelt(text: str) -> None:
    """Short hashes, upper case, other hashes and a trailing newline are refused."""
    assert not is_asset_id(text)
