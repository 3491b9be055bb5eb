"""The one state object that all requests share, and what the progress paths make of it.

It tells of whatever runs now. After a job's end most of it stays as the job left it: that is how the server
is, and what a gateway has to live with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.a1111.errors import Flavour, Json

Options = MutableMapping[str, Any]
LEAST_PROGRESS = 0.01
_PENDING = 1000


@dataclass(frozen=True, slots=True)
class Preview:
    """What a preview would show now: how far the picture is, of which colour and size."""

    size: tuple[int, int]
    colour: tuple[int, int, int]


@dataclass(slots=True)
class State:
    """Field by field what the server keeps; `latent` is what a preview can be made of."""

    flavour: Flavour
    clock: Callable[[], float] = time.monotonic
    id: str | int = 0
    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    textinfo: str | None = None
    latent: Preview | None = None
    image: Preview | None = None
    image_step: int = 0
    image_number: int = 0
    started: float = field(default=0.0)

    def begin(self, job: str, id_: str) -> None:
        """A job begins: flags are cleared, the number of steps stays as the last job left it."""
        self.id, self.job = id_, job
        self.job_timestamp = time.strftime("%Y%m%d%H%M%S")
        self.started = self.clock()
        self.job_count, self.job_no, self.sampling_step = -1, 0, 0
        self.skipped = self.interrupted = self.stopping_generation = False
        self.latent = self.image = self.textinfo = None
        self.image_number, self.image_step = 0, 0
        if self.flavour == "sdnext":
            self.job_count, self.sampling_steps, self.image_step = 1, 0, -1

    def next_job(self) -> None:
        """One pass of the sampler is over."""
        self.job_no += 1
        if self.flavour == "sdnext":
            self.image_step = -1
            return
        self.sampling_step = self.image_step = 0

    def end(self) -> None:
        """The job is over."""
        self.job, self.job_count = "", 0
        if self.flavour == "sdnext":
            # This flavour clears the job's number too, but leaves the step, so its progress stays high.
            self.id, self.job_no = "", 0
            self.started = self.clock()

    def as_json(self) -> Json:
        """The state as the progress answer tells it."""
        told: Json = {"skipped": self.skipped, "interrupted": self.interrupted}
        if self.flavour != "sdnext":
            told["stopping_generation"] = self.stopping_generation
        names = ("job", "job_count", "job_timestamp", "job_no", "sampling_step", "sampling_steps")
        return told | {name: getattr(self, name) for name in names}

    def fraction(self) -> float:
        """How much is done, from 0 to 1, as the per-task answer counts it."""
        if self.job_count <= 0:
            return 0.0
        done = self.job_no / self.job_count
        if self.sampling_steps > 0:
            done += 1 / self.job_count * self.sampling_step / self.sampling_steps
        return min(done, 1.0)

    def global_progress(self) -> tuple[float, float]:
        """Progress and the seconds that remain, as `/sdapi/v1/progress` counts them."""
        if self.flavour == "sdnext":
            return self._sdnext_progress()
        if self.job_count == 0:
            return 0.0, 0.0
        progress = LEAST_PROGRESS
        if self.job_count > 0:
            progress += self.job_no / self.job_count
        if self.sampling_steps > 0:
            progress += 1 / self.job_count * self.sampling_step / self.sampling_steps
        elapsed = self.clock() - self.started
        remaining = elapsed / progress - elapsed if progress > 0 else 0.0
        return min(progress, 1.0), remaining

    def _sdnext_progress(self) -> tuple[float, float]:
        if self.job_count == 0 and self.sampling_step == 0:
            return 0.0, 0.0
        steps = max(self.sampling_steps, 1)
        progress = min((steps * max(self.job_no, 0) + self.sampling_step) / (steps * max(self.job_count, 1)), 1.0)
        elapsed = self.clock() - self.started
        return round(progress, 2), round(elapsed / progress - elapsed if progress > 0 else 0.0, 2)

    def refresh_image(self, options: Options) -> None:
        """Take a new preview if enough steps went by since the last one and previews are on."""
        if self.latent is None or not options["live_previews_enable"]:
            return
        every = options["show_progress_every_n_steps"]
        due = self.sampling_step != self.image_step
        if self.flavour != "sdnext":
            due = every != -1 and self.sampling_step - self.image_step >= every
        if due:
            self.image, self.image_step = self.latent, self.sampling_step
            self.image_number += 1


@dataclass(slots=True)
class Tasks:
    """Which task runs, which wait and the last that were finished, by their ids."""

    remembered: int = 16
    current: str | None = None
    pending: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def wait(self, id_: str) -> None:
        """A task waits for its turn; one that never gets it stays here for good."""
        if id_ not in self.pending:
            self.pending = [*self.pending, id_][-_PENDING:]

    def start(self, id_: str) -> None:
        """A task's turn has come; one that had failed is forgotten now."""
        self.current = id_
        if id_ in self.pending:
            self.pending.remove(id_)

    def finish(self, id_: str) -> None:
        """A task is through; one that raised never comes here."""
        if self.current == id_:
            self.current = None
        self.finished = [*self.finished, id_][-self.remembered :]
