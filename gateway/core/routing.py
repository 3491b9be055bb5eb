"""Which upstream does a job: by what it can do, then health, price and load, within groups that stand in for others.

A model that clients ask for has one route or more. Groups are asked in order: the second stands in where nothing of the
first is well. Within a group the healthiest count, among those the cheapest, and among equals chance decides by weight
and load.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf, isfinite
from typing import Final

from gateway.core.models import Model


class Health(IntEnum):
    """How an upstream stands, best first."""

    OK = 0
    RECOVERING = 1
    LOCKED_OUT = 2
    DOWN = 3


USABLE: Final = frozenset({Health.OK, Health.RECOVERING})


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a model: `model` is as its upstream serves it, under the name that clients ask for."""

    model: Model
    weight: float = 1.0
    """Its part of the work among equals, and 0 = after them. `ValueError` if it is negative or not finite."""
    group: int = 1

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"no such weight: {self.weight}")


@dataclass(frozen=True, slots=True)
class Standing:
    """How an upstream stands now; `load` is jobs at work and waiting over places."""

    health: Health = Health.OK
    load: float = 0.0


def ranked(routes: Sequence[Route], standings: Mapping[str, Standing], task: str, chance: random.Random) -> list[Route]:
    """Return the routes, best first."""
    return sorted(routes, key=lambda route: _rank(route, standings, task, chance))


def _rank(
    route: Route, standings: Mapping[str, Standing], task: str, chance: random.Random
) -> tuple[bool, int, Health, int, float]:
    standing = standings.get(route.model.upstream, Standing(Health.DOWN))
    # The smallest of exponential draws is each one's with a chance in proportion to its rate.
    rate = route.weight / (1 + standing.load)
    draw = chance.expovariate(rate) if rate > 0 else inf
    # One that is not usable comes after all groups that are: that is what stands in for it.
    return standing.health not in USABLE, route.group, standing.health, route.model.price(task), draw
