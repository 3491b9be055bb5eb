"""A whole node on a real ledger in virtual time, with upstreams that do what a script says.

`@patiently` runs an async test on a loop whose time jumps to the next timer when nothing is ready, and waits for real
while a thread or the blob store works. So a test of a long backoff takes no time and has but one order, on real SQLite.
"""

import asyncio
import contextlib
import functools
import json
import selectors
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, TypeVarTuple

import msgspec
from sqlalchemy import select

from gateway import blobs
from gateway.core.models import Model, Progress, Sizes
from gateway.core.records import Claimed, Identity, JobRecord, Plan
from gateway.core.reports import ImageMade, Outcome, Picture, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.flow.book import Workshop
from gateway.flow.catalog import Catalog, Way
from gateway.flow.connection import Connection
from gateway.flow.dispatch import Dispatch
from gateway.flow.feeds import BlobCache, Feeds
from gateway.flow.gate import Gate
from gateway.flow.lines import Line, Lines
from gateway.flow.node import Node
from gateway.flow.worker import Worker
from gateway.ledger import SqlLedger, schema
from gateway.ports import CallOrder
from protocol.ladder import Rung
from protocol.messages import END_TYPES, Limits, Numbered, Submit
from protocol.session import Timing
from tests.gateway.doubles import QuietUpstream
from tests.gateway.parts import EPOCH, LEASE_MS, CountingMeter, add_key, open_parts
from tests.pictures import flat
from tests.virtual_time import LoopClock, VirtualTimeLoop, _JumpingSelector

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
PRICE: Final = 1000
"""Millionths that one image of any scripted model costs."""


# --- time ---


class _PatientSelector(_JumpingSelector):
    loop: "PatientLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop.outside and timeout != 0:
            return selectors.DefaultSelector.select(self, None)  # whoever works outside wakes the loop
        return super().select(timeout)


class PatientLoop(VirtualTimeLoop):
    """Virtual time that stands still while something works outside the loop."""

    def __init__(self) -> None:
        self.virtual_now = 0.0
        self.outside = 0
        selector = _PatientSelector()
        selector.loop = self
        asyncio.SelectorEventLoop.__init__(self, selector)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        work = super().run_in_executor(executor, func, *args)
        self.outside += 1
        work.add_done_callback(self._came_back)
        return work

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own
        self.outside += 1  # it waits in a thread of its own
        await super().shutdown_default_executor()

    def _came_back(self, _: object) -> None:
        self.outside -= 1


def patiently(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=PatientLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def outside(work: Awaitable[T]) -> T:
    """Await what no thread of the loop's does, while time stands still."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PatientLoop), "the test is run `patiently`"
    loop.outside += 1
    try:
        return await work
    finally:
        loop.outside -= 1


async def soon() -> None:
    """Let everything that is ready run, and what that makes ready."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool], within_seconds: float = 60.0) -> None:
    """Let virtual time pass until something is so."""
    async with asyncio.timeout(within_seconds):
        while not is_so():
            await asyncio.sleep(0.05)


async def leap(seconds: float) -> None:
    """Let time jump as it does for a machine that slept: what repeats is due once, not once for each time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PatientLoop), "the test is run `patiently`"
    loop.virtual_now += seconds
    await asyncio.sleep(1)


class _Blobs:
    """The real store in a folder, whose work is done outside the loop."""

    def __init__(self, folder: Path) -> None:
        self._store = blobs.local(folder)
        self.gets: list[str] = []
        self.puts: list[str] = []
        self.broken: OSError | None = None
        """What every `put` raises, as a full disk would."""

    async def put(self, tenant: str, asset: str, content: bytes) -> None:
        self.puts.append(asset)
        if self.broken is not None:
            raise self.broken
        await outside(self._store.put(tenant, asset, content))

    async def get(self, tenant: str, asset: str) -> bytes | None:
        self.gets.append(asset)
        return await outside(self._store.get(tenant, asset))

    async def delete(self, tenant: str, asset: str) -> None:
        await outside(self._store.delete(tenant, asset))


# --- upstreams ---

Act = Callable[[CallOrder], AsyncGenerator[Report, None]]


class ScriptedUpstream(QuietUpstream):
    """See `gateway.ports.Upstream`. Each call is the next act; after the last one every call paints."""

    def __init__(
        self,
        *acts: Act,
        name: str = "script",
        model: str = "",
        billed: bool = False,
        images_per_call: int = 8,
        steps: int = 2,
        price: int = PRICE,
        progress: Progress = "steps",
        resumes: Sequence[Act] | None = None,
    ) -> None:
        self.name = name
        self._can_find = resumes is not None
        self.resumes = list(resumes or [])
        self.resumed: list[tuple[str, str | None]] = []
        """The id and the handle of each call that was looked up."""
        self.acts = list(acts)
        self.orders: list[CallOrder] = []
        self.called_at: list[float] = []
        self.cut = 0
        """How many calls were closed before their end."""
        self.models: tuple[Model, ...] = (
            Model(
                id=model or name,
                upstream=name,
                vendor_model=name,
                tasks=dict.fromkeys(("txt2img", "img2img"), frozenset({"prompt", "steps", "seed", "n", "strength"})),
                sizes=Sizes(smallest=8, multiple_of=8),
                default_size=(8, 8),
                default_steps=steps,
                max_n=8,
                images_per_call=images_per_call,
                billed=billed,
                price_micros=price,
                progress=progress,
            ),
        )

    def can_find(self, handle: str | None) -> bool:
        """Whether it was given acts for that."""
        return self._can_find

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """Play the next act of those for calls that are looked up."""
        self.resumed.append((order.id, handle))
        async with contextlib.aclosing(self.resumes.pop(0)(order)) as reports:
            async for report in reports:
                yield report

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Play the next act."""
        self.orders.append(order)
        self.called_at.append(asyncio.get_running_loop().time())
        act = self.acts.pop(0) if self.acts else paints()
        try:
            async with contextlib.aclosing(act(order)) as reports:
                async for report in reports:
                    yield report
        except (GeneratorExit, asyncio.CancelledError):
            self.cut += 1
            raise


def paints(
    *,
    seconds: float = 1.0,
    filtered: tuple[int, ...] = (),
    missing: int = 0,
    previews: bool = False,
    hold: asyncio.Event | None = None,
    last_words: UpstreamFault | Exception | None = None,
) -> Act:
    """An act that paints in steps of `seconds`, waits for `hold` before its first step, and may end badly."""

    async def act(order: CallOrder) -> AsyncGenerator[Report, None]:
        order.sent()
        steps = order.request.steps
        yield WorkBegun(steps)
        if hold is not None:
            await hold.wait()
        for index in range(order.count - missing):
            for step in range(1, steps + 1):
                await asyncio.sleep(seconds)
                yield StepDone("denoising", step, steps, index)
                if previews:
                    yield PreviewMade(preview(step), step, steps, index)
            if last_words is not None:
                raise last_words
            if index in filtered:
                yield ImageMade(Picture(b"", "png", 8, 8), index, order.seed + index, filtered=True)
            else:
                yield ImageMade(picture(order.seed + index), index, order.seed + index)

    return act


def fails(fault: BaseException, *, seconds: float = 0.0) -> Act:
    """An act that raises before anything is reported."""

    async def act(order: CallOrder) -> AsyncGenerator[Report, None]:
        await asyncio.sleep(seconds)
        if seconds < 0:  # makes a generator of it
            yield WorkBegun(0)
        raise fault

    return act


def fault(outcome: Outcome, code: str = "upstream_error", **more: Any) -> UpstreamFault:
    """An upstream's failure."""
    return UpstreamFault(outcome, code, "as the script says", **more)


@functools.cache
def picture(seed: int, edge: int = 8) -> Picture:
    """A finished picture; another for each seed."""
    return Picture(flat((seed % 256, seed // 256 % 256, 7), (edge, edge)), "png", edge, edge)


@functools.cache
def preview(step: int, edge: int = 128) -> Picture:
    """A preview, larger than the smallest rung, so that it must be encoded for that."""
    return Picture(flat((step % 256, 90, 7), (edge, edge), format="JPEG"), "jpeg", edge, edge)


# --- the node ---


@dataclass(frozen=True, slots=True)
class CallRow:
    """What the ledger has of a call."""

    state: str
    first: int
    count: int
    cost_micros: int
    error: str | None


@dataclass(eq=False)
class Spectator:
    """Fills the `Watcher` port: notes each change with what could be told then."""

    wants: Rung | None = None
    feeds: Feeds | None = None
    changes: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    """The newest preview at each change, once each."""
    progress: list[dict[str, Any]] = field(default_factory=list)
    after_end: list[str] = field(default_factory=list)
    """What was told when the end had been told already."""
    _has_seen_end: bool = False

    def changed(self, job: str) -> None:
        self.changes.append(job)
        feed = None if self.feeds is None else self.feeds.get(job)
        if feed is None:
            return
        if self._has_seen_end:
            self.after_end.append(job)
        self._has_seen_end = feed.has_ended
        if feed.tail.progress is not None:
            told = msgspec.json.decode(_payload(feed.tail.progress[1]))
            if told not in self.progress:
                self.progress.append(told)
        if self.wants in feed.tail.previews:
            frame = feed.tail.previews[self.wants].frame
            if frame not in self.frames:
                self.frames.append(frame)

    def rung(self, job: str) -> Rung | None:
        return self.wants


@dataclass
class Studio:
    """A node with its workers, and what a test needs around it."""

    node: Node
    ledger: SqlLedger
    shop: Workshop
    dispatch: Dispatch
    meter: CountingMeter
    store: _Blobs
    failures: list[tuple[str, BaseException]]
    expected_failures: int = 0

    @property
    def feeds(self) -> Feeds:
        return self.node.feeds

    @property
    def clock(self) -> LoopClock:
        assert isinstance(self.node.clock, LoopClock), "it was made so"
        return self.node.clock

    async def add_key(self, tenant: str = "acme", plan: Plan | None = None) -> str:
        """Make an API key, and its tenant if it is new."""
        return await add_key(self.ledger, self.clock, tenant, plan)

    async def identity(self, tenant: str = "acme", subject: str = "") -> Identity:
        """Return somebody of a tenant, which is made if it is new."""
        await self.ledger.accounts.add_tenant(tenant, Plan(), self.clock.time_ms())
        return Identity(tenant, subject, Plan(), f"key-{tenant}")

    async def submit(self, ref: str = "ref-1", *, tenant: str = "acme", session: str | None = None, **how: Any) -> str:
        """Make a job and return its id; `how` are params, and fields of the submit."""
        params = {"prompt": "a harbour at dawn", "seed": 7} | {
            name: how.pop(name) for name in ("n", "seed", "steps", "prompt", "strength", "adjust") if name in how
        }
        submit = Submit(ref=ref, params=msgspec.Raw(msgspec.json.encode(params)), **{"task": "txt2img"} | how)
        made = await self.node.admission.submit(await self.identity(tenant), submit, {}, session)
        return made.job.id

    async def claim(self, name: str = "script", node: str = "elsewhere") -> Claimed:
        """Claim the next job of an upstream, as another node would."""
        now = self.clock.time_ms()
        [claimed] = await self.ledger.work.claim([name], node, now, now + LEASE_MS, 1)
        return claimed

    async def work_on(self, claimed: Claimed | None = None, name: str = "script") -> tuple[Worker, asyncio.Task[None]]:
        """Work a claimed job, or the next one, without the dispatch: a worker and its task."""
        claimed = claimed or await self.claim(name)
        self.feeds.fill(claimed.job, claimed.log)
        self.feeds.working(claimed.job.id, begins=True)
        line = self.dispatch.lines[name]
        worker = Worker(self.shop, line, self.dispatch._model(claimed.job), claimed, self.dispatch.elsewhere)
        task = self.node.supervisor.start(self.dispatch._run(line, worker), f"job {claimed.job.id}")
        task.add_done_callback(lambda _: self.feeds.working(claimed.job.id, begins=False))
        return worker, task

    async def run(self, *, name: str = "script", **how: Any) -> list[Numbered]:
        """Submit a job, work it to its end, and return its log."""
        job = await self.submit(**how)
        _, task = await self.work_on(name=name)
        with contextlib.suppress(Exception):  # told to `failures` by the supervisor
            await task
        return await self.log(job)

    async def log(self, job: str) -> list[Numbered]:
        """Return a job's log."""
        found = await self.ledger.jobs.log(job)
        assert found is not None, "the job was submitted"
        return found[1]

    async def record(self, job: str) -> JobRecord:
        """Return a job's row."""
        found = await self.ledger.jobs.find(job)
        assert found is not None, "the job was submitted"
        return found

    async def ended(self, *jobs: str) -> list[Numbered]:
        """Wait until jobs have ended, and return their ends."""
        ends: list[Numbered] = []
        for job in jobs:
            async with asyncio.timeout(600):
                while not isinstance((log := await self.log(job))[-1], END_TYPES):
                    await asyncio.sleep(0.25)
            ends.append(log[-1])
        return ends

    async def calls(self, job: str) -> list[CallRow]:
        """Return the job's calls, oldest first."""
        table = schema.calls
        query = select(table).where(table.c.job == job).order_by(table.c.id)
        rows = await self.ledger.store.read(lambda connection: connection.execute(query).all())
        return [CallRow(row.state, row.first_index, row[9], row.cost_micros, row.error) for row in rows]

    async def hold(self, job: str) -> str:
        """Return what the job's hold has come to."""
        table = schema.holds
        query = select(table.c.state).where(table.c.job == job)
        return str(await self.ledger.store.read(lambda connection: connection.scalar(query)))


@contextlib.asynccontextmanager
async def open_studio(
    folder: Path,
    *upstreams: ScriptedUpstream,
    limits: Limits | None = None,
    timing: Timing | None = None,
    max_tries: int = 4,
    concurrency: int = 4,
    gates: Mapping[str, Callable[[LoopClock], Gate]] | None = None,
    poll_seconds: float = 1.0,
    serving: bool = False,
    epoch: str = EPOCH,
    ways: Mapping[str, Sequence[Way]] | None = None,
) -> AsyncIterator[Studio]:
    """Make a node on the ledger in `folder`; `serving`: its dispatch claims by itself."""
    clock, store = LoopClock(), _Blobs(folder / "blobs")
    async with open_parts(folder, clock, store=store, limits=limits, epoch=epoch, max_tries=max_tries) as parts:
        catalog = Catalog(upstreams, ways)
        gate_of = gates or {}
        accounts: dict[str, list[ScriptedUpstream]] = {}
        for one in upstreams:  # of one name: several accounts of it
            accounts.setdefault(one.name, []).append(one)
        lines = [
            Lines(
                [
                    Line(one, f"account-{number}", gate_of.get(name, _open_gate)(clock), concurrency)
                    for number, one in enumerate(ones, start=1)
                ],
                clock,
            )
            for name, ones in accounts.items()
        ]
        shop = replace(parts.shop, blobs=BlobCache())  # as if the workers were another node's: clients fetch finals
        dispatch = Dispatch(shop, lines, catalog, parts.supervisor, node="here", poll_seconds=poll_seconds)
        node = parts.node(
            catalog, timing=timing, ring=dispatch.ring, stop_work=dispatch.stop_work, standings=dispatch.standings,
            drain_spread_ms=5000,
        )  # fmt: skip
        studio = Studio(node, parts.ledger, shop, dispatch, parts.meter, store, parts.failures)
        if serving:
            dispatch.start()
        yield studio
    assert len(parts.failures) == studio.expected_failures, parts.failures


def _open_gate(clock: LoopClock) -> Gate:
    return Gate(clock=clock, failure_threshold=1000)


def kinds(log: list[Numbered]) -> str:
    """Return the types of a log's events, in order."""
    return " ".join(type(event).__struct_config__.tag for event in log)  # type: ignore[misc]


def frames(wire: bytes) -> list[bytes]:
    """Return the payloads of frames that were written one after the other; pings are empty."""
    found = []
    while wire:
        size, head = wire[1] & 127, 2
        if size == 126:
            size, head = int.from_bytes(wire[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(wire[2:10], "big"), 10
        found.append(wire[head : head + size])
        wire = wire[head + size :]
    return found


def _payload(frame: bytes) -> bytes:
    return frames(frame)[0]


# --- a client ---


class Wire:
    """Fills the `Socket` port: keeps what was written, and has room as long as a test says so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.has_space = True
        self.closed: tuple[int, str] | None = None
        self.largest_message = 0
        self.taken = 0
        self.backlog = 0

    def write(self, frame: bytes) -> None:
        assert self.closed is None, f"written after the close: {frame!r}"
        self.written.append(frame)

    def has_room(self) -> bool:
        return self.has_space

    def progress(self) -> tuple[int, int]:
        return self.taken, self.backlog

    def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)

    def allow_messages_of(self, max_bytes: int) -> None:
        self.largest_message = max_bytes


class WatchedConnection(Connection):
    """A connection that counts how often its timer rings."""

    rings = 0

    def _ring(self) -> None:
        self.rings += 1
        super()._ring()


class Client:
    """One connection without a network: `say` sends, `told` returns what came since it was asked last."""

    def __init__(self, studio: Studio, identity: Identity | None = None) -> None:
        self.studio = studio
        self.wire = Wire()
        self.connection = WatchedConnection(studio.node, self.wire, identity)
        self.resume = ""
        """The newest session token."""
        self.binaries: list[bytes] = []

    async def say(self, type: str, **fields: Any) -> None:
        """Send a JSON message; returns when it is handled."""
        self.connection.byte_received()
        await self.connection.receive(json.dumps({"type": type, **fields}).encode())

    async def hello(self, **fields: Any) -> list[dict[str, Any]]:
        """Say hello and return everything that was told up to now."""
        await self.say("hello", v=1, **fields)
        return self.told()

    def told(self) -> list[dict[str, Any]]:
        """Return the JSON messages that came; binary ones are kept in `binaries`, pings are left out."""
        payloads = [one for frame in self.wire.written for one in frames(frame)]
        self.wire.written.clear()
        self.binaries += [one for one in payloads if one and one[0] != 0x7B]
        messages = [json.loads(one) for one in payloads if one and one[0] == 0x7B]
        self.resume = next((one["resume"] for one in messages if one["type"] == "synced"), self.resume)
        return messages

    def types(self) -> str:
        """Return the types of what came since, in order."""
        return " ".join(one["type"] for one in self.told())

    async def submit(self, ref: str = "ref-1", **fields: Any) -> str:
        """Submit a job and return its id; what was told up to its `accepted` is gone."""
        params = {"prompt": "a harbour at dawn", "seed": 7} | fields.pop("params", {})
        await self.say("submit", ref=ref, task="txt2img", params=params, **fields)
        [accepted] = [one for one in self.told() if one["type"] in ("accepted", "error")]
        assert accepted["type"] == "accepted", accepted
        return str(accepted["job"])

    async def gone(self) -> None:
        """The socket is closed, whoever began it."""
        await self.connection.gone()
