"""Recordings of a real server, played to the stand-in: each answer must have the same head, members and values.

Only what cannot be the same is compared by kind: pictures, times, ids and seeds that were drawn.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from load.upstreams.sdcpp import Defaults, SdCpp, Shop
from load.upstreams.sdcpp.settings import Work

DATA = Path(__file__).parents[2] / "data" / "sdcpp"
# As long as the folder of the recording machine, so that even lengths are the same.
FOLDER = "/recording"
RECORDED_AS = Shop(folder=FOLDER, defaults=Defaults(width=64, height=64, steps=2, txt_cfg=1.0))
TIMES = {"created", "started", "completed"}
JOB_ID = re.compile(r"job_[0-9a-f]{8}_[0-9a-f]{8}")
PICTURE = re.compile(r"<(png|jpeg) (\d+)x(\d+), \d+ characters>")
SEED = re.compile(r'(Seed: |"seed":)\d+')


class Gated(SdCpp):
    """A server whose model ends a drawing only when it is told to."""

    def __init__(self, **more: Any) -> None:
        super().__init__(hold=self._stand, **more)
        self._gate = asyncio.Semaphore(0)
        self.at_gate = 0

    async def _stand(self, work: Work) -> None:
        self.at_gate += 1
        await self._gate.acquire()
        self.at_gate -= 1

    async def draw_until(self, done: Any) -> None:
        """Let one drawing after the other end until `done` says so."""
        while not done():
            if self.at_gate and not self._gate._value:
                self._gate.release()
            await asyncio.sleep(0.001)


class Replay:
    """Sends what the recording's client sent, and compares what comes back."""

    def __init__(self, standin: Gated, client: aiohttp.ClientSession) -> None:
        self.standin, self.client = standin, client
        self.sent: dict[int, asyncio.Task[tuple[int, list[tuple[str, str]], bytes]]] = {}
        self.requests: dict[int, dict[str, Any]] = {}
        self.ids: dict[str, str] = {}
        self.compared = 0

    async def play(self, events: list[dict[str, Any]]) -> None:
        answers = {event["id"]: event for event in events if event["kind"] == "http_response"}
        for event in events:
            if event["kind"] == "http_request":
                self.requests[event["id"]] = event
                await self._prepare(event, answers.get(event["id"]))
                self.sent[event["id"]] = asyncio.create_task(self._send(event))
                # Requests reach the server in the order of their sending.
                while self.standin.tally.counters()["requests"] != len(self.sent):
                    await asyncio.sleep(0.001)
            elif event["kind"] == "http_response":
                await self._compare(event)
            elif event["kind"] == "http_error":
                self.sent[event["id"]].cancel()

    async def _prepare(self, request: dict[str, Any], answer: dict[str, Any] | None) -> None:
        told = answer["json"] if answer is not None and isinstance(answer.get("json"), dict) else {}
        # Whether the worker was faster than the 202 is chance.
        self.standin.settings.races = float(
            request["path"] == "/sdcpp/v1/img_gen" and told.get("status") == "generating"
        )
        if told.get("status") == "completed":
            ours = self.ids[told["id"]]
            await self.standin.draw_until(lambda: not self.standin.jobs.find(ours, 0).pending)

    async def _send(self, event: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        path = JOB_ID.sub(lambda match: self.ids[match[0]], event["path"])
        body = json.dumps(event["json"]).encode() if "json" in event else event.get("text", "").encode()
        url = self.standin.url + path
        async with self.client.request(
            event["method"],
            url,
            headers=dict(event.get("headers", [])),
            data=body if event["method"] != "GET" else None,
        ) as response:
            headers = [(name.decode(), value.decode()) for name, value in response.raw_headers]
            return response.status, headers, await response.read()

    async def _compare(self, event: dict[str, Any]) -> None:
        task, request = self.sent[event["id"]], self.requests[event["id"]]
        if "/v1/images/" in request["path"] or "2img" in request["path"]:
            await self.standin.draw_until(task.done)
        status, headers, body = await task
        where = f"answer {event['id']} to {request['method']} {request['path']}"
        assert status == event["status"], where
        pictured = PICTURE.search(json.dumps(event.get("json"))) is not None
        theirs = [(name, value) for name, value in event["headers"] if not (pictured and name == "Content-Length")]
        ours = [(name, value) for name, value in headers if not (pictured and name == "Content-Length")]
        assert ours == theirs, where
        if "json" in event:
            seeded = isinstance(request.get("json"), dict) and "seed" in request["json"]
            self._same(event["json"], json.loads(body), where, drawn=not seeded)
            if not pictured:
                assert len(body) == event["size"], where
        else:
            assert body.decode() == event.get("text", ""), where
        self.compared += 1

    def _same(self, theirs: Any, ours: Any, where: str, *, drawn: bool) -> None:
        assert type(ours) is type(theirs), f"{where}: {ours!r} is not like {theirs!r}"
        if isinstance(theirs, dict):
            assert list(ours) == list(theirs), where
            for name, value in theirs.items():
                self._same_member(name, value, ours[name], f"{where} {name}", drawn=drawn)
        elif isinstance(theirs, list):
            assert len(ours) == len(theirs), where
            for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
                self._same(their, our, f"{where}[{index}]", drawn=drawn)
        elif isinstance(theirs, str) and (picture := PICTURE.fullmatch(theirs)):
            image = Image.open(io.BytesIO(base64.b64decode(ours, validate=True)))
            assert (image.format, image.size) == (picture[1].upper(), (int(picture[2]), int(picture[3]))), where
        elif isinstance(theirs, str) and "Seed: " in theirs:
            assert (SEED.sub(r"\1?", ours) == SEED.sub(r"\1?", theirs)) if drawn else ours == theirs, where
        else:
            assert ours == theirs, where

    def _same_member(self, name: str, theirs: Any, ours: Any, where: str, *, drawn: bool) -> None:
        if name == "info":
            # JSON in a string in JSON.
            self._same(json.loads(theirs), json.loads(ours), where, drawn=drawn)
        elif name in TIMES or (drawn and name in ("seed", "all_seeds")):
            assert type(ours) is type(theirs), f"{where}: {ours!r} is not like {theirs!r}"
        elif name == "id" and JOB_ID.fullmatch(theirs):
            assert self.ids.setdefault(theirs, ours) == ours, where
            assert JOB_ID.fullmatch(ours), where
        elif name == "poll_url":
            assert ours == JOB_ID.sub(lambda match: self.ids[match[0]], theirs), where
        else:
            self._same(theirs, ours, where, drawn=drawn)


@pytest.mark.parametrize(
    "name,answers",
    [
        ("discovery", 13),
        ("job_completed", 38),
        ("job_queue_and_cancel", 32),
        ("errors", 42),
        ("queue_full", 133),
        ("webui_and_openai_style", 17),
    ],
)
async def test_stand_in_answers_as_the_recorded_server_did(
    client: aiohttp.ClientSession, name: str, answers: int
) -> None:
    """Every answer of the recording has its like, in order."""
    text = (DATA / f"{name}.jsonl").read_text().replace("<data>", FOLDER)
    events = [json.loads(line) for line in text.splitlines()]
    async with Gated(shop=RECORDED_AS) as standin:
        replay = Replay(standin, client)
        async with asyncio.timeout(20):
            await replay.play(events)
        assert replay.compared == answers
        while standin.at_gate:
            await standin.draw_until(lambda: not standin.at_gate)
