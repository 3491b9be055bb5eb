"""Cheap pictures of latents: what the noise between two steps is on its way to. Imports torch.

A latent's channels are close to a linear mix of the colours they stand for. The mix is found once for each model, by
least squares over patches of colour that its own encoder turns into latents, so it fits any family. A small trained
decoder (TAESD and its like) shows more, and is a setting.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderTiny

from gateway.upstreams.child_pictures import Pixels

Decoder = Callable[[Any], Pixels]
"""From latents of shape (channels, height, width), as the pipeline has them, to RGB."""
_EDGE: Final = 256
_SAMPLES: Final = 6
_SEED: Final = 0


def fitted(vae: Any, device: str) -> Decoder:
    """Return the linear decoder that fits a model's own encoder."""
    was = next(vae.parameters()).dtype
    vae.to(device)
    try:
        if was != torch.float32:
            # Some encoders overflow with 16 bits.
            vae.to(torch.float32)
        with torch.no_grad():
            factors = _fit(vae, device)
    finally:
        if was != torch.float32:
            vae.to(was)
    matrix, bias = factors[:-1], factors[-1]

    def decode(latents: Any) -> Pixels:
        mixed = torch.einsum("chw,cr->hwr", latents.float(), matrix.to(latents.device)) + bias.to(latents.device)
        return _pixels(mixed)

    return decode


def tiny(origin: str, dtype: Any, device: str, *, downloads: bool) -> Decoder:
    """Return the decoder of a folder, or of a name on the hub; raises `OSError` if there is none."""
    vae = AutoencoderTiny.from_pretrained(origin, dtype=dtype, local_files_only=not downloads).to(device)

    def decode(latents: Any) -> Pixels:
        with torch.no_grad():
            made = vae.decode(latents.to(device=device, dtype=dtype)[None]).sample[0]
        return _pixels((made.float() / 2 + 0.5).permute(1, 2, 0))

    return decode


def _pixels(colours: Any) -> Pixels:
    return np.asarray((colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def _fit(vae: Any, device: str) -> Any:
    """Return factors of shape (channels + 1, 3), the last row a bias."""
    pictures = _samples().to(device)
    latents = in_the_pipelines_scale(vae, vae.encode(pictures * 2 - 1).latent_dist.mode())
    colours = torch.nn.functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    left = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).float().cpu()
    left = torch.cat([left, torch.ones(len(left), 1)], dim=1)
    right = colours.permute(0, 2, 3, 1).reshape(-1, 3).float().cpu()
    # A ridge, for channels that no patch of colour moves.
    square = left.T @ left + 1e-3 * len(left) * torch.eye(left.shape[1])
    return torch.linalg.solve(square, left.T @ right)


def _samples() -> Any:
    """Return patches of colour in three grains over soft gradients, RGB 0..1 of shape (samples, 3, edge, edge)."""
    chance = torch.Generator().manual_seed(_SEED)
    mixed = torch.zeros(_SAMPLES, 3, _EDGE, _EDGE)
    for cells, how in ((3, "bilinear"), (8, "nearest"), (16, "bilinear")):
        noise = torch.rand(_SAMPLES, 3, cells, cells, generator=chance)
        mixed += torch.nn.functional.interpolate(noise, size=(_EDGE, _EDGE), mode=how)
    return ((mixed / 3 - 0.5) * 2 + 0.5).clamp(0, 1)


def in_the_pipelines_scale(vae: Any, latents: Any) -> Any:
    """Return an encoder's latents as pipelines have them between two steps."""
    config = vae.config
    shift, scale = getattr(config, "shift_factor", None), getattr(config, "scaling_factor", None)
    means, spreads = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if means is not None and spreads is not None:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(means, device=latents.device).view(shape)
        latents = (latents - mean) / torch.tensor(spreads, device=latents.device).view(shape)
        return latents * (1.0 if scale is None else scale)
    return (latents - (shift or 0.0)) * (1.0 if scale is None else scale)


class Watch:
    """Stands before a scheduler's `step` and guesses after each where the run is going.

    Before and after a step the latents are `a x + s n`, with the same picture x and nearly the same noise n: two
    equations, of which x is the solution. Where a scheduler does not tell a and s, the latents themselves must do.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._step = scheduler.step
        self._index = 0
        self._before: Any = None
        scheduler.step = self._watched

    def _watched(self, model_output: Any, timestep: Any, sample: Any, *rest: Any, **named: Any) -> Any:
        index = getattr(self._scheduler, "step_index", None)
        self._before = (sample, timestep, index)
        return self._step(model_output, timestep, sample, *rest, **named)

    def guess(self, latents: Any) -> Any:
        """Return the picture's latents as they are expected at the end, from those after a step."""
        if self._before is None:
            return latents
        sample, timestep, index = self._before
        now, after = self._levels(timestep, index)
        if sample.shape != latents.shape or now is None or after is None:
            return latents / latents.float().std().clamp(min=1).to(latents.dtype)
        (a, s), (b, r) = now, after
        spread = s * b - r * a
        return latents if spread < 1e-6 else (s * latents.float() - r * sample.float()) / spread

    def _levels(
        self, timestep: Any, index: int | None
    ) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """Return (a, s) before and after the step; `None` where they are not known."""
        scheduler = self._scheduler
        sigmas = getattr(scheduler, "sigmas", None)
        after = getattr(scheduler, "step_index", None)
        if sigmas is not None and after is not None and after < len(sigmas):
            before = after - 1 if index is None else index
            return _level(scheduler, float(sigmas[before])), _level(scheduler, float(sigmas[after]))
        products = getattr(scheduler, "alphas_cumprod", None)
        if products is None:
            return None, None
        times = [int(time) for time in scheduler.timesteps]
        here = int(timestep)
        later = [time for time in times if time < here]
        ended = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
        following = float(products[max(later)]) if later else ended
        return _of_product(float(products[here])), _of_product(following)


def _level(scheduler: Any, sigma: float) -> tuple[float, float] | None:
    config = scheduler.config
    if config.get("use_flow_sigmas") or "FlowMatch" in type(scheduler).__name__:
        return 1 - sigma, sigma
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        scale = 1 / (1 + sigma * sigma) ** 0.5
        return scale, sigma * scale
    return 1.0, sigma


def _of_product(product: float) -> tuple[float, float]:
    return product**0.5, (1 - product) ** 0.5
