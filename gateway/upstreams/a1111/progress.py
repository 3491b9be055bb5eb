"""What polls of a server of the WebUI family, and frames of SD.Next's, mean for one call. Without I/O.

There is no push but SD.Next's: a poll shows where the work is at that moment. So a step is reported when a poll shows a
new one, and nothing is made up for those between; a preview when the picture is another one than before. Progress 0 is
no failure (the server falls back to it before its answer comes), and 1 need never show.

`/internal/progress` tells of one task. `/sdapi/v1/progress` tells of whatever runs: `Attribution` says whether that is
our work, as far as the server lets anybody know.
"""

import asyncio
import hashlib
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

import msgspec

from gateway.core.reports import PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.upstreams.pictures import decode_base64, picture_of

_T = TypeVar("_T")
_NOTHING: Final = msgspec.Raw(b"null")


class Standing(Enum):
    """Where our work stands on the server."""

    NOWHERE = "nowhere"
    """It is not known there, or not yet, or the server does not answer."""
    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


class TaskProgress(msgspec.Struct, frozen=True):
    """An answer of `/internal/progress`."""

    active: bool = False
    queued: bool = False
    completed: bool = False
    progress: float | None = None
    live_preview: msgspec.Raw = _NOTHING
    id_live_preview: int | None = None

    @property
    def standing(self) -> Standing:
        """Where the task stands. One that failed stays "active" until the next begins: the POST's answer counts."""
        if self.active:
            return Standing.RUNNING
        if self.queued:
            return Standing.WAITING
        return Standing.OVER if self.completed else Standing.NOWHERE


class State(msgspec.Struct, frozen=True):
    """The server's one state; between jobs most of it is left from the last."""

    job: str | None = None
    job_count: int = 0
    job_no: int = 0
    job_timestamp: str | None = None
    sampling_step: int = 0
    sampling_steps: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """How far it is, to be compared."""
        return self.job_no, self.sampling_step


class ServerProgress(msgspec.Struct, frozen=True):
    """An answer of `/sdapi/v1/progress`."""

    state: State = State()
    current_image: msgspec.Raw = _NOTHING
    id: msgspec.Raw = _NOTHING
    """SD.Next's own id of the job."""

    @property
    def is_idle(self) -> bool:
        return self.state.job_count == 0


class Frame(msgspec.Struct, frozen=True):
    """A text frame of a job's WebSocket."""

    type: str = ""
    step: int | None = None
    steps: int | None = None
    task: str | None = None


class Job(msgspec.Struct, frozen=True):
    """A job of SD.Next's second API."""

    id: str = ""
    status: str = ""
    step: int | None = None
    steps: int | None = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


class Attribution:
    """Whether what `/sdapi/v1/progress` tells is of our call.

    Its answer names no task. Somebody else's work is known by a job's name that is not the one of our request (work
    from the web page is named `task(...)`), and by what ran already when we asked: that is over when the server was
    idle since, when the job's time stamp is another, or when it went back. Work of another client of the API that runs
    before ours and looks like it cannot be told from it: the gateway is to be the only one.
    """

    def __init__(self, path: str, before: ServerProgress | None) -> None:
        self._is_img2img = path.endswith("img2img")
        self._theirs = before if before is not None and not before.is_idle else None

    def is_ours(self, now: ServerProgress) -> bool:
        """Whether an answer is of our work; to be asked of each in its turn."""
        if now.is_idle:
            self._theirs = None
            return False
        if self._is_foreign(now) or (self._theirs is not None and self._is_still(self._theirs, now)):
            self._theirs = now
            return False
        self._theirs = None
        return True

    def _is_foreign(self, told: ServerProgress) -> bool:
        job = (told.state.job or "").casefold()
        other = ("txt2img", "api-txt") if self._is_img2img else ("img2img", "api-img")
        return job.startswith(("task(", "extra")) or any(word in job for word in other)

    def _is_still(self, before: ServerProgress, now: ServerProgress) -> bool:
        if self._is_foreign(before):
            return False  # and this is not
        is_same = (before.id, before.state.job_timestamp) == (now.id, now.state.job_timestamp)
        return is_same and now.state.place >= before.state.place


class Follow:
    """Turns what is seen of one call into reports, each thing once."""

    def __init__(self, steps: int, *, approximate: bool = True) -> None:
        self._asked = steps
        self._approximate = approximate
        self._has_begun = False
        self._step = 0
        self._steps = steps
        self._seen = b""
        self.seen_preview = -1
        """The server's number of the newest preview, to be sent back."""

    def task(self, told: TaskProgress) -> list[Report]:
        """Return what an answer of `/internal/progress` adds. Its share is of our whole call, so it counts as steps."""
        if not told.active:
            return []
        share = min(max(told.progress or 0.0, 0.0), 1.0)
        # A hair more: 3/10 of 10 steps must not become 2.
        reports = self.at(int(share * self._asked + 1e-6), self._asked)
        if told.id_live_preview is not None:
            self.seen_preview = told.id_live_preview
        return reports + self._coded(told.live_preview)

    def server(self, told: ServerProgress) -> list[Report]:
        """Return what an answer of `/sdapi/v1/progress` about our work adds."""
        state = told.state
        total = state.sampling_steps * max(state.job_count, 1)
        reports = self.at(state.job_no * state.sampling_steps + state.sampling_step, total)
        return reports + self._coded(told.current_image)

    def is_new(self, told: ServerProgress) -> bool:
        """Whether an answer shows a step that was not there before, so that a picture is worth its price."""
        state = told.state
        return state.job_no * state.sampling_steps + state.sampling_step > self._step

    def at(self, step: int, steps: int) -> list[Report]:
        """Return what the place of our work adds: that it began, and a step if it is a new one."""
        reports: list[Report] = []
        if not self._has_begun:
            self._has_begun = True
            reports.append(WorkBegun(self._asked))
        if self._step < step <= steps:
            self._step, self._steps = step, steps
            reports.append(StepDone("denoising", step, steps))
        return reports

    def picture(self, content: bytes) -> list[Report]:
        """Return what an encoded preview adds; one that is no picture adds nothing."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if not content or digest == self._seen:
            return []
        try:
            picture = picture_of(content)
        except UpstreamFault:
            return []
        self._seen = digest
        return [PreviewMade(picture, self._step, self._steps, approximate=self._approximate)]

    def _coded(self, coded: msgspec.Raw) -> list[Report]:
        try:
            return self.picture(decode_base64(coded))
        except (UpstreamFault, msgspec.DecodeError, UnicodeDecodeError):
            return []


class Board:
    """Where reports wait for a reader who may be slow: the newest step and preview, and nothing older."""

    def __init__(self) -> None:
        self._begun: list[Report] = []
        self._step: StepDone | None = None
        self._preview: PreviewMade | None = None
        self._bell = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when no more will come."""

    @property
    def is_done(self) -> bool:
        """Whether all is taken and no more will come."""
        return self.closed.is_set() and not self._bell.is_set()

    def put(self, *reports: Report) -> None:
        """Keep reports in the place of what they make old."""
        for report in reports:
            match report:
                case StepDone():
                    self._step = report
                case PreviewMade():
                    self._preview = report
                case _:
                    self._begun.append(report)
        if reports:
            self._bell.set()

    def close(self) -> None:
        """No more will come."""
        self.closed.set()
        self._bell.set()

    async def take(self) -> list[Report]:
        """Wait until there is something, or never will be, and return it in its order."""
        await self._bell.wait()
        self._bell.clear()
        taken = [*self._begun, *(one for one in (self._step, self._preview) if one is not None)]
        self._begun, self._step, self._preview = [], None, None
        return taken


_TASK: Final = msgspec.json.Decoder(TaskProgress)
_SERVER: Final = msgspec.json.Decoder(ServerProgress)
_FRAME: Final = msgspec.json.Decoder(Frame)
_JOB: Final = msgspec.json.Decoder(Job)
_FOREIGN: Final = ("task(", "api-txt", "api-img", "scripts_", "extra")
"""Beginnings of names that are never those of SD.Next's stored jobs."""


def is_of_jobs(task: str | None) -> bool:
    """Whether the server's state, as a frame tells it, is that of a stored job: nothing runs under no name."""
    return bool(task) and not str(task).casefold().startswith(_FOREIGN)


def read_task(body: bytes) -> TaskProgress | None:
    """Return an answer of `/internal/progress`, if it is one."""
    return _read(_TASK.decode, body) if b'"active"' in body[:4096] else None


def read_server(body: bytes) -> ServerProgress | None:
    """Return an answer of `/sdapi/v1/progress`, if it is one."""
    return _read(_SERVER.decode, body)


def read_frame(text: str) -> Frame:
    """Return a text frame; one that is none has no type."""
    return _read(_FRAME.decode, text.encode()) or Frame()


def read_job(body: bytes) -> Job | None:
    """Return a job, if it is one."""
    job = _read(_JOB.decode, body)
    return job if job is not None and job.id else None


def _read(decode: Callable[[bytes], _T], body: bytes) -> _T | None:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
