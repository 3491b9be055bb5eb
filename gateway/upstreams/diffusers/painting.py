"""Painting one order with a loaded pipeline, step by step. Imports torch."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from gateway.upstreams.child import PaintingFault
from gateway.upstreams.child_pictures import Pixels, decode_mask, decode_picture, encode_picture, encode_preview
from gateway.upstreams.diffusers import wire
from gateway.upstreams.diffusers.loading import Shop, without_effect
from gateway.upstreams.diffusers.previews import Watch


class _Cancelled(Exception):
    """The order was called off: nobody wants the rest, not even the last latents decoded."""


class _Bar:
    """Stands in for a pipeline's progress bar."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, _: int = 1) -> None:
        """Say nothing: steps are told by a callback."""


class Painter:
    """Paints one order; `report` is told how it goes, `is_cancelled` is asked between steps."""

    def __init__(
        self, shop: Shop, order: wire.Paint, report: Callable[[wire.Report], None], is_cancelled: Callable[[], bool]
    ) -> None:
        self._shop = shop
        self._order = order
        self._report = report
        self._is_cancelled = is_cancelled
        self._size = (order.width, order.height)
        self._has_begun = False
        self._index = 0
        self._init = None if order.init is None else decode_picture(order.init, self._size)
        self._mask = None if order.mask is None else decode_mask(order.mask, self._size)
        self._kinds = tuple(control.kind for control in order.controls)
        if unknown := [name for name in (*self._kinds, *order.loras) if name not in (*shop.controlnets, *shop.loras)]:
            raise PaintingFault("adapter_not_found", f"there is no {unknown[0]} here")

    def paint(self) -> None:
        """Paint every picture, until the order is called off."""
        try:
            pipeline = self._shop.pipeline(self._kind_of_work(), self._kinds)
        except ValueError as fault:
            raise PaintingFault("task_not_supported", "this model cannot do these inputs together") from fault
        with contextlib.suppress(_Cancelled), self._loras(), torch.no_grad():
            fixed = self._fixed(pipeline)
            for index in range(self._order.count):
                self._index = index
                self._picture(pipeline, fixed)

    def _kind_of_work(self) -> str:
        if self._mask is not None:
            return "inpaint"
        return "txt2img" if self._init is None else "img2img"

    def _picture(self, pipeline: Any, fixed: dict[str, Any]) -> None:
        if self._is_cancelled():
            raise _Cancelled
        if self._init is not None and self._order.strength == 0:
            self._begin(0)
            self._finish(self._init, is_filtered=False)
            return
        pipeline.scheduler = self._shop.sampler(self._order.sampler)
        watch = Watch(pipeline.scheduler)
        pipeline.progress_bar = lambda *_, total=None, **__: self._bar(pipeline, total)
        chance = torch.Generator("cpu").manual_seed(self._order.seed + self._index)
        try:
            made = pipeline(
                **fixed, generator=chance, callback_on_step_end=lambda *told: self._step(watch, *told), output_type="np"
            )
        finally:
            pipeline.maybe_free_model_hooks()
        if self._is_cancelled():
            raise _Cancelled
        flags = getattr(made, "nsfw_content_detected", None) or [False]
        self._finish((made.images[0] * 255).round().astype(np.uint8), is_filtered=bool(flags[0]))

    def _bar(self, pipeline: Any, total: int | None) -> _Bar:
        # A pipeline makes it just before its first step, when it knows how many there are.
        self._begin(int(getattr(pipeline, "num_timesteps", 0) or total or self._order.steps))
        if self._is_cancelled():
            raise _Cancelled
        return _Bar()

    def _begin(self, steps: int) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._report(wire.Begun(self._order.id, steps))

    def _step(self, watch: Watch, pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        preview = self._preview(watch, pipeline, tensors.get("latents"))
        self._report(wire.Stepped(self._order.id, self._index, step + 1, *preview))
        if self._is_cancelled():
            raise _Cancelled
        return tensors

    def _preview(self, watch: Watch, pipeline: Any, latents: Any) -> tuple[bytes, int, int]:
        if self._shop.decoder is None or latents is None:
            return b"", 0, 0
        latents = watch.guess(latents)
        if latents.ndim == 3 and hasattr(pipeline, "_unpack_latents"):
            width, height = self._size
            latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)  # noqa: SLF001
        # Some families have a dimension of time, with one moment in it.
        flat = latents[0, :, 0] if latents.ndim == 5 else latents[0]
        return encode_preview(self._shop.decoder(flat), *self._size)

    def _finish(self, pixels: Pixels, *, is_filtered: bool) -> None:
        if self._init is not None and self._mask is not None and not is_filtered:
            pixels = _kept(self._init, pixels, self._mask)
        height, width = pixels.shape[:2]
        image = encode_picture(pixels)
        self._report(wire.Finished(self._order.id, self._index, image, width, height, is_filtered))

    # --- what the pipeline is told ---

    def _fixed(self, pipeline: Any) -> dict[str, Any]:
        """Return the arguments that all pictures of the order share, as far as the pipeline takes them."""
        order = self._order
        taken = frozenset(inspect.signature(pipeline.__call__).parameters) - without_effect(pipeline)
        given: dict[str, Any] = {
            "prompt": order.prompt,
            "negative_prompt": order.negative_prompt or None,
            "width": order.width,
            "height": order.height,
            "num_inference_steps": order.steps,
            "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale": order.guidance,
        }
        if self._init is not None:
            given["image"] = Image.fromarray(self._init)
            given["strength"] = self._strength()
        if self._mask is not None:
            given["mask_image"] = Image.fromarray(self._mask)
        given |= self._controls("control_image" if "control_image" in taken else "image")
        return {name: value for name, value in given.items() if name in taken}

    def _strength(self) -> float:
        """Return how much of the run is done: a step at least, for without any there would be no picture."""
        asked = 1.0 if self._order.strength is None else self._order.strength
        return min(1.0, max(asked, 1.001 / self._order.steps))

    def _controls(self, name: str) -> dict[str, Any]:
        controls = self._order.controls
        if not controls:
            return {}
        rows: dict[str, list[Any]] = {
            name: [Image.fromarray(decode_picture(one.image, self._size)) for one in controls],
            "controlnet_conditioning_scale": [float(one.weight) for one in controls],
            "control_guidance_start": [one.start for one in controls],
            "control_guidance_end": [one.end for one in controls],
        }
        return rows if len(controls) > 1 else {key: values[0] for key, values in rows.items()}

    @contextlib.contextmanager
    def _loras(self) -> Iterator[None]:
        """Use the order's LoRAs, and no others."""
        shop, asked = self._shop, self._order.loras
        if shop.loras and asked:
            shop.base.enable_lora()
            shop.base.set_adapters([shop.loras[name] for name in asked], list(asked.values()))
        elif shop.loras:
            shop.base.disable_lora()
        yield


def _kept(init: Pixels, made: Pixels, mask: Pixels) -> Pixels:
    """Return what was made where the mask is white, the init's own bytes where it is black, a blend in between."""
    part = mask[:, :, None].astype(np.float32) / 255
    mixed = np.round(init * (1 - part) + made * part).astype(np.uint8)
    return np.where(mask[:, :, None] == 0, init, mixed)
