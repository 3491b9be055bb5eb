"""Two workers with claims that may be stale, in any order: the log stays whole."""

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.core.calls import CallEvent, CallState
from gateway.core.jobs import ENDED, IllegalTransition
from gateway.core.records import Claimed, StaleClaim
from gateway.ledger import open_ledger
from protocol.messages import END_TYPES, Canceled, Numbered
from tests.depth import deep_count
from tests.gateway.ledger.made import (
    answered,
    claim,
    completed,
    failed,
    image,
    job_id,
    log_of,
    new_call,
    new_job,
    started,
    step,
)

WORKERS = some.sampled_from(["a", "b"])
LEASE_MS = 100


class AnyOrder(RuleBasedStateMachine):
    """Each worker remembers the newest claim it was given of each job, and acts on it whenever it likes."""

    migrated: Path

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        shutil.copy(self.migrated, self.folder.name)
        self.runner = asyncio.Runner()
        self.opening = open_ledger(Path(self.folder.name))
        self.ledger = self.run(self.opening.__aenter__())
        self.now = 10_000
        self.jobs: list[str] = []
        self.calls = 0
        self.held: dict[str, dict[str, Claimed]] = {"a": {}, "b": {}}
        self.known: dict[str, list[Numbered]] = {}

    def teardown(self) -> None:
        if hasattr(self, "opening"):
            self.run(self.opening.__aexit__(None, None, None))
            self.runner.close()
            self.folder.cleanup()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def pick(self, worker: str, which: int) -> Claimed | None:
        """Return one of the claims that a worker believes in."""
        held = list(self.held[worker].values())
        return held[which % len(held)] if held else None

    @rule(tenant=some.sampled_from(["t", "u"]))
    def submit(self, tenant: str) -> None:
        job = job_id(len(self.jobs))
        self.run(self.ledger.jobs.submit(new_job(len(self.jobs), tenant)))
        self.jobs.append(job)
        self.known[job] = []

    @rule(milliseconds=some.sampled_from([1, LEASE_MS // 2, LEASE_MS]))
    def time_goes_by(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule(worker=WORKERS, limit=some.integers(1, 3))
    def claim(self, worker: str, limit: int) -> None:
        for one in self.run(claim(self.ledger, self.now, self.now + LEASE_MS, worker, limit)):
            assert not any(call.state is CallState.SENDING for call in one.calls)
            self.held[worker][one.job.id] = one

    @rule(
        worker=WORKERS,
        which=some.integers(0, 9),
        kinds=some.lists(some.sampled_from(["started", "image", "completed", "failed", "canceled"]), max_size=3),
        behind=some.sampled_from([0, 0, 0, 0, 1]),
    )
    def append(self, worker: str, which: int, kinds: list[str], behind: int) -> None:
        mine = self.pick(worker, which)
        if mine is None:
            return
        before = self.run(self.ledger.jobs.find(mine.job.id))
        events = [self.event(mine.job.id, kind) for kind in kinds]
        told = self.step_of(mine, len(self.known[mine.job.id]) - behind, events)
        with suppress(StaleClaim, IllegalTransition):
            written = self.run(self.ledger.work.append(told))
            assert (before.claim, before.has_ended, behind) == (mine.job.claim, False, 0)
            assert len(written) == len(events)

    def step_of(self, mine: Claimed, after: int, events: list[Numbered]) -> Any:
        return step(mine, *events, after=after, lease_ms=self.now + LEASE_MS)

    def event(self, job: str, kind: str) -> Numbered:
        made: dict[str, Numbered] = {
            "started": started(job),
            "image": image(job),
            "completed": completed(job),
            "failed": failed(job),
            "canceled": Canceled(job=job, seq=0, time_ms=1, by="client", step=0, images=[]),
        }
        return made[kind]

    @rule(worker=WORKERS, which=some.integers(0, 9), ends=some.sampled_from([None, *CallEvent]))
    def call(self, worker: str, which: int, ends: CallEvent | None) -> None:
        mine = self.pick(worker, which)
        if mine is None:
            return
        job = self.run(self.ledger.jobs.find(mine.job.id))
        self.calls += 1
        with suppress(StaleClaim, ValueError):
            self.run(self.ledger.work.begin_call(new_call(self.calls, mine.job.id), mine.job.claim))
            assert (job.claim, job.has_ended) == (mine.job.claim, False)
            if ends is not None:
                settled = answered(self.calls, event=ends)
                self.run(self.ledger.work.settle_call(mine.job.id, mine.job.claim, settled))

    @rule(worker=WORKERS, which=some.integers(0, 9))
    def release(self, worker: str, which: int) -> None:
        mine = self.pick(worker, which)
        if mine is not None:
            self.run(self.ledger.work.release(mine.job.id, mine.job.claim, self.now))

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        claims = [(one.job.id, one.job.claim) for one in self.held[worker].values()]
        for job in self.run(self.ledger.work.renew(claims, self.now + LEASE_MS)):
            assert self.run(self.ledger.jobs.find(job)).claim == self.held[worker][job].job.claim

    @rule(which=some.integers(0, 9))
    def cancel(self, which: int) -> None:
        if self.jobs:
            self.run(self.ledger.jobs.cancel(self.jobs[which % len(self.jobs)], "client", self.now))

    @invariant()
    def logs_are_whole(self) -> None:
        for job in getattr(self, "jobs", []):
            log = self.run(log_of(self.ledger, job))
            row = self.run(self.ledger.jobs.find(job))
            assert [event.seq for event in log] == list(range(1, len(log) + 1)), "gap-free, from 1"
            assert log[: len(self.known[job])] == self.known[job], "what was written stays as it was"
            assert row.seq == len(log)
            ends = [event for event in log if isinstance(event, END_TYPES)]
            assert ends in ([], [log[-1]]), "one end at most, and nothing behind it"
            assert bool(ends) == (row.state in ENDED) == (row.ended_ms is not None)
            if ends:
                assert type(ends[0]).__name__.lower() == row.state
            self.known[job] = log


@pytest.mark.parametrize("engine", ["sqlite"])
def test_log_stays_whole_in_any_order_of_deeds(engine: str, migrated: Path) -> None:
    """Gap-free, never rewritten, one end at most; nobody writes with a claim that is not the job's."""
    AnyOrder.migrated = migrated
    run_state_machine_as_test(
        AnyOrder, settings=settings(max_examples=deep_count(12, 600), stateful_step_count=deep_count(25, 60))
    )
