"""What only this server can do wrong, as a fault of the script."""

from __future__ import annotations

from dataclasses import dataclass

from load.upstreams.faults import KINDS, VendorFault

SPECIALS = frozenset({"fail", "out_of_memory", "stick", "expire", "crash"})


@dataclass(frozen=True, slots=True)
class Special(VendorFault):
    """One of `SPECIALS`, by its name; what `message` and `seconds` mean is said there."""

    name: str
    message: str | None = None
    seconds: float | None = None


KINDS["special"] = Special
