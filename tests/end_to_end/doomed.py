"""Runs jobs in a process that is killed between two chosen effects, then again without harm; prints what became of it.

`python -m tests.end_to_end.doomed FOLDER BILLED FIRST LAST STEP`: everything is imported once and each run is a fork,
so that a run costs milliseconds. An effect is a commit of the ledger (before and after), a picture stored (before and
after), and a call going out. One JSON line for each place of the cut.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import running
from gateway.blobs import ObjectBlobs
from gateway.core.records import Identity, Plan
from gateway.ledger import open_ledger
from gateway.ledger.sql import Store
from protocol.errors import ClientFault
from protocol.messages import END_TYPES, Failed, ImageReady, Submit
from tests.end_to_end.harness import settings_for
from tests.end_to_end.papers import PaperUpstream

JOBS = 2
IMAGES = 2


class Doom:
    """Counts effects, and kills this process at the chosen one."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0

    def step(self) -> None:
        """One more effect has happened, or is about to."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return `work` with a step before and one after it."""

        async def doomed(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = await work(*arguments, **named)
            self.step()
            return result

        return doomed


async def run(folder: Path, *, billed: bool, doom: Doom) -> int:
    """Submit the jobs (again), and return once they have ended; returns how many effects that took."""
    upstream = PaperUpstream(billed=billed, books=folder / "books")
    setattr(Store, "write", doom.around(Store.write))  # noqa: B010 - the process is this run's alone
    setattr(ObjectBlobs, "put", doom.around(ObjectBlobs.put))  # noqa: B010
    write_down = upstream._write_down

    def doomed_call(order: Any) -> None:
        doom.step()
        write_down(order)
        doom.step()

    upstream._write_down = doomed_call  # type: ignore[method-assign]
    settings = settings_for(folder / "data", work__poll_ms=20, work__backoff_base_ms=1)
    settings = replace(settings, upstreams={"paper": next(iter(settings.upstreams.values()))})
    identity = Identity("default", "", Plan(), "key")
    async with running(settings, "http://127.0.0.1", upstreams=[upstream]) as gateway:
        for number in range(JOBS):
            params = msgspec.Raw(json.dumps({"prompt": f"job {number}", "steps": 2, "n": IMAGES}).encode())
            submit = Submit(ref=f"ref-{number}", task="txt2img", params=params)
            try:
                made = await gateway.node.admission.submit(identity, submit, {}, None)
            except ClientFault as fault:
                raise AssertionError(str(fault)) from fault
            await _ended(gateway, made.job.id)
    return doom.count


async def _ended(gateway: Any, job: str) -> None:
    while True:
        record = await gateway.node.jobs.find(job)
        if record is not None and record.has_ended:
            return
        await asyncio.sleep(0.005)


async def verdict(folder: Path) -> dict[str, Any]:
    """Return what the ledger and the vendor's books say after all."""
    async with open_ledger(folder / "data") as ledger:
        jobs = await ledger.jobs.listed("default", "", ref=None, state=None, after=None, limit=100)
        logs = [await ledger.jobs.log(job.id) for job in jobs]
    events = [log[1] for log in logs if log is not None]
    books = Counter((folder / "books").read_text().split("\n")[:-1]) if (folder / "books").exists() else Counter()
    return {
        "jobs": len(jobs),
        "ends": [sum(isinstance(event, END_TYPES) for event in log) for log in events],
        "gapless": all([event.seq for event in log] == list(range(1, len(log) + 1)) for log in events),
        "end": [type(log[-1]).__name__.lower() for log in events],
        "error": [end.error.code for log in events if isinstance(end := log[-1], Failed)],
        "images": [sorted(event.index for event in log if isinstance(event, ImageReady)) for log in events],
        "most_calls": max(books.values(), default=0),
    }


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork; returns the wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def main() -> None:
    """See the module."""
    root, billed = Path(sys.argv[1]), sys.argv[2] == "billed"
    first, last, step = (int(text) for text in sys.argv[3:6])
    random.seed(0)
    for at in range(first, last + 1, step):
        folder = root / f"cut-{at}"
        folder.mkdir(parents=True)
        killed = in_child(lambda: print_effects(folder, billed, Doom(at)))  # noqa: B023 - used at once
        again = in_child(lambda: print_effects(folder, billed, Doom(None)))  # noqa: B023
        result = asyncio.run(verdict(folder))
        result |= {"at": at, "killed": os.WIFSIGNALED(killed), "again": again}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        if not os.WIFSIGNALED(killed):
            return  # the run has fewer effects than this


def print_effects(folder: Path, billed: bool, doom: Doom) -> None:
    """Run the jobs in this process."""
    asyncio.run(run(folder, billed=billed, doom=doom))


if __name__ == "__main__":
    main()
