"""The embedded default upstream: small denoisers in processes of their own (`engine_child`).

What it offers stands in `engine_models`.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from gateway.core.models import Model
from gateway.core.normal import InputImage
from gateway.core.reports import (
    ImageMade,
    Outcome,
    Picture,
    PreviewMade,
    Report,
    StepDone,
    UpstreamFault,
    WorkBegun,
)
from gateway.engine import wire
from gateway.ports import CallOrder, Findings
from gateway.upstreams.children import Children, Trade
from gateway.upstreams.engine_models import DENOISERS, LOOKS, models_of

_TRADE: Final[Trade[wire.Report]] = Trade(
    module="gateway.upstreams.engine_child",
    decode=wire.decode_report,
    ended=wire.Ended,
    cancel=lambda order: wire.encode(wire.Cancel(order)),
    max_report=wire.MAX_REPORT,
    # One thread each: numpy's own would fight with the other processes and with the gateway for the cores.
    environment=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
)
_FAILED: Final = frozenset(("image_decode_failed", "payload_too_large", "out_of_memory", "upstream_error"))


class Engine(Children[wire.Report]):
    """The embedded engine as an `Upstream`: no cost, real steps and previews.

    `processes` is how many pictures are painted at once; each takes one core and at most 250 MB, or 380 while it
    decodes a WebP of 16 megapixels.
    """

    def __init__(self, *, name: str = "engine", processes: int = 1) -> None:
        super().__init__(_TRADE, processes)
        self.name = name
        self.models: tuple[Model, ...] = models_of(name)
        self._at_once = processes
        self._orders = 0

    async def refresh(self) -> None:
        """See `Upstream.refresh`: the engine is what it is."""

    async def probe(self) -> Findings:
        """See `Upstream.probe`: a process that starts can paint."""
        await self._give_back(await self._borrow())
        return Findings("the embedded engine", (f"paints up to {self._at_once} pictures at once",))

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Paint `order.count` pictures, the first from `order.seed`, each next from the seed that follows."""
        self._orders += 1
        work = _enlarge(order, self._orders) if order.request.task == "upscale" else _paint(order, self._orders)
        message = wire.encode(work)
        if len(message) > wire.MAX_ORDER:
            raise UpstreamFault(Outcome.FAILED, "payload_too_large", "the input images are too large together")
        async with self._slots:
            process = await self._borrow()
            try:
                await process.send(message, work.id)
                order.sent()
                async for report in process.reports(work.id):
                    for told in _told(report, order):
                        yield told
            finally:
                await self._give_back(process)


def _paint(order: CallOrder, id: int) -> wire.Paint:
    request = order.request
    lines = next(iter(request.controls), None)
    reference = order.inputs.get("reference")
    return wire.Paint(
        id=id,
        prompt=request.prompt,
        seed=order.seed,
        width=request.width,
        height=request.height,
        steps=request.steps,
        count=order.count,
        denoiser=DENOISERS[order.model.vendor_model],
        guidance=request.guidance,
        negative_prompt=request.negative_prompt,
        strength=1.0 if request.strength is None else request.strength,
        # What a mask beside a reference keeps is the reference's.
        init=order.inputs.get("init") if reference is None or "mask" not in order.inputs else reference,
        mask=order.inputs.get("mask"),
        reference=reference,
        tiling=request.tiling,
        transparent=request.background == "transparent",
        look=next((look for look in LOOKS if look == request.style), LOOKS[0]),
        **({} if lines is None else _lines(lines, order.inputs[lines.slot or lines.role])),
    )


def _lines(image: InputImage, content: bytes) -> dict[str, Any]:
    return {
        "edges": content,
        "edge_weight": 1.0 if image.weight is None else image.weight,
        "edges_from": image.start or 0.0,
        "edges_until": 1.0 if image.end is None else image.end,
    }


def _enlarge(order: CallOrder, id: int) -> wire.Enlarge:
    request = order.request
    return wire.Enlarge(id, order.inputs["init"], request.width, request.height, request.steps)


def _told(report: wire.Report, order: CallOrder) -> list[Report]:
    """What a process's report is to the gateway; raises the fault that it tells."""
    steps = order.request.steps
    match report:
        case wire.Begun():
            return [WorkBegun(steps)]
        case wire.Stepped(index=index, step=step):
            preview = Picture(report.preview, report.format, report.width, report.height)
            return [
                StepDone("denoising", step, steps, index),
                PreviewMade(preview, step, steps, index, approximate=True),
            ]
        case wire.Finished(index=index):
            picture = Picture(report.image, report.format, order.request.width, order.request.height)
            return [ImageMade(picture, index, order.seed + index)]
        case wire.Ended(code=None):
            return []
        case wire.Ended(code=code):
            known = code if code in _FAILED else "upstream_error"
            raise UpstreamFault(Outcome.FAILED, known, report.message, details=_advice(known, order))


def _advice(code: str, order: CallOrder) -> dict[str, object]:
    if code != "out_of_memory":
        return {}
    width, height = (max(64, edge // 16 * 8) for edge in (order.request.width, order.request.height))
    return {"suggest": {"width": width, "height": height}}
