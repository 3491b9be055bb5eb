"""OpenAI Images for the contract suite, with partial pictures over a stream of events."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from load.upstreams.faults import Cut, Fault
from load.upstreams.openai_images import OpenAIImages as StandIn
from tests.end_to_end.vendors.hosted import HOSTED, HostedVendor
from tests.end_to_end.vendors.vendor import Trouble

MODEL: Final = "gpt-image-1-mini"


class OpenAIImagesVendor(HostedVendor):
    """See `Vendor`; it knows no seed, so the same words give what they give."""

    name = "openai_images"
    params: Mapping[str, Any] = {"prompt": "a harbour"}
    faults: Mapping[Trouble, Fault] = {**HOSTED, Trouble.CUT_INSIDE: Cut(at_byte=600)}
    impossible = frozenset({Trouble.OUT_OF_MEMORY, Trouble.FILTERED})

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
