"""What hosted services have in common: how their stand-ins are made to misbehave."""

from collections.abc import Mapping
from typing import Final

from load.upstreams.faults import Cut, Fault, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.standin import StandIn
from tests.end_to_end.vendors.vendor import Trouble, Vendor

HOSTED: Final[Mapping[Trouble, Fault]] = {
    Trouble.RUNTIME_ERROR: Refuse(500),
    Trouble.UNAUTHORISED: Refuse(401),
    Trouble.RATE_LIMITED: Refuse(429, retry_after=0),
    Trouble.BUSY: Refuse(503),
    Trouble.BAD_REQUEST: Refuse(400, message="samples: not today"),
    Trouble.CUT_BEFORE: Cut(),
    Trouble.CUT_INSIDE: Cut(at_byte=400),
    Trouble.STALL: Stall(),
    Trouble.GARBAGE: Garbage("not_json"),
    Trouble.HUGE: Garbage("huge", size_bytes=8 * 1024 * 1024),
    Trouble.FILTERED: Finish("CONTENT_FILTERED"),
}


class HostedVendor(Vendor):
    """A vendor whose troubles are faults of its stand-in's script."""

    faults: Mapping[Trouble, Fault] = HOSTED
    impossible = frozenset({Trouble.OUT_OF_MEMORY})
    standin: StandIn

    @property
    def calls(self) -> int:
        return self.standin.calls

    def meet(self, trouble: Trouble) -> None:
        self.standin.script(Rule(do=self.faults[trouble], times=1))
