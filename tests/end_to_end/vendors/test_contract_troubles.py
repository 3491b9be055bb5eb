"""What comes of every trouble that an upstream can have: what the client is told, what is repeated, what it costs."""

import asyncio
import logging
import time
from pathlib import Path

import pytest

from protocol.messages import Accepted, Canceled, Completed, Failed, Notice, Started
from protocol.replica_effects import ImageBytes
from tests.end_to_end.vendors.bench import Bench, bench
from tests.end_to_end.vendors.kinds import CORE, EVERY, TRIED, VENDORS, needs
from tests.end_to_end.vendors.vendor import LOST, MENDED, Trouble, Vendor

CORE_TROUBLES = (Trouble.RUNTIME_ERROR,)
TROUBLES = pytest.mark.parametrize(
    "kind,trouble",
    [
        pytest.param(kind, trouble, id=f"{kind.name}-{trouble.name.lower()}", marks=needs(kind))
        for kind in TRIED
        for trouble in (Trouble if kind in VENDORS else CORE_TROUBLES)
        if trouble not in kind.impossible
    ],
)
LEAKS = ("Traceback", "tensor(", "/home/", "/usr/", "site-packages", "sk-test")


def what_it_says(end: Failed) -> str:
    """Return everything that a failure tells."""
    return f"{end.error.message} {end.error.details}"


@TROUBLES
async def test_trouble_ends_as_the_money_rule_says(
    kind: type[Vendor], trouble: Trouble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal is tried again, a failure told, a lost call found, repeated for nothing, or given up; no leaks."""
    vendor = kind()
    caplog.set_level(logging.DEBUG)
    async with bench(vendor, tmp_path) as one:
        vendor.meet(trouble)
        end = await one.run()
        is_free = not vendor.model.billed
        if trouble is Trouble.FILTERED:
            await _was_held_back(one, end)
        elif trouble in MENDED:
            assert isinstance(end, Completed), end
            assert vendor.calls == 2
        elif trouble in LOST and (is_free or vendor.finds) and trouble not in vendor.codes:
            assert isinstance(end, Completed), end
            assert len(one.told(end.job, ImageBytes)) == 1
        else:
            assert isinstance(end, Failed), end
            assert end.error.code == vendor.end_of(trouble), end.error
            assert vendor.calls == 1
            assert not any(leak in what_it_says(end) for leak in LEAKS)
            if trouble in LOST:
                assert end.cost_micros == vendor.model.price("txt2img")
        assert "sk-test" not in caplog.text


async def _was_held_back(one: Bench, end: object) -> None:
    """A filtered picture is told by a notice, or as the job's failure; never as a picture."""
    if isinstance(end, Completed):
        assert end.images == []
        assert [notice.code for notice in one.told(end.job, Notice)] == ["image_filtered"]
    else:
        assert isinstance(end, Failed)
        assert end.error.code == "content_filtered"


@EVERY
async def test_queued_job_is_canceled_without_a_call(kind: type[Vendor], tmp_path: Path) -> None:
    """It waits behind another one."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=0.8) as one, one.client() as client:
        places = one.running.gateway.dispatch.lines[vendor.adapter.name].places
        busy = [await one.submit(client, seed=seed) for seed in range(1, places + 1)]
        waiting = await one.submit(client, seed=500)
        await client.cancel(waiting.id)
        end = await one.end(waiting)
        assert isinstance(end, Canceled)
        assert (end.cost_micros, one.told(waiting.id, Started)) == (0, [])
        for job in busy:
            await one.end(job)
        assert vendor.calls == places


@EVERY
async def test_running_job_is_canceled_as_far_as_declared(kind: type[Vendor], tmp_path: Path) -> None:
    """Its end comes at once whatever the vendor can do; what may have been billed is shown as spent."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=1.5) as one, one.client() as client:
        job = await one.submit(client)
        async with asyncio.timeout(10):
            while not one.told(job.id, Started) or not vendor.calls:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        await client.cancel(job.id)
        end = await one.end(job)
        assert isinstance(end, Canceled), end
        assert time.monotonic() - began < 3
        assert end.cost_micros == (vendor.model.price("txt2img") if vendor.model.billed else 0)
        if vendor.model.cancel == "yes":
            await _takes_the_next_soon(one)


async def _takes_the_next_soon(one: Bench) -> None:
    """What was stopped holds nobody up: the next run takes no longer than a run."""
    began = time.monotonic()
    assert isinstance(await one.run(seed=31), Completed)
    assert time.monotonic() - began < 6


@CORE
async def test_job_that_was_faster_than_its_cancel_stays_completed(kind: type[Vendor], tmp_path: Path) -> None:
    """The wish comes after the end: it is taken, and changes nothing."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one, one.client() as client:
        job = await one.submit(client)
        assert isinstance(await one.end(job), Completed)
        await client.cancel(job.id)
        assert [type(end) for end in one.record.ends(job.id)] == [Completed]


@EVERY
async def test_deadline_ends_a_run(kind: type[Vendor], tmp_path: Path) -> None:
    """As a cancel would, in the deadline's name."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=3.0) as one, one.client() as client:
        end = await one.end(await one.submit(client, deadline_ms=400))
        assert isinstance(end, Canceled | Failed)
        assert (end.by if isinstance(end, Canceled) else end.error.code) in ("deadline", "deadline_exceeded")


@EVERY
async def test_server_that_is_killed_in_mid_run_and_returns(kind: type[Vendor], tmp_path: Path) -> None:
    """The work is begun anew as a second attempt, for it cost nothing; never two pictures of one index."""
    vendor = kind()
    if not kind.restarts:
        pytest.skip(f"{kind.name} is a hosted service; what it loses is its troubles' matter")
    async with (
        bench(vendor, tmp_path, seconds=1.5, work__backoff_base_ms=300, work__backoff_cap_ms=600) as one,
        one.client() as client,
    ):
        job = await one.submit(client)
        async with asyncio.timeout(10):
            while not one.told(job.id, Started):
                await asyncio.sleep(0.01)
        await vendor.kill()
        await asyncio.sleep(0.2)
        await vendor.restart()
        end = await one.end(job)
        assert isinstance(end, Completed), end
        assert [event.attempt for event in one.told(job.id, Started)] == [1, 2]
        assert len(one.told(job.id, ImageBytes)) == 1


@EVERY
async def test_server_that_is_not_there_is_waited_for(kind: type[Vendor], tmp_path: Path) -> None:
    """Nothing was sent, so it is tried again; in the end it is told that the model cannot be had."""
    vendor = kind()
    if not kind.restarts or kind.is_always_there:
        pytest.skip(f"{kind.name} is always there, or its stand-in cannot go")
    async with bench(vendor, tmp_path) as one, one.client() as client:
        await vendor.kill()
        end = await one.end(await one.submit(client))
        assert isinstance(end, Failed)
        assert (end.error.code, end.error.retryable) == ("model_unavailable", True)
        await vendor.restart()
        assert isinstance(await one.end(await one.submit(client, seed=8)), Completed)


@EVERY
async def test_gateway_that_restarts_ends_every_job_once(kind: type[Vendor], tmp_path: Path) -> None:
    """Free work is found or done again; billed work that cannot be looked up is given up, and not repeated."""
    vendor = kind()
    async with bench(vendor, tmp_path, seconds=1.0) as one:
        async with one.client() as client:
            job = await one.submit(client)
            async with asyncio.timeout(10):
                while not one.told(job.id, Started) or not vendor.calls:
                    await asyncio.sleep(0.01)
            gateway = one.running.gateway
            for worker, task in list(gateway.dispatch._workers.values()):
                worker.stop(task)  # as a drain does, and what a kill leaves is the same row
            end = await one.end(job)
        if vendor.model.billed and not vendor.finds:
            assert isinstance(end, Failed)
            assert (end.error.code, vendor.calls) == ("outcome_unknown", 1)
        else:
            assert isinstance(end, Completed), end
        assert len(one.told(job.id, Accepted)) == 1


@EVERY
async def test_nonsense_prompts_are_no_trouble(kind: type[Vendor], tmp_path: Path) -> None:
    """Quotes, braces, line ends, other alphabets and what looks like markup: all of it is text."""
    vendor = kind()
    async with bench(vendor, tmp_path) as one:
        end = await one.run(prompt='a "fox" {in} \\ (the:1.2) <lora:x:1>\n红苹果 😀 %s {{seed}}')
        assert isinstance(end, Completed | Failed)
        if isinstance(end, Failed):
            assert end.error.code in ("upstream_error", "invalid_param"), end.error


@CORE
async def test_adapter_says_nothing_of_its_secret(kind: type[Vendor], tmp_path: Path) -> None:
    """In no text about it."""
    vendor = kind()
    async with bench(vendor, tmp_path):
        for adapter in vendor.adapters:
            assert "sk-test" not in repr(adapter) + repr(vars(adapter))
