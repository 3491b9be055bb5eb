"""Speaking to a stand-in of Stability v2beta with a plain client."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import aiohttp
from PIL import Image

from load.upstreams.pictures import Colour, colour_of
from tests.load.upstreams.talk import Reply, flat, send
from tests.pictures import encoded

BASE = "/v2beta/stable-image/"
KEY = "sk-test"
BOUNDARY = "------------------------a1b2c3d4"
CAT = colour_of(7, "a cat")
RED: Colour = (200, 0, 0)
BLUE: Colour = (0, 0, 200)

Fields = Mapping[str, object]

CORE: Fields = {"prompt": "a cat", "seed": 7}
SQUARE = flat(64, 64, RED)

VALID: Mapping[str, Fields] = {
    "generate/ultra": CORE,
    "generate/core": CORE,
    "generate/sd3": CORE,
    "upscale/fast": {"image": SQUARE},
    "upscale/conservative": {**CORE, "image": SQUARE},
    "upscale/creative": {**CORE, "image": SQUARE},
    "edit/erase": {"image": SQUARE, "mask": SQUARE, "seed": 7},
    "edit/inpaint": {**CORE, "image": SQUARE, "mask": SQUARE},
    "edit/outpaint": {**CORE, "image": SQUARE, "left": 8},
    "edit/search-and-replace": {**CORE, "image": SQUARE, "search_prompt": "dog"},
    "edit/search-and-recolor": {**CORE, "image": SQUARE, "select_prompt": "dog"},
    "edit/remove-background": {"image": SQUARE},
    "edit/replace-background-and-relight": {"subject_image": SQUARE, "background_prompt": "a cat", "seed": 7},
    "control/sketch": {**CORE, "image": SQUARE},
    "control/structure": {**CORE, "image": SQUARE},
    "control/style": {**CORE, "image": SQUARE},
    "control/style-transfer": {"init_image": SQUARE, "style_image": SQUARE, "seed": 7},
}
"""A form each endpoint takes."""


def multipart(fields: Fields) -> tuple[str, bytes]:
    """Content type and body of a form; bytes become files, everything else text, None is left out."""
    lines = []
    for name, value in fields.items():
        if value is None:
            continue
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += f'; filename="{name}.png"\r\nContent-Type: image/png'
        data = value if isinstance(value, bytes) else str(value).encode()
        lines.append(head.encode() + b"\r\n\r\n" + data + b"\r\n")
    return f"multipart/form-data; boundary={BOUNDARY}", b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


async def post(
    client: aiohttp.ClientSession,
    url: str,
    path: str = "generate/core",
    fields: Fields = CORE,
    *,
    key: str = KEY,
    accept: str = "image/*",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request to an endpoint."""
    media, body = multipart(fields)
    own = {"Authorization": f"Bearer {key}", "Accept": accept, "Content-Type": media}
    return await send(client, "POST", f"{url}{BASE}{path}", {**own, **(headers or {})}, data=io.BytesIO(body))


async def poll(
    client: aiohttp.ClientSession, url: str, id: str, *, key: str = KEY, accept: str = "image/*", **more: Any
) -> Reply:
    """One look for a result."""
    headers = {"Authorization": f"Bearer {key}", "Accept": accept}
    return await send(client, "GET", f"{url}/v2beta/results/{id}", headers, **more)


async def start(client: aiohttp.ClientSession, url: str, *, key: str = KEY, **fields: object) -> str:
    """Order a creative upscale and return its id."""
    path = "upscale/creative"
    reply = await post(client, url, path, {**VALID[path], **fields}, key=key)
    assert reply.status == 200, reply.body
    return str(reply.json["id"])


def picture(reply: Reply) -> Image.Image:
    """The decoded picture of an answer in either form; fails when its kind isn't the one that was declared."""
    assert reply.status == 200, reply.body
    media = reply.headers["Content-Type"]
    data = reply.body if media.startswith("image/") else base64.b64decode(reply.json["image"], validate=True)
    image = Image.open(io.BytesIO(data))
    assert media.endswith(f"image/{(image.format or '').lower()}")
    image.load()
    return image


def errors(reply: Reply) -> list[str]:
    """The messages of an error; fails unless the body has exactly the three keys."""
    assert list(reply.json) == ["errors", "id", "name"]
    return [str(message) for message in reply.json["errors"]]


def two_tone(width: int = 64, height: int = 64) -> bytes:
    """A blue square in the middle half of a red ground."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return encoded(image)


def mixed(first: Colour, second: Colour, share: float) -> tuple[float, ...]:
    """The colour so far from the first towards the second."""
    return tuple(one + (two - one) * share for one, two in zip(first, second, strict=True))


def is_near(pixel: object, colour: tuple[float, ...], within: float = 1.0) -> bool:
    """Whether a pixel has this colour but for rounding."""
    assert isinstance(pixel, tuple)
    return all(abs(one - two) <= within for one, two in zip(pixel, colour, strict=True))
