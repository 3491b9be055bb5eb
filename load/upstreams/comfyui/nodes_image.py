"""The nodes that load, change and save pictures, and the three that only the recordings' server had."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from load.upstreams.comfyui import arrays
from load.upstreams.comfyui.folders import File, Folders, Kind, OutsideError, input_place
from load.upstreams.comfyui.hub import PNG
from load.upstreams.comfyui.nodes import choices, number
from load.upstreams.comfyui.spec import Context, Input, Lists, NodeClass
from load.upstreams.comfyui.troubles import SERVER_ROOT
from load.upstreams.comfyui.values import Floats, Made, NodeError, Upscaler
from load.upstreams.pictures import padded

_MAX_SIDE = 16384
_NO_MASK = np.zeros((1, 64, 64), np.float32)
_TILE, _OVERLAP = 512, 32
_LOOKS_EACH_SECONDS = 0.02
_HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


def _uploaded(lists: Lists) -> list[str]:
    return list(lists.files)


def _check_image(folders: Folders, inputs: Mapping[str, Any]) -> dict[str, str]:
    name = inputs.get("image")
    if isinstance(name, str) and _stored(folders, name) is None:
        return {"image": f"Invalid image file: {name}"}
    return {}


def _image_fingerprint(folders: Folders, inputs: Mapping[str, Any]) -> str:
    name = inputs.get("image")
    file = _stored(folders, name) if isinstance(name, str) else None
    return hashlib.sha256(file.data).hexdigest() if file is not None else uuid.uuid4().hex


def _stored(folders: Folders, name: str) -> File | None:
    try:
        return folders.get(input_place(name))
    except OutsideError:
        return None


def _open(context: Context, name: str) -> Image.Image:
    file = _stored(context.folders, name)
    if file is None:
        raise NodeError("FileNotFoundError", f"[Errno 2] No such file or directory: '{SERVER_ROOT}/input/{name}'")
    try:
        picture: Image.Image = Image.open(io.BytesIO(file.data))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        message = f"cannot identify image file '{SERVER_ROOT}/input/{name}'"
        raise NodeError("PIL.UnidentifiedImageError", message) from error
    picture = ImageOps.exif_transpose(picture)
    return picture.convert("RGBA") if "transparency" in picture.info else picture


def _load_image(context: Context, given: Mapping[str, Any]) -> Made:
    picture = _open(context, given["image"])
    image = arrays.from_picture(picture.convert("RGB"))[None]
    if "A" not in picture.getbands():
        return Made((image, _NO_MASK))
    return Made((image, 1 - arrays.from_picture(picture.getchannel("A"))[None]))


def _load_mask(context: Context, given: Mapping[str, Any]) -> Made:
    picture = _open(context, given["image"]).convert("RGBA")
    plane = arrays.from_picture(picture.getchannel(given["channel"][0].upper()))[None]
    return Made((1 - plane if given["channel"] == "alpha" else plane,))


def _scale(_context: Context, given: Mapping[str, Any]) -> Made:
    image, width, height = given["image"], given["width"], given["height"]
    if width == height == 0:
        return Made((image,))
    own_height, own_width = image.shape[1:3]
    width = width or max(1, round(own_width * height / own_height))
    height = height or max(1, round(own_height * width / own_width))
    return Made((arrays.resize(image, width, height, given["upscale_method"], crop=given["crop"] == "center"),))


def _pad_for_outpaint(_context: Context, given: Mapping[str, Any]) -> Made:
    image: Floats = given["image"]
    sides = [(given["top"], given["bottom"]), (given["left"], given["right"])]
    padded_image = np.pad(image, ((0, 0), *sides, (0, 0)), constant_values=np.float32(0.5))
    height, width = image.shape[1:3]
    inner = np.zeros((height, width), np.float32)
    feather = given["feathering"]
    if feather > 0 and feather * 2 < min(height, width):
        inner = _feathered(height, width, sides, feather)
    mask = np.pad(inner, sides, constant_values=np.float32(1))
    return Made((padded_image, mask[None]))


def _feathered(height: int, width: int, sides: list[tuple[int, int]], feather: int) -> Floats:
    (top, bottom), (left, right) = sides
    down, across = np.arange(height)[:, None], np.arange(width)[None, :]
    near = np.full((height, width), max(height, width))
    for padding, distance in ((top, down), (bottom, height - down), (left, across), (right, width - across)):
        if padding:
            near = np.minimum(near, distance)
    share = np.clip((feather - near) / feather, 0, None)
    return np.asarray(share * share, dtype=np.float32)


async def _upscale(context: Context, given: Mapping[str, Any]) -> Made:
    model: Upscaler = given["upscale_model"]
    image: Floats = given["image"]
    tiles = len(image) * _tiles(image.shape[1]) * _tiles(image.shape[2])
    for tile in range(1, tiles + 1):
        await context.arrive(tile)
        await context.step(tile, tiles)
    return Made((image.repeat(model.scale, axis=1).repeat(model.scale, axis=2),))


def _tiles(side: int) -> int:
    return 1 if side <= _TILE else -(-(side - _OVERLAP) // (_TILE - _OVERLAP))


def _canny(_context: Context, given: Mapping[str, Any]) -> Made:
    grey = given["image"].mean(axis=-1)
    down = np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    across = np.abs(np.diff(grey, axis=2, append=grey[:, :, -1:]))
    edges = (np.maximum(down, across) >= given["low_threshold"]).astype(np.float32)
    return Made((np.repeat(edges[..., None], 3, axis=-1),))


def _composite(_context: Context, given: Mapping[str, Any]) -> Made:
    under, over = given["destination"], given["source"]
    height, width = under.shape[1:3]
    if given["resize_source"]:
        over = arrays.resize(over, width, height)
    over = arrays.repeat_to(over, len(under))
    mask = given.get("mask")
    if mask is None:
        weight = np.ones(over.shape[:3], np.float32)
    else:
        weight = arrays.repeat_to(arrays.resize_mask(mask, over.shape[2], over.shape[1]), len(over))
    top, left = min(given["y"], height), min(given["x"], width)
    visible = over[:, : height - top, : width - left]
    place = np.s_[:, top : top + visible.shape[1], left : left + visible.shape[2]]
    out = under.copy()
    out[place] = arrays.mix(under[place], visible, weight[:, : height - top, : width - left][..., None])
    return Made((out,))


def _invert_mask(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((1 - given["mask"],))


async def _save(context: Context, given: Mapping[str, Any]) -> Made:
    return await _store(context, given["images"], "output", given["filename_prefix"])


async def _show(context: Context, given: Mapping[str, Any]) -> Made:
    return await _store(context, given["images"], "temp", f"ComfyUI_temp_{context.temp_prefix}")


async def _store(context: Context, images: Floats, kind: Kind, prefix: str) -> Made:
    told = []
    lost = context.loses_files
    for image in images:
        try:
            place = context.folders.next_name(kind, prefix)
        except OutsideError as error:
            raise NodeError("Exception", f"the path is outside of {SERVER_ROOT}/{kind}") from error
        data = padded(await asyncio.to_thread(arrays.png, image, context.texts), context.picture_bytes)
        if not lost:
            context.folders.put(place, File(data, time.time()))
        told.append({"filename": place[2], "subfolder": place[1], "type": kind})
    return Made(shown={"images": told})


async def _send(context: Context, given: Mapping[str, Any]) -> Made:
    images = given["images"]
    for index, image in enumerate(images):
        data = padded(await asyncio.to_thread(arrays.png, image), context.picture_bytes)
        await context.step(index, len(images), lambda data=data: (PNG, data))  # type: ignore[misc]
    return Made()


def _never_the_same(_folders: Folders, _inputs: Mapping[str, Any]) -> str:
    return uuid.uuid4().hex


CLASSES = (
    NodeClass(
        "LoadImage",
        (Input("image", _uploaded, {"image_upload": True}),),
        ("IMAGE", "MASK"),
        _load_image,
        display_name="Load Image",
        category="image",
        checked=_check_image,
        fingerprint=_image_fingerprint,
    ),
    NodeClass(
        "LoadImageMask",
        (
            Input("image", _uploaded, {"image_upload": True}),
            Input("channel", choices("alpha", "red", "green", "blue")),
        ),
        ("MASK",),
        _load_mask,
        display_name="Load Image (as Mask)",
        category="mask",
        checked=_check_image,
        fingerprint=_image_fingerprint,
    ),
    NodeClass(
        "ImageScale",
        (
            Input("image", "IMAGE"),
            Input("upscale_method", choices("nearest-exact", "bilinear", "area", "bicubic", "lanczos")),
            number("width", "INT", 0, _MAX_SIDE, 512, step=1),
            number("height", "INT", 0, _MAX_SIDE, 512, step=1),
            Input("crop", choices("disabled", "center")),
        ),
        ("IMAGE",),
        _scale,
        display_name="Upscale Image",
        category="image/upscaling",
    ),
    NodeClass(
        "ImagePadForOutpaint",
        (
            Input("image", "IMAGE"),
            *(number(side, "INT", 0, _MAX_SIDE, 0, step=8) for side in ("left", "top", "right", "bottom")),
            number("feathering", "INT", 0, _MAX_SIDE, 40, step=1),
        ),
        ("IMAGE", "MASK"),
        _pad_for_outpaint,
        display_name="Pad Image for Outpainting",
        category="image",
    ),
    NodeClass(
        "ImageUpscaleWithModel",
        (Input("upscale_model", "UPSCALE_MODEL"), Input("image", "IMAGE")),
        ("IMAGE",),
        _upscale,
        display_name="Upscale Image (using Model)",
        category="image/upscaling",
        v3=True,
    ),
    NodeClass(
        "Canny",
        (
            Input("image", "IMAGE"),
            number("low_threshold", "FLOAT", 0.01, 0.99, 0.4, step=0.01),
            number("high_threshold", "FLOAT", 0.01, 0.99, 0.8, step=0.01),
        ),
        ("IMAGE",),
        _canny,
        category="image/preprocessors",
        v3=True,
    ),
    NodeClass(
        "ImageCompositeMasked",
        (
            Input("destination", "IMAGE"),
            Input("source", "IMAGE"),
            number("x", "INT", 0, _MAX_SIDE, 0, step=1),
            number("y", "INT", 0, _MAX_SIDE, 0, step=1),
            Input("resize_source", "BOOLEAN", {"default": False}),
            Input("mask", "MASK", optional=True),
        ),
        ("IMAGE",),
        _composite,
        category="image",
    ),
    NodeClass("InvertMask", (Input("mask", "MASK"),), ("MASK",), _invert_mask, category="mask"),
    NodeClass(
        "SaveImage",
        (Input("images", "IMAGE"), Input("filename_prefix", "STRING", {"default": "ComfyUI"})),
        (),
        _save,
        display_name="Save Image",
        category="image",
        output_node=True,
        hidden=_HIDDEN,
    ),
    NodeClass(
        "PreviewImage",
        (Input("images", "IMAGE"),),
        (),
        _show,
        display_name="Preview Image",
        category="image",
        output_node=True,
        hidden=_HIDDEN,
    ),
    NodeClass(
        "SaveImageWebsocket",
        (Input("images", "IMAGE"),),
        (),
        _send,
        category="api/image",
        output_node=True,
        fingerprint=_never_the_same,
    ),
)


async def _delay(context: Context, given: Mapping[str, Any]) -> Made:
    ticks = given["ticks"]
    for tick in range(1, ticks + 1):
        await _wait(context, given["seconds"] / ticks)
        await context.step(tick, ticks)
    if not ticks:
        await _wait(context, given["seconds"])
    return Made((given["samples"],))


async def _wait(context: Context, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left, _LOOKS_EACH_SECONDS))
        context.look_at_flag()


def _fail(_context: Context, given: Mapping[str, Any]) -> Made:
    raise NodeError("RuntimeError", given["message"])


def _say(context: Context, given: Mapping[str, Any]) -> Made:
    context.send_text(given["text"])
    return Made((given["samples"],))


TINY_CLASSES = (
    NodeClass(
        "TinyDelay",
        (
            Input("samples", "LATENT"),
            number("seconds", "FLOAT", 0.0, 600.0, 1.0),
            number("ticks", "INT", 0, 1000, 0),
        ),
        ("LATENT",),
        _delay,
    ),
    NodeClass(
        "TinyFail",
        (Input("samples", "LATENT"), Input("kind", choices("runtime_error")), Input("message", "STRING")),
        ("LATENT",),
        _fail,
    ),
    NodeClass("TinyProgressText", (Input("samples", "LATENT"), Input("text", "STRING")), ("LATENT",), _say),
)
"""A silent node, one that fails and one that sends text; no real server has them."""
