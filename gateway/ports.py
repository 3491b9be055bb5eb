"""What I/O must offer, as Protocols: the only way that `flow` reaches the world.

A port says what its callers may rely on; an adapter repeats none of it. Adapters are chosen in `app.py` and
`builders.py` alone.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gateway.core.models import Model
from gateway.core.normal import Request
from gateway.core.records import (
    Append,
    AssetRecord,
    CallSettled,
    Claimed,
    Identity,
    JobRecord,
    KeyRecord,
    KeyStanding,
    NewCall,
    NewJob,
    Plan,
    SentCall,
    SessionRecord,
    Submitted,
)
from gateway.core.reports import Picture, Report
from gateway.core.scopes import UNRESTRICTED, Restriction
from gateway.core.signing import SigningKey
from protocol.ladder import Rung
from protocol.messages import Canceler, Numbered


async def _nowhere(_: str) -> None: ...


@dataclass(frozen=True, slots=True)
class CallOrder:
    """One call to an upstream: `count` images of a request, from seed `seed` on."""

    id: str
    """A ULID; where the vendor lets its clients choose an id, it is made of this one, so that the call can be found."""
    model: Model
    request: Request
    seed: int
    count: int
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    """The input images as encoded bytes, by their slot."""
    sent: Callable[[], None] = lambda: None
    """The adapter calls this once, when the last byte of the request has been handed to the network."""
    noted: Callable[[str], Awaitable[None]] = _nowhere
    """The adapter awaits this with the vendor's own id of the work as soon as it is told one: it is in the ledger when
    this returns, and comes back as `handle` of `resume`."""


class Upstream(Protocol):
    """One account of a vendor's service, or the embedded engine.

    `run` yields reports in order and ends normally after one `ImageMade` for each of `order.count` images; anything
    else it raises as `UpstreamFault`. Cancelling the iteration (closing the generator, cancelling the task) stops the
    work as far as the vendor can, within a second, and lets nothing leak. The caller has committed the call to the
    ledger before it iterates; the adapter never retries by itself.

    `resume` goes on with a call whose outcome is unknown: it reports the rest as `run` does, and never begins the work
    anew. It raises `GONE` where the vendor knows nothing of the work, so that it may be begun again.
    """

    name: str
    models: tuple[Model, ...]
    """What it offers now; `refresh` may change it."""

    async def open(self) -> None:
        """Make ready; must not need the vendor to be there."""
        ...

    async def close(self) -> None: ...

    async def refresh(self) -> None:
        """Ask the vendor what it offers, where it can be asked. Raises `UpstreamFault`; `models` then stay."""
        ...

    def run(self, order: CallOrder) -> AsyncGenerator[Report, None]: ...

    def can_find(self, handle: str | None) -> bool:
        """Whether the vendor can be asked what became of a call, by our id or by its own if it told one."""
        ...

    def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]: ...

    async def probe(self) -> "Findings":
        """Connect and look around, without making a picture. Raises `UpstreamFault`."""
        ...


@dataclass(frozen=True, slots=True)
class Findings:
    """What a probe found: for people, a line each."""

    server: str
    """What is there, with its version where it tells one."""
    facts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong, in plain words, each with what to do."""


class Clock(Protocol):
    """The two times: one that only goes forward, for waiting; one that people and other processes share."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def time_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...


# --- the ledger ---


class Jobs(Protocol):
    """The clients' side of jobs: submits, wishes, logs and lists. Every method is one transaction."""

    async def submit(self, new: NewJob) -> Submitted:
        """Write the job, its `accepted`, its ref and its hold, or return the job that the ref already has.

        Raises `ClientFault`: `idempotency_conflict`, `concurrency_limit`, `queue_full`.
        """
        ...

    async def cancel(self, job: str, by: Canceler, now_ms: int) -> tuple[Numbered, ...]:
        """Wish a job's end: a queued one ends here (its event is returned), a running one is marked for its worker."""
        ...

    async def overdue(self, now_ms: int, limit: int = 256) -> list[str]:
        """Return live jobs whose deadline has passed."""
        ...

    async def find(self, job: str) -> JobRecord | None:
        """Return a job's row."""
        ...

    async def log(self, job: str, after: int = 0) -> tuple[JobRecord, list[Numbered]] | None:
        """Return a job's row and its events with `seq > after`, in order, from one moment; `None` if unknown."""
        ...

    async def request(self, job: str) -> Request | None:
        """Return the normal form that a job runs."""
        ...

    async def of_session(self, session: str) -> list[str]:
        """Return a session's jobs, oldest first."""
        ...

    async def leave_session(self, job: str, session: str) -> None:
        """Take a job whose end was handled out of its session."""
        ...

    async def listed(
        self, tenant: str, subject: str, *, ref: str | None, state: str | None, after: str | None, limit: int
    ) -> list[JobRecord]:
        """Return the subject's jobs, newest first, from before the job `after`."""
        ...

    async def heads(self, jobs: Sequence[str]) -> dict[str, int]:
        """Return the newest number of each job's log."""
        ...

    async def queue(self, upstream: str, limit: int = 256) -> list[str]:
        """Return the queued jobs of an upstream, next first as far as one lane can tell."""
        ...

    async def counts(self) -> dict[tuple[str, str], int]:
        """Return how many live jobs there are, by (upstream, state)."""
        ...

    async def trim(self, ended_before_ms: int, forgotten_before_ms: int, limit: int = 256) -> int:
        """Cut logs past their retention to the end event, delete jobs past that of refs; returns how many rows."""
        ...


class Work(Protocol):
    """The workers' side of jobs. `WHERE claim = mine AND seq = expected` stands in every write of a claimed job."""

    async def claim(self, upstreams: Sequence[str], node: str, now_ms: int, lease_ms: int, limit: int) -> list[Claimed]:
        """Take up to `limit` jobs, each fairly, for one of `upstreams`, with a lease until `lease_ms`."""
        ...

    async def append(self, step: Append) -> tuple[Numbered, ...]:
        """Append events to a claimed job and renew its lease; returns them with their numbers. Raises `StaleClaim`."""
        ...

    async def release(self, job: str, claim: int, ready_ms: int, upstream: str | None = None) -> None:
        """Give a claimed job back to the queue, not to be claimed before `ready_ms`; a stale claim does nothing.

        With `upstream` it waits for another one from now on.
        """
        ...

    async def renew(self, claims: Sequence[tuple[str, int]], lease_ms: int) -> dict[str, Canceler | None]:
        """Renew the leases of (job, claim); returns for each that still holds who wishes its end, if anybody."""
        ...

    async def forget_claims(self, node: str | None = None) -> int:
        """Let every lease (of `node`) end now: what a start does that knows itself alone. Returns how many."""
        ...

    async def begin_call(self, new: NewCall, claim: int) -> None:
        """Commit a call as `sending`; its first byte may go out only after this returned. Raises `StaleClaim`."""
        ...

    async def note_handle(self, job: str, claim: int, call: str, handle: str) -> None:
        """Keep the vendor's own id of a call's work. Raises `StaleClaim`."""
        ...

    async def settle_call(self, job: str, claim: int, settled: CallSettled) -> None:
        """Write what became of a call that made no event (refused, not sent). Raises `StaleClaim`."""
        ...

    async def sent_since(self, upstream: str, credential: str, since_ms: int) -> list[SentCall]:
        """Return the calls with a credential sent at or after `since_ms`, also those whose outcome is unknown."""
        ...

    async def durations(self, upstream: str, limit: int) -> list[tuple[Request, int, int]]:
        """Return (request, images, milliseconds) of the upstream's newest calls that were answered, oldest first."""
        ...


class Sessions(Protocol):
    """Sessions: opened, resumed by raising the generation, renewed while connected, ended once."""

    async def open(self, new: SessionRecord, now_ms: int, expires_ms: int) -> SessionRecord:
        """Write a new session."""
        ...

    async def resume(
        self,
        session: str,
        tenant: str,
        subject: str,
        now_ms: int,
        expires_ms: int,
        restriction: Restriction = UNRESTRICTED,
    ) -> SessionRecord | None:
        """Raise the session's generation and return it; `None` if it is unknown, over or somebody else's.

        `restriction` narrows the session for good, besides what narrowed it before.
        """
        ...

    async def renew(self, held: Sequence[tuple[str, int]], expires_ms: int) -> set[str]:
        """Let the sessions (id, generation) live until `expires_ms`; returns those that still are the caller's."""
        ...

    async def end(self, session: str) -> list[str]:
        """End a session now; returns its live jobs that are to be canceled with it."""
        ...

    async def expired(self, now_ms: int, limit: int = 256) -> list[str]:
        """Return sessions whose time is over."""
        ...


class Accounts(Protocol):
    """Tenants, keys, what was revoked of them, signing keys, the epoch and lock-outs."""

    async def found(self, epoch: str, keys: Sequence[SigningKey]) -> str:
        """Keep an epoch and signing keys if the ledger is new; returns the epoch that it has."""
        ...

    async def signing_keys(self, now_ms: int) -> list[SigningKey]:
        """Return the keys that still count."""
        ...

    async def rotate_signing(self, keys: Sequence[SigningKey], until_ms: int) -> int:
        """Keep new signing keys, and let the older ones count until `until_ms` at most; returns how many these are."""
        ...

    async def add_tenant(self, tenant: str, plan: Plan, now_ms: int) -> bool:
        """Make a tenant; `False` if it was there."""
        ...

    async def add_key(self, record: KeyRecord, digest: str) -> None:
        """Keep a new API key's digest."""
        ...

    async def key(self, digest: str) -> tuple[KeyRecord, Plan] | None:
        """Return the key of that digest with its tenant's plan, revoked or not."""
        ...

    async def plan(self, tenant: str) -> Plan | None:
        """Return a tenant's plan; `None` if there is no such tenant."""
        ...

    async def standing(self, key: str, now_ms: int) -> KeyStanding | None:
        """Return all that decides whether the tokens of the key of that id count, from one moment."""
        ...

    async def revoke_token(self, key: str, jti: str, expires_ms: int, now_ms: int, limit: int) -> bool:
        """Revoke one token of a key until it ends by itself; `False` if the key has `limit` revoked ones already."""
        ...

    async def revoke_tokens(self, key: str) -> bool:
        """Revoke every token that was made with a key, by raising its epoch; `False` if there is no such key."""
        ...

    async def forget_tokens(self, now_ms: int) -> int:
        """Forget revoked tokens that have ended by themselves; returns how many."""
        ...

    async def keys(self) -> list[KeyRecord]:
        """Return every key, oldest first."""
        ...

    async def revoke_key(self, key: str, now_ms: int) -> bool:
        """Revoke a key for good; `False` if there is none or it was revoked."""
        ...

    async def lock_out(self, upstream: str, credential: str, until_ms: int) -> None:
        """Keep a vendor's lock-out, so that a restart does not run into it."""
        ...

    async def locked_until(self, upstream: str, credential: str) -> int:
        """Return until when a vendor's credential is locked out, 0 if it is not."""
        ...


class Assets(Protocol):
    """Which tenant owns which stored picture, and until when it is kept."""

    async def keep(self, record: AssetRecord) -> None:
        """Note that the tenant owns the asset, or keep it for longer if it is known."""
        ...

    async def find(self, tenant: str, asset: str, now_ms: int) -> AssetRecord | None:
        """Return the tenant's asset unless its time is over."""
        ...

    async def expired(self, now_ms: int, limit: int = 256) -> list[tuple[str, str]]:
        """Return (tenant, asset) of assets whose time is over."""
        ...

    async def drop(self, tenant: str, asset: str, now_ms: int) -> bool:
        """Forget an asset if its time is still over; `True` if its bytes may be deleted."""
        ...


class Ledger(Protocol):
    """What may never be lost; a promise is here before it is on the wire."""

    @property
    def jobs(self) -> Jobs: ...

    @property
    def work(self) -> Work: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def accounts(self) -> Accounts: ...

    @property
    def assets(self) -> Assets: ...


class Blobs(Protocol):
    """Pictures by content hash, under the tenant's own prefix. Putting the same bytes twice is harmless."""

    async def put(self, tenant: str, asset: str, content: bytes) -> None:
        """Keep the bytes; when this returns they survive the process."""
        ...

    async def get(self, tenant: str, asset: str) -> bytes | None:
        """Return the bytes, or `None` if there are none."""
        ...

    async def delete(self, tenant: str, asset: str) -> None:
        """Delete the bytes, if there are any."""
        ...


class Tickets(Protocol):
    """Unused tickets, in the live plane: what is lost there is refused, never reused."""

    def keep(self, ticket: str, identity: Identity, expires_ms: int) -> None:
        """Keep the digest of a ticket until `expires_ms`."""
        ...

    def take(self, ticket: str, now_ms: int) -> Identity | None:
        """Return whom a ticket stands for and forget it, in one step."""
        ...


class KeySets(Protocol):
    """The public keys of foreign issuers, by the issuers' configured names."""

    async def keys(self, issuer: str, key: str | None) -> Sequence[Mapping[str, object]]:
        """Return the issuer's JWKs (RFC 7517), asked for anew where they are old or have none with the `kid` `key`.

        Made-up names do not make it ask again and again. Raises `KeysUnreachable` where there are none to go by.
        """
        ...


class KeysUnreachable(Exception):
    """An issuer's keys cannot be fetched, and none are left from before."""


MaskSource = Literal["inverted", "transparent", "opaque"]
"""What a mask is made of: a picture that is black where it is changed, one that is transparent there, or one that is
opaque there (and white, if it is opaque everywhere)."""


class Transcoder(Protocol):
    """Makes pictures of pictures, off the event loop: smaller ones, and masks."""

    async def shrink(self, picture: Picture, rung: Rung) -> tuple[bytes, tuple[int, int]] | None:
        """Return the picture encoded for a rung, and its size in pixels; `None` if it cannot be decoded."""
        ...

    async def mask(self, picture: Picture, source: MaskSource) -> bytes | None:
        """Return a mask of the picture's size as grey PNG, white where it is changed; `None` as `shrink`."""
        ...


class Watcher(Protocol):
    """Somebody who follows jobs: a connection, or a stream of server-sent events."""

    def changed(self, job: str) -> None:
        """Something about the job changed; what may go out goes out within this call."""
        ...

    def rung(self, job: str) -> Rung | None:
        """How this watcher wants the job's previews; `None` for none."""
        ...


class Meter(Protocol):
    """Counts what happens; the names and labels are those of README's table of metrics, without the prefix."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        ...
