"""From a client's submit to a job in the ledger, or to a refusal that changed nothing.

Everything that can be refused is refused before the one transaction: the rate of the key, the model, every parameter,
the price. What is accepted is in the ledger before anybody hears of it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec import UNSET, UnsetType, structs

from gateway.core.limits import TokenBucket
from gateway.core.normal import InputImage, Request
from gateway.core.params import Params, decode_params
from gateway.core.records import Identity, JobRecord, NewJob, Submitted
from gateway.core.requests import body_hash, fingerprint, normalise
from gateway.core.routing import Route, Standing, ranked
from gateway.core.scopes import Restriction
from gateway.flow.catalog import Catalog
from gateway.flow.feeds import Feeds
from gateway.flow.pictures import Brought, Pictures
from gateway.ports import Clock, Ledger
from protocol.errors import ClientFault
from protocol.ids import make_ulid
from protocol.messages import Canceler, Limits, Submit

T = TypeVar("T")
MAX_BUCKETS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key's rate allows: `burst` submits at once, all of them again after `period_seconds`."""

    burst: int
    period_seconds: float
    left: int
    """Submits that would pass now."""
    wait_seconds: float
    """Until the next one would pass; 0 = it does."""


class Admission:
    """Takes submits and wishes to cancel, for every edge alike."""

    def __init__(
        self,
        ledger: Ledger,
        pictures: Pictures,
        feeds: Feeds,
        catalog: Catalog,
        clock: Clock,
        chance: random.Random,
        *,
        limits: Limits,
        ref_retention_ms: int,
        max_queue: int,
        ring: Callable[[str], None],
        stop_work: Callable[[str, Canceler], None],
        standings: Callable[[], Mapping[str, Standing]],
    ) -> None:
        self._ledger = ledger
        self._pictures = pictures
        self._feeds = feeds
        self._catalog = catalog
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._ref_retention_ms = ref_retention_ms
        self._max_queue = max_queue
        self._ring = ring
        self._stop_work = stop_work
        self._standings = standings
        self._buckets: dict[tuple[str, float], TokenBucket] = {}

    async def submit(
        self,
        identity: Identity,
        submit: Submit,
        uploads: Mapping[str, str],
        session: str | None,
        brought: Sequence[Brought] = (),
    ) -> Submitted:
        """Make the job that `submit` asks for, or return the one that its ref has. Raises `ClientFault`.

        `uploads` are the assets of the connection's uploads by id. `brought` are inputs that came along with the
        submit: they are kept once nothing but the ledger can refuse it.
        """
        identity.require("generate")
        if brought:
            identity.require("assets")
        self._check_rate(identity)
        routes = self._routes(submit, identity.restriction)
        pictures = {one.asset: one for one in brought}
        inputs = await self._inputs(identity, submit, uploads, pictures)
        request, upstream, price = self._choose(submit, routes, decode_params(submit.params), inputs, identity)
        for one in pictures.values():
            await self._pictures.keep(identity.tenant, one)
        new = self._new_job(identity, submit, session, upstream, request, inputs, price)
        made = await self._ledger.jobs.submit(new)
        if not made.duplicate:
            self._feeds.fill(made.job, [made.accepted])
            self._ring(upstream)
        return made

    async def cancel(self, job: JobRecord, by: Canceler) -> None:
        """Note a wish that the job end; a queued one ends before this returns."""
        ended = await self._ledger.jobs.cancel(job.id, by, self._clock.time_ms())
        if ended:
            self._feeds.appended(job.id, ended)
        elif not job.has_ended:
            self._stop_work(job.id, by)
            self._ring(job.upstream)

    def allowance(self, identity: Identity) -> Allowance | None:
        """Return how many submits the key's rate leaves it now; `None` if its plan sets none."""
        bucket = self._bucket(identity)
        if bucket is None:
            return None
        now = self._clock.now()
        return Allowance(int(bucket.burst), bucket.burst / bucket.rate, bucket.left(now), bucket.wait(now))

    def _check_rate(self, identity: Identity) -> None:
        bucket = self._bucket(identity)
        if bucket is None:
            return
        wait = bucket.take(self._clock.now())
        if wait > 0:
            message = f"this key may submit {bucket.rate:g} jobs a second"
            raise ClientFault("rate_limited", message, retry_after_ms=int(wait * 1000) + 1)

    def _bucket(self, identity: Identity) -> TokenBucket | None:
        """The bucket of the identity's key, new if it had none; `None` if nothing limits its rate."""
        rate = identity.plan.submits_per_second
        if rate is None:
            return None
        name = (identity.key, rate)  # a changed plan counts at once
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:  # the oldest key begins again with its burst, which harms nobody
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[name] = TokenBucket(rate, max(1, int(2 * rate)))
        return bucket

    def _routes(self, submit: Submit, restriction: Restriction) -> list[Route]:
        """Return the routes of the model that was asked for, or of all that do the task and may be asked for."""
        if submit.model is not UNSET:
            restriction.check_model(submit.model)
        named = [submit.model] if submit.model is not UNSET else self._catalog
        names = [name for name in named if restriction.allows(name)]
        routes = [route for name in names for route in self._catalog.routes(name)]
        if not routes:
            raise ClientFault(
                "model_not_found",
                "there is no such model",
                details={"path": "model", "allowed": sorted(self._catalog)[:64]},
            )
        if submit.model is not UNSET:
            return routes
        # Nobody named a model: of those that do the task the first counts, with all ways to it.
        fitting = next((route.model.id for route in routes if submit.task in route.model.tasks), routes[0].model.id)
        return list(self._catalog.routes(fitting))

    def _choose(
        self,
        submit: Submit,
        routes: Sequence[Route],
        params: Params,
        inputs: Sequence[InputImage],
        identity: Identity,
    ) -> tuple[Request, str, int]:
        """Return the normal form for the best upstream that can do what is asked, and the most that it may cost."""
        able: dict[str, Request] = {}
        refusals: list[ClientFault] = []
        for route in routes:
            try:
                request = normalise(submit.task, params, inputs, route.model, self._chance)
                self._check_price(submit, identity.restriction, route.model.price_of(request) * request.n)
            except ClientFault as fault:
                refusals.append(fault)
            else:
                able[route.model.upstream] = request
        if not able:
            raise refusals[0]
        fit = [route for route in routes if route.model.upstream in able]
        best, *others = ranked(fit, self._standings(), submit.task, self._chance)
        request = able[best.model.upstream]
        # Only one that understands the request in the same way can stand in for the best.
        alike = [route for route in others if _alike(able[route.model.upstream], request)]
        price = max(route.model.price_of(request) for route in (best, *alike)) * request.n
        names = tuple(route.model.upstream for route in (best, *alike)) if alike else ()
        return structs.replace(request, alternatives=names), best.model.upstream, price

    async def _inputs(
        self, identity: Identity, submit: Submit, uploads: Mapping[str, str], brought: Mapping[str, Brought]
    ) -> list[InputImage]:
        if len(submit.inputs) > self._limits.max_inputs:
            raise ClientFault("invalid_param", f"at most {self._limits.max_inputs} inputs", details={"path": "inputs"})
        found = []
        for place, one in enumerate(submit.inputs):
            path = f"inputs[{place}]"
            if (one.asset is UNSET) == (one.upload is UNSET):
                raise ClientFault("invalid_param", "an input has either `asset` or `upload`", details={"path": path})
            asset = uploads.get(one.upload) if one.upload is not UNSET else one.asset
            if asset is None or asset is UNSET:
                raise ClientFault(
                    "asset_not_found", "this connection has no such upload", details={"path": f"{path}.upload"}
                )
            if (kept := brought.get(asset)) is not None:
                image = InputImage(one.role, asset, kept.picture.width, kept.picture.height)
            else:
                image = await self._pictures.input(identity.tenant, one.role, asset)
            found.append(
                structs.replace(
                    image,
                    weight=_told(one.weight),
                    start=_told(one.start),
                    end=_told(one.end),
                    preprocessor=_told(one.preprocessor),
                )
            )
        return found

    def _check_price(self, submit: Submit, restriction: Restriction, price: int) -> None:
        most = restriction.max_cost_micros
        if most is not None and price > most:  # what the session's other jobs left of it, the ledger knows
            details = {"cost_max_micros": price, "session_max_cost_micros": most}
            raise ClientFault("max_cost_exceeded", "the session's ticket does not cover the price", details=details)
        if submit.max_cost_micros is not UNSET and price > submit.max_cost_micros:
            raise ClientFault(
                "max_cost_exceeded",
                f"the job may cost {price} micros",
                details={"path": "max_cost_micros", "cost_max_micros": price},
            )

    def _new_job(
        self,
        identity: Identity,
        submit: Submit,
        session: str | None,
        upstream: str,
        request: Request,
        inputs: Sequence[InputImage],
        price: int,
    ) -> NewJob:
        now = self._clock.time_ms()
        return NewJob(
            id=make_ulid(now, self._chance),
            run=make_ulid(now, self._chance),
            tenant=identity.tenant,
            subject=identity.subject,
            session=session,
            on_disconnect=submit.on_disconnect,
            ref=submit.ref,
            body_hash=body_hash(submit, inputs),
            fingerprint=fingerprint(request),
            request=request,
            task=submit.task,
            upstream=upstream,
            priority=submit.priority,
            price_micros=price,
            deadline_ms=None if submit.deadline_ms is UNSET else now + submit.deadline_ms,
            created_ms=now,
            ref_expires_ms=now + self._ref_retention_ms,
            weight=identity.plan.weight,
            max_jobs=min(identity.plan.max_jobs or self._limits.max_jobs, self._limits.max_jobs),
            max_queue=self._max_queue,
            session_cost_micros=None if session is None else identity.restriction.max_cost_micros,
        )


def _alike(one: Request, other: Request) -> bool:
    """Whether two models understand a request in the same way, but for the seed that each drew."""
    return structs.replace(one, seed=other.seed) == other


def _told(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value
