"""How each error is provoked for real, by whoever speaks a dialect at a gateway with small limits."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from gateway.core.records import Identity, NewJob, Plan
from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.scopes import END_USER, Restriction
from gateway.flow.access import Access
from gateway.ledger.sql import LedgerBusy
from protocol.errors import ClientFault
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import EASEL, Door
from tests.gateway.edges.compat.speakers import DIALECTS, INIT, Asked
from tests.gateway.edges.compat.statuses import MANNERS

NO_JOB: Final = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
PLAIN: Final[dict[str, Any]] = {"prompt": "a lighthouse", "width": 128, "height": 192}


@dataclass(frozen=True, slots=True)
class Stage:
    """A gateway, and who asks there."""

    door: Door
    dialect: str
    patch: pytest.MonkeyPatch

    async def ask(self, asked: Asked | None = None, *, key: str | None = "", **headers: str) -> Answer:
        """Ask for a picture, and wait for it."""
        post = DIALECTS[self.dialect](asked or Asked())
        return await self.door.ask("POST", post.path, post.body, key=key, **{**post.headers, **headers})

    async def ask_for(self, key: str = "", **params: Any) -> Answer:
        """Ask for one of these params."""
        return await self.ask(Asked(params=PLAIN | params), key=key)

    async def send(self, picture: bytes) -> Answer:
        """Ask for a picture that begins from one."""
        return await self.ask(Asked("img2img", {"prompt": "a boat"}, sent={"init": picture}))

    async def limited(self, plan: Plan) -> str:
        """Return a key of an account of its own."""
        return await self.door.key_of(f"{self.dialect} {plan}", plan)

    def fail_with(self, error: Exception) -> None:
        """Let admission's way to the ledger fail."""

        async def failing(new: NewJob) -> Any:
            raise error

        self.patch.setattr(self.door.running.gateway.node.admission._ledger.jobs, "submit", failing)


Provoke = Callable[[Stage], Awaitable[Answer]]

# ------------------------------------------------------------------------------------------------------- before a job


async def past_token(stage: Stage) -> Answer:
    """Ask with a token of a millisecond."""
    token = await stage.door.token_of("ann", ttl_ms=1)
    await asyncio.sleep(0.02)
    return await stage.ask(key=token)


async def weak_token(stage: Stage) -> Answer:
    """Ask with a token that may do everything else."""
    return await stage.ask(key=await stage.door.token_of("ann", scopes=sorted(END_USER - {"generate"})))


async def no_json(stage: Stage) -> Answer:
    """Send what is no JSON."""
    return await stage.door.ask("POST", DIALECTS[stage.dialect](Asked()).path, b"{")


async def no_job(stage: Stage) -> Answer:
    """Ask for a job that there is not, under an id that none could have and under one that one could."""
    path = MANNERS[stage.dialect].job
    malformed, missing = [await stage.door.ask("GET", path.format(job)) for job in ("x", NO_JOB)]
    assert malformed.status == missing.status
    return missing


async def other_method(stage: Stage) -> Answer:
    """Ask by a method that the path does not have."""
    answer = await stage.door.ask("PUT", DIALECTS[stage.dialect](Asked()).path, {})
    assert answer.headers["Allow"] == "POST"
    return answer


async def other_body(stage: Stage) -> Answer:
    """Ask for something else under the same key."""
    await stage.ask(Asked(), idempotency_key=stage.dialect)
    return await stage.ask(Asked(params=PLAIN | {"prompt": "another"}), idempotency_key=stage.dialect)


async def too_often(stage: Stage) -> Answer:
    """Ask twice where the plan has room for one in two seconds."""
    key = await stage.limited(Plan(submits_per_second=0.5))
    assert (await stage.ask(key=key)).headers["RateLimit-Policy"] == '"submits";q=1;w=2'
    return await stage.ask(key=key)


async def too_many(stage: Stage) -> Answer:
    """Ask twice where the plan has room for one that runs."""
    key, stage.door.easel.hold = await stage.limited(Plan(max_jobs=1)), asyncio.Event()
    assert (await stage.ask(key=key, prefer="respond-async")).status == 202
    answer = await stage.ask(key=key)
    stage.door.easel.hold.set()
    return answer


async def empty_budget(stage: Stage) -> Answer:
    """Ask where the money is used up: the ledger counts no budgets yet, but this is the place and the word for it."""
    stage.fail_with(ClientFault("insufficient_credits", "the budget is used up"))
    return await stage.ask()


async def price_over(stage: Stage) -> Answer:
    """Ask with a credential that is narrowed as tickets are."""
    identify, most = Access.identify, Restriction(max_cost_micros=EASEL.price_micros - 1)

    async def narrowing(self: Access, credential: str) -> Identity:
        return (await identify(self, credential)).narrowed(most)

    stage.patch.setattr(Access, "identify", narrowing)
    return await stage.ask()


async def full_queue(stage: Stage) -> Answer:
    """Ask until nobody can wait any more."""
    stage.door.easel.hold = asyncio.Event()
    answer = await stage.ask(prefer="respond-async")
    while answer.status == 202:
        answer = await stage.ask(prefer="respond-async")
    stage.door.easel.hold.set()
    return answer


async def busy_ledger(stage: Stage) -> Answer:
    """Ask while the ledger has more to write than it can."""
    stage.fail_with(LedgerBusy())
    return await stage.ask()


async def our_failure(stage: Stage) -> Answer:
    """Ask where something of ours is broken, which nobody is told."""
    stage.fail_with(RuntimeError("the secret reason"))
    answer = await stage.ask()
    assert b"secret" not in answer.body
    return answer


# -------------------------------------------------------------------------------------------------------- with the job


def fault(code: str) -> Provoke:
    """Return how a call to the upstream ends with a code."""

    async def provoke(stage: Stage) -> Answer:
        stage.door.easel.fault = UpstreamFault(Outcome.FAILED, code, "as the test says")
        return await stage.ask()

    return provoke


async def waiting(stage: Stage) -> tuple["asyncio.Task[Answer]", str]:
    """Return a request that waits, and its job."""
    stage.door.easel.hold = asyncio.Event()
    doors = stage.door.running.gateway.doors
    asked = asyncio.ensure_future(stage.ask())
    while not doors.waiting:
        assert not asked.done(), asked
        await asyncio.sleep(0.01)
    [job] = doors.waiting._watches
    return asked, job


async def canceled(stage: Stage) -> Answer:
    """Wait for a job that somebody cancels."""
    asked, job = await waiting(stage)
    assert (await stage.door.ask("DELETE", f"/v1/jobs/{job}")).status == 202
    return await asked


async def stopping(stage: Stage) -> Answer:
    """Wait for a job while the server stops."""
    asked, _ = await waiting(stage)
    stage.door.running.gateway.doors.drain()
    return await asked


SITUATIONS: Final[dict[str, tuple[str, Provoke]]] = {
    "no credential": ("unauthorized", lambda stage: stage.ask(key=None)),
    "an unknown key": ("unauthorized", lambda stage: stage.ask(key="sk-sl-nobody")),
    "a token past its time": ("token_expired", past_token),
    "a token without the scope": ("forbidden", weak_token),
    "a page of another origin": ("forbidden", lambda stage: stage.ask(origin="https://evil.example")),
    "another host": ("forbidden", lambda stage: stage.ask(host="evil.example")),
    "no such path": ("not_found", lambda stage: stage.door.ask("GET", MANNERS[stage.dialect].lost)),
    "no such model": ("model_not_found", lambda stage: stage.ask(Asked(model="unheard-of"))),
    "no such job": ("job_not_found", no_job),
    "another method": ("method_not_allowed", other_method),
    "no JSON": ("bad_request", no_json),
    "a wrong field": ("invalid_param", lambda stage: stage.ask_for(**MANNERS[stage.dialect].wrong)),
    "a long prompt": ("prompt_too_long", lambda stage: stage.ask_for(prompt="x" * 9000)),
    "a size that is not drawn": ("resolution_not_supported", lambda stage: stage.ask_for(width=4096)),
    "a key of another body": ("idempotency_conflict", other_body),
    "a large body": ("payload_too_large", lambda stage: stage.ask_for(prompt="x" * 500_000)),
    "large words": ("payload_too_large", lambda stage: stage.ask_for(prompt="\U0001f5ff" * 9000)),
    "a large picture": ("payload_too_large", lambda stage: stage.send(INIT + b"0" * 270_000)),
    "no picture": ("unsupported_media", lambda stage: stage.send(b"no picture")),
    "a damaged picture": ("image_decode_failed", lambda stage: stage.send(INIT[:20])),
    "too often": ("rate_limited", too_often),
    "too many at once": ("concurrency_limit", too_many),
    "an empty budget": ("insufficient_credits", empty_budget),
    "a price over the credential's": ("max_cost_exceeded", price_over),
    "a full queue": ("queue_full", full_queue),
    "a ledger that cannot follow": ("overloaded", busy_ledger),
    "a server that stops": ("overloaded", stopping),
    "our own failure": ("internal", our_failure),
    "a refused prompt": ("content_filtered", fault("content_filtered")),
    "a vendor that failed": ("upstream_error", fault("upstream_error")),
    "a vendor out of service": ("model_unavailable", fault("model_unavailable")),
    "no memory": ("out_of_memory", fault("out_of_memory")),
    "an unusable picture": ("invalid_output", fault("invalid_output")),
    "a lost answer": ("outcome_unknown", fault("outcome_unknown")),
    "a dead worker": ("worker_lost", fault("worker_lost")),
    "a LoRA of another model": ("adapter_incompatible", fault("adapter_incompatible")),
    "an end by somebody else": ("canceled", canceled),
}
"""Our code for it, and how it is provoked."""
