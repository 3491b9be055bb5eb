"""A thousand watchers of one job cost the ledger and the encoder no more than one."""

import asyncio
import json
from pathlib import Path

from protocol.header import Kind, parse
from tests.depth import deep_count
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.end_to_end.raw import BINARY, TEXT, RawSocket

STEPS = 5


async def test_many_watchers_read_the_ledger_twice_an_event_and_encode_each_preview_once(tmp_path: Path) -> None:
    """Everybody gets every number and every preview; the log is read once, each preview made once a rung."""
    count = deep_count(150, 1000)
    paper = PaperUpstream(pace=lambda _: 0.2)
    paper.hold = asyncio.Event()
    async with gateway_here(tmp_path, upstreams=[paper], limits__max_connections=5000) as running:
        submitter = await RawSocket.open(running.url)
        await submitter.hello(running.key)
        submitter.send({"type": "submit", "ref": "a", "task": "txt2img", "params": {"prompt": "x", "steps": STEPS}})
        job = (await submitter.until("accepted"))["job"]
        feeds, store = running.gateway.node.feeds, running.gateway.ledger.store
        sockets = [await RawSocket.open(running.url) for _ in range(count)]
        previews = {"max_edge": 64, "format": "jpeg"}
        for one in sockets:
            await one.hello(running.key, previews=previews)
        reads = store.reads
        for one in sockets:
            one.send({"type": "watch", "ref": "w", "job": job})
        for one in sockets:
            await one.until("ok")
        feed = feeds.get(job)
        assert feed is not None
        assert len(feed.watchers) == count + 1
        assert store.reads - reads <= 2
        paper.hold.set()
        async with asyncio.timeout(100):
            seen = await asyncio.gather(*(_follow(one) for one in sockets))
        events = 4  # accepted, started, image, completed
        assert all(numbers == list(range(1, events + 1)) for numbers, _ in seen)
        assert all(steps == list(range(1, STEPS + 1)) for _, steps in seen)
        assert feeds.encoded == STEPS
        assert store.reads - reads <= 2 * events
        for one in (submitter, *sockets):
            one.cut()


async def _follow(one: RawSocket) -> tuple[list[int], list[int]]:
    """Return the numbers and the steps of the previews that a watcher got until the end."""
    numbers: list[int] = []
    steps: list[int] = []
    while True:
        opcode, payload = await one.receive()
        if opcode == BINARY:
            header = parse(payload)
            assert header.kind == Kind.PREVIEW
            steps.append(header.step)
        elif opcode == TEXT:
            message = json.loads(payload)
            if "seq" in message:
                numbers.append(message["seq"])
            if message["type"] == "completed":
                return numbers, steps
