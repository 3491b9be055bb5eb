"""Checks the guesses of previews against a model that is never wrong; ends with 0 if all are right."""

from typing import Any

import diffusers
import torch

from gateway.upstreams.diffusers.previews import Watch

KINDS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)


def levels(scheduler: Any, time: Any, index: int) -> tuple[float, float]:
    """Return how much of the picture and of the noise is in the latents before a step."""
    if not hasattr(scheduler, "sigmas"):
        product = float(scheduler.alphas_cumprod[int(time)])
        return product**0.5, (1 - product) ** 0.5
    sigma = float(scheduler.sigmas[index])
    if type(scheduler).__name__ == "EulerDiscreteScheduler":
        return 1.0, sigma
    return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5


def check(kind: str, steps: int = 7) -> None:
    """Run a scheduler; the guess after each step must be the picture."""
    # Pictures of the usual families are clipped nowhere.
    more = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, kind)(**more)
    scheduler.set_timesteps(steps)
    watch = Watch(scheduler)
    goal, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    is_flow = "Flow" in kind
    latents = None
    for index, time in enumerate(scheduler.timesteps):
        a, s = (0.0, 1.0) if is_flow else levels(scheduler, time, index)
        latents = a * goal + s * noise if latents is None else latents
        answer = noise - goal if is_flow else (latents - a * goal) / s
        latents = scheduler.step(answer, time, latents, return_dict=False)[0]
        error = float((watch.guess(latents) - goal).abs().max())
        assert error < 0.02, (kind, index, error)


if __name__ == "__main__":
    torch.manual_seed(3)
    for one in KINDS:
        check(one)
