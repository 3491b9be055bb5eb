"""A process that speaks as one with a pipeline does and needs no torch; names and prompts say how it behaves."""

import os
import time
from typing import BinaryIO

from PIL import Image

from gateway.upstreams.child import Inbox, PaintingFault, serve
from gateway.upstreams.diffusers import wire
from tests.pictures import encoded

LOADED = wire.Loaded(
    0,
    pipeline="StableDiffusionPipeline",
    params={
        "txt2img": frozenset({"prompt", "negative_prompt", "guidance_scale"}),
        "img2img": frozenset({"prompt", "guidance_scale", "strength"}),
    },
    device="cpu",
    versions="scripted 1",
    size=(64, 64),
    multiple_of=8,
    guidance=7.5,
    steps=4,
    samplers=("euler",),
    loras=("ink",),
    controls=(),
    previews=True,
)


class Script:
    """Does what the words tell."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._cancelled = -1

    def cancel(self, id: int) -> None:
        self._cancelled = max(self._cancelled, id)

    def paint(self, order: wire.Work) -> None:
        try:
            if isinstance(order, wire.Setup):
                self._load(order)
            else:
                self._steps(order)
        except PaintingFault as fault:
            self._say(wire.Ended(order.id, fault.code, fault.message))
        else:
            self._say(wire.Ended(order.id))

    def _load(self, setup: wire.Setup) -> None:
        self._say(wire.Loading(setup.id, "the first half"))
        match setup.model:
            case "slow":
                time.sleep(0.5)
            case "missing":
                raise PaintingFault("model_not_found", "the model missing is not on this machine")
            case "deadly":
                os._exit(3)
        self._say(LOADED)

    def _steps(self, paint: wire.Paint) -> None:
        if paint.prompt == "huge":
            raise PaintingFault("out_of_memory", "there is not enough memory for this picture")
        self._say(wire.Begun(paint.id, paint.steps - 1))
        for step in range(1, paint.steps):
            if paint.prompt == "stuck":
                time.sleep(60)  # before it looks, so that no cancellation is ever quick enough
            if self._cancelled >= paint.id:
                return
            time.sleep(0.05)
            self._say(wire.Stepped(paint.id, 0, step, b"", 0, 0))
        image = encoded(Image.new("RGB", (paint.width, paint.height)))
        self._say(wire.Finished(paint.id, 0, image, paint.width, paint.height))

    def _say(self, report: wire.Report) -> None:
        self._out.write(wire.encode(report))
        self._out.flush()


if __name__ == "__main__":
    serve(Inbox[wire.Work](wire.decode_order, wire.MAX_ORDER), Script)
