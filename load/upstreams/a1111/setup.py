"""How the server was started, and what its parts share from one start to the next."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from load.upstreams.a1111.errors import Flavour
from load.upstreams.a1111.orders import MAX_SEED

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(slots=True)
class Setup:
    """The server's own options, by the names that `A1111` gives them; tests may install models while it runs."""

    flavour: Flavour
    models: Collection[str]
    loras: Collection[str]
    upscalers: Collection[str]
    web: bool
    users: Mapping[str, str]
    """Passwords by their users; without any, everybody may do everything."""
    frozen_progress: bool
    picture_bytes: int
    answer_delay: float
    older: bool
    no_content: bool
    poll_seconds: float
    ping_seconds: float


class Draws:
    """Seeds and ids that the server makes up."""

    def __init__(self) -> None:
        self.seeds = random.Random(0)
        self.ids = random.Random(0)

    def seed(self) -> int:
        """A seed for a request that brought none."""
        return self.seeds.randrange(MAX_SEED)

    def task_id(self, forced: str | None, operation: str, flavour: Flavour) -> str:
        """The id under which a generation's progress is asked for."""
        if flavour == "sdnext":
            return f"{self.ids.getrandbits(60):015x}"
        return forced or f"task({operation}-{''.join(self.ids.choices(_LETTERS, k=7))})"
