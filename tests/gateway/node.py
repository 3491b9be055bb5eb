"""A node with a real ledger, real blobs and no upstream: tests play the worker by hand.

`open_node` makes it, `serve` puts an application behind a real socket. The fixture `node` is for a `conftest.py` to
import by name.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import uvicorn
from starlette.types import ASGIApp

from gateway.clock import SystemClock
from gateway.core.models import Model, Sizes
from gateway.core.records import Append, Claimed, Identity, Plan, images_of
from gateway.core.reports import Picture, Report
from gateway.core.routing import Standing
from gateway.flow.catalog import Catalog
from gateway.flow.node import Node
from gateway.ledger import SqlLedger
from gateway.ports import CallOrder, Transcoder
from protocol.messages import (
    Canceled,
    Canceler,
    Completed,
    ImageReady,
    Limits,
    Numbered,
    Progress,
    Started,
    Submit,
    Timings,
)
from protocol.session import Timing
from protocol.tail import PreviewFacts
from tests.gateway.doubles import QuietUpstream
from tests.gateway.parts import EPOCH, LEASE_MS, CountingMeter, add_key, open_parts
from tests.pictures import flat

UPSTREAM: Final = "easel"
MODEL: Final = Model(
    id="easel-1",
    upstream=UPSTREAM,
    vendor_model="easel",
    tasks=dict.fromkeys(
        ("txt2img", "img2img"),
        frozenset({"prompt", "negative_prompt", "width", "height", "steps", "guidance", "seed", "n", "strength"}),
    ),
    sizes=Sizes(smallest=64, largest=1024, multiple_of=8),
    default_size=(64, 64),
    progress="steps",
    previews=True,
    cancel="yes",
    price_micros=400,
    description="An easel without a painter",
)


class Easel(QuietUpstream):
    """Offers the model; the hands of a test do the work."""

    name = UPSTREAM
    models: tuple[Model, ...] = (MODEL,)

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Nobody asks it."""
        raise AssertionError("no dispatch runs here")
        yield


class ShiftedClock(SystemClock):
    """The system's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_seconds

    def time_ms(self) -> int:
        return super().time_ms() + int(self.ahead_seconds * 1000)

    def advance(self, seconds: float) -> None:
        """Let `seconds` have gone by."""
        self.ahead_seconds += seconds


@dataclass
class NodeUnderTest:
    """A node, and what a test needs around it: keys, and the hands of a worker."""

    node: Node
    ledger: SqlLedger
    clock: ShiftedClock
    meter: CountingMeter
    transcoder: Transcoder
    rung: list[str] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    """What admission asked of the dispatch that is not there: (job, by whom)."""

    async def add_key(self, tenant: str = "acme", plan: Plan | None = None) -> str:
        """Make a tenant's API key, and the tenant if it is new."""
        return await add_key(self.ledger, self.clock, tenant, plan)

    async def identity(self, key: str, subject: str = "") -> Identity:
        """Return who a key stands for, or an end user of its account."""
        mine = await self.node.access.identify(key)
        if not subject:
            return mine
        token, _ = self.node.access.make_token(mine, subject, 3_600_000)
        return await self.node.access.identify(token)

    async def submit(self, identity: Identity, ref: str = "ref-1", session: str | None = None, n: int = 1) -> str:
        """Make a job and return its id."""
        params = msgspec.Raw(msgspec.json.encode({"prompt": "a harbour at dawn", "seed": 7, "n": n}))
        made = await self.node.admission.submit(identity, Submit(ref=ref, task="txt2img", params=params), {}, session)
        return made.job.id

    async def claim(self) -> "Hands":
        """Claim the next job, as a dispatch would."""
        now = self.clock.time_ms()
        [claimed] = await self.ledger.work.claim([UPSTREAM], "test", now, now + LEASE_MS, 1)
        self.node.feeds.fill(claimed.job, claimed.log)
        self.node.feeds.working(claimed.job.id, begins=True)
        return Hands(self, claimed)


class Hands:
    """Works one claimed job by hand: each method is one step of a worker."""

    def __init__(self, under_test: NodeUnderTest, claimed: Claimed) -> None:
        self._test = under_test
        self.job = claimed.job.id
        self._claim = claimed.job.claim
        self._tenant = claimed.job.tenant
        self._seq = claimed.job.seq
        self._images: list[ImageReady] = []
        self._frame = 0

    async def start(self, steps: int = 4, attempt: int = 1) -> None:
        """Tell that the upstream has begun."""
        await self.append(Started(**self._head(), attempt=attempt, model=MODEL.id, steps=steps))

    def progress(self, step: int, steps: int = 4) -> None:
        """Tell a step."""
        event = Progress(job=self.job, phase="denoising", step=step, steps=steps, ratio=step / steps)
        self._test.node.feeds.progressed(self.job, event)

    def preview(self, step: int = 1, edge: int = 64, steps: int = 4) -> bytes:
        """Tell a preview; returns its bytes, which are a JPEG."""
        self._frame += 1
        content = picture_bytes("JPEG", edge, shade=self._frame)
        facts = PreviewFacts(self._frame, self._seq, step, steps, 0, 1, approximate=False)
        self._test.node.feeds.previewed(self.job, facts, Picture(content, "jpeg", edge, edge))
        return content

    async def image(self, index: int = 0, count: int = 1) -> str:
        """Deliver a picture; returns its asset id."""
        content = picture_bytes("PNG", 64, shade=100 + index)
        stored = await self._test.node.pictures.store_output(self._tenant, Picture(content, "png", 64, 64))
        event = ImageReady(
            **self._head(), index=index, count=count, format="png", w=64, h=64, bytes=len(content), asset=stored.id,
            seed=7 + index,
        )  # fmt: skip
        self._images.append(event)
        await self.append(event)
        return stored.id

    async def complete(self) -> None:
        """End the job well, with the pictures delivered."""
        timings = Timings(queue_ms=1, load_ms=0, run_ms=2, total_ms=3)
        end = Completed(**self._head(), images=images_of(self._images), timings=timings, cost_micros=400)
        await self.append(end)
        self._test.node.feeds.working(self.job, begins=False)

    async def cancel(self, by: Canceler = "client") -> None:
        """End the job as canceled."""
        await self.append(Canceled(**self._head(), by=by, step=0, images=[], cost_micros=0))
        self._test.node.feeds.working(self.job, begins=False)

    async def append(self, event: Numbered) -> None:
        """Commit an event, then tell it."""
        lease_ms = self._test.clock.time_ms() + LEASE_MS
        step = Append(self.job, self._claim, self._seq, lease_ms, (event,))
        told = await self._test.ledger.work.append(step)
        self._seq = told[-1].seq
        self._test.node.feeds.appended(self.job, told)

    def _head(self) -> dict[str, Any]:
        return {"job": self.job, "seq": 0, "time_ms": self._test.clock.time_ms()}


@contextlib.asynccontextmanager
async def open_node(
    folder: Path, *, limits: Limits | None = None, timing: Timing | None = None, epoch: str = EPOCH
) -> AsyncIterator[NodeUnderTest]:
    """Make a node on the ledger in `folder`."""
    clock = ShiftedClock()
    rung: list[str] = []
    stopped: list[tuple[str, str]] = []
    async with open_parts(folder, clock, limits=limits, epoch=epoch) as parts:
        node = parts.node(
            Catalog([Easel()]), timing=timing, ring=rung.append, standings=lambda: {UPSTREAM: Standing()},
            stop_work=lambda job, by: stopped.append((job, by)),
        )  # fmt: skip
        yield NodeUnderTest(node, parts.ledger, clock, parts.meter, parts.transcoder, rung, stopped)
    assert parts.failures == [], "a task of the node failed"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    """A node of its own for each test."""
    async with open_node(tmp_path) as under_test:
        yield under_test


@contextlib.asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Answer requests on a free port while the context lasts; gives the address."""
    with socket.socket() as listener:
        # As the gateway's own: else every answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False, http="httptools")
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # Its own `shutdown` would sleep for 0.1 s, whatever there is to wait for.
            for one in server.servers:
                one.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            # What was being answered ends with its connection.
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
            for one in server.servers:
                await one.wait_closed()


def picture_bytes(format: str, edge: int, shade: int = 0) -> bytes:
    """Return an encoded square picture of one colour."""
    return flat((shade % 256, 40, 80), (edge, edge), format=format)
