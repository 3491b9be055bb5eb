"""An upstream that answers as it is told to, for what looks at upstreams."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from gateway.core.models import Model, Sizes
from gateway.core.reports import ImageMade, Picture, PreviewMade, Report, StepDone, WorkBegun
from gateway.ports import CallOrder, Findings
from tests.gateway.cli.scripted import PNG, run
from tests.gateway.doubles import QuietUpstream

Boxes = Callable[..., dict[str, Any]]
COMFY = '[upstreams.box]\nkind = "comfyui"\nbase_url = "http://127.0.0.1:8188"\n'
DRAFT = Model(
    id="draft",
    upstream="box",
    vendor_model="draft.safetensors",
    tasks={"txt2img": frozenset({"prompt", "width", "height", "steps"}), "upscale": frozenset({"scale"})},
    sizes=Sizes(smallest=60, multiple_of=16),
    steps=(2, 9),
)


class Box(QuietUpstream):
    """An upstream that answers as it is told to, and makes pictures of two steps."""

    def __init__(self, name: str = "box", **told: Any) -> None:
        self.name = name
        self.models: tuple[Model, ...] = told.get("models", (DRAFT,))
        self._told = told
        self.orders: list[CallOrder] = told.get("orders", [])
        self.closed: list[str] = told.get("closed", [])

    async def close(self) -> None:
        self.closed.append(self.name)

    async def refresh(self) -> None:
        if "refresh" in self._told:
            raise self._told["refresh"]

    async def probe(self) -> Findings:
        found = self._told.get("probe", Findings("a double 1.2", ("8 GB free",)))
        if isinstance(found, Findings):
            return found
        raise found

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        self.orders.append(order)
        picture = Picture(PNG, "png", order.request.width, order.request.height)
        if "run" in self._told:
            raise self._told["run"]
        if "hangs" in self._told:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            finally:
                self.closed.append("stopped")
        yield WorkBegun(2)
        yield StepDone("denoising", 1, 2)
        yield PreviewMade(picture, 1, 2)
        yield StepDone("denoising", 2, 2)
        if "empty" not in self._told:
            yield ImageMade(picture, 0, order.seed)


def probe(text: str, *arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    """Run the command with settings of this text."""
    Path("s.toml").write_text(text)
    return run("upstream", "probe", *arguments, "--config", "s.toml", env=env, stdin=stdin)
