"""How the server was started, and how this double of it behaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.orders import Order
from load.upstreams.sdcpp.special import Special
from load.upstreams.service_time import ServiceTime
from load.upstreams.standin import Exchange


@dataclass(frozen=True, slots=True)
class Work:
    """An order and the request it came with, whose rule governs its making."""

    order: Order
    exchange: Exchange

    @property
    def special_seconds(self) -> float | None:
        fault = self.exchange.fault
        return fault.seconds if isinstance(fault, Special) else None

    @property
    def special_message(self) -> str | None:
        fault = self.exchange.fault
        return fault.message if isinstance(fault, Special) else None

    def happens(self, *names: str) -> bool:
        """Whether the script asks for one of these."""
        fault = self.exchange.fault
        return isinstance(fault, Special) and fault.name in names


@dataclass(slots=True)
class Settings:
    """The constructor's own options, by the names that `SdCpp` gives them; tests may change them while it runs."""

    wall: Callable[[], float]
    shop: Shop
    step_seconds: ServiceTime
    keep_seconds: float
    races: float
    picture_bytes: int
    hold: Callable[[Work], Awaitable[None]] | None
