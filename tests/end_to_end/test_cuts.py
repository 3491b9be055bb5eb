"""A session cut after every byte of a conversation, in both directions, and resumed: nothing lost, nothing twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Input
from tests.depth import DEEP
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream, png
from tests.end_to_end.proxies import Direction, cutting
from tests.end_to_end.records import Record, client

AT_ONCE = 12
INIT = png(64, 64, (9, 9, 9), padding=300)


async def _converse(running: Running, direction: Direction, after: int) -> tuple[bool, int]:
    """One conversation, cut once: an upload, a job with previews, its inline finals. Returns (cut, bytes passed)."""
    record = Record()
    async with cutting(running.url, direction, after) as proxy:
        async with client(proxy.url, running.key, record, token_in_hello=True) as one:
            upload = one.upload(INIT, "png")
            params = {"prompt": f"{direction} {after}", "n": 2, "steps": 2}
            job = await one.submit("img2img", params, inputs=[Input(role="init", upload=upload)])
            async for _ in job:
                pass
        record.check(job.id)
        assert len(record.finals(job.id)) == 2
        return proxy.has_cut, proxy.passed[direction]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.timeout(1200)
async def test_session_cut_after_each_byte_loses_and_repeats_nothing(tmp_path: Path, direction: Direction) -> None:
    """The whole conversation is cut at every byte in a deep run, at a spread of them else."""
    paper = PaperUpstream(padding=100)
    quiet: dict[str, Any] = {"limits__max_connections": 500, "limits__max_jobs": 10_000}
    async with gateway_here(tmp_path, upstreams=[paper], **quiet) as running:
        _, length = await _converse(running, direction, 10**9)
        offsets = list(range(1, length)) if DEEP else list(range(1, length, max(1, length // 40)))
        places = asyncio.Semaphore(AT_ONCE)
        cuts = 0

        async def one(after: int) -> None:
            nonlocal cuts
            async with places, asyncio.timeout(60):
                has_cut, _ = await _converse(running, direction, after)
                cuts += has_cut

        async with asyncio.TaskGroup() as tasks:
            for after in offsets:
                tasks.create_task(one(after))
        assert cuts >= len(offsets) * 0.95  # a conversation may be a few bytes shorter than the first
        if DEEP:
            print(f"{direction}: {cuts} cuts over {length} bytes")
