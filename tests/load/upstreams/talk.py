"""Speaking to a stand-in of Stability v1 with a plain client, and down at the bytes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from PIL import Image

from load.upstreams.pictures import colour_of
from tests import pictures
from tests.answers import Answer

Client = aiohttp.ClientSession
XL = "stable-diffusion-xl-1024-v1-0"
OLD = "stable-diffusion-v1-6"
ESRGAN = "esrgan-v1-x2plus"
AUTH = {"Authorization": "Bearer sk-test"}
PROMPT: dict[str, Any] = {"text_prompts": [{"text": "a cat"}]}
SMALL: dict[str, Any] = {**PROMPT, "width": 512, "height": 512, "seed": 7}
"""A body that the engine `OLD` takes."""
CAT = colour_of(7, "a cat")
"""What is painted for them."""


class Reply(Answer):
    """An answer of the stand-in."""

    @property
    def name(self) -> str:
        """The error name; fails unless the body has exactly the three keys of an error."""
        assert set(self.json) == {"id", "name", "message"}
        return str(self.json["name"])

    @property
    def images(self) -> list[Image.Image]:
        """The decoded pictures of the artifacts."""
        return [decode(base64.b64decode(item["base64"], validate=True)) for item in self.json["artifacts"]]


async def send(
    client: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str] = AUTH, **more: Any
) -> Reply:
    """One request, its answer read to the end."""
    async with client.request(method, url, headers=headers, **more) as response:
        return Reply(response.status, response.headers, await response.read())


async def draw(
    client: aiohttp.ClientSession,
    url: str,
    body: object = SMALL,
    engine: str = OLD,
    headers: Mapping[str, str] = AUTH,
) -> Reply:
    """POST text-to-image."""
    return await send(client, "POST", f"{url}/v1/generation/{engine}/text-to-image", headers, json=body)


async def edit(
    client: aiohttp.ClientSession,
    url: str,
    files: Mapping[str, bytes],
    operation: str = "image-to-image",
    engine: str = OLD,
    mime: str = "image/png",
    **fields: object,
) -> Reply:
    """POST one of the multipart operations, with the prompt "a cat" and seed 7 unless they are given."""
    form = aiohttp.FormData(quote_fields=False)  # names go out as they stand, whatever they hold
    own = {} if operation.endswith("upscale") else {"text_prompts[0][text]": "a cat", "seed": 7}
    for name, value in (own | fields).items():
        if value is not None:
            form.add_field(name, str(value))
    for name, data in files.items():
        form.add_field(name, data, filename=f"{name}.png", content_type=mime)
    return await send(client, "POST", f"{url}/v1/generation/{engine}/{operation}", data=form)


def flat(width: int = 512, height: int = 512, colour: tuple[int, ...] = (200, 100, 0)) -> bytes:
    """A PNG of one colour, RGB or RGBA."""
    return pictures.flat(colour, (width, height), "RGB" if len(colour) == 3 else "RGBA")


def decode(png: bytes) -> Image.Image:
    """The picture in a PNG file, and in no other kind of file."""
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    image.load()
    return image


def request_bytes(url: str, body: object = SMALL) -> bytes:
    """A text-to-image request as it stands on the wire."""
    data = json.dumps(body).encode()
    lines = [
        f"POST /v1/generation/{OLD}/text-to-image HTTP/1.1",
        f"Host: {url.removeprefix('http://')}",
        f"Authorization: {AUTH['Authorization']}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to the stand-in."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def read_until_closed(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """All bytes until the connection ends, and whether it ended by a reset."""
    received = bytearray()
    try:
        while piece := await reader.read(65536):
            received += piece
    except ConnectionResetError:
        return bytes(received), True
    return bytes(received), False


async def raw_answer(url: str) -> bytes:
    """The bytes of one whole answer, read by its Content-Length."""
    reader, writer = await connect(url)
    writer.write(request_bytes(url))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return head + body


class ManualClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
