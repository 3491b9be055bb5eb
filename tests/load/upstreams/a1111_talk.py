"""Speaking to a stand-in of the WebUI family with a plain client."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Any

import aiohttp
from PIL import Image

from load.upstreams.a1111 import A1111, words_of
from load.upstreams.pictures import colour_of
from tests.load.upstreams.talk import Reply, send

SMALL: dict[str, Any] = {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64}
COLOUR = colour_of(7, words_of("a cat"))
Client = aiohttp.ClientSession


async def post(client: Client, standin: A1111, path: str, body: object = None, **more: Any) -> Reply:
    """POST JSON to a path of the first API, or to any that begins with a slash."""
    url = standin.url + (path if path.startswith("/") else f"/sdapi/v1/{path}")
    return await send(client, "POST", url, more.pop("headers", {}), json=body, **more)


async def get(client: Client, standin: A1111, path: str, **more: Any) -> Reply:
    """GET a path of the first API, or any that begins with a slash."""
    url = standin.url + (path if path.startswith("/") else f"/sdapi/v1/{path}")
    return await send(client, "GET", url, more.pop("headers", {}), **more)


async def draw(client: Client, standin: A1111, **fields: object) -> Reply:
    """POST txt2img."""
    return await post(client, standin, "txt2img", SMALL | fields)


async def edit(client: Client, standin: A1111, init: bytes, **fields: object) -> Reply:
    """POST img2img with one init picture."""
    return await post(client, standin, "img2img", SMALL | {"init_images": [coded(init)]} | fields)


def coded(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode()


def opened(text: str) -> Image.Image:
    """The picture in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    picture.load()
    return picture


def shown(reply: Reply) -> list[Image.Image]:
    """The pictures of an answer."""
    assert reply.status == 200, reply.body
    return [opened(text) for text in reply.json["images"]]


def pixel(picture: Image.Image, x: int = 1, y: int = 1) -> Any:
    """One pixel."""
    return picture.convert("RGB").getpixel((x, y))


async def until(fits: Callable[[], bool]) -> None:
    """Wait until the stand-in, which runs in this loop, has got there."""
    async with asyncio.timeout(5):
        while not fits():
            await asyncio.sleep(0.001)
