"""Who works what, when: claims jobs for lines that have a place free, keeps their leases, and stops them.

The queue is the jobs table; a claim is a transaction. A bell says that there may be work, and is never trusted: a lost
ring costs a poll interval. Leases of everything that is worked here are renewed together, and the answer says which
jobs somebody elsewhere wishes to end.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.jobs import State
from gateway.core.models import Model
from gateway.core.records import Claimed, JobRecord, StaleClaim
from gateway.core.routing import USABLE, Standing
from gateway.flow.book import Workshop
from gateway.flow.catalog import Catalog
from gateway.flow.feeds import Feeds
from gateway.flow.lines import Lines
from gateway.flow.supervise import Supervisor
from gateway.flow.worker import Worker
from gateway.ports import Clock, Jobs, Work
from protocol.messages import Canceler, Queued

CLAIMS_AT_ONCE: Final = 32
PLACES_TOLD: Final = 256
PLACES_EVERY_SECONDS: Final = 0.5
COUNT_EVERY_SECONDS: Final = 10.0


class Dispatch:
    """The lines of this node and the workers on them."""

    def __init__(
        self,
        shop: Workshop,
        lines: Sequence[Lines],
        catalog: Catalog,
        supervisor: Supervisor,
        *,
        node: str,
        poll_seconds: float,
    ) -> None:
        self._shop = shop
        self._work: Work = shop.ledger.work
        self._jobs: Jobs = shop.ledger.jobs
        self._feeds: Feeds = shop.feeds
        self._clock: Clock = shop.clock
        self._catalog = catalog
        self._supervisor = supervisor
        self._node = node
        self._poll_seconds = poll_seconds
        self._lines = {one.name: one for one in lines}
        self._bells = {name: asyncio.Event() for name in self._lines}
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._draining = False
        self.live: dict[tuple[str, ...], float] = {}
        """Live jobs of the whole ledger by (upstream, state), counted now and then."""
        self._leases_end_ms = 0
        """When the first of the leases held here ends."""

    @property
    def working(self) -> int:
        """How many jobs are worked on this node."""
        return len(self._workers)

    @property
    def lines(self) -> Mapping[str, Lines]:
        """The lines by the name of their upstream."""
        return self._lines

    def standings(self) -> dict[str, Standing]:
        """Return how each upstream stands."""
        return {name: lines.standing() for name, lines in self._lines.items()}

    def elsewhere(self, claimed: Claimed) -> str | None:
        """Return another upstream that serves the job's model, can do what it asks, and is well now; or none."""
        job = claimed.job
        for name in claimed.request.alternatives:
            lines = self._lines.get(name)
            is_well = lines is not None and lines.health() in USABLE
            if is_well and name != job.upstream and self._catalog.served(job.model, name) is not None:
                return name
        return None

    def start(self) -> None:
        """Begin to claim and to keep leases; the supervisor holds the loops."""
        for name in self._lines:
            self._supervisor.keep(lambda name=name: self._serve(name), f"dispatch {name}")  # type: ignore[misc]
        self._supervisor.keep(self._keep_leases, "leases")
        self._supervisor.keep(self._tell_places, "queue places")
        self._supervisor.keep(self._count_live, "count jobs")

    def ring(self, upstream: str) -> None:
        """There may be work for an upstream."""
        bell = self._bells.get(upstream)
        if bell is not None:
            bell.set()

    def stop_work(self, job: str, by: Canceler) -> None:
        """Somebody wishes a job's end; if it is worked here it is told now."""
        found = self._workers.get(job)
        if found is not None:
            worker, task = found
            if worker.stop_for is None:
                worker.stop(task, by)

    async def drain(self, grace_seconds: float) -> None:
        """Claim no more, let what runs end for a while, then let it go back to the queue."""
        self._draining = True
        tasks = [task for _, task in self._workers.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)
        for worker, task in list(self._workers.values()):
            worker.stop(task)
        if self._workers:
            await asyncio.wait([task for _, task in self._workers.values()])

    async def _serve(self, name: str) -> None:
        """Claim for one upstream for ever."""
        lines, bell = self._lines[name], self._bells[name]
        while not self._draining:
            bell.clear()
            claimed = await self._claim(lines)
            for one in claimed:
                self._employ(lines, one)
                if self._draining:  # it was claimed meanwhile, and `drain` may not have seen it
                    self._workers[one.job.id][0].stop(self._workers[one.job.id][1])
            if not claimed:
                await self._wait(bell)

    async def _claim(self, lines: Lines) -> list[Claimed]:
        room = min(CLAIMS_AT_ONCE, lines.places)
        if room <= 0:
            return []
        if self._workers and self._clock.time_ms() >= self._leases_end_ms:
            # The clock was set, or we were asleep: what is worked here must not be taken for lost, and begun again.
            await self._renew_leases()
        now_ms = self._clock.time_ms()
        lease_ms = now_ms + self._shop.lease_ms
        self._leases_end_ms = min(self._leases_end_ms, lease_ms) if self._workers else lease_ms
        return await self._work.claim([lines.name], self._node, now_ms, lease_ms, room)

    async def _wait(self, bell: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds):
                await bell.wait()
        except TimeoutError:
            return

    def _employ(self, lines: Lines, claimed: Claimed) -> None:
        job = claimed.job.id
        if job in self._workers:  # its lease ran out while we were not looking; what it writes is refused
            self._workers[job][1].cancel()
        self._feeds.fill(claimed.job, claimed.log)
        self._feeds.working(job, begins=True)
        worker = Worker(self._shop, lines, self._model(claimed.job), claimed, self.elsewhere)
        lines.busy += 1
        task = self._supervisor.start(self._run(lines, worker), f"job {job}")
        self._workers[job] = (worker, task)
        task.add_done_callback(lambda _: self._dismiss(lines, worker))

    def _model(self, job: JobRecord) -> Model:
        """Return the job's model; where the settings no longer have it, one of that name that can do nothing."""
        return self._catalog.served(job.model, job.upstream) or Model(job.model, job.upstream, "", tasks={})

    async def _run(self, lines: Lines, worker: Worker) -> None:
        try:
            await worker.work()
        except StaleClaim:
            self._shop.meter.count("stale_claims", upstream=lines.name)

    def _dismiss(self, lines: Lines, worker: Worker) -> None:
        lines.busy -= 1
        job = worker.job.id
        if self._workers[job][0] is worker:  # else the job is another's by now
            del self._workers[job]
            self._feeds.working(job, begins=False)
        self.ring(worker.went_to or lines.name)
        self.ring(lines.name)

    async def _keep_leases(self) -> None:
        """Renew what is worked here; stop what is no longer ours, and what somebody elsewhere wishes to end."""
        while True:
            await asyncio.sleep(self._shop.lease_ms / 3000)
            await self._renew_leases()

    async def _renew_leases(self) -> None:
        held = [(job, worker.job.claim) for job, (worker, _) in self._workers.items()]
        if not held:
            return
        lease_ms = self._clock.time_ms() + self._shop.lease_ms
        ours = await self._work.renew(held, lease_ms)
        self._leases_end_ms = lease_ms
        for job, _ in held:
            wish = ours.get(job)
            if job in ours and wish is not None:
                self.stop_work(job, wish)
            elif job not in ours and job in self._workers:
                self._workers[job][1].cancel()

    async def _count_live(self) -> None:
        while True:
            counts = await self._jobs.counts()
            self.live = {(*key,): float(count) for key, count in counts.items()}
            for name, lines in self._lines.items():
                lines.waiting = counts.get((name, State.QUEUED), 0)
            await asyncio.sleep(COUNT_EVERY_SECONDS)

    async def _tell_places(self) -> None:
        """Tell watched jobs their place in the queue, as far as one lane can tell, when it changed."""
        told: dict[str, int] = {}
        while True:
            await asyncio.sleep(PLACES_EVERY_SECONDS)
            if not self._feeds.any_queued():
                told.clear()
                continue
            places: dict[str, int] = {}
            for name in self._lines:
                waiting = await self._jobs.queue(name, PLACES_TOLD)
                places |= {job: place for place, job in enumerate(waiting, start=1)}
            for job, place in places.items():
                if told.get(job) != place:
                    self._feeds.queued(job, Queued(job=job, position=place))
            told = places
