"""What an upstream tells while it works, and how it fails: the whole vocabulary between adapters and the worker."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from protocol.errors import ERRORS
from protocol.messages import ImageFormat, Phase


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture; edges in pixels."""

    content: bytes
    format: ImageFormat
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class WorkBegun:
    """The upstream has begun: its first progress, or the request's bytes sent where it is blind."""

    steps: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """Step `step` of `steps` of image `index` (within the call) is done."""

    phase: Phase
    step: int
    steps: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class PreviewMade:
    """A partial picture of image `index` (within the call) after `step`."""

    picture: Picture
    step: int
    steps: int
    index: int = 0
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class ImageMade:
    """Image `index` (within the call) is finished; `filtered` where the vendor held it back or blurred it."""

    picture: Picture
    index: int
    seed: int
    filtered: bool = False


Report = WorkBegun | StepDone | PreviewMade | ImageMade


class Outcome(Enum):
    """What is known of a call that did not end well."""

    NOT_SENT = "not_sent"
    """No byte of the request went out: it may be sent again."""
    REFUSED = "refused"
    """The vendor said no before it worked (429, 503): it may be sent again."""
    FAILED = "failed"
    """The vendor answered, and the answer is a failure: final."""
    UNKNOWN = "unknown"
    """It went out and no answer came whole: it may have been done, and billed."""
    GONE = "gone"
    """The vendor was asked and knows nothing of the work, or has lost it unbilled: it may be begun again."""


@dataclass(slots=True)
class UpstreamFault(Exception):
    """A call failed; the upstream or the way to it is at fault. `details` are for the client: no secrets, no paths."""

    outcome: Outcome
    code: str
    message: str
    retry_after_seconds: float | None = None
    locked_out: bool = False
    """Whether the vendor refuses everything for a while (429), not only this call."""
    credential: bool = False
    """Whether the credential is what was refused (401, 403)."""
    charged: bool = False
    """Whether the vendor did the work and bills it although nothing usable came."""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Exception.__init__(self, self.code, self.message)
        assert self.code in ERRORS, f"{self.code} is not in the registry"

    def __str__(self) -> str:
        return f"{self.outcome.value} {self.code}: {self.message}"
