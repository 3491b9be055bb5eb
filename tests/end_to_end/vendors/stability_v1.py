"""Stability AI REST v1 for the contract suite."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from gateway.upstreams.stability_v1 import Engine, StabilityV1
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.end_to_end.vendors.hosted import HostedVendor

ENGINE: Final = "stable-diffusion-v1-6"


class StabilityV1Vendor(HostedVendor):
    """See `Vendor`."""

    name = "stability_v1"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 320, "height": 320, "steps": 10, "seed": 7}

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
