"""Who is asking, and what they may have: keys, tokens, tickets, grants, session tokens and signed addresses.

Everything signed is signed with the ledger's keys and carries its kind, so that no text passes as another. Only
tickets are kept (in the live plane, while unused); what is lost there is refused, never reused. Tokens are
`tokens.py`'s and `issuers.py`'s; here stands which of them is asked.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from gateway.core.records import Identity
from gateway.core.scopes import END_USER, UNRESTRICTED, Restriction
from gateway.core.signing import BadSignature, Signer, SigningKey, digest
from gateway.core.tokens import ISSUER, BadToken, look, refused
from gateway.flow.issuers import KEY_PREFIX as ISSUER_PREFIX
from gateway.flow.issuers import Issuers
from gateway.flow.tokens import TOKEN_MAX_MS, Tokens
from gateway.ports import Accounts, Clock, Tickets
from protocol.errors import ClientFault
from protocol.tail import URL_STEP_MS

KEY_PREFIX: Final = "sk-sl-"
MAX_KEY_CHARS: Final = 256
TICKET_MS: Final = 30_000
ASSET_URL_MS: Final = 3_600_000
EVENTS_URL_MS: Final = 86_400_000
CLOSES: Final = {
    "unauthorized": "unauthorized",
    "token_expired": "unauthorized",
    "forbidden": "forbidden",
    "overloaded": "overloaded",
}
"""How a connection ends whose credential is refused with each code."""
_T = TypeVar("_T", bound=Struct)
Right = Literal["watch", "cancel"]


class ResumeToken(Struct, frozen=True):
    """What a session token says: the session, the ledger's epoch, and until when it may be used."""

    session: str
    epoch: str
    expires_ms: int
    old_positions: bool = False
    """Whether the session's client may have positions of another epoch, which count for nothing in this one."""


class Grant(Struct, frozen=True):
    """A right to one job for whoever holds the text."""

    job: str
    rights: list[Right]
    expires_ms: int


class _AssetLink(Struct, frozen=True):
    t: str
    a: str
    e: int


@dataclass(frozen=True, slots=True)
class IssuedTicket:
    """A ticket and for how long it is good, in milliseconds."""

    ticket: str
    expires_in_ms: int


class Access:
    """Checks and makes credentials."""

    def __init__(
        self,
        accounts: Accounts,
        tickets: Tickets,
        keys: Sequence[SigningKey],
        clock: Clock,
        epoch: str,
        *,
        issuers: Issuers | None = None,
        fresh_seconds: float = 2.0,
    ) -> None:
        self._accounts = accounts
        self._tickets = tickets
        self._signer = Signer(keys)
        self._clock = clock
        self._issuers = issuers
        self.tokens = Tokens(accounts, keys, clock, fresh_seconds=fresh_seconds)
        self.epoch = epoch

    async def identify(self, credential: str) -> Identity:
        """Return who an API key or a token stands for.

        Raises `ClientFault`: `unauthorized` or `token_expired` with the reason and the time here, and `overloaded`
        while the keys of the token's issuer cannot be had.
        """
        try:
            if credential.startswith(KEY_PREFIX):
                return await self.by_key(credential)
            token = look(credential)
            if token.issuer == ISSUER or self._issuers is None:
                return await self.tokens.check(token)
            return await self._issuers.check(token)
        except BadToken as bad:
            raise refused(bad.reason, self._clock.time_ms()) from bad

    async def by_key(self, key: str) -> Identity:
        """Return who an API key stands for. Raises `BadToken`."""
        known = len(key) <= MAX_KEY_CHARS and key.isprintable()
        found = await self._accounts.key(digest(key)) if known else None
        if found is None:
            raise BadToken("unknown key")
        if found[0].revoked_ms is not None:
            raise BadToken("revoked")
        return Identity(found[0].tenant, "", found[1], found[0].id, epoch=found[0].token_epoch)

    async def stands(self, identity: Identity) -> bool:
        """Whether the credential behind an identity still counts, as far as this gateway may revoke it."""
        return identity.key.startswith(ISSUER_PREFIX) or await self.tokens.stands(identity)

    async def refresh(self) -> None:
        """Read the signing keys anew: another process may have made new ones."""
        keys = await self.tokens.refresh()
        self._signer = Signer(keys)

    async def forget(self) -> None:
        """Forget revoked tokens that have ended by themselves."""
        await self._accounts.forget_tokens(self._clock.time_ms())

    def make_token(
        self, identity: Identity, subject: str, ttl_ms: int, scopes: frozenset[str] = END_USER
    ) -> tuple[str, int]:
        """Return a token for an end user of the account and for how long it is good (at most 24 h)."""
        return self.tokens.make(identity, subject, ttl_ms, scopes)

    def make_ticket(
        self, identity: Identity, subject: str | None = None, restriction: Restriction = UNRESTRICTED
    ) -> IssuedTicket:
        """Return a ticket for one connection of this identity, or of an end user of its, or with less than it has."""
        told = identity if subject is None else replace(identity, subject=subject, scopes=identity.scopes & END_USER)
        ticket = secrets.token_urlsafe(24)
        self._tickets.keep(digest(ticket), told.narrowed(restriction), self._clock.time_ms() + TICKET_MS)
        return IssuedTicket(ticket, TICKET_MS)

    def take_ticket(self, ticket: str) -> Identity | None:
        """Return whom a ticket stands for, once; `None` if it is used, over its time or was never made."""
        return self._tickets.take(digest(ticket), self._clock.time_ms())

    def make_resume(self, session: str, expires_ms: int, *, old_positions: bool = False) -> str:
        """Return the session token of a `synced`."""
        return self._signer.sign("r1", ResumeToken(session, self.epoch, expires_ms, old_positions))

    def read_resume(self, text: str) -> ResumeToken | None:
        """Return what a session token says; `None` if it is not ours or too old, which begins a new session."""
        try:
            token = self._signer.check("r1", text, ResumeToken, self._clock.time_ms())
        except BadSignature:
            return None
        return token if token.expires_ms > self._clock.time_ms() else None

    def make_grant(self, job: str, rights: list[Right], ttl_ms: int) -> str:
        """Return a grant of `rights` to a job."""
        return self._signer.sign("g1", Grant(job, rights, self._clock.time_ms() + min(ttl_ms, TOKEN_MAX_MS)))

    def events_grant(self, job: str, time_ms: int) -> str:
        """Return the grant of a job's `events_url`, equal for everybody within a 5-minute step."""
        expires = (time_ms // URL_STEP_MS + 1) * URL_STEP_MS + EVENTS_URL_MS
        return self._signer.sign("g1", Grant(job, ["watch"], expires))

    def check_grant(self, text: str, job: str, right: Right) -> None:
        """Raise `ClientFault` `forbidden` unless the grant gives `right` to `job` now."""
        grant = self._check("g1", text, Grant)
        if grant.expires_ms <= self._clock.time_ms():
            raise ClientFault("expired", "the grant's time is over")
        if grant.job != job or right not in grant.rights:
            raise ClientFault("forbidden", f"the grant does not allow to {right} this job")

    def asset_query(self, tenant: str, asset: str, time_ms: int) -> tuple[str, int]:
        """Return the signature of a picture's address and its life, equal for everybody within a 5-minute step."""
        expires = (time_ms // URL_STEP_MS + 1) * URL_STEP_MS + ASSET_URL_MS
        return self._signer.sign("a1", _AssetLink(tenant, asset, expires)), expires - time_ms

    def check_asset(self, text: str, asset: str) -> str:
        """Return the tenant whose asset a signature opens. Raises `ClientFault`."""
        link = self._check("a1", text, _AssetLink)
        if link.a != asset:
            raise ClientFault("forbidden", "the signature is for another asset")
        if link.e <= self._clock.time_ms():
            raise ClientFault("expired", "the address is past its time; ask for the job again")
        return link.t

    def _check(self, kind: str, text: str, payload: type[_T]) -> _T:
        try:
            return self._signer.check(kind, text, payload, self._clock.time_ms())
        except (BadSignature, msgspec.MsgspecError) as error:
            raise refused("bad signature", self._clock.time_ms()) from error
