"""A gateway with one long job, in a process of its own, so that its memory and delivery can be measured from outside.

`python -m tests.end_to_end.slow_readers FOLDER SECONDS`: prints `URL KEY JOB` and runs until its standard input ends.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop

from protocol.messages import Submit
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream

STEP_SECONDS = 0.1
PREVIEW_BYTES = 20_000


async def main(folder: Path, seconds: float) -> None:
    """See the module."""
    paper = PaperUpstream(pace=lambda _: STEP_SECONDS)
    paper.preview_padding = PREVIEW_BYTES
    settings: dict[str, Any] = {"limits__max_connections": 1000, "protocol__slow_consumer_ms": 10_000}
    async with gateway_here(folder, upstreams=[paper], **settings) as running:
        identity = await running.gateway.node.access.identify(running.key)
        steps = min(1000, int(seconds / STEP_SECONDS))
        params = b'{"prompt":"slow","steps":%d}' % steps
        submit = Submit(ref="slow", task="txt2img", params=params)  # type: ignore[arg-type]
        made = await running.gateway.node.admission.submit(identity, submit, {}, None)
        sys.stdout.write(f"{running.url} {running.key} {made.job.id}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), float(sys.argv[2])))
