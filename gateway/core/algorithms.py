"""The algorithms that a foreign issuer's tokens may be signed with (RFC 7518, RFC 8037).

Only those with a public key: `none` is no signature, and an HMAC would take the public key, which everybody has, for
the secret (RFC 8725, section 2.1).
"""

from collections.abc import Mapping
from typing import Final, Literal

Algorithm = Literal["EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]
KEY_TYPES: Final[Mapping[str, str]] = {
    "EdDSA": "OKP", "ES256": "EC", "ES384": "EC", "ES512": "EC", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA",
}  # fmt: skip
"""The kind of key (`kty`) of each (RFC 7518, section 6.1), so that none is used for what it was not made for."""
