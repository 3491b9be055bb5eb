"""What the stand-in notes of each prompt it accepted, for tests to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["pending", "running", "success", "error", "interrupted", "deleted", "vanished", "lost"]


@dataclass(eq=False, slots=True)
class Job:
    """One accepted prompt."""

    number: int
    """Counts from 1 since the start or the last reset."""
    call: int
    """The number of the call that brought it."""
    prompt_id: str
    client_id: str | None
    body: dict[str, Any]
    """The request as it came."""
    graph: dict[str, Any]
    """The graph after validation, which converts numbers."""
    extra_data: dict[str, Any]
    outputs: list[str]
    state: State = "pending"
    """`lost` went down with the server; `vanished` was taken away by a script."""
    steps: int = 0
    """Sampler steps that were done."""
    ran: list[str] = field(default_factory=list)
    """The nodes that ran, in order; cached ones did not."""
    began: float | None = None
    ended: float | None = None

    def told(self) -> dict[str, Any]:
        """The record, ready for JSON."""
        names = ("number", "call", "prompt_id", "client_id", "body", "state", "steps", "ran", "began", "ended")
        return {name: getattr(self, name) for name in names}
