"""ComfyUI for the contract suite: events over a socket, and work that can always be found again."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.comfyui import ComfyUI
from load.upstreams.comfyui import OUT_OF_MEMORY, Checkpoint, Fail, PromptRule
from load.upstreams.comfyui import ComfyUI as StandIn
from load.upstreams.faults import Cut, Garbage, Refuse, Rule, Stall
from tests.end_to_end.vendors.vendor import Trouble, Vendor

STEPS: Final = 20
RULES: Final[dict[Trouble, Rule]] = {
    Trouble.UNAUTHORISED: Rule(do=Refuse(401), times=1, begun=False),
    Trouble.BUSY: Rule(do=Refuse(503), times=1, begun=False),
    Trouble.BAD_REQUEST: Rule(do=Refuse(400), times=1, begun=False),
    Trouble.CUT_BEFORE: Rule(do=Cut(), times=1),
    Trouble.CUT_INSIDE: Rule(do=Cut(at_byte=60), times=1),
    Trouble.STALL: Rule(do=Stall(), times=1),
    Trouble.GARBAGE: Rule(do=Garbage("not_png"), times=1, operation="view"),
}
FAILURES: Final = {
    Trouble.RUNTIME_ERROR: Fail(at_step=2, message="the sampler broke"),
    Trouble.OUT_OF_MEMORY: Fail(at_step=2, exception=OUT_OF_MEMORY),
}


class ComfyUIVendor(Vendor):
    """See `Vendor`."""

    name = "comfyui"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 64, "height": 64, "steps": STEPS, "seed": 7}
    impossible = frozenset(Trouble) - frozenset(RULES) - frozenset(FAILURES)
    finds = True
    restarts = True

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        step = how.get("seconds", 0.02) / STEPS
        async with StandIn(
            checkpoints=[Checkpoint("tiny.safetensors", step)], previews=how.get("previews", True)
        ) as self.standin:
            self.adapters = [
                ComfyUI(
                    name=self.name,
                    base_url=self.standin.url,
                    checkpoints=["tiny.safetensors"],
                    reconnect_seconds=1.0,
                    quiet_seconds=0.3,
                    timeout_seconds=1.0,
                    max_answer_bytes=4 * 1024 * 1024,
                )
            ]
            yield

    @property
    def calls(self) -> int:
        return self.standin.calls

    def meet(self, trouble: Trouble) -> None:
        if trouble in FAILURES:
            self.standin.script_prompts(PromptRule(FAILURES[trouble], prompts=frozenset({1})))
        else:
            self.standin.script(RULES[trouble])

    async def kill(self) -> None:
        await self.standin.kill()

    async def restart(self) -> None:
        await self.standin.restart()
