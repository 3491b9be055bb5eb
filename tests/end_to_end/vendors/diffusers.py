"""A diffusers pipeline for the contract suite: a tiny model in the real process; few troubles can come."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from gateway.upstreams.diffusers import Diffusers, Setup
from tests.end_to_end.vendors.vendor import Trouble, Vendor
from tests.gateway.upstreams.diffusers.folder import tiny_models


class DiffusersVendor(Vendor):
    """See `Vendor`."""

    name = "diffusers"
    engines = ("diffusers",)
    params: Mapping[str, Any] = {"prompt": "a harbour", "width": 64, "height": 64, "steps": 4, "seed": 7}
    impossible = frozenset(Trouble)
    restarts = True
    is_always_there = True
    patience_seconds = 180.0

    @contextlib.asynccontextmanager
    async def open(self, **how: Any) -> AsyncIterator[None]:
        # A step takes some 20 to 40 ms.
        self.params = {**type(self).params, "steps": min(150, max(4, int(how.get("seconds", 0) * 25)))}
        setup = Setup(
            model=str(tiny_models() / "sd"),
            device="cpu",
            previews="linear" if how.get("previews", True) else "none",
        )
        self.adapters = [Diffusers(name=self.name, setup=setup, processes=how.get("concurrency", 1))]
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
        """The next call starts a new process, which loads the model again."""
