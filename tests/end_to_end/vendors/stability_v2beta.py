"""Stability AI REST v2beta for the contract suite."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.faults import Fault, Garbage
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.end_to_end.vendors.hosted import HOSTED, HostedVendor
from tests.end_to_end.vendors.vendor import Trouble


class StabilityV2BetaVendor(HostedVendor):
    """See `Vendor`; the model of the suite is one that also takes an init image."""

    name = "stability_v2beta"
    params: Mapping[str, Any] = {"prompt": "a harbour", "seed": 7}
    faults: Mapping[Trouble, Fault] = {**HOSTED, Trouble.GARBAGE: Garbage("not_png")}

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
