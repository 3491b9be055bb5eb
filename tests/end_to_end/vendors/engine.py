"""The embedded engine for the contract suite: no server stands behind it, so few troubles can come."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.upstreams.engine import Engine
from tests.end_to_end.vendors.vendor import Trouble, Vendor


class EngineVendor(Vendor):
    """See `Vendor`."""

    name = "engine"
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 64, "height": 64, "steps": 4, "seed": 7}
    impossible = frozenset(Trouble)
    restarts = True
    is_always_there = True

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        # A step takes some 5 to 40 ms.
        self.params = {**type(self).params, "steps": min(150, max(4, int(how.get("seconds", 0) * 100)))}
        self.adapters = [Engine(name=self.name, processes=how.get("concurrency", 1))]
        self._orders = 0
        yield

    @property
    def calls(self) -> int:
        return self.adapter._orders  # type: ignore[attr-defined, no-any-return]

    def meet(self, trouble: Trouble) -> None:
        raise NotImplementedError(trouble)

    async def kill(self) -> None:
        for process in list(self.adapter._processes):  # type: ignore[attr-defined]
            process._process.kill()

    async def restart(self) -> None:
        """The next call starts a new process."""
