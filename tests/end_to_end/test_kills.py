"""`kill -9` of the gateway at random moments of running jobs: every promise holds after the restart."""

import asyncio
import hashlib
import random
import urllib.request
from pathlib import Path

import pytest

from load.upstreams.stability_v1 import StabilityV1
from protocol.client import Client
from tests.depth import deep_count
from tests.end_to_end.harness import GatewayProcess
from tests.end_to_end.ports import free_port
from tests.end_to_end.records import Record, client

AT_ONCE = 3


async def _keep_submitting(
    one: Client, prefix: str, stop: asyncio.Event, jobs: list[str], params: dict[str, object]
) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        job = await one.submit("txt2img", {"prompt": f"{prefix}-{number}", **params}, ref=f"{prefix}-{number}")
        jobs.append(job.id)
        async for _ in job:
            pass


async def _kill_and_restart(gateway: GatewayProcess, kills: int, chance: random.Random) -> None:
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.05, 1.2))  # the random moment is what is tested
        await gateway.kill()
        await gateway.start()


@pytest.mark.timeout(1800)
async def test_gateway_killed_at_random_moments_keeps_every_promise(tmp_path: Path) -> None:
    """Every numbered event of every accepted job is handled once, `resumed` is true, no picture is lost."""
    kills = deep_count(3, 100)
    gateway = GatewayProcess(tmp_path, free_port())
    record, stop = Record(), asyncio.Event()
    jobs: list[str] = []
    async with gateway:
        params: dict[str, object] = {"width": 128, "height": 128, "steps": 12, "n": 2}
        async with client(gateway.url, gateway.key, record, patience=60) as one, asyncio.TaskGroup() as tasks:
            for line in range(AT_ONCE):
                tasks.create_task(_keep_submitting(one, f"k{line}", stop, jobs, params))
            await _kill_and_restart(gateway, kills, random.Random(3))
            stop.set()
        assert len(jobs) == len(set(jobs))
        for job in jobs:
            record.check(job)
            assert type(record.ends(job)[0]).__name__ == "Completed"
            await asyncio.to_thread(_check_pictures, record, job)
        assert record.resumed[0] is False
        assert all(record.resumed[1:])
        assert len(record.resumed) > kills // 2  # some kills come before the client is back
    print(f"{kills} kills, {len(jobs)} jobs, {len(record.resumed) - 1} resumes")


def _check_pictures(record: Record, job: str) -> None:
    for image in record.ends(job)[0].images:
        with urllib.request.urlopen(image.url) as answer:
            assert "sha256:" + hashlib.sha256(answer.read()).hexdigest() == image.asset


@pytest.mark.timeout(1800)
async def test_billed_vendor_is_called_at_most_once_a_job_over_all_kills(tmp_path: Path) -> None:
    """A call whose answer was lost is never repeated: its job fails with `outcome_unknown`."""
    kills = deep_count(2, 20)
    async with StabilityV1(key={"sk-test"}, service_time=0.3) as vendor:
        config = f"""
            [upstreams.stability]
            kind = "stability_v1"
            base_url = "{vendor.url}"
            api_key_env = "STAND_IN_KEY"
            engines = {{ "stable-diffusion-v1-6" = 9000 }}
        """
        gateway = GatewayProcess(tmp_path, free_port(), config, {"STAND_IN_KEY": "sk-test"})
        record, stop = Record(), asyncio.Event()
        jobs: list[str] = []
        async with gateway:
            params: dict[str, object] = {"width": 320, "height": 320, "steps": 10}
            async with client(gateway.url, gateway.key, record, patience=60) as one, asyncio.TaskGroup() as tasks:
                for line in range(AT_ONCE):
                    tasks.create_task(_keep_submitting(one, f"b{line}", stop, jobs, params))
                await _kill_and_restart(gateway, kills, random.Random(4))
                stop.set()
            unknown = 0
            for job in jobs:
                record.check(job)
                end = record.ends(job)[0]
                unknown += type(end).__name__ == "Failed"
                assert type(end).__name__ == "Completed" or end.error.code == "outcome_unknown"
        assert vendor.calls <= len(jobs)
        assert unknown >= 1
    print(f"{kills} kills, {len(jobs)} jobs, {vendor.calls} calls, {unknown} unknown")
