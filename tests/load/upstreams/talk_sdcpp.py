"""Speaking to a stand-in of stable-diffusion.cpp's server."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import aiohttp
from PIL import Image

from tests.load.upstreams.talk import Reply, decode
from tests.pictures import encoded

SMALL: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "seed": 7, "sample_params": {"sample_steps": 2}}
ENDED = {"completed", "failed", "cancelled"}


def b64(data: bytes) -> str:
    """As it stands in JSON."""
    return base64.b64encode(data).decode()


def plain(colour: tuple[int, ...] = (200, 100, 0), size: tuple[int, int] = (64, 64), mode: str = "RGB") -> str:
    """A PNG of one colour as base64."""
    return b64(encoded(Image.new(mode, size, colour if len(colour) > 1 else colour[0])))


def half_white(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A mask that is white on its left half and black on the other."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


async def ask(client: aiohttp.ClientSession, method: str, url: str, **more: Any) -> Reply:
    """One request, its answer read to the end."""
    async with client.request(method, url, **more) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


async def order(client: aiohttp.ClientSession, url: str, **fields: Any) -> Reply:
    """POST img_gen with `SMALL` and these fields."""
    return await ask(client, "POST", f"{url}/sdcpp/v1/img_gen", json=SMALL | fields)


async def poll(client: aiohttp.ClientSession, url: str, id: str) -> Reply:
    """GET the job."""
    return await ask(client, "GET", f"{url}/sdcpp/v1/jobs/{id}")


async def cancel(client: aiohttp.ClientSession, url: str, id: str) -> Reply:
    """POST its cancelling."""
    return await ask(client, "POST", f"{url}/sdcpp/v1/jobs/{id}/cancel", json={})


async def ended(client: aiohttp.ClientSession, url: str, id: str) -> dict[str, Any]:
    """The job once it has ended."""
    async with asyncio.timeout(5):
        while True:
            job = (await poll(client, url, id)).json
            if job["status"] in ENDED:
                return dict(job)
            await asyncio.sleep(0.002)


async def drawn(client: aiohttp.ClientSession, url: str, **fields: Any) -> list[Image.Image]:
    """The pictures of a job with these fields."""
    job = await ended(client, url, (await order(client, url, **fields)).json["id"])
    assert job["status"] == "completed", job
    kind = job["result"]["output_format"]
    assert [image["index"] for image in job["result"]["images"]] == list(range(len(job["result"]["images"])))
    return [pictured(image["b64_json"], kind) for image in job["result"]["images"]]


def pictured(text: str, kind: str = "png") -> Image.Image:
    """The picture in base64, which must be of that kind."""
    data = base64.b64decode(text, validate=True)
    if kind == "png":
        return decode(data)
    image = Image.open(io.BytesIO(data), formats=[kind.upper()])
    image.load()
    return image


def only(image: Image.Image) -> tuple[int, ...]:
    """The one colour of a flat picture."""
    colours = image.getcolors()
    assert colours is not None, "more than 256 colours"
    assert len(colours) == 1, colours
    colour = colours[0][1]
    assert isinstance(colour, tuple)
    return colour
