"""SD.Next's second API: jobs that are stored, worked off one by one and watched over a WebSocket each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from load.upstreams.a1111.errors import Json, Raised, Refused
from load.upstreams.a1111.images import encode_preview
from load.upstreams.a1111.state import Options, State

TYPES = frozenset({"generate", "upscale", "caption", "enhance", "detect", "preprocess", "video", "framepack", "ltx"})
Status = Literal["pending", "running", "completed", "failed", "cancelled"]
TERMINAL = frozenset({"completed", "failed", "cancelled"})
Frame = Json | bytes
_MAX_LIMIT = 100
_STORED = 1000


class CancelledJob(Exception):
    """A job was cancelled while it waited for the lock."""


@dataclass(slots=True)
class File:
    """A picture that a job left on the disk."""

    data: bytes
    width: int
    height: int
    kind: str


@dataclass(slots=True)
class StoredJob:
    """One job as the store keeps it."""

    id: str
    type: str
    params: dict[str, Any]
    priority: int
    created_at: str
    status: Status = "pending"
    progress: float = 0
    step: int = 0
    steps: int = 0
    started_at: str | None = None
    completed_at: str | None = None
    error: str | None = None
    info: Json = field(default_factory=dict)
    files: list[File] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing will come any more."""
        return self.status in TERMINAL

    def result(self, *, with_paths: bool = False) -> Json | None:
        """What came of it; over the WebSocket with the files' paths, over HTTP without."""
        if self.status != "completed":
            return None
        params = {name: value for name, value in self.params.items() if name != "type"}
        pictures = [self._reference(index, with_paths=with_paths) for index in range(len(self.files))]
        return {"images": pictures, "processed": [], "info": self.info, "params": params}

    def as_json(self) -> Json:
        """The job as an answer tells it."""
        names = ("id", "type", "status", "progress", "step", "steps", "created_at", "started_at", "completed_at")
        told: Json = {name: getattr(self, name) for name in names}
        return told | {"error": self.error, "result": self.result()}

    def _reference(self, index: int, *, with_paths: bool) -> Json:
        one = self.files[index]
        path: Json = {"path": f"outputs/{self.id}-{index}.{one.kind}"} if with_paths else {}
        return {
            "index": index,
            **path,
            "url": f"/sdapi/v2/jobs/{self.id}/images/{index}",
            "width": one.width,
            "height": one.height,
            "format": one.kind,
            "size": len(one.data),
        }


class JobQueue:
    """The store, the worker and the subscribers."""

    def __init__(
        self,
        state: State,
        options: Options,
        execute: Callable[[StoredJob, Callable[[], None]], Awaitable[None]],
        chance: random.Random,
        *,
        poll_seconds: float = 0.1,
        older: bool = False,
    ) -> None:
        self.jobs: dict[str, StoredJob] = {}
        self._state, self._options = state, options
        self._execute = execute
        self._chance = chance
        self._poll_seconds = poll_seconds
        self._older = older
        self._wake = asyncio.Event()
        self._cancelled: set[str] = set()
        self._listeners: dict[str, list[asyncio.Queue[Frame]]] = {}

    def restarted(self) -> None:
        """What a start of the server makes of the jobs it finds: those that ran have failed."""
        self._cancelled.clear()
        self._listeners.clear()
        for job in self.jobs.values():
            if job.status == "running":
                job.status, job.error, job.completed_at = "failed", "Server restarted", _now()
        self._wake.set()

    def submit(self, params: dict[str, Any]) -> StoredJob:
        """Store a job; raises `Refused` for a type there is not."""
        kind = params.get("type")
        if not kind:
            raise Refused(400, "Missing 'type' field")
        if kind not in TYPES:
            names = ", ".join(sorted(TYPES))
            raise Refused(400, f"Invalid job type: {kind}. Must be one of: {names}")
        rest = {name: value for name, value in params.items() if name != "priority"}
        job = StoredJob(f"{self._chance.getrandbits(64):016x}", kind, rest, params.get("priority", 0), _now())
        self.jobs[job.id] = job
        self._make_room()
        self._wake.set()
        return job

    def _make_room(self) -> None:
        while len(self.jobs) > _STORED and (over := next((job for job in self.jobs.values() if job.over), None)):
            del self.jobs[over.id]

    def get(self, id_: str) -> StoredJob:
        """The job; raises `Refused` if there is none."""
        if id_ not in self.jobs:
            raise Refused(404, f"Job not found: {id_}")
        return self.jobs[id_]

    def page(self, status: str | None, kind: str | None, limit: int, offset: int) -> Json:
        """A page of jobs, the latest first."""
        fitting = [
            job for job in reversed(self.jobs.values()) if status in (None, job.status) and kind in (None, job.type)
        ]
        items = [job.as_json() for job in fitting[offset : offset + min(limit, _MAX_LIMIT)]]
        return {"items": items, "total": len(fitting), "offset": offset, "limit": limit}

    def cancel(self, id_: str) -> Json:
        """Cancel a job that waits; of one that runs, only raise the flag that stops whatever samples now."""
        job = self.get(id_)
        if job.status == "running":
            self._cancelled.add(id_)
            self._state.interrupted = True
        elif job.status == "pending":
            # Nobody who watches it is told.
            job.status, job.completed_at = "cancelled", _now()
        else:
            raise Refused(409, "Job cannot be cancelled (already completed/failed/cancelled)")
        return {"id": id_, "status": "cancelled"}

    def file(self, id_: str, index: str, key: str) -> File:
        """A finished job's picture; raises `Refused` for what is not there."""
        if id_ not in self.jobs:
            raise Refused(404, "Job not found")
        job = self.jobs[id_]
        if job.status != "completed":
            raise Refused(409, "Job not completed")
        if key != "images" or not index.isdecimal() or int(index) >= len(job.files):
            raise Refused(404, f"{key} index {index} out of range")
        return job.files[int(index)]

    def subscribe(self, id_: str) -> asyncio.Queue[Frame]:
        """A queue that gets each frame about the job from now on."""
        queue: asyncio.Queue[Frame] = asyncio.Queue()
        self._listeners.setdefault(id_, []).append(queue)
        return queue

    def unsubscribe(self, id_: str, queue: asyncio.Queue[Frame]) -> None:
        """The listener went away."""
        listeners = self._listeners.get(id_, [])
        if queue in listeners:
            listeners.remove(queue)

    async def work(self) -> None:
        """Work jobs off until cancelled: highest priority first, then in order."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (job := self._next()) is not None:
                await self._run(job)

    def _next(self) -> StoredJob | None:
        waiting = [job for job in self.jobs.values() if job.status == "pending"]
        return max(waiting, key=lambda job: job.priority, default=None)

    async def _run(self, job: StoredJob) -> None:
        # Running means "has the worker", not "has the card": someone else's request may hold that still.
        job.status, job.started_at = "running", _now()
        self._push(job, {"type": "status", "status": "running"})
        poller = asyncio.create_task(self._poll(job))
        try:
            await self._execute(job, lambda: self._check(job))
            job.status, job.completed_at = "completed", _now()
            self._push(job, {"type": "completed", "result": job.result(with_paths=True)})
        except CancelledJob:
            job.status, job.completed_at = "cancelled", _now()
            self._push_cancelled(job)
        except (Raised, Refused) as error:
            self._fail(job, error)
        finally:
            poller.cancel()
            self._cancelled.discard(job.id)

    def _fail(self, job: StoredJob, error: Raised | Refused) -> None:
        text = str(error) if isinstance(error, Raised) else f"HTTPException: {error.status}: {error.detail}"
        job.status, job.error, job.completed_at = "failed", text, _now()
        self._push(job, {"type": "error", "error": text})
        if job.id in self._cancelled:
            job.status = "cancelled"
            self._push_cancelled(job)

    def _check(self, job: StoredJob) -> None:
        """Raise if the job was cancelled before its turn."""
        if job.id in self._cancelled:
            raise CancelledJob

    def _push_cancelled(self, job: StoredJob) -> None:
        old: Json = {"type": "status", "status": "cancelled"}
        self._push(job, old if self._older else {"type": "cancelled"})

    def _push(self, job: StoredJob, frame: Frame) -> None:
        for queue in self._listeners.get(job.id, []):
            queue.put_nowait(frame)

    async def _poll(self, job: StoredJob) -> None:
        last: tuple[object, ...] = ()
        last_image = -1
        while True:
            state = self._state
            now = (state.sampling_step, state.job, state.textinfo)
            if now != last:
                last = now
                self._push(job, self._progress_frame(job))
                state.refresh_image(self._options)
                if state.image is not None and state.image_number != last_image:
                    last_image = state.image_number
                    self._push(job, encode_preview(state.image.size, state.image.colour, "jpeg"))
            await asyncio.sleep(self._poll_seconds)

    def _progress_frame(self, job: StoredJob) -> Json:
        state = self._state
        job.step = state.sampling_steps * max(state.job_no, 0) + state.sampling_step
        job.steps = state.sampling_steps * max(state.job_count, state.job_no)
        job.progress = round(min(1.0, job.step / job.steps if job.steps > 0 else 0.0), 2)
        elapsed = state.clock() - state.started
        eta = round(elapsed / job.progress - elapsed, 2) if job.progress > 0 else None
        return {
            "type": "progress",
            "step": job.step,
            "steps": job.steps,
            "progress": job.progress,
            "eta": eta,
            "task": state.job,
            "textinfo": state.textinfo,
        }


def _now() -> str:
    return datetime.now(UTC).isoformat()
