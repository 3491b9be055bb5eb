"""Identifiers as text: ULIDs for what the server names, `sha256:` for what bytes name.

Ids are text in headers and JSON alike: one spelling, readable in a hex dump, and no byte order to get wrong.
"""

import hashlib
import random
import re
from typing import NewType

JobId = NewType("JobId", str)
SessionId = NewType("SessionId", str)
UploadId = NewType("UploadId", str)
AssetId = NewType("AssetId", str)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ULID_LENGTH = 26
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")
_UPLOAD_ID = re.compile(r"[0-9A-Z]{26}\Z")
_ASSET_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")


def make_ulid(time_ms: int, chance: random.Random) -> str:
    """Return a new 26-character ULID: 48 bits of `time_ms`, then 80 bits of `chance`."""
    number = (time_ms & (2**48 - 1)) << 80 | chance.getrandbits(80)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Whether `text` is a ULID in upper case, as the server writes them."""
    return _ULID.match(text) is not None


def is_upload_id(text: str) -> bool:
    """Whether `text` is 26 characters of `0-9A-Z`, as clients make them up."""
    return _UPLOAD_ID.match(text) is not None


def is_asset_id(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 lower-case hexadecimal digits."""
    return _ASSET_ID.match(text) is not None


def asset_id(content: bytes | memoryview) -> AssetId:
    """Return the id that these bytes have: their SHA-256."""
    return AssetId("sha256:" + hashlib.sha256(content).hexdigest())
