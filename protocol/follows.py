"""What the client knows of one job that it follows: when it was last heard, and how its log is being repaired.

A repair is a `watch` from the last handled number. There is one at a time (R2), and one that brought nothing is not
repeated at once: a server that keeps sending what cannot be taken would else be asked as fast as the network allows.
"""

import math
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, structs

from protocol.messages import Prefs, Submit, Watch

_MAX_HOLD_SECONDS: Final = 30.0


@dataclass(slots=True)
class Follow:
    """One followed job; `terms` is the watch without `ref` and `after` that would follow it anew."""

    terms: Watch
    heard: float
    """When anything of the job last came."""
    is_confirmed: bool = False
    """Whether the server has shown that it serves the job to us."""
    watch_ref: str | None = None
    """The watch that waits for its `ok`."""
    repaired_after: int = -1
    fruitless: int = 0
    """How many repairs in a row began at the same number."""
    ready_at: float = -math.inf
    """Not before this does a gap make a repair."""
    again_at: float = math.inf
    """When a repair that was held back, or refused for now, is due."""
    frame: int = -1
    """The newest preview's frame."""

    def hear(self, now: float) -> None:
        """Note that something of the job came."""
        self.heard = now
        self.is_confirmed = True

    def take_terms(self, wish: Submit | Watch | Prefs) -> None:
        """Note how the user wants the job's events from now on; what the wish leaves out stays."""
        changes = {
            name: value
            for name in ("previews", "finals", "grant")
            if (value := getattr(wish, name, UNSET)) is not UNSET
        }
        self.terms = structs.replace(self.terms, **changes)

    def due(self, quiet_seconds: float) -> float:
        """Return when the job is to be watched again if nothing of it comes."""
        return min(self.heard + quiet_seconds, self.again_at)

    def begin_repair(self, after: int, now: float) -> bool:
        """Whether a gap after `after` is to be repaired now; if it is held back, `due` says until when."""
        if self.watch_ref is not None:
            return False
        if now < self.ready_at:
            self.again_at = self.ready_at
            return False
        self.fruitless = self.fruitless + 1 if after == self.repaired_after else 0
        self.repaired_after = after
        self.ready_at = now + self._hold_seconds()
        return True

    def watch(self, ref: str, after: int, now: float) -> Watch:
        """Return the watch that goes out now; until its answer it is the only one."""
        self.watch_ref = ref
        self.heard = now
        self.again_at = math.inf
        return structs.replace(self.terms, ref=ref, after=after)

    def _hold_seconds(self) -> float:
        return min(_MAX_HOLD_SECONDS, 0.25 * 2 ** min(self.fruitless, 8)) if self.fruitless else 0.0
