"""From a client's submit to a job in the ledger, or to a refusal that changed nothing.

Everything that can be refused is refused before the one transaction: the rate of the key, the model, every parameter,
the price. What is accepted is in the ledger before anybody hears of it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import UNSET

from gateway.core.limits import TokenBucket
from gateway.core.models import Model
from gateway.core.records import Identity, JobRecord, NewJob, Submitted
from gateway.core.requests import InputImage, Request, body_hash, decode_params, fingerprint, normalise
from gateway.flow.feeds import Feeds
from gateway.flow.pictures import Pictures
from gateway.ports import Clock, Ledger
from protocol.errors import ClientFault
from protocol.ids import make_ulid
from protocol.messages import Canceler, Limits, Submit

MAX_BUCKETS: Final = 10_000


class Admission:
    """Takes submits and wishes to cancel, for every edge alike."""

    def __init__(
        self,
        ledger: Ledger,
        pictures: Pictures,
        feeds: Feeds,
        models: Mapping[str, Model],
        clock: Clock,
        chance: random.Random,
        *,
        limits: Limits,
        ref_retention_ms: int,
        max_queue: int,
        ring: Callable[[str], None],
        stop_work: Callable[[str, Canceler], None],
    ) -> None:
        self._ledger = ledger
        self._pictures = pictures
        self._feeds = feeds
        self._models = models
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._ref_retention_ms = ref_retention_ms
        self._max_queue = max_queue
        self._ring = ring
        self._stop_work = stop_work
        self._buckets: dict[tuple[str, float], TokenBucket] = {}

    async def submit(
        self, identity: Identity, submit: Submit, uploads: Mapping[str, str], session: str | None
    ) -> Submitted:
        """Make the job that `submit` asks for, or return the one that its ref has. Raises `ClientFault`.

        `uploads` are the assets of the connection's uploads by id.
        """
        self._check_rate(identity)
        model = self._model(submit)
        inputs = await self._inputs(identity, submit, uploads)
        request = normalise(submit.task, decode_params(submit.params), inputs, model, self._chance)
        price = model.price_micros * request.n
        self._check_price(submit, price)
        made = await self._ledger.jobs.submit(self._new_job(identity, submit, session, model, request, inputs, price))
        if not made.duplicate:
            self._feeds.fill(made.job, [made.accepted])
            self._ring(model.upstream)
        return made

    async def cancel(self, job: JobRecord, by: Canceler) -> None:
        """Note a wish that the job end; a queued one ends before this returns."""
        ended = await self._ledger.jobs.cancel(job.id, by, self._clock.time_ms())
        if ended:
            self._feeds.appended(job.id, ended)
        elif not job.has_ended:
            self._stop_work(job.id, by)
            self._ring(job.upstream)

    def _check_rate(self, identity: Identity) -> None:
        rate = identity.plan.submits_per_second
        if rate is None:
            return
        name = (identity.key, rate)  # a changed plan counts at once
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:  # the oldest key begins again with its burst, which harms nobody
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[name] = TokenBucket(rate, max(1, int(2 * rate)))
        wait = bucket.take(self._clock.now())
        if wait > 0:
            message = f"this key may submit {rate:g} jobs a second"
            raise ClientFault("rate_limited", message, retry_after_ms=int(wait * 1000) + 1)

    def _model(self, submit: Submit) -> Model:
        if submit.model is UNSET:
            fitting = (model for model in self._models.values() if submit.task in model.tasks)
            model = next(fitting, next(iter(self._models.values()), None))
        else:
            model = self._models.get(submit.model)
        if model is None:
            raise ClientFault(
                "model_not_found",
                "there is no such model",
                details={"path": "model", "allowed": sorted(self._models)[:64]},
            )
        return model

    async def _inputs(self, identity: Identity, submit: Submit, uploads: Mapping[str, str]) -> list[InputImage]:
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
            found.append(await self._pictures.input(identity.tenant, one.role, asset))
        return found

    def _check_price(self, submit: Submit, price: int) -> None:
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
        model: Model,
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
            upstream=model.upstream,
            priority=submit.priority,
            price_micros=price,
            deadline_ms=None if submit.deadline_ms is UNSET else now + submit.deadline_ms,
            created_ms=now,
            ref_expires_ms=now + self._ref_retention_ms,
            weight=identity.plan.weight,
            max_jobs=min(identity.plan.max_jobs or self._limits.max_jobs, self._limits.max_jobs),
            max_queue=self._max_queue,
        )
