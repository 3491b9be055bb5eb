"""The counts of a server with jobs."""

from __future__ import annotations

from load.upstreams.tally import Tally


class JobTally(Tally):
    """Counts also what became of jobs and of the blocking dialects' requests."""

    def reset(self) -> None:
        super().reset()
        self.accepted = 0
        """Jobs answered with 202."""
        self.completed = 0
        """Drawings that came to an end, whether or not somebody waited for them."""
        self.failed = 0
        self.cancelled = 0
        """Jobs taken out of the queue; none of them was billed."""

    def counters(self) -> dict[str, object]:
        names = ("accepted", "completed", "failed", "cancelled")
        return super().counters() | {name: getattr(self, name) for name in names}
