"""The pictures of an edit: from a form or a JSON body, checked as the vendor checks them."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.core.images import measure
from gateway.edges.compat.bodies import Bodies
from gateway.edges.compat.dialect import Sent
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.forms import Part
from gateway.edges.compat.openai_images.tables import ALPHA_IS_MASK, MAX_IMAGES
from gateway.edges.compat.openai_images.wire import EditJson, Reference, refuse

_IMAGE: Final = re.compile(r"image(\[\d{0,3}\])?\Z")


@dataclass(slots=True)
class Uploads:
    """What came along with an edit: each picture and what the client calls it."""

    images: list[tuple[str, bytes]] = field(default_factory=list)
    mask: bytes | None = None


def of_form(parts: list[Part]) -> tuple[dict[str, Any], Uploads]:
    """Return a form's texts by name, and its pictures. Raises `ClientFault`."""
    texts: dict[str, Any] = {}
    uploads = Uploads()
    for part in parts:
        if _IMAGE.match(part.name):
            name = part.name if part.name != "image[]" else f"image[{len(uploads.images)}]"
            uploads.images.append((name, part.content))
        elif part.name == "mask":
            uploads.mask = part.content or None
        else:
            texts[part.name] = part.text
    if not uploads.images:
        refuse("Object missing required field image", "image")
    if len(uploads.images) > MAX_IMAGES:
        refuse(f"Expected array of length <= {MAX_IMAGES}", "image")
    return texts, uploads


async def of_json(bodies: Bodies, asked: EditJson) -> Uploads:
    """Return the pictures of a JSON body. Raises `ClientFault`."""
    named = [(f"images[{index}]", one) for index, one in enumerate(asked.images)]
    images = [(name, await _inline(bodies, one, name)) for name, one in named]
    return Uploads(images, None if asked.mask is None else await _inline(bodies, asked.mask, "mask"))


async def _inline(bodies: Bodies, one: Reference, name: str) -> bytes:
    if one.file_id is not None:
        refuse("there are no files here: send image_url with a data: address", f"{name}.file_id")
    if one.image_url is None or not one.image_url.startswith("data:"):
        refuse("only data: addresses are read; the gateway fetches nothing", f"{name}.image_url")
    return await bodies.picture(one.image_url, f"{name}.image_url")


def checked(doors: Doors, uploads: Uploads) -> tuple[int, int]:
    """Return the first picture's size. Raises `ClientFault` if a picture is none, or the mask does not fit it."""
    first, *_ = [doors.pictures.measured(content, name) for name, content in uploads.images]
    size = (first.width, first.height)
    if uploads.mask is not None:
        mask = doors.pictures.measured(uploads.mask, "mask")
        if mask.format != "png" or not measure(uploads.mask).has_alpha:
            refuse("the mask must be a PNG with an alpha channel", "mask", "image_decode_failed")
        if (mask.width, mask.height) != size:
            refuse("the mask must have the size of the first image", "mask", "image_decode_failed")
    return size


async def mask_of(doors: Doors, uploads: Uploads, model: str | None) -> Sent | None:
    """Return the mask, white where what was sent is transparent; `None` if nothing is masked. Raises `ClientFault`."""
    name, content = uploads.images[0]
    if uploads.mask is not None:
        name, content = "mask", uploads.mask
    elif model != ALPHA_IS_MASK:
        return None
    return Sent("mask", await doors.pictures.mask(content, "transparent", name), name)


def sent(uploads: Uploads, mask: Sent | None, task: str) -> tuple[Sent, ...]:
    """Return the pictures in the roles that they have in a task."""
    role = "reference" if task == "reference" else "init"
    images = tuple(Sent(role, content, name) for name, content in uploads.images)
    return images if mask is None else (*images, mask)
