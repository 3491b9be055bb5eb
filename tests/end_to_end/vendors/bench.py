"""A gateway with one vendor behind it and clients before it, for one test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.ports import Upstream
from protocol.client import Client
from protocol.messages import Image, Previews
from protocol.streams import Job
from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.records import Record, client
from tests.end_to_end.vendors.vendor import Vendor
from tests.gateway.parts import migrated


class Bench:
    """See the module."""

    def __init__(self, vendor: Vendor, running: Running) -> None:
        self.vendor = vendor
        self.running = running
        self.record = Record()

    @contextlib.asynccontextmanager
    async def client(self, record: Record | None = None, **options: Any) -> AsyncIterator[Client]:
        """Connect somebody who wants every preview, unless told otherwise."""
        options = {"previews": Previews(max_edge=128), **options}
        async with client(self.running.url, self.running.key, record or self.record, **options) as one:
            yield one

    async def submit(self, one: Client, task: str = "txt2img", **params: Any) -> Job:
        """Submit a small job; `inputs` and other fields of a submit may stand among the params."""
        fields = {name: params.pop(name) for name in ("inputs", "deadline_ms", "ref", "model") if name in params}
        wanted = {**self.vendor.params, **params}
        if not self.vendor.has(task, "seed"):
            wanted.pop("seed", None)
        return await one.submit(
            task, {name: value for name, value in wanted.items() if value is not None},
            **{"model": self.vendor.model.id, **fields},
        )  # fmt: skip

    async def end(self, job: Job, record: Record | None = None) -> Any:
        """Wait for a job's end and return it, after checking all that was told of the job."""
        record = record or self.record
        async with asyncio.timeout(self.vendor.patience_seconds):
            async for _ in job:
                pass
        record.check(job.id)
        return record.ends(job.id)[0]

    async def run(self, task: str = "txt2img", **params: Any) -> Any:
        """Submit a job as somebody new and return its end."""
        async with self.client() as one:
            return await self.end(await self.submit(one, task, **params))

    def told(self, job: str, kind: type) -> list[Any]:
        """Return what was told of a job, of one type."""
        return [event for event in self.record.jobs[job] if isinstance(event, kind)]

    async def picture(self, image: Image) -> bytes:
        """Return a finished picture's bytes."""
        content = await self.running.gateway.node.pictures.content("default", image.asset)
        return bytes(content)


@contextlib.asynccontextmanager
async def bench(vendor: Vendor, folder: Path, **how: Any) -> AsyncIterator[Bench]:
    """Open the vendor, and a gateway on it; `how` goes to the vendor, but for settings such as `work__max_tries`."""
    settings = {name: how.pop(name) for name in list(how) if "__" in name}
    quick: dict[str, Any] = {"work__backoff_base_ms": 5, "work__backoff_cap_ms": 20, "work__max_tries": 4}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ledger.db").exists():
        (folder / "ledger.db").write_bytes(migrated())
    # The adapters are made by then: the second context is entered after the first.
    async with (
        vendor.open(**how),
        gateway_here(folder, upstreams=vendor.adapters, **{**quick, **settings}) as running,
    ):
        await asyncio.wait_for(_offered(running, vendor.adapter), vendor.patience_seconds)
        yield Bench(vendor, running)


async def _offered(running: Running, upstream: Upstream) -> None:
    """Wait until the upstream has told what it offers: before that, some offer less or nothing."""
    while not await running.gateway.node.models.refresh(upstream):
        await asyncio.sleep(0.01)
