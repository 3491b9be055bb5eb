"""What only a server that samples step by step can suffer, as faults for a script's rules.

Their JSON kinds are `job_error`, `stuck` and `crash`. Numbers of steps count from 1; 0 stands for the time
before the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from load.upstreams.faults import KINDS, VendorFault

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 9.00 GiB (GPU 0; 8.00 GiB total capacity)"


@dataclass(frozen=True, slots=True)
class JobError(VendorFault):
    """The work raises, so the request is answered 500 in the form of an unhandled exception."""

    error: str = "RuntimeError"
    """The exception's class."""
    message: str = "made-up failure"
    at_step: int = 0
    """Raised when this step begins; 0 raises before sampling."""


@dataclass(frozen=True, slots=True)
class Stuck(VendorFault):
    """The job stands still when this step begins and holds the lock; progress keeps its last value."""

    at_step: int = 1
    seconds: float | None = None
    """How long; None until the server is stopped or killed."""
    heeds_interrupt: bool = False
    """Whether an interrupt gets it going again; a hung driver heeds none."""


@dataclass(frozen=True, slots=True)
class Crash(VendorFault):
    """The whole server dies when this step begins, as by `A1111.kill`."""

    at_step: int = 1
    down_seconds: float | None = None
    """Listens on the same port again after so long; None stays down until `A1111.restart`."""


def out_of_memory(at_step: int = 1) -> JobError:
    """The graphics card's memory does not suffice."""
    return JobError("OutOfMemoryError", OUT_OF_MEMORY, at_step)


KINDS.update(job_error=JobError, stuck=Stuck, crash=Crash)
