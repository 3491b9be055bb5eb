"""How long an upstream works on a request: fixed, or drawn from a seeded distribution."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_DRAWS: Mapping[str, tuple[int, Callable[..., float]]] = MappingProxyType(
    {
        "fixed": (1, lambda _chance, seconds: seconds),
        "uniform": (2, lambda chance, low, high: chance.uniform(low, high)),
        "exponential": (1, lambda chance, mean: mean * chance.expovariate(1.0)),
        "lognormal": (2, lambda chance, median, sigma: median * chance.lognormvariate(0.0, sigma)),
    }
)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """A distribution of seconds.

    `fixed` takes the seconds; `uniform` the least and the most; `exponential` the mean; `lognormal` the
    median in seconds and sigma, where 0.5 is a mild tail and 1 a heavy one.
    """

    kind: str = "fixed"
    parameters: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        count = _DRAWS[self.kind][0] if self.kind in _DRAWS else -1
        if len(self.parameters) != count or not all(value >= 0 for value in self.parameters):
            raise ValueError(f"no such service time: {self.kind} {self.parameters}; kinds: {', '.join(_DRAWS)}")

    @classmethod
    def parse(cls, text: str | float) -> ServiceTime:
        """Read `0.03` or `lognormal:0.5,0.4`; raises `ValueError` for anything else."""
        kind, colon, numbers = str(text).rpartition(":")
        return cls(kind if colon else "fixed", tuple(float(number) for number in numbers.split(",")))

    def draw(self, chance: random.Random) -> float:
        """The seconds of one request."""
        return _DRAWS[self.kind][1](chance, *self.parameters)
