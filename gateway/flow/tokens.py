"""The tokens of this gateway: made, checked without the ledger in the common case, revoked, and their signing keys.

What decides about a key's tokens (its row, its epoch, its revoked tokens) is read once and believed for
`fresh_seconds`. A revocation made here counts at once, because what was read before is forgotten with it; one made by
another process counts here within `fresh_seconds`. A signing key that another process made is found when the first
token names it, and within `fresh_seconds` by `refresh`.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from gateway.core.records import Identity, KeyStanding
from gateway.core.scopes import named, require
from gateway.core.signing import KEY_KINDS, SigningKey
from gateway.core.tokens import AUDIENCE, ISSUER, BadToken, Claims, TokenSigner, Unverified, look
from gateway.ports import Accounts, Clock
from protocol.errors import ClientFault

TOKEN_MAX_MS: Final = 86_400_000
MAX_REVOKED: Final = 10_000
"""Tokens of one key that may be revoked one by one; who has more to revoke revokes them all."""
MAX_KEYS_KNOWN: Final = 10_000
SIGNING_KEY_YEARS: Final = 10
UNKNOWN_KEY_SECONDS: Final = 1.0
"""How often made-up names of signing keys make us look for new ones."""


def new_signing_keys(now_ms: int) -> list[SigningKey]:
    """Return a new signing key of every kind."""
    until_ms = now_ms + SIGNING_KEY_YEARS * 31_536_000_000
    return [SigningKey(secrets.token_hex(4), secrets.token_bytes(32), until_ms, kind) for kind in KEY_KINDS]


class Tokens:
    """Makes, checks and revokes tokens."""

    def __init__(
        self, accounts: Accounts, keys: Sequence[SigningKey], clock: Clock, *, fresh_seconds: float = 2.0
    ) -> None:
        self._accounts = accounts
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._signer = TokenSigner(keys)
        self._looked_at = clock.now()
        self._known: OrderedDict[str, tuple[float, KeyStanding]] = OrderedDict()
        self._revocations = 0

    def use(self, keys: Sequence[SigningKey]) -> None:
        """Sign and check with these keys from now on."""
        self._signer = TokenSigner(keys)

    def make(self, identity: Identity, subject: str, ttl_ms: int, scopes: frozenset[str]) -> tuple[str, int]:
        """Return a token and for how long it is good: a day at most, and not longer than what it is made with.

        Raises `ClientFault` `invalid_param` where `scopes` has one that the identity does not.
        """
        now = self._clock.time_ms()
        expires = min(now + min(ttl_ms, TOKEN_MAX_MS), identity.expires_ms or now + TOKEN_MAX_MS)
        claims = Claims(
            iss=ISSUER, aud=AUDIENCE, sub=subject, client_id=identity.key, tenant=identity.tenant,
            scope=" ".join(sorted(named(scopes, identity.scopes))), epoch=identity.epoch, jti=secrets.token_urlsafe(16),
            iat=now / 1000, nbf=now / 1000, exp=expires / 1000,
        )  # fmt: skip
        return self._signer.sign(claims), expires - now

    async def check(self, token: Unverified) -> Identity:
        """Return who a token of ours stands for. Raises `BadToken`."""
        now = self._clock.time_ms()
        if not self._signer.knows(token, now) and self._may_look():
            await self.refresh()
        claims = self._signer.check(token, now)
        standing = await self._standing(claims.client_id)
        if standing is None or standing.record.tenant != claims.tenant:
            raise BadToken("unknown key")
        _check_standing(standing, claims.jti, claims.epoch)
        return Identity(
            claims.tenant, claims.sub, standing.plan, claims.client_id, claims.scopes, claims.expires_ms,
            token=claims.jti, epoch=claims.epoch,
        )  # fmt: skip

    async def stands(self, identity: Identity) -> bool:
        """Whether what an identity was made of still counts: its key, and its token if it had one."""
        standing = await self._standing(identity.key)
        try:
            if standing is not None:
                _check_standing(standing, identity.token, identity.epoch if identity.token else None)
        except BadToken:
            return False
        return standing is not None

    async def revoke(self, identity: Identity, token: str) -> None:
        """Revoke one token of the identity's key, given whole or as its `jti`. Raises `ClientFault`.

        Its own token everybody may revoke, others of the key only who has the scope `admin`.
        """
        found = self._named(identity, token)
        if found is None:
            return
        jti, expires_ms = found
        if jti != identity.token:
            require(identity.scopes, "admin")
        now = self._clock.time_ms()
        if not await self._accounts.revoke_token(identity.key, jti, expires_ms, now, MAX_REVOKED):
            details = {"limit": MAX_REVOKED}
            raise ClientFault("rate_limited", "too many single tokens: revoke all of the key", 60_000, details)
        self._forget(identity.key)

    async def revoke_all(self, key: str) -> bool:
        """Revoke every token that was made with a key so far; `False` if there is no such key."""
        done = await self._accounts.revoke_tokens(key)
        self._forget(key)
        return done

    async def refresh(self) -> list[SigningKey]:
        """Read the signing keys anew, and return them."""
        self._looked_at = self._clock.now()
        keys = await self._accounts.signing_keys(self._clock.time_ms())
        self.use(keys)
        return keys

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of our tokens, as a JWK set."""
        return self._signer.jwks(self._clock.time_ms())

    # --- inside ---

    def _may_look(self) -> bool:
        return self._clock.now() - self._looked_at >= UNKNOWN_KEY_SECONDS

    def _named(self, identity: Identity, token: str) -> tuple[str, int] | None:
        """Return the `jti` of a token that is to be revoked and until when to remember it; `None` if it has ended."""
        now = self._clock.time_ms()
        if "." not in token:
            return token, now + TOKEN_MAX_MS
        try:
            claims = self._signer.check(look(token), now)
        except BadToken as bad:
            if bad.reason == "expired":
                return None
            details = {"path": "token", "reason": bad.reason}
            raise ClientFault("invalid_param", "this is no token of ours", details=details) from bad
        if claims.client_id != identity.key:
            raise ClientFault("forbidden", "the token was made with another key", details={"path": "token"})
        return claims.jti, claims.expires_ms

    async def _standing(self, key: str) -> KeyStanding | None:
        now = self._clock.now()
        read_at, kept = self._known.get(key, (0.0, None))
        if kept is not None and now - read_at < self._fresh_seconds:
            return kept
        revocations = self._revocations
        found = await self._accounts.standing(key, self._clock.time_ms())
        # What was revoked here while we read may not be in what we read.
        if found is not None and revocations == self._revocations:
            self._known[key] = (now, found)
            self._known.move_to_end(key)
            while len(self._known) > MAX_KEYS_KNOWN:
                self._known.popitem(last=False)
        return found

    def _forget(self, key: str) -> None:
        self._revocations += 1
        self._known.pop(key, None)


def _check_standing(standing: KeyStanding, jti: str, epoch: int | None) -> None:
    """Raise `BadToken` unless a token's key and the token itself count; `epoch` is `None` for the key itself."""
    is_older = epoch is not None and epoch < standing.record.token_epoch
    if standing.record.revoked_ms is not None or is_older or jti in standing.revoked:
        raise BadToken("revoked")
