"""Who speaks the dialect: the vendor itself, servers people run themselves, and proxies in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from load.upstreams.openai_images.models import ALL, Model

Operation = Literal["generations", "edits", "variations"]
Fashion = Literal["openai", "fastapi", "localai"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one kind of server differs from the vendor."""

    name: str
    models: tuple[Model, ...]
    default_model: str
    errors: Fashion = "openai"
    """Form of an error's body."""
    operations: frozenset[Operation] = frozenset({"generations", "edits"})
    roots: tuple[str, ...] = ("/v1",)
    """What stands before `/images/...` and `/models`."""
    needs_key: bool = False
    """Whether a key is asked for unless the constructor says otherwise."""
    streams: bool = False
    partials: bool = False
    """Whether a stream carries the partial pictures that were asked for."""
    strict: bool = False
    """Whether unknown fields and unknown models are refused."""
    extras: frozenset[str] = frozenset()
    """Fields beside the vendor's own."""
    steps_field: str = "num_inference_steps"
    default_steps: int = 0
    default_size: tuple[int, int] = (1024, 1024)
    default_form: Literal["url", "b64_json"] = "b64_json"
    forms: frozenset[str] = frozenset({"url", "b64_json"})
    """Words of `response_format`."""
    output_format: str = "png"
    white_mask: bool = False
    """Whether `mask_image` (white = edit) stands in place of `mask` (transparent = edit)."""
    ignores_mask: bool = False
    negative_bar: bool = False
    """Whether the prompt holds the negative prompt after a `|`."""
    full_items: bool = False
    """Whether an item of `data` has all three keys, those without a value as null."""
    revised_is_prompt: bool = False
    """Whether `revised_prompt` repeats the prompt."""
    identified: bool = False
    """Whether an answer has an `id`."""
    describes: bool = False
    """Whether an answer names size, quality, format and background."""
    result_path: str = "/private/org-standin/img-{id}.{extension}"
    """Where pictures lie that are answered as URLs."""
    relative_urls: bool = False
    """Whether those URLs lack scheme and host."""


_DIFFUSION = frozenset({"negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale", "seed"})


def _local(name: str) -> tuple[Model, ...]:
    return (Model(name, "local", sizes=()),)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                "openai",
                ALL,
                "gpt-image-1.5",
                operations=frozenset({"generations", "edits", "variations"}),
                needs_key=True,
                streams=True,
                partials=True,
                strict=True,
                describes=True,
            ),
            Profile("proxy", ALL, "gpt-image-1.5", needs_key=True, streams=True, describes=True),
            Profile(
                "localai",
                _local("stablediffusion"),
                "stablediffusion",
                errors="localai",
                operations=frozenset({"generations"}),
                extras=frozenset({"mode", "step", "seed"}),
                steps_field="step",
                default_steps=15,
                default_size=(512, 512),
                default_form="url",
                negative_bar=True,
                identified=True,
                result_path="/generated-images/b64{id}.{extension}",
            ),
            Profile(
                "vllm",
                _local("Qwen/Qwen-Image"),
                "Qwen/Qwen-Image",
                errors="fastapi",
                extras=_DIFFUSION | {"infer_align_image_size", "url", "reference_image", "mask_image"},
                default_steps=50,
                forms=frozenset({"b64_json", "file"}),
                white_mask=True,
                full_items=True,
            ),
            Profile(
                "sglang",
                _local("black-forest-labs/FLUX.1-dev"),
                "black-forest-labs/FLUX.1-dev",
                errors="fastapi",
                roots=("/v1", ""),
                extras=_DIFFUSION,
                default_steps=50,
                output_format="jpeg",
                ignores_mask=True,
                revised_is_prompt=True,
                full_items=True,
                result_path="/v1/images/{id}/content",
                relative_urls=True,
            ),
            Profile(
                "aquiles",
                _local("stabilityai/stable-diffusion-3.5-medium"),
                "stabilityai/stable-diffusion-3.5-medium",
                errors="fastapi",
                roots=("",),
                extras=frozenset({"seed", "num_inference_steps"}),
                default_form="url",
                result_path="/images/{id}.{extension}",
            ),
        )
    }
)
