"""A diffusers pipeline as an upstream: it is loaded and run in a process of its own (`child`), one picture at a time.

The gateway never imports torch. The model is loaded by the process while the gateway serves; until that is done the
upstream offers nothing, and a call that comes in between (for a process had to be replaced) waits.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from gateway.core.models import Model
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
from gateway.ports import CallOrder, Findings
from gateway.upstreams.children import Children, Process, Trade
from gateway.upstreams.diffusers import wire
from gateway.upstreams.diffusers.models import Terms, facts_told, model_of

__all__ = ["Diffusers", "Terms"]

_MODULE: Final = "gateway.upstreams.diffusers.child"
_GRACE_SECONDS: Final = 30.0
"""How long a step may take to end that was called off: to kill the process would cost the loading of the model."""
_AGAIN_SECONDS: Final = 60.0
"""How long a model that could not be loaded is left alone: somebody has to do something first."""
_RUNTIME: Final = (
    "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS",
)  # fmt: skip
"""What torch and the hub's cache go by; no keys among it."""
_DOWNLOADING: Final = ("HF_TOKEN", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
_QUIET: Final = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_FAILED: Final = frozenset((
    "image_decode_failed", "payload_too_large", "out_of_memory", "adapter_not_found", "task_not_supported",
    "upstream_error",
))  # fmt: skip


class Diffusers(Children[wire.Report]):
    """One model; see `Upstream`. It is known once it is loaded (`refresh`), none before.

    `processes` is how many pictures are painted at once; each holds the whole model. `refresh` waits `patience_seconds`
    for the loading, a call `load_seconds`. See `Setup` and `Terms` for the rest.
    """

    def __init__(
        self,
        *,
        name: str,
        setup: wire.Setup,
        terms: Terms | None = None,
        processes: int = 1,
        patience_seconds: float = 30.0,
        load_seconds: float = 900.0,
        module: str = _MODULE,
    ) -> None:
        super().__init__(_trade(module, downloads=setup.download), processes)
        self.name = name
        self.models: tuple[Model, ...] = ()
        self._setup = setup
        self._terms = terms or Terms()
        self._patience_seconds = patience_seconds
        self._load_seconds = load_seconds
        self._loaded: wire.Loaded | None = None
        self._ready: set[Process[wire.Report]] = set()
        self._loading = "nothing yet"
        self._trouble: tuple[str, str] | None = None
        self._again_at = float("-inf")
        self._orders = 0

    async def refresh(self) -> None:
        """See `Upstream.refresh`: wait for the model. A process that died meanwhile is replaced, so that it is warm."""
        if self._slots.locked():
            # All are at work, or a call waits for its process to have loaded.
            if not self.models:
                raise self._not_yet()
            return
        async with self._slots:
            process = await self._borrow()
            try:
                await self._make_ready(process, self._patience_seconds)
            finally:
                await self._give_back(process)

    async def probe(self) -> Findings:
        """See `Upstream.probe`: what the loading told; `refresh` comes first, and says why there is nothing."""
        if self._loaded is None or not self.models:
            return Findings("a diffusers pipeline that is not loaded", (f"loading: {self._loading}",))
        facts = facts_told(self._loaded, self.models[0])
        return Findings(self._loaded.versions, facts, self._loaded.problems)

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """Paint `order.count` pictures, the first from `order.seed`, each next from the seed that follows."""
        self._orders += 1
        paint = _paint(order, self._orders)
        message = wire.encode(paint)
        if len(message) > wire.MAX_ORDER:
            raise UpstreamFault(Outcome.FAILED, "payload_too_large", "the input images are too large together")
        async with self._slots:
            process = await self._borrow()
            try:
                await self._make_ready(process, self._load_seconds)
                await process.send(message, paint.id)
                order.sent()
                steps = paint.steps
                async for report in process.reports(paint.id):
                    if isinstance(report, wire.Begun):
                        steps = report.steps
                    for told in _told(report, paint, steps):
                        yield told
            finally:
                await self._give_back(process)

    # --- processes ---

    async def _start(self) -> Process[wire.Report]:
        if self._trouble is not None and asyncio.get_running_loop().time() < self._again_at:
            raise self._not_yet()
        self._trouble = None
        process = await super()._start()
        await process.send(wire.encode(self._setup), self._setup.id)
        return process

    async def _borrow(self) -> Process[wire.Report]:
        process = await super()._borrow()
        if process not in self._ready:
            return process
        try:
            is_settled = await process.settle()
        except BaseException:
            self._idle.append(process)
            raise
        if is_settled:
            return process
        await self._bury(process)
        return await self._start()

    async def _give_back(self, process: Process[wire.Report]) -> None:
        """Make the process idle again, without waiting for a step that was called off: the next call does that."""
        if self._closed or not process.alive:
            await self._bury(process)
            return
        if process in self._ready:
            process.call_off()
        self._idle.append(process)

    async def _bury(self, process: Process[wire.Report]) -> None:
        self._ready.discard(process)
        await super()._bury(process)

    async def _make_ready(self, process: Process[wire.Report], seconds: float) -> None:
        """Wait until the process has loaded the model; raises `UpstreamFault` `NOT_SENT`."""
        if process in self._ready:
            return
        try:
            async with asyncio.timeout(seconds):
                async for report in process.reports(self._setup.id):
                    self._note(report)
        except TimeoutError:
            raise self._not_yet() from None
        except UpstreamFault as fault:
            self._fail(fault.code, "the process died while it loaded the model")
            raise self._not_yet() from fault
        if self._trouble is not None:
            process.kill()
            raise self._not_yet()
        self._ready.add(process)

    def _note(self, report: wire.Report) -> None:
        match report:
            case wire.Loading(what=what):
                self._loading = what
            case wire.Loaded():
                self._loaded = report
                self.models = (model_of(self.name, self._setup.model, report, self._terms),)
            case wire.Ended(code=str(code), message=message):
                self._fail(code, message)
            case _:
                pass

    def _fail(self, code: str, message: str) -> None:
        self._trouble = (code, message)
        self._again_at = asyncio.get_running_loop().time() + _AGAIN_SECONDS

    def _not_yet(self) -> UpstreamFault:
        """Return the fault of a model that is not there; what a person can do goes into `cause`."""
        if self._trouble is None:
            message, cause = "the model is still being loaded", self._loading
        else:
            message, cause = "the model cannot be loaded", self._trouble[1]
        details = {"upstream": self.name, "cause": cause}
        return UpstreamFault(Outcome.NOT_SENT, "model_unavailable", message, details=details)


def _trade(module: str, *, downloads: bool) -> Trade[wire.Report]:
    return Trade(
        module=module,
        decode=wire.decode_report,
        ended=wire.Ended,
        cancel=lambda order: wire.encode(wire.Cancel(order)),
        max_report=wire.MAX_REPORT,
        environment=_QUIET | ({} if downloads else {"HF_HUB_OFFLINE": "1"}),
        inherited=(*_RUNTIME, *(_DOWNLOADING if downloads else ())),
        grace_seconds=_GRACE_SECONDS,
    )


def _paint(order: CallOrder, id: int) -> wire.Paint:
    request = order.request
    controls = [
        wire.Control(
            image.role,
            order.inputs[image.slot or image.role],
            1.0 if image.weight is None else image.weight,
            0.0 if image.start is None else image.start,
            1.0 if image.end is None else image.end,
        )
        for image in request.controls
    ]
    return wire.Paint(
        id=id,
        task=request.task,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=order.seed,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
        count=order.count,
        strength=request.strength,
        sampler=request.sampler,
        init=order.inputs.get("init"),
        mask=order.inputs.get("mask"),
        controls=tuple(controls),
        loras={lora.name: lora.weight for lora in request.loras},
    )


def _told(report: wire.Report, paint: wire.Paint, steps: int) -> list[Report]:
    """What a process's report is to the gateway; raises the fault that it tells."""
    match report:
        case wire.Begun():
            return [WorkBegun(steps)]
        case wire.Stepped(index=index, step=step):
            done: list[Report] = [StepDone("denoising", step, steps, index)]
            if report.preview:
                preview = Picture(report.preview, "jpeg", report.width, report.height)
                done.append(PreviewMade(preview, step, steps, index, approximate=True))
            return done
        case wire.Finished(index=index):
            picture = Picture(report.image, "png", report.width, report.height)
            return [ImageMade(picture, index, paint.seed + index, filtered=report.filtered)]
        case wire.Ended(code=str(code)):
            known = code if code in _FAILED else "upstream_error"
            raise UpstreamFault(Outcome.FAILED, known, report.message, details=_advice(known, paint))
        case _:
            return []


def _advice(code: str, paint: wire.Paint) -> dict[str, object]:
    if code != "out_of_memory":
        return {}
    width, height = (max(64, edge // 16 * 8) for edge in (paint.width, paint.height))
    return {"suggest": {"width": width, "height": height}}
