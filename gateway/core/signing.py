"""Short signed texts: session tokens, grants and asset addresses. Tokens that say who asks are `tokens.py`'s.

A signed text is `kind.key.payload.signature`: the kind is signed too, so a grant can never pass as a token. The
payload is readable by whoever holds it; it carries names and times, never secrets. Keys are rows of the ledger and
are never made afresh at start, so that what was signed yesterday still counts. Each is for one algorithm: `mac` keys
sign here, `ed25519` keys sign tokens.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
KeyKind = Literal["mac", "ed25519"]
KEY_KINDS: Final[tuple[KeyKind, ...]] = ("mac", "ed25519")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of the ledger; `not_after_ms` is when it stops being good for checking."""

    id: str
    secret: bytes
    """32 bytes: of a `mac` key the key itself, of an `ed25519` key the private key (RFC 8032, section 5.1.5)."""
    not_after_ms: int
    kind: KeyKind = "mac"

    def __repr__(self) -> str:
        return f"SigningKey(id={self.id!r})"


class BadSignature(Exception):
    """The text was not signed by us, not for this kind, or its key is too old."""


class Signer:
    """Signs with the newest of the `mac` keys and checks with all of them."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        keys = [key for key in keys if key.kind == "mac"]
        assert keys, "a signer needs a key; the ledger makes one when it is made"
        self._newest = max(keys, key=lambda key: key.not_after_ms)
        self._keys = {key.id: key for key in keys}

    def sign(self, kind: str, payload: msgspec.Struct) -> str:
        """Return `payload` as a signed text of `kind`."""
        body = _text(msgspec.json.encode(payload))
        head = f"{kind}.{self._newest.id}.{body}"
        return f"{head}.{_text(_mac(self._newest, head))}"

    def check(self, kind: str, text: str, payload_type: type[T], now_ms: int) -> T:
        """Return the payload of a signed text; raises `BadSignature`. Expiry inside the payload is the caller's."""
        head, _, signature = text.rpartition(".")
        found = head.split(".")
        if len(found) != 3 or found[0] != kind or not text.isascii():
            raise BadSignature(f"this is no {kind}")
        key = self._keys.get(found[1])
        if key is None or key.not_after_ms < now_ms:
            raise BadSignature("its key is unknown or too old")
        if not hmac.compare_digest(_text(_mac(key, head)), signature):
            raise BadSignature("its signature is wrong")
        return msgspec.json.decode(_bytes(found[2]), type=payload_type)


def digest(secret: str) -> str:
    """Return what the ledger keeps of an API key: its SHA-256 (keys are 160 random bits, so no slow hash is needed)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _mac(key: SigningKey, head: str) -> bytes:
    return hmac.digest(key.secret, head.encode(), "sha256")[:16]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:  # pragma: no cover - the signature was right, so we wrote it
        raise BadSignature("its payload is broken") from error
