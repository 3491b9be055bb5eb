"""Every step and every preview of a ComfyUI server reach a client, hardly later than through a bare relay."""

import asyncio
import contextlib
import statistics
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import websockets

from gateway.upstreams.comfyui import ComfyUI
from load.upstreams.comfyui import Checkpoint, hub
from load.upstreams.comfyui import ComfyUI as StandIn
from protocol.messages import Previews, Progress
from protocol.replica_effects import Preview
from tests.depth import deep_count
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.records import client
from tests.load.upstreams.comfyui_talk import text_graph

STEPS = 20
STEP_SECONDS = 0.1
MOST_TIMES_A_RELAY = 3.0
EVENT_WITH_METADATA = 4


class Watch:
    """When the server sent each preview, by its prompt and the order of their coming."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: dict[str, list[float]] = {}
        send = hub.Hub._send

        async def watched(under: hub.Hub, socket: hub.Socket, kind: str, payload: str | bytes) -> None:
            if isinstance(payload, bytes) and payload[:4] == struct.pack(">I", EVENT_WITH_METADATA):
                self.sent.setdefault(_prompt_of(payload), []).append(time.perf_counter())
            await send(under, socket, kind, payload)

        monkeypatch.setattr(hub.Hub, "_send", watched)


def _prompt_of(frame: bytes) -> str:
    (size,) = struct.unpack_from(">I", frame, 4)
    return str(msgspec.json.decode(frame[8 : 8 + size])["prompt_id"])


@contextlib.asynccontextmanager
async def bare_relay(url: str) -> AsyncIterator[str]:
    """Pass everything that one socket of the server says on to whoever connects."""

    async def serve(downstream: websockets.ServerConnection) -> None:
        socket = f"{url}/ws?clientId=relay"
        async with aiohttp.ClientSession() as session, session.ws_connect(socket, max_msg_size=0) as upstream:
            await upstream.send_str('{"type":"feature_flags","data":{"supports_preview_metadata":true}}')
            await downstream.send("ready")
            async for message in upstream:
                await downstream.send(message.data)

    async with websockets.serve(serve, "127.0.0.1", 0, compression=None, max_size=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def through_relay(url: str, standin: StandIn, watch: Watch, seed: int) -> list[float]:
    """Run a prompt and return by how much later than it was sent each preview came."""
    delays: list[float] = []
    async with websockets.connect(url, max_size=None) as socket, aiohttp.ClientSession() as session:
        await socket.recv()
        graph = text_graph(seed=seed, steps=STEPS)
        graph["4"]["inputs"]["ckpt_name"] = "tiny.safetensors"
        graph["5"]["inputs"] |= {"width": 512, "height": 512}
        body = {"prompt": graph, "client_id": "relay"}
        async with session.post(f"{standin.url}/prompt", json=body) as answer:
            prompt = (await answer.json())["prompt_id"]
        async for message in socket:
            if isinstance(message, bytes) and message[:4] == struct.pack(">I", EVENT_WITH_METADATA):
                delays.append(time.perf_counter() - watch.sent[prompt][len(delays)])
            elif isinstance(message, str) and _is_end(message, prompt):
                return delays
    raise AssertionError("the relay closed")


def _is_end(text: str, prompt: str) -> bool:
    message: dict[str, Any] = msgspec.json.decode(text)
    data = message.get("data", {})
    return message["type"] == "executing" and data.get("node") is None and data.get("prompt_id") == prompt


class Arrivals:
    """When a client got each preview of a job, and which steps it was told."""

    def __init__(self) -> None:
        self.previews: list[float] = []
        self.steps: list[int] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, Preview):
            self.previews.append(time.perf_counter())
        elif isinstance(event, Progress):
            self.steps.append(event.step)


@pytest.mark.timing
async def test_every_step_comes_hardly_later_than_through_a_bare_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 of 20 steps and previews; the median delay is at most three times a relay's, run by run in turn."""
    watch = Watch(monkeypatch)
    async with StandIn(checkpoints=[Checkpoint("tiny.safetensors", STEP_SECONDS)]) as standin:
        adapter = ComfyUI(name="comfyui", base_url=standin.url, checkpoints=["tiny.safetensors"])
        async with gateway_here(tmp_path, upstreams=[adapter]) as running, bare_relay(standin.url) as relay:
            ours, theirs = [], []
            for turn in range(deep_count(1, 10)):
                theirs += await through_relay(relay, standin, watch, 1000 + turn)
                ours += await _through_gateway(running.url, running.key, watch, turn)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"gateway {statistics.median(ours) * 1e3:.2f} ms, relay {statistics.median(theirs) * 1e3:.2f} ms: {ratio:.2f}"
    )
    assert ratio <= MOST_TIMES_A_RELAY


async def _through_gateway(url: str, key: str, watch: Watch, turn: int) -> list[float]:
    arrivals = Arrivals()
    known = set(watch.sent)
    async with client(url, key, arrivals, previews=Previews(max_edge=512, quality=100)) as one:  # type: ignore[arg-type]
        params = {"prompt": "a harbour", "width": 512, "height": 512, "steps": STEPS, "seed": turn + 1}
        job = await one.submit("txt2img", params, model="tiny")
        async with asyncio.timeout(30):
            async for _ in job:
                pass
    assert arrivals.steps == list(range(1, STEPS + 1))
    assert len(arrivals.previews) == STEPS
    [prompt] = set(watch.sent) - known
    return [came - sent for came, sent in zip(arrivals.previews, watch.sent[prompt], strict=True)]
