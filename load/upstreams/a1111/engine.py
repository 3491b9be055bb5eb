"""The worker: one lock, one job at a time, step by step, heeding interrupts only between steps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from load.upstreams.a1111.errors import Raised
from load.upstreams.a1111.faults import Crash, JobError, Stuck
from load.upstreams.a1111.images import GREY, Colour
from load.upstreams.a1111.state import Options, Preview, State, Tasks
from load.upstreams.faults import VendorFault

Ending = Literal["waiting", "running", "done", "interrupted", "skipped", "failed", "killed"]
_REMEMBERED = 1000


def _nothing() -> None:
    pass


def _grey(_number: int, _done: float) -> Colour:
    return GREY


@dataclass(slots=True)
class Job:
    """One piece of work for the sampler."""

    name: str
    task: str
    steps: int
    passes: int
    """How often the sampler runs through all steps."""
    preview: tuple[int, int]
    colour: Callable[[int, float], Colour]
    """The paint of a pass of which so much is done."""
    step_seconds: Callable[[], float]
    begun: Callable[[], None] = _nothing
    """Called when the job's turn has come, which is when a hosted service would bill it."""
    ended: Callable[[], None] = _nothing
    """Called when the job is over, before the next one's turn."""
    trouble: VendorFault | None = None
    foreign: bool = False
    ending: Ending = "waiting"
    steps_done: int = 0
    done: list[float] = field(default_factory=list)
    """How much of each pass was made, for those that were begun."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def forget(self) -> None:
        """Let go of the request and its pictures: jobs are remembered longer than those should be."""
        self.begun = self.ended = _nothing
        self.colour = _grey


class Gate:
    """Stops the sampler at a step, so that a test can look at it in peace."""

    def __init__(self) -> None:
        self._target: tuple[int, int, int] | None = None
        self._moved = asyncio.Event()
        self._standing = asyncio.Event()

    def hold(self, job_no: int, step: int, job: int) -> None:
        """Stop before the step that would take the state past this place."""
        self._target = (job, job_no, step)
        self._standing.clear()
        self._moved.set()

    def release(self) -> None:
        """Let the sampler go."""
        self._target = None
        self._moved.set()

    async def reached(self) -> None:
        """Wait until the sampler stands here."""
        await self._standing.wait()

    async def passing(self, number: int, state: State) -> None:
        """Stand while held; interrupts are not heeded here either."""
        while self._target is not None and self._blocks(self._target, number, state):
            self._moved.clear()
            self._standing.set()
            await self._moved.wait()
        self._standing.clear()

    @staticmethod
    def _blocks(target: tuple[int, int, int], number: int, state: State) -> bool:
        job, *place = target
        if job in (0, number):
            return [state.job_no, state.sampling_step] >= place
        return number > job


class Engine:
    """Runs jobs in the order they came; each owns the shared state while it runs."""

    def __init__(self, state: State, tasks: Tasks, options: Options, *, frozen_progress: bool = False) -> None:
        self.state = state
        self.tasks = tasks
        self.options = options
        self.gate = Gate()
        self.jobs: deque[Job] = deque(maxlen=_REMEMBERED)
        self.on_crash: Callable[[Crash], None] = lambda _fault: None
        self._lock = asyncio.Lock()
        self._number = 0
        self._frozen = frozen_progress

    async def run(self, job: Job, prepare: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait for the lock, then sample; raises `Raised` if the work does, or what `prepare` raises."""
        self.jobs.append(job)
        self.tasks.wait(job.task)
        async with self._lock:
            try:
                # What fails here was never begun, and its task waits for ever, as on the server.
                if prepare is not None:
                    await prepare()
                job.ending = "running"
                await self._owning(job)
            except asyncio.CancelledError:
                job.ending = "killed"
                raise
            except Exception:
                job.ending = "failed"
                raise
            finally:
                job.forget()
                job.over.set()

    async def alone(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run something that has no steps, such as enlarging, while nothing else runs."""
        async with self._lock:
            self.state.begin(name, name)
            try:
                self.state.job_count = 1
                await work()
            finally:
                self.state.end()

    async def _owning(self, job: Job) -> None:
        state = self.state
        self._number += 1
        state.begin(job.name, job.task)
        self.tasks.start(job.task)
        job.started.set()
        try:
            job.begun()
            await self._sample_all(job)
        except Raised:
            # SD.Next ends its state only after a success, so progress keeps telling of the failed job.
            if state.flavour != "sdnext":
                state.end()
            raise
        except BaseException:
            state.end()
            raise
        finally:
            job.ended()
        self.tasks.finish(job.task)
        state.end()

    async def _sample_all(self, job: Job) -> None:
        if isinstance(job.trouble, JobError) and job.trouble.at_step == 0:
            raise Raised(job.trouble.error, job.trouble.message)
        self.state.job_count = job.passes
        for number in range(job.passes):
            self.state.skipped = False
            if self.state.interrupted:
                job.ending = "interrupted"
                break
            job.done.append(await self._sample(job, number))
            self.state.next_job()
        # A flag that came after the last step was too late to leave anything unfinished.
        if job.ending == "running":
            job.ending = "done"

    async def _sample(self, job: Job, number: int) -> float:
        state = self.state
        state.sampling_steps = job.steps
        state.sampling_step = 0
        for step in range(job.steps):
            await self.gate.passing(self._number, state)
            await self._trouble(job, step + 1)
            await asyncio.sleep(job.step_seconds())
            if state.interrupted or state.skipped:
                job.ending = "interrupted" if state.interrupted else "skipped"
                return step / job.steps
            job.steps_done += 1
            state.latent = Preview(job.preview, job.colour(number, (step + 1) / job.steps))
            if not self._frozen:
                state.sampling_step = step
        return 1.0

    async def _trouble(self, job: Job, step: int) -> None:
        match job.trouble:
            case JobError(error, message, at_step) if at_step == step:
                raise Raised(error, message)
            case Stuck(at_step) if at_step == step:
                await self._stand(job.trouble)
            case Crash(at_step) if at_step == step:
                self.on_crash(job.trouble)
                # Whoever crashes the server cancels this.
                await asyncio.Event().wait()

    async def _stand(self, fault: Stuck) -> None:
        loop = asyncio.get_running_loop()
        until = None if fault.seconds is None else loop.time() + fault.seconds
        while until is None or loop.time() < until:
            if fault.heeds_interrupt and (self.state.interrupted or self.state.skipped):
                return
            await asyncio.sleep(0.005)
