"""Stability AI REST v1 for the contract suite."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.stability_v1 import Engine, StabilityV1
from load.upstreams.faults import Cut, Fault, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.end_to_end.vendors.vendor import Trouble, Vendor

ENGINE: Final = "stable-diffusion-v1-6"
FAULTS: Final[dict[Trouble, Fault]] = {
    Trouble.RUNTIME_ERROR: Refuse(500),
    Trouble.UNAUTHORISED: Refuse(401),
    Trouble.RATE_LIMITED: Refuse(429, retry_after=0),
    Trouble.BUSY: Refuse(503),
    Trouble.BAD_REQUEST: Refuse(400, name="bad_request", message="samples: not today"),
    Trouble.CUT_BEFORE: Cut(),
    Trouble.CUT_INSIDE: Cut(at_byte=400),
    Trouble.STALL: Stall(),
    Trouble.GARBAGE: Garbage("not_json"),
    Trouble.HUGE: Garbage("huge", size_bytes=8 * 1024 * 1024),
    Trouble.FILTERED: Finish("CONTENT_FILTERED"),
}


class StabilityV1Vendor(Vendor):
    """See `Vendor`."""

    name = "stability_v1"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 320, "height": 320, "steps": 10, "seed": 7}
    impossible = frozenset({Trouble.OUT_OF_MEMORY})

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        async with StandIn(key={"sk-test"}, service_time=how.get("seconds", 0.01), limit=None) as self.standin:
            self.adapters = [
                StabilityV1(
                    name=self.name,
                    base_url=self.standin.url,
                    api_key="sk-test",
                    engines={ENGINE: Engine(ENGINE, 9000)},
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
