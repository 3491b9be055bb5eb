"""The web UI family for the contract suite: Forge with its page, so that progress is told by task."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.a1111 import A1111
from load.upstreams import a1111 as standins
from load.upstreams.faults import Cut, Garbage, Refuse, Rule, Stall
from tests.end_to_end.vendors.vendor import Trouble, Vendor

RULES: Final[dict[Trouble, Rule]] = {
    Trouble.RUNTIME_ERROR: Rule(do=standins.JobError("RuntimeError", "the sampler broke"), times=1),
    Trouble.OUT_OF_MEMORY: Rule(do=standins.out_of_memory(), times=1),
    Trouble.UNAUTHORISED: Rule(do=Refuse(401), times=1, begun=False),
    Trouble.BUSY: Rule(do=Refuse(503), times=1, begun=False),
    Trouble.BAD_REQUEST: Rule(do=Refuse(422), times=1, begun=False),
    Trouble.CUT_BEFORE: Rule(do=Cut(), times=1),
    Trouble.CUT_INSIDE: Rule(do=Cut(at_byte=400), times=1),
    Trouble.STALL: Rule(do=Stall(), times=1),
    Trouble.GARBAGE: Rule(do=Garbage("not_json"), times=1),
    Trouble.HUGE: Rule(do=Garbage("huge", size_bytes=8 * 1024 * 1024), times=1),
}


class A1111Vendor(Vendor):
    """See `Vendor`; it has no rate limit and filters nothing."""

    name = "a1111"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 64, "height": 64, "steps": 20, "seed": 7}
    impossible = frozenset(Trouble) - frozenset(RULES)
    restarts = True

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        seconds, previews = how.get("seconds", 0.02), how.get("previews", True)
        async with standins.A1111(web=True, service_time=seconds / 20, previews=previews) as self.standin:
            self.adapters = [
                A1111(
                    name=self.name,
                    base_url=self.standin.url,
                    poll_seconds=0.02,
                    timeout_seconds=4.0,
                    max_answer_bytes=4 * 1024 * 1024,
                )
            ]
            yield

    @property
    def calls(self) -> int:
        return self.standin.calls

    def meet(self, trouble: Trouble) -> None:
        self.standin.script(RULES[trouble])

    async def kill(self) -> None:
        await self.standin.kill()

    async def restart(self) -> None:
        await self.standin.restart()
