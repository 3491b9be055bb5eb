"""What upstreams of the tests have in common."""

from collections.abc import AsyncGenerator

from gateway.core.reports import Outcome, Report, UpstreamFault
from gateway.ports import CallOrder, Findings


class QuietUpstream:
    """The parts of `gateway.ports.Upstream` that most tests do not care for: nothing to open, ask or look up."""

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def refresh(self) -> None:
        """Nothing to ask."""

    async def probe(self) -> Findings:
        """Return that it is a double."""
        return Findings("a double")

    def can_find(self, handle: str | None) -> bool:
        """Nobody kept what was made."""
        return False

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """Refuse: nobody kept what was made."""
        raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", "it cannot be asked")
        yield  # makes this a generator
