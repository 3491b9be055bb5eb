"""Stability AI REST v2beta for the contract suite."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.faults import Cut, Fault, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.end_to_end.vendors.vendor import Trouble, Vendor

FAULTS: Final[dict[Trouble, Fault]] = {
    Trouble.RUNTIME_ERROR: Refuse(500),
    Trouble.UNAUTHORISED: Refuse(401),
    Trouble.RATE_LIMITED: Refuse(429, retry_after=0),
    Trouble.BUSY: Refuse(503),
    Trouble.BAD_REQUEST: Refuse(400, name="bad_request", message="seed: not today"),
    Trouble.CUT_BEFORE: Cut(),
    Trouble.CUT_INSIDE: Cut(at_byte=400),
    Trouble.STALL: Stall(),
    Trouble.GARBAGE: Garbage("not_png"),
    Trouble.HUGE: Garbage("huge", size_bytes=8 * 1024 * 1024),
    Trouble.FILTERED: Finish("CONTENT_FILTERED"),
}


class StabilityV2BetaVendor(Vendor):
    """See `Vendor`; the model of the suite is one that also takes an init image."""

    name = "stability_v2beta"
    params: Mapping[str, Any] = {"prompt": "a harbour", "seed": 7}
    impossible = frozenset({Trouble.OUT_OF_MEMORY})

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        async with StandIn(key="sk-test", service_time=how.get("seconds", 0.01), limit=None) as self.standin:
            self.adapters = [
                StabilityV2Beta(
                    name=self.name,
                    base_url=self.standin.url,
                    api_key="sk-test",
                    models=["sd3.5-medium", "stable-image"],
                    timeout_seconds=2.0,
                    max_answer_bytes=4 * 1024 * 1024,
                )
            ]
            yield

    @property
    def calls(self) -> int:
        return self.standin.calls

    def meet(self, trouble: Trouble) -> None:
        self.standin.script(Rule(do=FAULTS[trouble], times=1))
