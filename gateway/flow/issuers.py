"""Tokens of foreign issuers: which of the configured ones may be meant, and who the token names there."""

from collections.abc import Iterable, Mapping

from gateway.core.issuers import Issuer, Stranger, check, fitting
from gateway.core.records import Identity
from gateway.core.tokens import BadToken, Unverified
from gateway.ports import Accounts, Clock, KeySets, KeysUnreachable
from protocol.errors import ClientFault

RETRY_MS = 5000
KEY_PREFIX = "issuer:"


class Issuers:
    """Checks foreign tokens. Several tenants may share an issuer, each with an audience of its own."""

    def __init__(self, issuers: Iterable[Issuer], key_sets: KeySets, accounts: Accounts, clock: Clock) -> None:
        self._by_issuer: dict[str, list[Issuer]] = {}
        for one in issuers:
            self._by_issuer.setdefault(one.issuer, []).append(one)
        self._key_sets = key_sets
        self._accounts = accounts
        self._clock = clock

    async def check(self, token: Unverified) -> Identity:
        """Return who a token stands for. Raises `BadToken`, and `ClientFault` `overloaded` while no keys are there."""
        wrong = BadToken("wrong issuer")
        for issuer in self._by_issuer.get(token.issuer, ()):
            try:
                return await self._identity(issuer, await self._stranger(token, issuer))
            except BadToken as bad:
                wrong = bad
                if bad.reason != "wrong audience":
                    break
        raise wrong

    async def _stranger(self, token: Unverified, issuer: Issuer) -> Stranger:
        key = fitting(token, issuer, await self._keys(issuer, token.key))
        if key is None:
            raise BadToken("unknown key")
        return check(token, issuer, key, self._clock.time_ms())

    async def _keys(self, issuer: Issuer, key: str | None) -> "list[Mapping[str, object]]":
        try:
            return list(await self._key_sets.keys(issuer.name, key))
        except KeysUnreachable as error:
            raise ClientFault("overloaded", "the issuer's keys cannot be fetched now", RETRY_MS) from error

    async def _identity(self, issuer: Issuer, found: Stranger) -> Identity:
        plan = await self._accounts.plan(issuer.tenant)
        if plan is None:
            raise ClientFault("forbidden", "the issuer's tenant does not exist yet: make a key for it")
        key = KEY_PREFIX + issuer.name
        return Identity(issuer.tenant, found.subject, plan, key, found.scopes, found.expires_ms)
