"""Graphs for the stand-in of ComfyUI, and a client that speaks to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from load.upstreams.comfyui import ComfyUI

Graph = dict[str, dict[str, Any]]
Client = aiohttp.ClientSession
Pixels = NDArray[np.uint8]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node; a link is a tuple."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}


def text_graph(**changes: Any) -> Graph:
    """The usual seven nodes, 64 by 64 and three steps, with these changes to the sampler's inputs."""
    sampler: dict[str, Any] = {"seed": 7, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ("4", 0), "positive": ("6", 0), "negative": ("7", 0), "latent_image": ("5", 0)}
    return {
        "3": node("KSampler", **(sampler | {"denoise": 1.0} | links | changes)),
        "4": node("CheckpointLoaderSimple", ckpt_name="standin.safetensors"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a cat", clip=("4", 1)),
        "7": node("CLIPTextEncode", text="a dog", clip=("4", 1)),
        "8": node("VAEDecode", samples=("3", 0), vae=("4", 2)),
        "9": node("SaveImage", filename_prefix="test", images=("8", 0)),
    }


def picture_graph(**nodes: dict[str, Any]) -> Graph:
    """A graph that starts from the picture `init.png` in node 10; `nodes` has more, their names begin with `n`."""
    graph = text_graph(latent_image=("11", 0))
    del graph["5"]
    graph["10"] = node("LoadImage", image="init.png")
    graph["11"] = node("VAEEncode", pixels=("10", 0), vae=("4", 2))
    return graph | {name.removeprefix("n"): value for name, value in nodes.items()}


def file_of(pixels: Any) -> bytes:
    """Pixels as a PNG."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def noise(width: int = 64, height: int = 64, channels: int = 3) -> Pixels:
    """A picture in which each pixel differs."""
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)


class Talker:
    """A client with one socket, and what came on it."""

    def __init__(self, standin: ComfyUI, client: Client, sid: str = "me") -> None:
        self.standin, self.client, self.sid = standin, client, sid
        self.heard: list[Any] = []
        """Events as `[type, data]`, binary ones as their bytes."""
        self.news = asyncio.Event()

    async def post(self, path: str, body: object = None) -> Any:
        """POST JSON; gives the status and the answer's JSON, if it has any."""
        async with self.client.post(self.standin.url + path, json=body) as response:
            data = await response.read()
            return response.status, json.loads(data) if response.content_type == "application/json" else data

    async def get(self, path: str) -> Any:
        """GET; the JSON, or the bytes with their status."""
        async with self.client.get(self.standin.url + path) as response:
            data = await response.read()
            return json.loads(data) if response.content_type == "application/json" else (response.status, data)

    async def submit(self, graph: Graph, **more: Any) -> str:
        """Queue a graph; gives its prompt id."""
        status, told = await self.post("/prompt", {"prompt": graph, "client_id": self.sid, **more})
        assert status == 200, told
        return str(told["prompt_id"])

    async def upload(self, name: str, data: bytes, path: str = "/upload/image", **fields: str) -> Any:
        """POST a form."""
        form = aiohttp.FormData(fields)
        form.add_field("image", data, filename=name, content_type="image/png")
        async with self.client.post(self.standin.url + path, data=form) as response:
            return await response.json()

    async def run(self, graph: Graph, **more: Any) -> dict[str, Any]:
        """Queue a graph and wait for its end; gives the history's entry."""
        prompt_id = await self.submit(graph, **more)
        await until(lambda: job_state(self.standin, prompt_id) not in ("pending", "running"))
        history = await self.get(f"/history/{prompt_id}")
        return dict(history[prompt_id])

    async def pictures(self, graph: Graph) -> list[Pixels]:
        """The pictures that a graph with a SaveImage node 9 makes."""
        entry = await self.run(graph)
        assert entry["status"]["status_str"] == "success", entry["status"]
        return [await self.picture(one) for one in entry["outputs"]["9"]["images"]]

    async def picture(self, place: dict[str, str]) -> Pixels:
        query = "&".join(f"{key}={value}" for key, value in place.items())
        status, data = await self.get(f"/view?{query}")
        assert status == 200
        return np.asarray(Image.open(io.BytesIO(data)))

    @contextlib.asynccontextmanager
    async def listening(self, *, metadata: bool = False, **settings: Any) -> AsyncIterator[Talker]:
        """With a socket that is read."""
        url = f"{self.standin.url}/ws?clientId={self.sid}"
        async with self.client.ws_connect(url, max_msg_size=0, **settings) as socket:
            if metadata:
                await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            reader = asyncio.create_task(self._read(socket))
            try:
                await until(lambda: len(self.heard) > metadata)
                yield self
            finally:
                reader.cancel()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            told = message.json() if message.type is aiohttp.WSMsgType.TEXT else None
            self.heard.append(message.data if told is None else [told["type"], told["data"]])
        self.heard.append(["closed", socket.close_code])

    @property
    def kinds(self) -> list[str]:
        """The types of what was heard, without `status`; binary events by their number."""
        names = [one[0] if isinstance(one, list) else f"event {one[3]}" for one in self.heard]
        return [name for name in names if name != "status"]

    def ended(self) -> bool:
        """Whether the last message of a prompt has come."""
        return any(isinstance(one, list) and one[0] == "executing" and one[1]["node"] is None for one in self.heard)


def job_state(standin: ComfyUI, prompt_id: str) -> str:
    """What became of the latest prompt of this id."""
    return next(job.state for job in reversed(standin.jobs) if job.prompt_id == prompt_id)


async def until(holds: Any, seconds: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.001)
