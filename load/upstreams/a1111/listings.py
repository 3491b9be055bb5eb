"""What the server has on offer: names that the listing paths tell, and the checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

LISTINGS: Mapping[str, Any] = json.loads(Path(__file__).with_name("listings.json").read_text(encoding="utf-8"))
"""Answers as recorded, by the last part of their path."""
SCRIPTS: Mapping[str, frozenset[str]] = {
    operation: frozenset(names) for operation, names in LISTINGS["scripts"].items()
}
UPSCALERS = ("Lanczos",)
_SCALE = 4.0


def title_of(model: str) -> str:
    """A checkpoint's title: its file's name and the start of a hash made up from it."""
    return f"{model} [{_hash(model)[:10]}]"


def find_model(models: Collection[str], name: object) -> str | None:
    """The file of a checkpoint by title, file's name, name without ending or hash."""
    for model in models:
        stem = model.rpartition(".")[0] or model
        if name in (model, stem, title_of(model), _hash(model)[:10]):
            return model
    return None


def sd_models(models: Collection[str]) -> list[dict[str, object]]:
    """The list of checkpoints."""
    return [
        {
            "title": title_of(model),
            "model_name": model.rpartition(".")[0] or model,
            "hash": _hash(model)[:10],
            "sha256": _hash(model),
            "filename": f"/models/Stable-diffusion/{model}",
            "config": None,
        }
        for model in models
    ]


def loras(names: Collection[str]) -> list[dict[str, object]]:
    """The list of LoRA networks."""
    return [{"name": name, "alias": name, "path": f"/models/Lora/{name}.safetensors", "metadata": {}} for name in names]


def upscalers(names: Collection[str]) -> list[dict[str, object]]:
    """The list of upscalers."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": _SCALE} for name in names
    ]


def script_info() -> list[dict[str, object]]:
    """What each script is called and whether it is always on."""
    return [
        {"name": name, "is_alwayson": name == "controlnet", "is_img2img": operation == "img2img", "args": []}
        for operation, names in LISTINGS["scripts"].items()
        for name in names
    ]


def _hash(model: str) -> str:
    return hashlib.sha256(model.encode()).hexdigest()
