"""Work at a ComfyUI that outlives a gateway, and work that a ComfyUI forgets: looked up, and never done twice."""

import asyncio
from pathlib import Path

from load.upstreams.comfyui import Checkpoint
from load.upstreams.comfyui import ComfyUI as StandIn
from protocol.messages import Completed, Started
from protocol.replica_effects import ImageBytes
from tests.end_to_end.harness import GatewayProcess
from tests.end_to_end.ports import free_port
from tests.end_to_end.records import Record, client

PARAMS = {"prompt": "a harbour", "width": 64, "height": 64, "steps": 10, "seed": 7}


def config(url: str) -> str:
    """Return settings with a ComfyUI at an address."""
    return f"""
        [upstreams.comfyui]
        kind = "comfyui"
        base_url = "{url}"
        checkpoints = ["tiny.safetensors"]
        reconnect_ms = 2000
    """


def told(record: Record, job: str, kind: type) -> list[object]:
    """Return what was told of a job, of one type."""
    return [event for event in record.jobs[job] if isinstance(event, kind)]


async def test_prompt_that_ended_while_the_gateway_was_dead_is_found(tmp_path: Path) -> None:
    """`kill -9` in mid-run; the server goes on and ends; the next start fetches the picture and asks for no other."""
    record = Record()
    async with StandIn(checkpoints=[Checkpoint("tiny.safetensors", 0.08)]) as standin:
        gateway = GatewayProcess(tmp_path, free_port(), config(standin.url))
        async with gateway, client(gateway.url, gateway.key, record, patience=60) as one:
            job = await one.submit("txt2img", PARAMS, model="tiny")
            async with asyncio.timeout(20):
                while not told(record, job.id, Started):
                    await asyncio.sleep(0.01)
            await gateway.kill()
            async with asyncio.timeout(20):
                while not standin.idle:
                    await asyncio.sleep(0.01)
            await gateway.start()
            async with asyncio.timeout(20):
                async for _ in job:
                    pass
        record.check(job.id)
        assert isinstance(record.ends(job.id)[0], Completed)
        assert (standin.calls, len(told(record, job.id, ImageBytes))) == (1, 1)
        assert [event.attempt for event in told(record, job.id, Started)] == [1, 2]  # type: ignore[attr-defined]


async def test_prompt_that_a_restarted_server_has_forgotten_is_run_again(tmp_path: Path) -> None:
    """Both ends of the connection are killed in mid-run; a second attempt, one picture for the index."""
    record = Record()
    async with StandIn(checkpoints=[Checkpoint("tiny.safetensors", 0.08)]) as standin:
        gateway = GatewayProcess(tmp_path, free_port(), config(standin.url))
        async with gateway, client(gateway.url, gateway.key, record, patience=60) as one:
            job = await one.submit("txt2img", PARAMS, model="tiny")
            async with asyncio.timeout(20):
                while not told(record, job.id, Started):
                    await asyncio.sleep(0.01)
            await standin.kill()
            await gateway.kill()
            await standin.restart()
            await gateway.start()
            async with asyncio.timeout(30):
                async for _ in job:
                    pass
        record.check(job.id)
        assert isinstance(record.ends(job.id)[0], Completed)
        assert (standin.calls, len(told(record, job.id, ImageBytes))) == (2, 1)
        assert [event.attempt for event in told(record, job.id, Started)] == [1, 2]  # type: ignore[attr-defined]
