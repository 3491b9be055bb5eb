"""What flows along the links of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model file the server pretends to have, and how it behaves when sampled."""

    name: str
    step_seconds: float = 0.0
    """Added to the server's own time of each step."""
    fail_at_step: int | None = None
    """The step at which sampling raises."""
    failure: str = "RuntimeError"
    """The exception's type as the server names it."""
    message: str = "scripted by the stand-in"


@dataclass(frozen=True, slots=True)
class Named:
    """Any other loaded thing: a text encoder, a VAE, a ControlNet."""

    name: str


@dataclass(frozen=True, slots=True)
class Upscaler:
    """An upscale model; its factor stands at the front of its name, as in `4x-standin.pth`."""

    name: str
    scale: int


@dataclass(frozen=True, slots=True)
class Hint:
    """A ControlNet's picture and how much it counts."""

    image: Floats
    strength: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A prompt, with the ControlNets put on it."""

    text: str
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True, slots=True)
class Latent:
    """A batch of pictures in the sampler's space, which here is the pixels' own: `samples` is B, H, W, 3."""

    samples: Floats
    noise_mask: Floats | None = None
    """M, H, W; 1 where the sampler may paint."""

    def with_samples(self, samples: Floats) -> Latent:
        return replace(self, samples=samples)


@dataclass(frozen=True, slots=True)
class Made:
    """What running a node gives: its outputs, and what it shows if it is an output node."""

    outputs: tuple[Any, ...] = ()
    shown: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Library:
    """The names of the models a server has, by folder."""

    checkpoints: tuple[Checkpoint, ...] = (Checkpoint("standin.safetensors"),)
    loras: tuple[str, ...] = ("standin-lora.safetensors",)
    controlnets: tuple[str, ...] = ("standin-canny.safetensors",)
    upscalers: tuple[str, ...] = ("2x-standin.pth", "4x-standin.pth")
    vaes: tuple[str, ...] = ("standin-vae.safetensors",)
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def checkpoint(self, name: str) -> Checkpoint:
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.name == name)

    def folder(self, name: str) -> list[str] | None:
        """The names in a models folder; None if the server has no such folder."""
        known = {
            "checkpoints": [checkpoint.name for checkpoint in self.checkpoints],
            "loras": list(self.loras),
            "controlnet": list(self.controlnets),
            "upscale_models": list(self.upscalers),
            "vae": list(self.vaes),
        }
        if name in known:
            return known[name]
        return list(self.others.get(name, ())) if name in MODEL_FOLDERS else None


MODEL_FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
)


class NodeError(Exception):
    """A node fails as the real one would, with the server's name of the exception."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(message)
        self.type_name = type_name


class Interrupted(Exception):
    """The interrupt flag was found set."""


class Vanished(Exception):
    """A script takes the prompt away without a word."""
