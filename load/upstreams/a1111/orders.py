"""From a body's fields to what is to be made, and to what the answer tells of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from load.upstreams import pictures
from load.upstreams.a1111 import controlnet, images
from load.upstreams.a1111.errors import Flavour, Json, Raised, Refused
from load.upstreams.a1111.fields import generation_fields
from load.upstreams.a1111.listings import LISTINGS, SCRIPTS
from load.upstreams.a1111.state import Options

MAX_SEED = 4294967294
MAX_PIXELS = 64 * 1024 * 1024
"""More in one batch than this does not fit on the card."""
VERSION = {"forge": "f2.0.1v1.10.1-1.10.1", "a1111": "v1.8.0", "sdnext": "sdnext"}

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What a generation request asks for, its pictures not yet decoded."""

    values: Values
    size: tuple[int, int]
    batch: int
    rounds: int
    passes: int
    """How often the sampler runs: twice a round with the second, enlarging pass."""
    steps: int
    sampler: str
    seeds: tuple[int, ...]
    words: str
    strength: float = 1.0

    @property
    def prompt(self) -> str:
        return str(self.values["prompt"])

    def colour(self, index: int, done: float = 1.0) -> images.Colour:
        """The paint of one picture of which so much is done."""
        return images.on_the_way(pictures.colour_of(self.seeds[index], self.words), done)


def find_sampler(name: str | None, flavour: Flavour) -> str:
    """The sampler to use; an unknown one is replaced or refused, depending on the flavour."""
    found = known_sampler(name)
    if flavour == "forge" or not name or found == _without_scheduler(name):
        return found
    raise Refused(404 if flavour == "sdnext" else 400, "Sampler not found")


def known_sampler(name: str | None) -> str:
    """The sampler of this name, or the first there is."""
    known = [str(sampler["name"]) for sampler in LISTINGS["samplers"]]
    plain = _without_scheduler(name or known[0])
    return plain if plain in known else known[0]


def _without_scheduler(name: str) -> str:
    for scheduler in LISTINGS["schedulers"]:
        for label in (scheduler["label"], scheduler["name"]):
            if name.endswith(f" {label}"):
                return name.removesuffix(f" {label}")
    return name


def check_scripts(values: Values, operation: str) -> None:
    """Refuse scripts that are not there."""
    known = SCRIPTS[operation]
    for name in [values.get("script_name"), *values.get("alwayson_scripts", {})]:
        if name and name.lower() not in known:
            raise Refused(422, f"Script '{name}' not found")


def make_order(values: Values, seed: int, loras: Collection[str]) -> Order:
    """The order in a body's fields; `seed` is taken where the body leaves it to chance."""
    first = seed if values["seed"] in (-1, None) else values["seed"]
    count = max(1, values["batch_size"]) * max(1, values["n_iter"])
    hires = bool(values.get("enable_hr"))
    known = () if values.get("disable_extra_networks") else loras
    return Order(
        values=values,
        size=_size(values, hires=hires),
        batch=max(1, values["batch_size"]),
        rounds=max(1, values["n_iter"]),
        passes=2 if hires else 1,
        steps=max(1, values["steps"]),
        sampler="",
        seeds=tuple(first + number for number in range(count)),
        words=images.words_of(values["prompt"], values["negative_prompt"], known),
        strength=1.0 if values["denoising_strength"] is None else min(1.0, max(0.0, values["denoising_strength"])),
    )


def with_sampler(order: Order, sampler: str) -> Order:
    """The order with the sampler that was found for it."""
    return dataclasses.replace(order, sampler=sampler)


def job_values(asked: Values) -> tuple[str, Values]:
    """Operation and fields of a stored SD.Next job, in the names of the first API."""
    inits = asked["inits"] or asked["inputs"]
    operation = "img2img" if inits else "txt2img"
    defaults = {item.name: item.default for item in generation_fields(operation, "sdnext")}
    given = {name: value for name, value in asked.items() if name in defaults}
    more = {"n_iter": asked["batch_count"], "init_images": inits, "inpainting_fill": 1, "inpaint_full_res": False}
    return operation, defaults | given | more


def _size(values: Values, *, hires: bool) -> tuple[int, int]:
    width, height = values["width"], values["height"]
    if hires:
        scale = values["hr_scale"]
        wanted = values["hr_resize_x"], values["hr_resize_y"]
        width, height = wanted if all(wanted) else (round(width * scale), round(height * scale))
    # Latents have an eighth of the size, whole.
    return max(8, width // 8 * 8), max(8, height // 8 * 8)


def check_memory(order: Order, message: str) -> None:
    """Raise what the card raises when a batch is too large for it."""
    if order.size[0] * order.size[1] * order.batch > MAX_PIXELS:
        raise Raised("OutOfMemoryError", message)


def scene(order: Order, operation: str) -> images.Scene:
    """The decoded scene; raises the refusals for pictures that can't be read."""
    inits: tuple[Image.Image, ...] = ()
    if operation == "img2img":
        inits = tuple(images.decode(given) for given in order.values["init_images"])
        if not inits or (len(inits) > 1 and len(inits) > order.batch):
            message = f"bad number of images passed: {len(inits)}; expecting {order.batch} or less"
            raise Raised("RuntimeError", message)
    return images.Scene(
        size=order.size,
        inits=inits,
        strength=order.strength,
        resize_mode=order.values.get("resize_mode", 0),
        mask=_mask(order.values) if inits else None,
    )


def with_controls(plain: images.Scene, order: Order) -> images.Scene:
    """The scene with the enabled ControlNet units; raises what they raise."""
    init = plain.inits[0] if plain.inits else None
    units = controlnet.enabled_units(order.values.get("alwayson_scripts", {}))
    controls = tuple(controlnet.control(unit, init) for unit in units)
    return images.Scene(plain.size, plain.inits, plain.strength, plain.resize_mode, plain.mask, controls)


def _mask(values: Values) -> images.Mask | None:
    if not values.get("mask"):
        return None
    both = values["mask_blur"]
    blur = (values["mask_blur_x"], values["mask_blur_y"]) if both is None else (both, both)
    return images.Mask(
        picture=images.decode(values["mask"]),
        invert=bool(values["inpainting_mask_invert"]),
        round_alpha=values["mask_round"],
        blur=blur,
        fill=values["inpainting_fill"],
        only_masked=values["inpaint_full_res"],
    )


@dataclass(frozen=True, slots=True)
class Told:
    """What else an answer's `info` depends on."""

    flavour: Flavour
    stamp: str
    made: int
    """How many pictures were made, fewer than ordered after an interrupt."""
    model: tuple[str, str]
    """Name and hash."""
    clip_skip: object
    gridded: bool = False


def info(order: Order, told: Told) -> tuple[str, list[str]]:
    """The `info` text of an answer, and the text for each picture's file."""
    texts = [_infotext(order, seed, told.model[0]) for seed in order.seeds[: told.made]]
    return json.dumps(_info(order, told, texts)), texts


def _info(order: Order, told: Told, texts: list[str]) -> Json:
    values, count = order.values, len(order.seeds)
    return {
        "prompt": values["prompt"],
        "all_prompts": [values["prompt"]] * count,
        "negative_prompt": values["negative_prompt"],
        "all_negative_prompts": [values["negative_prompt"]] * count,
        "seed": order.seeds[0],
        "all_seeds": list(order.seeds),
        "subseed": order.seeds[0],
        "all_subseeds": list(order.seeds),
        "subseed_strength": values["subseed_strength"],
        "width": values["width"],
        "height": values["height"],
        "sampler_name": order.sampler,
        "cfg_scale": values["cfg_scale"],
        "steps": values["steps"],
        "batch_size": values["batch_size"],
        "restore_faces": values["restore_faces"],
        "face_restoration_model": None,
        "sd_model_name": told.model[0],
        "sd_model_hash": told.model[1],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": values["seed_resize_from_w"],
        "seed_resize_from_h": values["seed_resize_from_h"],
        "denoising_strength": values["denoising_strength"],
        "extra_generation_params": {},
        "index_of_first_image": int(told.gridded),
        "infotexts": (texts[:1] if told.gridded else []) + texts,
        "styles": values["styles"] or [],
        "job_timestamp": told.stamp,
        "clip_skip": told.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": VERSION[told.flavour],
    }


def model_name(options: Options) -> tuple[str, str]:
    """Name and hash of the checkpoint in use."""
    title = str(options["sd_model_checkpoint"] or "tiny")
    name, _, rest = title.partition(" [")
    return name.removesuffix(".safetensors").removesuffix(".ckpt"), rest.rstrip("]") or "0000000000"


def _infotext(order: Order, seed: int, model: str) -> str:
    width, height = order.size
    facts = {
        "Steps": order.values["steps"],
        "Sampler": order.sampler,
        "CFG scale": order.values["cfg_scale"],
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": model,
    }
    return f"{order.prompt}\n" + ", ".join(f"{name}: {value}" for name, value in facts.items())


def parameters(order: Order, operation: str) -> Json:
    """The request as the answer repeats it; init pictures and mask are left out unless asked for."""
    told = dict(order.values)
    if operation == "img2img" and not told["include_init_images"]:
        told["init_images"] = told["mask"] = None
    return told
