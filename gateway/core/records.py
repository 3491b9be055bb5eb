"""What the ledger gives and takes, as values. Times are milliseconds since 1970, money is millionths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
from msgspec import UnsetType

from gateway.core.calls import Call, CallEvent
from gateway.core.jobs import ENDED, State
from gateway.core.normal import Request
from gateway.core.scopes import ALL, UNRESTRICTED, Restriction, Scope, require
from protocol.messages import Canceler, Image, ImageFormat, ImageReady, Notice, Numbered


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tenant may do; `None` means no limit."""

    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    max_jobs: int | None = None
    """Live jobs of one subject."""
    submits_per_second: float | None = None
    """Inward token bucket of one API key; its burst is twice this, at least 1."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking: the account, the end user under it, and the credential that said so."""

    tenant: str
    subject: str
    plan: Plan
    key: str
    """The id of the API key behind the credential; of a foreign issuer's token, `issuer:` and the issuer's name."""
    scopes: frozenset[str] = ALL
    """Empty = nothing at all."""
    expires_ms: int | None = None
    token: str = ""
    """The `jti` of the token that said so, by which it can be revoked."""
    epoch: int = 0
    """The token epoch of the key: tokens of an older one are revoked."""
    restriction: Restriction = UNRESTRICTED

    def require(self, scope: Scope) -> None:
        """Raise `ClientFault` `forbidden` unless the credential has this scope."""
        require(self.scopes, scope)

    def narrowed(self, restriction: Restriction) -> "Identity":
        """Return what a restriction leaves of the identity, besides its own."""
        both = self.restriction.within(restriction)
        return replace(self, scopes=both.scopes_of(self.scopes), restriction=both)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as the ledger keeps it: never the key itself."""

    id: str
    tenant: str
    label: str
    created_ms: int
    revoked_ms: int | None = None
    token_epoch: int = 0
    """Raised to revoke all tokens that were made with the key."""


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """All that decides whether a key's tokens count: its row, its tenant's plan, and the `jti` of those revoked."""

    record: KeyRecord
    plan: Plan
    revoked: frozenset[str]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session; a connection holds it as long as the generation is its own."""

    id: str
    tenant: str
    subject: str
    generation: int
    restriction: Restriction = UNRESTRICTED


@dataclass(frozen=True, slots=True)
class NewJob:
    """Everything that the one transaction of a submit writes."""

    id: str
    run: str
    tenant: str
    subject: str
    session: str | None
    on_disconnect: str
    ref: str
    body_hash: str
    fingerprint: str
    request: Request
    task: str
    upstream: str
    priority: int
    price_micros: int
    deadline_ms: int | None
    created_ms: int
    ref_expires_ms: int
    weight: float = 1.0
    max_jobs: int | None = None
    max_queue: int = 100_000
    session_cost_micros: int | None = None
    """The most that all jobs of the session may cost, this one included; `None` = no limit."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's row."""

    id: str
    run: str
    tenant: str
    subject: str
    session: str | None
    ref: str
    task: str
    model: str
    upstream: str
    state: State
    seq: int
    attempt: int
    step: int
    claim: int
    price_micros: int
    cost_micros: int
    deadline_ms: int | None
    cancel_by: Canceler | None
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    trimmed: bool

    @property
    def has_ended(self) -> bool:
        """Whether its end event is in the log."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit came to: the job, its `accepted`, and whether the ref had it already."""

    job: JobRecord
    accepted: Numbered
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job in a worker's hands, with all that is needed to go on where a lost worker stopped."""

    job: JobRecord
    request: Request
    log: Sequence[Numbered]
    calls: Sequence[Call]

    @property
    def delivered(self) -> frozenset[int]:
        """The image indices that the log has, as `image` or as a notice."""
        return frozenset(
            event.index
            for event in self.log
            if isinstance(event, ImageReady | Notice) and not isinstance(event.index, UnsetType)
        )

    @property
    def images(self) -> list[Image]:
        """The pictures delivered so far, as end events list them."""
        return images_of(self.log)


@dataclass(frozen=True, slots=True)
class CallSettled:
    """What became of a call."""

    id: str
    event: CallEvent
    answered_ms: int
    cost_micros: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call about to be sent."""

    id: str
    run: str
    job: str
    tenant: str
    upstream: str
    credential: str
    billed: bool
    first: int
    count: int
    price_micros: int
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Append:
    """One step of a claimed job: events, and with them what they rest on, in one transaction that renews the lease."""

    job: str
    claim: int
    after: int
    """The `seq` that the log must have: compare-and-set."""
    lease_ms: int
    events: tuple[Numbered, ...] = ()
    call: CallSettled | None = None
    hold: str | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class SentCall:
    """When a call went out and was answered; for the mirror of a vendor's window."""

    sent_ms: int
    answered_ms: int | None


@dataclass(frozen=True, slots=True)
class AssetRecord:
    """A stored picture of a tenant; edges in pixels."""

    tenant: str
    id: str
    format: ImageFormat
    width: int
    height: int
    bytes: int
    expires_ms: int


class StaleClaim(Exception):
    """Somebody else has the job, or its log moved on: the worker must stop and write nothing more."""


def images_of(log: Sequence[Numbered]) -> list[Image]:
    """Return the pictures of a log, as end events list them."""
    return [
        Image(
            index=event.index, format=event.format, w=event.w, h=event.h, bytes=event.bytes, asset=event.asset,
            seed=event.seed, seq=event.seq,
        )
        for event in log
        if isinstance(event, ImageReady)
    ]  # fmt: skip
