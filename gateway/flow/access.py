"""Who is asking, and what they may have: keys, tokens, tickets, grants, session tokens and signed addresses.

Everything signed is signed with the ledger's keys and carries its kind, so that no text passes as another. Only
tickets are kept (in the live plane, while unused); what is lost there is refused, never reused.
"""

import secrets
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from gateway.core.records import Identity
from gateway.core.signing import BadSignature, Signer, digest
from gateway.ports import Accounts, Clock, Tickets
from protocol.errors import ClientFault
from protocol.tail import URL_STEP_MS

KEY_PREFIX: Final = "sk-sl-"
TOKEN_MAX_MS: Final = 86_400_000
TICKET_MS: Final = 30_000
ASSET_URL_MS: Final = 3_600_000
EVENTS_URL_MS: Final = 86_400_000
_T = TypeVar("_T", bound=Struct)
Right = Literal["watch", "cancel"]


class _Token(Struct, frozen=True):
    k: str
    s: str
    e: int
    c: list[str] = []


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

    def __init__(self, accounts: Accounts, tickets: Tickets, signer: Signer, clock: Clock, epoch: str) -> None:
        self._accounts = accounts
        self._tickets = tickets
        self._signer = signer
        self._clock = clock
        self.epoch = epoch

    async def identify(self, credential: str) -> Identity:
        """Return who an API key or a token stands for. Raises `ClientFault` `unauthorized` or `token_expired`."""
        if credential.startswith(KEY_PREFIX):
            return await self._by_key(credential)
        token = self._check("t1", credential, _Token)
        if token.e <= self._clock.time_ms():
            raise ClientFault("token_expired", "the token's time is over; get a new one")
        found = await self._accounts.key_by_id(token.k)
        if found is None or found[0].revoked_ms is not None:
            raise ClientFault("unauthorized", "the key behind the token was revoked")
        return Identity(found[0].tenant, token.s, found[1], token.k, frozenset(token.c), token.e)

    def make_token(self, identity: Identity, subject: str, ttl_ms: int, scopes: list[str]) -> tuple[str, int]:
        """Return a token for an end user of the account and for how long it is good (at most 24 h)."""
        now = self._clock.time_ms()
        expires = min(now + min(ttl_ms, TOKEN_MAX_MS), identity.expires_ms or now + TOKEN_MAX_MS)
        return self._signer.sign("t1", _Token(identity.key, subject, expires, scopes)), expires - now

    def make_ticket(self, identity: Identity) -> IssuedTicket:
        """Return a ticket for one connection of this identity."""
        ticket = secrets.token_urlsafe(24)
        self._tickets.keep(digest(ticket), identity, self._clock.time_ms() + TICKET_MS)
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

    async def _by_key(self, key: str) -> Identity:
        found = await self._accounts.key(digest(key))
        if found is None or found[0].revoked_ms is not None:
            raise ClientFault("unauthorized", "the API key is unknown or revoked")
        return Identity(found[0].tenant, "", found[1], found[0].id)

    def _check(self, kind: str, text: str, payload: type[_T]) -> _T:
        try:
            return self._signer.check(kind, text, payload, self._clock.time_ms())
        except (BadSignature, msgspec.MsgspecError) as error:
            raise ClientFault("unauthorized", "the credential is not valid") from error
