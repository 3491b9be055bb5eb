"""How far the caller's own job is, in the words of the web UI, without I/O."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.edges.compat.a1111.answers import timestamp
from protocol.messages import Progress

_BEGUN: Final = 0.01
"""What the web UI tells of work that has begun and done no step."""
_NAMES: Final = {"txt2img": "scripts_txt2img", "upscale": "extras"}


@dataclass(frozen=True, slots=True)
class Work:
    """A job that has not ended."""

    task: str
    has_init: bool
    count: int
    """Pictures that it makes."""
    steps: int
    created_ms: int
    is_interrupted: bool
    is_waiting: bool


def told(work: Work | None, now: Progress | None, image: Any) -> dict[str, Any]:
    """Return the answer of `progress`; no work is an idle server."""
    share = 0.0 if now is None else now.ratio
    eta_ms = now.eta_ms if now is not None and isinstance(now.eta_ms, int) else 0
    progress = 0.0 if work is None or work.is_waiting else min(1.0, max(_BEGUN, share))
    return {
        "progress": progress,
        "eta_relative": eta_ms / 1000,
        "state": _idle() if work is None else _state(work, now),
        "current_image": image,
        "textinfo": "Waiting..." if work is not None and work.is_waiting else None,
    }


def _idle() -> dict[str, Any]:
    return {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }


def _state(work: Work, now: Progress | None) -> dict[str, Any]:
    """The web UI counts the steps of each picture anew, and so does this, whoever makes them how many at once."""
    done = 0.0 if now is None else now.ratio * work.count
    place = min(work.count - 1, int(done + 1e-3))
    steps = work.steps if now is None else now.steps
    name = _NAMES.get(work.task, "scripts_img2img" if work.has_init else "scripts_txt2img")
    return _idle() | {
        "interrupted": work.is_interrupted,
        "job": name,
        "job_count": work.count,
        "job_timestamp": timestamp(work.created_ms),
        "job_no": place,
        "sampling_step": max(0, round((done - place) * steps)),
        "sampling_steps": steps,
    }
