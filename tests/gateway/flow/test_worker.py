"""The worker's outcome table on a real ledger: what is told, what is repeated, what it costs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from sqlalchemy import Connection, select, update

from gateway.core.reports import Outcome
from gateway.flow.catalog import Catalog
from gateway.flow.gate import Gate
from gateway.flow.worker import MAX_ATTEMPTS_IN_ALL
from gateway.ledger import schema
from protocol.ladder import Rung
from protocol.messages import Canceled, Completed, Failed, ImageReady, Input, Notice, Numbered, Started
from tests.gateway.flow.studio import (
    PRICE,
    CallRow,
    ScriptedUpstream,
    Spectator,
    Studio,
    fails,
    fault,
    kinds,
    open_studio,
    paints,
    patiently,
    picture,
    soon,
    until,
)

RUNG = Rung(64, "jpeg", 70)
REFUSED = Outcome.REFUSED
REFUSE_IMAGES = """
    CREATE TRIGGER refuse_images BEFORE INSERT ON events WHEN CAST(NEW.body AS TEXT) LIKE '%"type":"image"%'
    BEGIN SELECT RAISE(ABORT, 'the disk is full'); END
"""
LOST = fault(Outcome.UNKNOWN, "worker_lost")


def failed(log: list[Numbered]) -> Failed:
    """Return the end of a job that failed, after checking that it is its only end."""
    assert sum(isinstance(event, Completed | Failed | Canceled) for event in log) == 1, kinds(log)
    assert isinstance(log[-1], Failed)
    return log[-1]


def completed(log: list[Numbered]) -> Completed:
    """Return the end of a job that completed, after checking that it is its only end."""
    assert sum(isinstance(event, Completed | Failed | Canceled) for event in log) == 1, kinds(log)
    assert isinstance(log[-1], Completed)
    return log[-1]


def canceled(log: list[Numbered]) -> Canceled:
    """Return the end of a job that was canceled, after checking that it is its only end."""
    assert sum(isinstance(event, Completed | Failed | Canceled) for event in log) == 1, kinds(log)
    assert isinstance(log[-1], Canceled)
    return log[-1]


async def states(studio: Studio, job: str) -> list[str]:
    """Return what became of the job's calls, oldest first."""
    return [call.state for call in await studio.calls(job)]


async def begun(upstream: ScriptedUpstream, attempt: int) -> None:
    """Wait until the upstream has its order of that number, and its `started` is written."""
    await until(lambda: len(upstream.orders) == attempt)
    await soon()


# --- it goes well ---


@patiently
async def test_one_image_is_stored_told_and_paid(tmp_path: Path) -> None:
    """The whole log of a job that nothing happened to."""
    upstream = ScriptedUpstream(paints(seconds=2.0))
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        assert kinds(log) == "accepted started image completed"
        end, image = completed(log), log[2]
        assert isinstance(image, ImageReady)
        assert (image.seed, image.index, image.count) == (7, 0, 1)
        assert await studio.node.pictures.content("acme", image.asset) == picture(7).content
        assert [(one.asset, one.seq, one.seed) for one in end.images] == [(image.asset, 3, 7)]
        assert (end.cost_micros, end.timings.run_ms, end.timings.total_ms) == (PRICE, 4000, 4000)
        assert await studio.calls(log[0].job) == [CallRow("done", 0, 1, PRICE, None)]
        assert await studio.hold(log[0].job) == "settled"
        record = await studio.record(log[0].job)
        assert (record.cost_micros, record.step, record.attempt) == (PRICE, 2, 1)
        assert len(studio.feeds) == 0


@patiently
async def test_images_of_one_call_are_told_in_order(tmp_path: Path) -> None:
    """Three images, one call, one `started`, seeds that rise by one."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=3)
        assert kinds(log) == "accepted started image image image completed"
        assert [(event.index, event.seed) for event in log if isinstance(event, ImageReady)] == [(0, 7), (1, 8), (2, 9)]
        assert completed(log).cost_micros == 3 * PRICE
        assert [(order.seed, order.count) for order in upstream.orders] == [(7, 3)]


@patiently
async def test_job_is_split_into_calls_in_order(tmp_path: Path) -> None:
    """An upstream that paints one image a call gets one call an image, each with its own seed."""
    upstream = ScriptedUpstream(images_per_call=1)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=3)
        assert kinds(log) == "accepted started image image image completed"
        assert [(order.seed, order.count) for order in upstream.orders] == [(7, 1), (8, 1), (9, 1)]
        calls = await studio.calls(log[0].job)
        assert [(call.state, call.first, call.count) for call in calls] == [("done", at, 1) for at in range(3)]
        assert completed(log).cost_micros == 3 * PRICE


@pytest.mark.parametrize("images_per_call", [1, 4])
@patiently
async def test_progress_goes_on_over_all_images(tmp_path: Path, images_per_call: int) -> None:
    """Steps begin again with each image, the ratio never falls, and the time still to go is right."""
    upstream = ScriptedUpstream(images_per_call=images_per_call)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit(n=2)
        watcher = Spectator(feeds=studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        _, task = await studio.work_on()
        await task
        assert [told["step"] for told in watcher.progress] == [1, 2, 1, 2]
        assert [told["ratio"] for told in watcher.progress] == [0.25, 0.5, 0.75, 1.0]
        assert [told["eta_ms"] for told in watcher.progress] == [3000, 2000, 1000, 0]


# --- what may be repeated ---


@patiently
async def test_call_that_was_not_sent_is_made_again(tmp_path: Path) -> None:
    """No way to the upstream, and then there is one: nobody is told, nothing is paid twice."""
    upstream = ScriptedUpstream(fails(fault(Outcome.NOT_SENT, "model_unavailable")), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        assert kinds(log) == "accepted started image completed"
        assert await states(studio, log[0].job) == ["not_sent", "done"]
        assert completed(log).cost_micros == PRICE


@patiently
async def test_refused_call_waits_at_least_as_long_as_it_was_told(tmp_path: Path) -> None:
    """Retry-After counts more than our own backoff, which is half a second here."""
    upstream = ScriptedUpstream(fails(fault(REFUSED, "model_unavailable", retry_after_seconds=17.0)), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        assert completed(log).cost_micros == PRICE
        first, second = upstream.called_at
        assert 17.0 <= second - first < 18.0
        assert await states(studio, log[0].job) == ["refused", "done"]


@patiently
async def test_locked_out_call_waits_at_the_gate(tmp_path: Path) -> None:
    """A 429 closes the gate for everybody; the worker itself does not wait on top of that."""
    upstream = ScriptedUpstream(
        fails(fault(REFUSED, "model_unavailable", retry_after_seconds=40.0, locked_out=True)), billed=True
    )
    async with open_studio(tmp_path, upstream) as studio:
        completed(await studio.run())
        assert upstream.called_at[1] - upstream.called_at[0] == pytest.approx(40.0, abs=0.1)


@patiently
async def test_call_that_is_always_refused_fails_for_nothing(tmp_path: Path) -> None:
    """After `max_tries` calls the job fails, with the vendor's own wait as advice and without cost."""
    refusal = fails(fault(REFUSED, "model_unavailable", retry_after_seconds=2.0))
    upstream = ScriptedUpstream(*[refusal] * 9, billed=True)
    async with open_studio(tmp_path, upstream, max_tries=3) as studio:
        log = await studio.run()
        end = failed(log)
        assert kinds(log) == "accepted failed"
        assert (end.error.code, end.error.retryable, end.error.retry_after_ms) == ("model_unavailable", True, 2000)
        assert end.cost_micros == 0
        assert await states(studio, log[0].job) == ["refused"] * 3
        assert await studio.hold(log[0].job) == "settled"


@patiently
async def test_lost_call_that_costs_nothing_begins_a_new_attempt(tmp_path: Path) -> None:
    """A painting process died: a second `started`, steps begin again, delivered images stay."""
    upstream = ScriptedUpstream(paints(), paints(last_words=LOST), images_per_call=1)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=2)
        assert kinds(log) == "accepted started image started image completed"
        assert [event.attempt for event in log if isinstance(event, Started)] == [1, 2]
        assert await states(studio, log[0].job) == ["done", "unknown", "done"]
        assert completed(log).cost_micros == 2 * PRICE


@patiently
async def test_work_is_begun_three_times_at_most(tmp_path: Path) -> None:
    """A job that kills its process does not do so for ever."""
    upstream = ScriptedUpstream(*[paints(last_words=LOST)] * 9)
    async with open_studio(tmp_path, upstream, max_tries=8) as studio:
        log = await studio.run()
        assert kinds(log) == "accepted started started started failed"
        end = failed(log)
        assert (end.error.code, end.cost_micros) == ("worker_lost", 0)
        assert await states(studio, log[0].job) == ["unknown"] * 3
        assert await studio.hold(log[0].job) == "settled"


# --- what may not ---


@pytest.mark.parametrize("code", ["outcome_unknown", "upstream_error", "worker_lost"])
@patiently
async def test_billed_call_whose_answer_is_lost_is_never_repeated(tmp_path: Path, code: str) -> None:
    """Whatever the adapter calls it: the job fails with `outcome_unknown`, and the money is kept as spent."""
    upstream = ScriptedUpstream(
        paints(), paints(last_words=fault(Outcome.UNKNOWN, code)), billed=True, images_per_call=1
    )
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=3)
        end = failed(log)
        job = log[0].job
        assert (end.error.code, end.error.retryable) == ("outcome_unknown", False)
        assert end.error.details is not UNSET
        assert end.error.details["missing"] == [1, 2]
        assert end.error.details["upstream"] == "script"
        assert len(end.error.details["call"]) == 26
        assert [image.index for image in end.images] == [0]
        assert end.cost_micros == 2 * PRICE == (await studio.record(job)).cost_micros
        assert [(call.state, call.cost_micros) for call in await studio.calls(job)] == [
            ("done", PRICE),
            ("unknown", PRICE),
        ]
        assert await studio.hold(job) == "spent_unknown"
        assert len(upstream.orders) == 2


@pytest.mark.parametrize(
    "how,retryable,cost",
    [
        pytest.param({"details": {"status": 400}}, False, 0, id="our-request"),
        pytest.param({"details": {"status": 500}}, True, 0, id="vendor-failed"),
        pytest.param({"credential": True, "details": {"status": 401}}, False, 0, id="credential"),
        pytest.param({"code": "content_filtered"}, False, 0, id="prompt-refused"),
        pytest.param({"code": "invalid_output", "charged": True}, False, PRICE, id="charged"),
    ],
)
@patiently
async def test_answered_failure_is_final(tmp_path: Path, how: dict[str, Any], retryable: bool, cost: int) -> None:
    """The vendor answered: no second call, the cost that it charges, and whether a submit may be repeated."""
    upstream = ScriptedUpstream(paints(last_words=fault(Outcome.FAILED, **how)), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        end = failed(log)
        assert (end.error.code, end.error.retryable) == (how.get("code", "upstream_error"), retryable)
        assert end.cost_micros == cost
        [call] = await studio.calls(log[0].job)
        assert (call.state, call.cost_micros, call.error) == ("done", cost, end.error.code)
        assert await studio.hold(log[0].job) == "settled"


@patiently
async def test_too_few_images_are_no_result(tmp_path: Path) -> None:
    """An upstream that ends without all its images has failed, and is paid."""
    upstream = ScriptedUpstream(paints(missing=1), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=3)
        end = failed(log)
        assert (end.error.code, end.cost_micros, end.images) == ("invalid_output", 3 * PRICE, [])


@patiently
async def test_filtered_images_are_noticed_and_never_stored(tmp_path: Path) -> None:
    """What the vendor held back is a notice in its place; its empty picture is nowhere."""
    async with open_studio(tmp_path, ScriptedUpstream(paints(filtered=(1,)))) as studio:
        log = await studio.run(n=3)
        assert kinds(log) == "accepted started image notice image completed"
        notice = log[3]
        assert isinstance(notice, Notice)
        assert (notice.code, notice.index) == ("image_filtered", 1)
        assert [(image.index, image.seq) for image in completed(log).images] == [(0, 3), (2, 5)]
        assert len(studio.store.puts) == 2


@patiently
async def test_job_whose_every_image_is_filtered_completes_without_one(tmp_path: Path) -> None:
    """Every index came, as a notice."""
    async with open_studio(tmp_path, ScriptedUpstream(paints(filtered=(0, 1)))) as studio:
        log = await studio.run(n=2)
        assert kinds(log) == "accepted started notice notice completed"
        assert (completed(log).images, completed(log).cost_micros) == ([], 2 * PRICE)
        assert studio.store.puts == []


@pytest.mark.parametrize(
    "billed,code,hold,cost", [(True, "outcome_unknown", "spent_unknown", PRICE), (False, "internal", "settled", 0)]
)
@patiently
async def test_mistake_of_an_adapter_ends_the_job_and_is_told(
    tmp_path: Path, billed: bool, code: str, hold: str, cost: int
) -> None:
    """An exception nobody foresaw: the job ends, a billed call counts as lost, and the log of the gateway has it."""
    upstream = ScriptedUpstream(paints(last_words=ZeroDivisionError("a mistake")), billed=billed)
    async with open_studio(tmp_path, upstream) as studio:
        studio.expected_failures = 1
        log = await studio.run()
        end = failed(log)
        assert (end.error.code, end.cost_micros) == (code, cost)
        assert await studio.hold(log[0].job) == hold
        [(name, error)] = studio.failures
        assert (name, type(error)) == (f"job {log[0].job}", ZeroDivisionError)
        assert "mistake" not in end.error.message


@patiently
async def test_full_disk_fails_the_job_with_what_was_delivered_before(tmp_path: Path) -> None:
    """The end tells the first image and nothing of the second, whose call was billed and counts once."""
    hold = asyncio.Event()
    upstream = ScriptedUpstream(paints(), paints(hold=hold), billed=True, images_per_call=1)
    async with open_studio(tmp_path, upstream) as studio:
        studio.expected_failures = 1
        job = await studio.submit(n=2)
        _, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 2)
        studio.store.broken = OSError(28, "No space left on device")
        hold.set()
        with pytest.raises(OSError, match="No space"):
            await task
        end = failed(await studio.log(job))
        assert (end.error.code, [image.index for image in end.images]) == ("outcome_unknown", [0])
        assert end.cost_micros == 2 * PRICE == (await studio.record(job)).cost_micros


@patiently
async def test_ledger_that_refuses_a_delivery_leaves_no_trace_of_it_in_the_end(tmp_path: Path) -> None:
    """An append that fails delivered nothing: the end lists no image of it, and its call costs once."""
    upstream = ScriptedUpstream(billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        studio.expected_failures = 1
        job = await studio.submit()
        await studio.ledger.store.write(lambda connection: connection.exec_driver_sql(REFUSE_IMAGES).close())
        _, task = await studio.work_on()
        with pytest.raises(Exception, match="disk is full"):
            await task
        log = await studio.log(job)
        end = failed(log)
        assert kinds(log) == "accepted started failed"
        assert (end.error.code, end.images, end.cost_micros) == ("outcome_unknown", [], PRICE)
        assert (await studio.record(job)).cost_micros == PRICE


@patiently
async def test_input_image_that_is_gone_fails_the_job_before_any_call(tmp_path: Path) -> None:
    """Its bytes were deleted while the job waited: nothing is sent, nothing is paid."""
    upstream = ScriptedUpstream(billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        stored = await studio.node.pictures.store_input("acme", picture(1).content)
        job = await studio.submit(task="img2img", inputs=[input_of(stored.id)])
        await studio.store.delete("acme", stored.id)
        _, task = await studio.work_on()
        await task
        end = failed(await studio.log(job))
        assert (end.error.code, end.error.retryable, end.cost_micros) == ("asset_not_found", False, 0)
        assert (upstream.orders, await studio.hold(job)) == ([], "settled")


@patiently
async def test_input_image_reaches_the_upstream(tmp_path: Path) -> None:
    """The bytes of an input go with the order, under its role."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream) as studio:
        stored = await studio.node.pictures.store_input("acme", picture(1).content)
        completed(await studio.run(task="img2img", inputs=[input_of(stored.id)]))
        assert upstream.orders[0].inputs == {"init": picture(1).content}


# --- cancel ---


@patiently
async def test_job_wished_away_before_its_worker_begins_is_never_called(tmp_path: Path) -> None:
    """The claim brings the wish along."""
    upstream = ScriptedUpstream(billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        claimed = await studio.claim()
        await studio.ledger.jobs.cancel(job, "client", studio.clock.time_ms())
        await studio.ledger.work.forget_claims()
        _, task = await studio.work_on(await studio.claim())
        await task
        assert claimed.job.claim == 1
        end = canceled(await studio.log(job))
        assert (end.by, end.cost_micros, upstream.orders) == ("client", 0, [])
        assert await studio.hold(job) == "settled"


@pytest.mark.parametrize("by", ["client", None])
@patiently
async def test_worker_stopped_before_its_first_step_still_does_what_it_must(tmp_path: Path, by: str | None) -> None:
    """A task that is cancelled before it ran would end nothing; the job would hang until its lease is over."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await studio.submit()
        worker, task = await studio.work_on()
        worker.stop(task, by)  # type: ignore[arg-type]  # a parameter of pytest is a plain string
        await task
        assert (await studio.record(job)).state == ("queued" if by is None else "canceled")


@patiently
async def test_cancel_while_waiting_at_the_gate_costs_nothing(tmp_path: Path) -> None:
    """No call was made, and the place in the line is given to the next."""
    upstream = ScriptedUpstream(billed=True)
    gates = {"script": lambda clock: Gate(clock=clock, concurrency=1)}
    async with open_studio(tmp_path, upstream, gates=gates) as studio:
        for at in range(3):
            await studio.submit(f"ref-{at}")
        workers = [await studio.work_on() for _ in range(3)]
        await until(lambda: len(upstream.orders) == 1)
        workers[1][0].stop(workers[1][1], "client")
        await asyncio.gather(*(task for _, task in workers))
        jobs = [worker.job.id for worker, _ in workers]
        assert [(await studio.record(job)).state for job in jobs] == ["completed", "canceled", "completed"]
        assert canceled(await studio.log(jobs[1])).cost_micros == 0
        assert await studio.calls(jobs[1]) == []


@pytest.mark.parametrize("billed,hold,cost", [(True, "spent_unknown", PRICE), (False, "settled", 0)])
@patiently
async def test_cancel_of_running_work_cuts_its_call(tmp_path: Path, billed: bool, hold: str, cost: int) -> None:
    """The call is closed; a billed one may have been done, and is kept as spent."""
    never = asyncio.Event()
    upstream = ScriptedUpstream(paints(hold=never), billed=billed)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        worker.stop(task, "deadline")
        await task
        end = canceled(await studio.log(job))
        assert (end.by, end.cost_micros, upstream.cut) == ("deadline", cost, 1)
        assert await studio.calls(job) == [CallRow("unknown", 0, 1, cost, "canceled")]
        assert (await studio.hold(job), (await studio.record(job)).cost_micros) == (hold, cost)


@patiently
async def test_cancel_between_two_images_keeps_and_charges_the_first(tmp_path: Path) -> None:
    """The end lists what was delivered, tells the step, and the second image was never asked for."""
    upstream = ScriptedUpstream(fails(fault(REFUSED, "model_unavailable", retry_after_seconds=30)), images_per_call=1)
    upstream.acts.insert(0, paints())
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit(n=2)
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 2)
        await asyncio.sleep(1)  # virtual: it waits out the refusal
        worker.stop(task, "client")
        await task
        end = canceled(await studio.log(job))
        assert ([image.index for image in end.images], end.cost_micros, end.step) == ([0], PRICE, 2)
        assert await studio.hold(job) == "settled"
        assert len(upstream.orders) == 2


@patiently
async def test_cancel_at_every_moment_leaves_exactly_one_end(tmp_path: Path) -> None:
    """Whenever it comes: one end, a hold that is settled, costs that agree with the calls, and no worker left."""
    ends = set()
    async with open_studio(tmp_path, ScriptedUpstream(images_per_call=1)) as studio:
        for moment in range(0, 60, 3):
            job = await studio.submit(f"ref-{moment}", n=2, steps=1)
            worker, task = await studio.work_on()
            for _ in range(moment):
                await asyncio.sleep(0)
                if moment % 2:
                    await asyncio.sleep(0.1)
            worker.stop(task, "client")
            await asyncio.wait([task])
            log = await studio.log(job)
            ends.add(type(log[-1]))
            assert sum(isinstance(event, Completed | Failed | Canceled) for event in log) == 1, (moment, kinds(log))
            assert await studio.hold(job) == "settled"
            record, calls = await studio.record(job), await studio.calls(job)
            assert record.cost_micros == sum(call.cost_micros for call in calls)
            assert not any(call.state == "sending" for call in calls)
            assert len(studio.feeds) == 0
    assert ends == {Canceled, Completed}


# --- releases and lost claims ---


@patiently
async def test_released_job_is_done_again_and_keeps_its_images(tmp_path: Path) -> None:
    """A drain cuts an unbilled call: back to the queue, then a second `started` and only the missing image."""
    never = asyncio.Event()
    upstream = ScriptedUpstream(paints(), paints(hold=never), images_per_call=1)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit(n=2)
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 2)
        await soon()
        worker.stop(task)
        await asyncio.wait([task])
        assert ((await studio.record(job)).state, await studio.hold(job)) == ("queued", "held")
        assert await states(studio, job) == ["done", "unknown"]
        _, task = await studio.work_on()
        await task
        log = await studio.log(job)
        assert kinds(log) == "accepted started image started image completed"
        assert [event.attempt for event in log if isinstance(event, Started)] == [1, 2]
        assert [order.seed for order in upstream.orders] == [7, 8, 8]
        assert completed(log).cost_micros == 2 * PRICE


@patiently
async def test_released_job_with_a_billed_call_out_is_given_up(tmp_path: Path) -> None:
    """Nobody calls again: the next claim ends it with `outcome_unknown` and names the call."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        worker.stop(task)
        await asyncio.wait([task])
        _, task = await studio.work_on()
        await task
        end = failed(await studio.log(job))
        assert end.error.code == "outcome_unknown"
        assert end.error.details is not UNSET
        assert len(end.error.details["call"]) == 26
        assert (len(upstream.orders), await studio.hold(job), end.cost_micros) == (1, "spent_unknown", PRICE)


@patiently
async def test_job_that_takes_its_gateway_down_each_time_ends(tmp_path: Path) -> None:
    """Killed after `started` again and again, it is given up before it is begun once more."""
    upstream = ScriptedUpstream(*[paints(hold=asyncio.Event()) for _ in range(MAX_ATTEMPTS_IN_ALL)])
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        for attempt in range(1, MAX_ATTEMPTS_IN_ALL + 1):
            worker, task = await studio.work_on()
            await begun(upstream, attempt)
            worker.stop(task)
            await asyncio.wait([task])
        _, task = await studio.work_on()
        await task
        assert failed(await studio.log(job)).error.code == "worker_lost"
        assert len(upstream.orders) == MAX_ATTEMPTS_IN_ALL


@pytest.mark.parametrize("wished", [False, True])
@patiently
async def test_claim_after_a_kill_never_repeats_a_billed_call(tmp_path: Path, wished: bool) -> None:
    """A worker that was killed left a call in `sending`: its money is kept as spent, also if the job was canceled."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()), billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        _, lost = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        if wished:
            await studio.ledger.jobs.cancel(job, "client", studio.clock.time_ms())
        await studio.ledger.work.forget_claims()
        _, task = await studio.work_on()
        await task
        log = await studio.log(job)
        end = log[-1]
        assert isinstance(end, Canceled if wished else Failed)
        assert (len(upstream.orders), await studio.hold(job), end.cost_micros) == (1, "spent_unknown", PRICE)
        record = await studio.ledger.jobs.find(job)
        assert (record is not None, await studio.calls(job)) == (True, [CallRow("unknown", 0, 1, PRICE, None)])
        assert record is not None
        assert record.cost_micros == PRICE
        lost.cancel()
        await asyncio.wait([lost])


@patiently
async def test_worker_whose_claim_was_taken_stops_without_a_word(tmp_path: Path) -> None:
    """Its next write is refused: it closes its call, writes nothing, and the other's log is untouched."""
    hold = asyncio.Event()
    upstream = ScriptedUpstream(paints(hold=hold))
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        _, stale = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.ledger.work.forget_claims()
        claimed = await studio.claim()
        hold.set()
        await asyncio.wait([stale])
        assert studio.meter.counted["stale_claims", "script"] == 1
        log = await studio.log(job)
        assert kinds(log) == "accepted started"
        assert (await studio.record(job)).claim == claimed.job.claim == 2


@patiently
async def test_job_whose_last_image_was_told_without_an_end_is_completed(tmp_path: Path) -> None:
    """A claim that finds every image there makes no call, and ends the job as a new attempt."""
    upstream = ScriptedUpstream(billed=True, images_per_call=1)
    upstream.acts = [paints(), paints(hold=asyncio.Event())]
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit(n=2)
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.orders) == 2)
        await soon()
        worker.stop(task)
        await asyncio.wait([task])
        await studio.ledger.store.write(lambda connection: _ask_for_less(connection, job))
        _, task = await studio.work_on()
        await task
        log = await studio.log(job)
        assert kinds(log) == "accepted started image started completed"
        assert [image.index for image in completed(log).images] == [0]
        assert len(upstream.orders) == 2


@patiently
async def test_model_that_is_no_longer_offered_fails_the_job(tmp_path: Path) -> None:
    """A restart with other settings: the job ends by name instead of being claimed for ever."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        job = await studio.submit()
        studio.dispatch.start()
        studio.dispatch._catalog = Catalog([])
        await studio.ended(job)
        end = failed(await studio.log(job))
        assert (end.error.code, end.error.retryable, end.cost_micros) == ("model_not_found", False, 0)


# --- what passes ---


@patiently
async def test_frame_numbers_rise_over_attempts(tmp_path: Path) -> None:
    """A preview of a later attempt is always newer, also on another node that knows no earlier one."""
    upstream = ScriptedUpstream(paints(previews=True, last_words=LOST), paints(previews=True))
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        watcher = Spectator(RUNG, studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        _, task = await studio.work_on()
        await task
        assert watcher.frames == [1, 2, 65537, 65538]


@patiently
async def test_nothing_passing_is_told_after_the_end(tmp_path: Path) -> None:
    """The last previews are encoded before the image is told; behind the end nothing comes."""
    upstream = ScriptedUpstream(paints(previews=True, seconds=0.0), steps=6)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        watcher = Spectator(RUNG, studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        _, task = await studio.work_on()
        await task
        await asyncio.sleep(10)  # virtual
        assert watcher.frames == [1, 2, 3, 4, 5, 6]
        assert (watcher.changes != [], watcher.after_end) == (True, [])


def input_of(asset: str) -> Input:
    """Return an `init` input."""
    return Input(role="init", asset=asset)


def _ask_for_less(connection: Connection, job: str) -> None:
    """Make the job one of a single image, as if its last one had just been delivered."""
    run = connection.scalar(select(schema.jobs.c.run).where(schema.jobs.c.id == job))
    body = connection.scalar(select(schema.runs.c.request).where(schema.runs.c.id == run))
    assert body is not None
    connection.execute(
        update(schema.runs).where(schema.runs.c.id == run).values(request=body.replace(b'"n":2', b'"n":1'))
    )
    connection.execute(update(schema.calls).where(schema.calls.c.state == "unknown").values(state="not_sent"))
