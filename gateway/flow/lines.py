"""The accounts of one upstream on this node, each with its gate, and which of them works the next job."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.breaker import State
from gateway.core.routing import Health, Standing
from gateway.flow.gate import Gate, GateFacts
from gateway.ports import Clock, Upstream

OUT_SECONDS: Final = 300.0
"""For how long a credential that the vendor refused is left alone."""
_HEALTH: Final = {State.CLOSED: Health.OK, State.HALF_OPEN: Health.RECOVERING, State.OPEN: Health.DOWN}


@dataclass(frozen=True, slots=True)
class Line:
    """One credential of one upstream, and the gate before it."""

    upstream: Upstream
    credential: str
    gate: Gate
    concurrency: int
    """How many jobs of it are worked at once on this node."""


class Lines:
    """The lines of one upstream."""

    def __init__(self, lines: Sequence[Line], clock: Clock) -> None:
        self.name = lines[0].upstream.name
        self.upstream = lines[0].upstream
        """The first account, which stands for all where it does not matter which."""
        self._lines = {line.credential: line for line in lines}
        self._clock = clock
        self._out_until = dict.fromkeys(self._lines, -math.inf)
        self.busy = 0
        """Jobs of this upstream that are worked on this node."""
        self.waiting = 0
        """Jobs that wait for it, as last counted."""

    @property
    def places(self) -> int:
        """How many more jobs may be worked here now."""
        return sum(line.concurrency for line in self._usable()) - self.busy

    def named(self, credential: str) -> Line | None:
        """Return the line of a credential, well or not."""
        return self._lines.get(credential)

    def pick(self) -> Line:
        """Return the line whose turn it is: the one that is well, is open, and has least to do."""
        return min(self._usable() or self._lines.values(), key=self._rank)

    def put_out(self, line: Line) -> bool:
        """Leave a credential alone for a while, for the vendor refuses it; whether there is another."""
        self._out_until[line.credential] = self._clock.now() + OUT_SECONDS
        return bool(self._usable())

    def health(self) -> Health:
        """Return how the best of the lines stands."""
        return min((_health(line.gate.snapshot()) for line in self._usable()), default=Health.DOWN)

    def standing(self) -> Standing:
        """Return how the upstream stands, for choosing among several."""
        places = sum(line.concurrency for line in self._lines.values())
        return Standing(self.health(), (self.busy + self.waiting) / places)

    def facts(self) -> dict[str, tuple[GateFacts, Health]]:
        """Return how each credential stands, by its name."""
        usable = self._usable()
        return {
            name: (facts := line.gate.snapshot(), _health(facts) if line in usable else Health.DOWN)
            for name, line in self._lines.items()
        }

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def _usable(self) -> list[Line]:
        now = self._clock.now()
        return [line for name, line in self._lines.items() if self._out_until[name] <= now]

    def _rank(self, line: Line) -> tuple[Health, float]:
        facts = line.gate.snapshot()
        return _health(facts), (facts.running + facts.waiting) / line.concurrency


def _health(facts: GateFacts) -> Health:
    return Health.LOCKED_OUT if facts.locked_until_ms is not None else _HEALTH[facts.breaker]
