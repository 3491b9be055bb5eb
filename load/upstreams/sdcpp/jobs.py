"""The server's jobs: the queue, the states, and when a result is forgotten. Knows no clock: `now` comes in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from load.upstreams.sdcpp.json_text import dump

_Work = TypeVar("_Work")
_SHORTEST_MEMORY_SECONDS = 60
CANCELLED = ("cancelled", "job cancelled by client")


class Status(StrEnum):
    """A job's state in the server's words."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class QueueFull(Exception):
    """As many jobs are pending as the server takes."""


class Unknown(Exception):
    """No job has this id."""


class Expired(Exception):
    """The job was kept for its time and is forgotten."""


class Generating(Exception):
    """The job runs and cannot be cancelled."""


@dataclass(slots=True, eq=False)
class Job(Generic[_Work]):
    """One job; times are whole seconds."""

    id: str
    work: _Work | None
    """None once it has ended: uploads need not be kept with the result."""
    created: int
    keep_seconds: float
    status: Status = Status.QUEUED
    started: int | None = None
    completed: int | None = None
    format: str = "png"
    images: list[str] = field(default_factory=list)
    error: tuple[str, str] | None = None
    _told: bytes | None = None

    @property
    def pending(self) -> bool:
        return self.status in (Status.QUEUED, Status.GENERATING)

    def accepted(self) -> dict[str, object]:
        """What the request that made it is told."""
        return {
            "created": self.created,
            "id": self.id,
            "kind": "img_gen",
            "poll_url": f"/sdcpp/v1/jobs/{self.id}",
            "status": self.status.value,
        }

    def told(self, position: int) -> bytes:
        """The job as JSON; kept once it has ended, because results are large and asked for often."""
        if self._told is None:
            text = dump(self._described(position)).encode()
            if self.pending:
                return text
            self._told = text
        return self._told

    def _described(self, position: int) -> dict[str, object]:
        images = [{"b64_json": image, "index": index} for index, image in enumerate(self.images)]
        done = self.status is Status.COMPLETED
        return {
            "completed": self.completed,
            "created": self.created,
            "error": None if self.error is None else {"code": self.error[0], "message": self.error[1]},
            "id": self.id,
            "kind": "img_gen",
            "queue_position": position,
            "result": {"images": images, "output_format": self.format} if done else None,
            "started": self.started,
            "status": self.status.value,
        }


class Jobs(Generic[_Work]):
    """All jobs of one run of the server, in memory only; `made` is the number of its first job."""

    def __init__(self, *, max_pending: int, keep_seconds: float, made: int = 0) -> None:
        self._max_pending, self._keep_seconds = max_pending, keep_seconds
        self._jobs: dict[str, Job[_Work]] = {}
        self._queue: deque[Job[_Work]] = deque()
        self._expired: dict[str, float] = {}
        self.made = made
        self._running = 0
        self._purged: int | None = None

    def __repr__(self) -> str:
        return f"<Jobs {len(self._jobs)} known, {len(self._queue)} queued, {len(self._expired)} expired>"

    @property
    def waiting(self) -> bool:
        """Whether any job is queued."""
        return bool(self._queue)

    def add(self, work: _Work, format: str, now: float) -> Job[_Work]:
        """Queue new work; raises `QueueFull`."""
        self.purge(now)
        if len(self._queue) + self._running >= self._max_pending:
            raise QueueFull
        job = Job(f"job_{int(now):x}_{self.made:08x}", work, int(now), self._keep_seconds, format=format)
        self.made += 1
        self._jobs[job.id] = job
        self._queue.append(job)
        return job

    def take(self, now: float) -> Job[_Work]:
        """The next job, which now runs."""
        job = self._queue.popleft()
        job.status, job.started = Status.GENERATING, int(now)
        self._running += 1
        return job

    def complete(self, job: Job[_Work], images: list[str], now: float) -> None:
        """The job has its pictures."""
        job.images = images
        self._running -= 1
        self._end(job, Status.COMPLETED, now)

    def fail(self, job: Job[_Work], message: str, now: float) -> None:
        """The job has failed."""
        job.error = ("generation_failed", message)
        self._running -= 1
        self._end(job, Status.FAILED, now)

    def find(self, id: str, now: float) -> Job[_Work]:
        """The job; raises `Unknown` or `Expired`."""
        self.purge(now)
        if id in self._jobs:
            return self._jobs[id]
        raise Expired if id in self._expired else Unknown

    def cancel(self, id: str, now: float) -> tuple[Job[_Work], bool]:
        """The job, and whether this very call cancelled it; raises also `Generating`."""
        job = self.find(id, now)
        if job.status is Status.GENERATING:
            raise Generating
        if job.status is not Status.QUEUED:
            return job, False
        self._queue.remove(job)
        job.error = CANCELLED
        self._end(job, Status.CANCELLED, now)
        return job, True

    def position(self, job: Job[_Work]) -> int:
        """Its place in the queue, counted from 1; 0 outside of it."""
        return self._queue.index(job) + 1 if job.status is Status.QUEUED else 0

    def purge(self, now: float) -> None:
        """Forget what has been kept long enough."""
        second = int(now)
        if self._purged == second:
            return
        self._purged = second
        self._expired = {name: until for name, until in self._expired.items() if until > second}
        for job in list(self._jobs.values()):
            if job.completed is not None and second - job.completed >= job.keep_seconds:
                self._expired[job.id] = second + max(job.keep_seconds, _SHORTEST_MEMORY_SECONDS)
                del self._jobs[job.id]

    def _end(self, job: Job[_Work], status: Status, now: float) -> None:
        job.status, job.completed, job.work = status, int(now), None
        # A job that is kept for no time at all is forgotten within the second of its end.
        self._purged = None
