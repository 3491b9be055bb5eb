"""Speaking to a stand-in of OpenAI Images with the vendor's own client, and pictures to speak about."""

from __future__ import annotations

import base64
import functools
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from openai import APIError, AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient
from openai.types import ImagesResponse
from PIL import Image

from load.upstreams.openai_images import OpenAIImages

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
Colour = tuple[int, ...]
MODEL = "gpt-image-1.5"
SIDE = 1024


@asynccontextmanager
async def sdk(standin: OpenAIImages, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    """The vendor's client, which never tries again by itself here."""
    chosen: dict[str, Any] = {"api_key": "sk-test", "base_url": f"{standin.url}/v1", "max_retries": 0} | options
    # Without a context of its own each client would read all certificates of this machine.
    transport = DefaultAsyncHttpxClient(verify=NO_CERTIFICATES)
    async with AsyncOpenAI(http_client=transport, **chosen) as client:
        yield client


async def watched(stream: AsyncStream[Any]) -> tuple[list[Any], APIError | None]:
    """The events of a stream, and the error that ended it."""
    events: list[Any] = []
    try:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - what came before the error counts
    except APIError as error:
        return events, error
    return events, None


def decode(data: bytes, kind: str = "PNG") -> Image.Image:
    """The picture in a file of this kind, and of no other."""
    image = Image.open(io.BytesIO(data), formats=[kind])
    image.load()
    return image


def decoded(text: str | None, kind: str = "PNG") -> Image.Image:
    """The picture in a base64 text."""
    assert text is not None
    return decode(base64.b64decode(text, validate=True), kind)


def pictures_of(reply: ImagesResponse, kind: str = "PNG") -> list[Image.Image]:
    """The pictures of an answer that holds them itself."""
    return [decoded(item.b64_json, kind) for item in reply.data or ()]


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@functools.cache
def gradient(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture in which no two columns or rows are alike for long."""
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.ROTATE_90).resize((width, height)), ramp))


@functools.cache
def left_half_transparent(width: int = SIDE, height: int = SIDE) -> bytes:
    """A mask that lets the left half be edited."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    return png(mask)


def near(one: Any, other: Colour, by: int = 3) -> bool:
    """Whether two colours differ by so little that compression explains it."""
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


async def post(client: aiohttp.ClientSession, url: str, body: object, path: str = "/v1/images/generations") -> Any:
    """POST JSON with the accepted key; status, headers and body."""
    headers = {"Authorization": "Bearer sk-test"}
    async with client.post(url + path, json=body, headers=headers) as response:
        return response.status, response.headers, await response.read()
