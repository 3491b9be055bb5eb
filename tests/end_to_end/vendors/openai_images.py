"""OpenAI Images for the contract suite, with partial pictures over a stream of events."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from load.upstreams.faults import Cut, Fault, Garbage, Refuse, Rule, Stall
from load.upstreams.openai_images import OpenAIImages as StandIn
from tests.end_to_end.vendors.vendor import Trouble, Vendor

MODEL: Final = "gpt-image-1-mini"
FAULTS: Final[dict[Trouble, Fault]] = {
    Trouble.RUNTIME_ERROR: Refuse(500),
    Trouble.UNAUTHORISED: Refuse(401),
    Trouble.RATE_LIMITED: Refuse(429, retry_after=0),
    Trouble.BUSY: Refuse(503),
    Trouble.BAD_REQUEST: Refuse(400, message="size: not today"),
    Trouble.CUT_BEFORE: Cut(),
    Trouble.CUT_INSIDE: Cut(at_byte=600),
    Trouble.STALL: Stall(),
    Trouble.GARBAGE: Garbage("not_json"),
    Trouble.HUGE: Garbage("huge", size_bytes=8 * 1024 * 1024),
}


class OpenAIImagesVendor(Vendor):
    """See `Vendor`; it knows no seed, so the same words give what they give."""

    name = "openai_images"
    params: Mapping[str, Any] = {"prompt": "a harbour"}
    impossible = frozenset(Trouble) - frozenset(FAULTS)

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        model = ImageModel(price_micros=11_000, streams=None if how.get("previews", True) else False)
        async with StandIn(key="sk-test", service_time=how.get("seconds", 0.01)) as self.standin:
            self.adapters = [
                OpenAIImages(
                    name=self.name,
                    base_url=self.standin.url,
                    api_key="sk-test",
                    models={MODEL: model},
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
