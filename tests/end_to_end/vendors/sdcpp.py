"""stable-diffusion.cpp's server for the contract suite."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.sdcpp import SdCpp, Terms
from load.upstreams.faults import Cut, Garbage, Refuse, Rule
from load.upstreams.sdcpp import SdCpp as StandIn
from load.upstreams.sdcpp.special import Special
from tests.end_to_end.vendors.vendor import Trouble, Vendor

FAULTS: Final[dict[Trouble, Rule]] = {
    Trouble.RUNTIME_ERROR: Rule(do=Special("fail"), times=1),
    Trouble.RATE_LIMITED: Rule(do=Refuse(429), times=1, begun=False),
    Trouble.BUSY: Rule(do=Refuse(503), times=1, begun=False),
    Trouble.BAD_REQUEST: Rule(do=Refuse(400, message="not today"), times=1, begun=False),
    Trouble.CUT_BEFORE: Rule(do=Cut(), times=1),
    Trouble.GARBAGE: Rule(do=Garbage("not_png"), times=1),
}


class SdCppVendor(Vendor):
    """See `Vendor`; it has no keys, and a job that is lost before its id was told is simply ordered again."""

    name = "sdcpp"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 64, "height": 64, "steps": 4, "seed": 7}
    impossible = frozenset(Trouble) - frozenset(FAULTS)
    restarts = True

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        async with StandIn(step_seconds=how.get("seconds", 0.004) / 4) as self.standin:
            self.adapters = [
                SdCpp(
                    name=self.name,
                    base_url=self.standin.url,
                    terms=Terms(model="tiny"),
                    poll_seconds=0.1,
                    patience_seconds=1.0,
                    answer_seconds=2.0,
                )
            ]
            yield

    @property
    def calls(self) -> int:
        return self.standin.calls

    def meet(self, trouble: Trouble) -> None:
        self.standin.script(FAULTS[trouble])

    async def kill(self) -> None:
        await self.standin.kill()

    async def restart(self) -> None:
        await self.standin.restart()
