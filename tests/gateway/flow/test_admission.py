"""From a submit to a job in the ledger, or to a refusal that changed nothing."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.records import Identity, Plan
from gateway.flow.admission import MAX_BUCKETS, Allowance
from protocol.errors import ClientFault
from protocol.messages import Input, Limits, Submit
from tests.gateway.flow.studio import PRICE, ScriptedUpstream, Studio, kinds, open_studio, patiently, picture
from tests.gateway.parts import LEASE_MS

PLAYER = Identity("acme", "player", Plan(), "key-1")
UPLOAD = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"


def submit(ref: str = "ref-1", params: dict[str, Any] | None = None, **how: Any) -> Submit:
    """Return a submit."""
    raw = msgspec.Raw(msgspec.json.encode({"prompt": "a harbour at dawn", "seed": 7} | (params or {})))
    return Submit(ref=ref, params=raw, **{"task": "txt2img"} | how)


async def admitted(studio: Studio, message: Submit, who: Identity = PLAYER, **how: Any) -> str:
    """Submit and return the job's id."""
    await studio.ledger.accounts.add_tenant(who.tenant, Plan(), 1)
    made = await studio.node.admission.submit(who, message, how.get("uploads", {}), how.get("session"))
    return made.job.id


async def refused(studio: Studio, message: Submit, who: Identity = PLAYER, **how: Any) -> ClientFault:
    """Submit what must be refused, check that nothing was made, and return the fault."""
    before = await studio.ledger.jobs.counts()
    with pytest.raises(ClientFault) as fault:
        await admitted(studio, message, who, **how)
    assert (await studio.ledger.jobs.counts(), len(studio.feeds)) == (before, sum(before.values()))
    return fault.value


@patiently
async def test_accepted_job_is_in_the_ledger_and_rung_for(tmp_path: Path) -> None:
    """The job, its log, its hold; its feed is there for whoever submitted it, and the line is told."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        rung: list[str] = []
        studio.node.admission._ring = rung.append
        job = await admitted(studio, submit(params={"n": 2}, priority=1, deadline_ms=5000, on_disconnect="cancel"))
        record = await studio.record(job)
        assert (record.tenant, record.subject, record.price_micros) == ("acme", "player", 2 * PRICE)
        assert record.deadline_ms == record.created_ms + 5000
        assert (kinds(await studio.log(job)), await studio.hold(job), rung) == ("accepted", "held", ["script"])
        assert len(studio.feeds) == 1


@patiently
async def test_repeated_ref_returns_its_job_and_another_body_is_refused(tmp_path: Path) -> None:
    """A duplicate rings nobody and pays nothing; it is its subject's own."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await admitted(studio, submit())
        studio.node.admission._ring = lambda _: pytest.fail("a duplicate rings")
        assert await admitted(studio, submit()) == job
        assert (await refused(studio, submit(params={"seed": 8}))).code == "idempotency_conflict"
        studio.node.admission._ring = lambda _: None
        assert await admitted(studio, submit(), replace(PLAYER, subject="another")) != job


@patiently
async def test_rate_is_kept_for_each_key_and_says_when_to_come_back(tmp_path: Path) -> None:
    """Two a second, four at once; another key of the tenant has its own; a wait as told is enough."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        who = replace(PLAYER, plan=Plan(submits_per_second=2.0))
        for at in range(4):
            await admitted(studio, submit(f"ref-{at}"), who)
        fault = await refused(studio, submit("ref-4"), who)
        assert (fault.code, fault.retry_after_ms is not None) == ("rate_limited", True)
        await admitted(studio, submit("ref-5"), replace(who, key="key-2"))
        await admitted(studio, submit("ref-6"), PLAYER)
        await asyncio.sleep((fault.retry_after_ms or 0) / 1000)  # virtual
        await admitted(studio, submit("ref-4"), who)


@patiently
async def test_allowance_says_what_the_rate_leaves(tmp_path: Path) -> None:
    """How many at once, how many now, and when the next; nothing where the plan sets no rate."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        admission = studio.node.admission
        who = replace(PLAYER, plan=Plan(submits_per_second=2))
        assert admission.allowance(PLAYER) is None
        assert admission.allowance(who) == Allowance(burst=4, period_seconds=2.0, left=4, wait_seconds=0.0)
        for _ in range(4):
            admission._check_rate(who)
        told = admission.allowance(who)
        assert told is not None
        assert told.left == 0
        assert told.wait_seconds == pytest.approx(0.5)


@patiently
async def test_changed_rate_of_a_plan_counts_at_once(tmp_path: Path) -> None:
    """The bucket of a key is the plan's, not the first one it had."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        await admitted(studio, submit("ref-0"), replace(PLAYER, plan=Plan(submits_per_second=0.5)))
        assert (await refused(studio, submit("ref-1"), replace(PLAYER, plan=Plan(submits_per_second=0.5)))).code
        for at in range(4):
            await admitted(studio, submit(f"ref-{at + 2}"), replace(PLAYER, plan=Plan(submits_per_second=2.0)))


@patiently
async def test_buckets_are_bounded(tmp_path: Path) -> None:
    """The oldest key begins again with its burst, which harms nobody."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        for at in range(MAX_BUCKETS + 5):
            who = replace(PLAYER, key=f"key-{at}", plan=Plan(submits_per_second=1.0))
            studio.node.admission._check_rate(who)
        assert len(studio.node.admission._buckets) == MAX_BUCKETS


@patiently
async def test_model_is_the_named_one_or_the_first_that_can_do_the_task(tmp_path: Path) -> None:
    """An unknown one is refused with those that there are."""
    first, second = ScriptedUpstream(name="first"), ScriptedUpstream(name="second")
    first.models = (replace_tasks(first, {"txt2img"}),)
    async with open_studio(tmp_path, first, second) as studio:
        assert (await studio.record(await admitted(studio, submit("ref-1")))).model == "first"
        assert (await studio.record(await admitted(studio, submit("ref-2", model="second")))).upstream == "second"
        stored = await studio.node.pictures.store_input("acme", picture(1).content)
        inputs = [Input(role="init", asset=stored.id)]
        assert (
            await studio.record(await admitted(studio, submit("ref-3", task="img2img", inputs=inputs)))
        ).model == "second"
        fault = await refused(studio, submit("ref-4", model="third"))
        assert (fault.code, fault.details["allowed"]) == ("model_not_found", ["first", "second"])
        assert (await refused(studio, submit("ref-5", task="upscale"))).code == "task_not_supported"
    async with open_studio(tmp_path) as empty:
        with pytest.raises(ClientFault, match="no such model"):
            await admitted(empty, submit("ref-6"))


@patiently
async def test_price_over_the_clients_limit_is_refused(tmp_path: Path) -> None:
    """The limit itself is enough; the fault says what it would cost."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        await admitted(studio, submit("ref-1", {"n": 3}, max_cost_micros=3 * PRICE))
        fault = await refused(studio, submit("ref-2", {"n": 3}, max_cost_micros=3 * PRICE - 1))
        assert (fault.code, fault.details["cost_max_micros"]) == ("max_cost_exceeded", 3 * PRICE)


@patiently
async def test_input_is_an_upload_of_the_connection_or_an_asset_of_the_tenant(tmp_path: Path) -> None:
    """Never both, never neither, never another's; and no more than the server takes."""
    async with open_studio(tmp_path, ScriptedUpstream(), limits=Limits(max_inputs=1)) as studio:
        stored = await studio.node.pictures.store_input("acme", picture(1).content)
        foreign = await studio.node.pictures.store_input("other", picture(2).content)

        def with_inputs(*inputs: Input) -> Submit:
            return submit(f"ref-{len(inputs)}", task="img2img", inputs=list(inputs))

        uploads = {UPLOAD: stored.id}
        init = Input(role="init", upload=UPLOAD)
        job = await admitted(studio, with_inputs(init), uploads=uploads)
        request = await studio.ledger.jobs.request(job)
        assert request is not None
        assert [(one.asset, one.width) for one in request.inputs] == [(stored.id, 8)]
        # The same picture by its asset is the same body, so it is the same job.
        assert await admitted(studio, with_inputs(Input(role="init", asset=stored.id))) == job
        for wrong, code in (
            (Input(role="init"), "invalid_param"),
            (Input(role="init", upload=UPLOAD, asset=stored.id), "invalid_param"),
            (Input(role="init", upload=UPLOAD[:-1] + "X"), "asset_not_found"),
            (Input(role="init", asset=foreign.id), "asset_not_found"),
        ):
            assert (await refused(studio, with_inputs(wrong), uploads=uploads)).code == code
        assert (await refused(studio, with_inputs(init, init), uploads=uploads)).details["path"] == "inputs"


@patiently
async def test_plan_bounds_the_live_jobs_of_a_subject(tmp_path: Path) -> None:
    """Another end user of the account has his own."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        who = replace(PLAYER, plan=Plan(max_jobs=2))
        for at in range(2):
            await admitted(studio, submit(f"ref-{at}"), who)
        assert (await refused(studio, submit("ref-2"), who)).code == "concurrency_limit"
        await admitted(studio, submit("ref-2"), replace(who, subject="another"))


@patiently
async def test_cancel_of_a_queued_job_ends_it_and_of_another_tells_its_worker(tmp_path: Path) -> None:
    """What has ended is left alone."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        stopped: list[tuple[str, str]] = []
        studio.node.admission._stop_work = lambda job, by: stopped.append((job, by))
        queued = await studio.submit("ref-1")
        await studio.node.admission.cancel(await studio.record(queued), "client")
        assert (kinds(await studio.log(queued)), await studio.hold(queued)) == ("accepted canceled", "released")
        await studio.node.admission.cancel(await studio.record(queued), "client")
        assert stopped == []
        claimed = await studio.submit("ref-2")
        now = studio.clock.time_ms()
        await studio.ledger.work.claim(["script"], "here", now, now + LEASE_MS, 1)
        await studio.node.admission.cancel(await studio.record(claimed), "operator")
        assert (stopped, (await studio.record(claimed)).cancel_by) == ([(claimed, "operator")], "operator")


def replace_tasks(upstream: ScriptedUpstream, tasks: set[str]) -> Any:
    """Return the upstream's model with other tasks."""
    return replace(upstream.models[0], tasks=dict.fromkeys(tasks, upstream.models[0].params))
