"""Sends a recording's requests to a stand-in, in the recorded order, and sets its answers beside the recorded ones.

The recorded sampler took its time; here the sampler is held where the recorded progress saw it, so the order of
events is the recorded one without any waiting.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from load.upstreams.a1111 import A1111

DATA = Path(__file__).parents[2] / "data" / "a1111"
_PICTURES = {"images", "current_image", "live_preview"}
_TIMES = {"eta_relative", "eta", "free", "used", "total"}
_GZIP = {"content-encoding", "vary"}
_GENERATIONS = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")

Event = dict[str, Any]
Place = tuple[int, int]


def events(name: str) -> list[Event]:
    """The lines of a recording, in order."""
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda event: float(event["t_ms"]))


class Replay:
    """One recording on its way through a stand-in; `places` says where a job stands at an interrupt or skip."""

    def __init__(
        self, standin: A1111, client: aiohttp.ClientSession, name: str, places: Mapping[int, Place] | None = None
    ) -> None:
        self._standin, self._client = standin, client
        self._events = events(name)
        self._answers = {event["id"]: event for event in self._events if event["kind"] == "http_response"}
        self._places = places or {}
        self._jobs: dict[int, asyncio.Task[Event]] = {}
        self._asked: dict[int, Event] = {}
        self._posted = 0
        self._finished = 0
        self._got: dict[int, Event] = {}
        self.compared = 0

    async def run(self) -> None:
        """Replay it all; raises `AssertionError` at the first answer that differs."""
        self._standin.hold(0, 0, 1)
        for event in self._events:
            if event["kind"] == "http_request":
                self._asked[event["id"]] = event
                await self._request(event)
            elif event["kind"] == "http_response":
                await self._response(event)
            elif event["kind"] == "http_error":
                await self._gave_up(event)

    async def _request(self, event: Event) -> None:
        answer = self._answers.get(event["id"])
        if event["path"] in _GENERATIONS and event["method"] == "POST":
            self._jobs[event["id"]] = asyncio.create_task(self._send(event))
            self._posted += 1
        elif answer is not None and _idle(answer):
            await self._until_idle(answer)
            self._got[event["id"]] = await self._send(event)

    async def _response(self, event: Event) -> None:
        id_ = event["id"]
        if id_ in self._jobs:
            await self._end_of_job(event)
        elif id_ not in self._got:
            await self._arrived()
            await self._advance(id_, event)
            self._got[id_] = await self._send(self._asked[id_])
        same(event, self._got[id_], self._asked[id_])
        self.compared += 1

    async def _end_of_job(self, event: Event) -> None:
        begun = event["status"] == 200 or "message" in event.get("json", {})
        self._finished += begun
        # Whatever comes next stops at its beginning.
        self._standin.hold(0, 0, self._finished + 1)
        self._got[event["id"]] = await self._jobs.pop(event["id"])

    async def _gave_up(self, event: Event) -> None:
        await self._arrived()
        await self._stand((0, 2))
        task = self._jobs.pop(event["id"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def _until_idle(self, answer: Event) -> None:
        """Let a running job end, but not its answer come, unless the recording has none running."""
        if not self._jobs and self._standin.state.job_count == 0:
            return
        self._standin.hold(0, 0, self._finished + 2)
        for id_ in list(self._jobs):
            if self._answers[id_]["t_ms"] < answer["t_ms"]:
                self._finished += 1
                self._got[id_] = await self._jobs.pop(id_)
        while self._standin.state.job_count != 0:
            await asyncio.sleep(0.001)

    async def _advance(self, id_: int, answer: Event) -> None:
        place = self._places.get(id_) or self._place_of(answer)
        if place is not None:
            await self._stand(place)

    def _place_of(self, answer: Event) -> Place | None:
        told = answer.get("json")
        if not isinstance(told, dict):
            return None
        if told.get("state", {}).get("job"):
            return told["state"]["job_no"], told["state"]["sampling_step"]
        if told.get("active") and self._jobs:
            steps = self._asked[min(self._jobs)]["json"]["steps"]
            return 0, round(told["progress"] * steps)
        return None

    async def _stand(self, place: Place) -> None:
        self._standin.hold(*place, self._finished + 1)
        await self._standin.held()

    async def _arrived(self) -> None:
        while self._standin.calls < self._posted:
            await asyncio.sleep(0.001)
        # From being read to waiting for the lock takes a few turns of the loop.
        await asyncio.sleep(0.005)

    async def _send(self, event: Event) -> Event:
        body = json.dumps(event["json"]).encode() if "json" in event else event.get("text", "").encode()
        given = event.get("headers", [("Content-Type", "application/json")])
        headers = [(name, value) for name, value in given if name in ("Content-Type", "Accept-Encoding")]
        url = self._standin.url + event["path"]
        # Without a body the client would leave the header out, which the recorded client did not.
        async with self._client.request(event["method"], url, data=body, headers=headers) as response:
            raw = await response.read()
            names = [[name.decode(), value.decode()] for name, value in response.raw_headers]
            got: Event = {"status": response.status, "reason": response.reason, "headers": names}
            return got | ({"json": json.loads(raw)} if raw else {})


def same(recorded: Event, got: Event, asked: Event) -> None:
    """Hold an answer against the recorded one: status, headers in order, and JSON to the order of its keys."""
    where = f"{asked['method']} {asked['path']} (id {recorded['id']})"
    assert (got["status"], got["reason"]) == (recorded["status"], recorded["reason"]), where
    told, told_then = got.get("json"), recorded.get("json")
    assert _headers(got, told_then) == _headers(recorded, told_then), where
    assert json.dumps(_plain(told, told_then)) == json.dumps(_plain(told_then, told_then)), where


def _headers(event: Event, told: object) -> list[list[str]]:
    # Whether an answer with a picture is long enough to be compressed depends on the picture.
    free = _GZIP if isinstance(told, dict) and told.keys() & _PICTURES else set()
    shown = {"server", "content-type", "allow", *_GZIP}
    return [[name, value if name in shown else "..."] for name, value in event["headers"] if name not in free]


def _plain(told: Any, then: Any, name: str = "") -> Any:
    """The JSON with pictures and times replaced by their kind; `then` is the recorded one."""
    if name in _PICTURES:
        return [_picture(one) for one in told] if isinstance(told, list) else _picture(told)
    if name == "info" and isinstance(told, str):
        return _plain(json.loads(told), None, "parsed")
    if name in _TIMES and isinstance(told, float | int):
        return "seconds or bytes"
    if name == "job_timestamp" and told != "0":
        return f"a stamp of {len(told)} digits"
    if isinstance(told, dict):
        raced = _raced(then)
        return {
            key: "raced" if raced and key == "progress" else _plain(value, _within(then, key), key)
            for key, value in told.items()
        }
    if isinstance(told, list):
        return [_plain(one, None) for one in told]
    return told


def _within(then: Any, key: str) -> Any:
    return then.get(key) if isinstance(then, dict) else None


def _raced(then: Any) -> bool:
    """Whether the recorded server made a step between reckoning its progress and telling its state."""
    if not isinstance(then, dict) or "state" not in then or not then["state"]["job"]:
        return False
    state = then["state"]
    done: float = (state["job_no"] + state["sampling_step"] / state["sampling_steps"]) / state["job_count"]
    return abs(float(then["progress"]) - done - 0.01) > 1e-9


def _picture(told: str | None) -> str | None:
    return told and (told.split(",")[0] if told.startswith("data:") else "a picture")


def _idle(answer: Event) -> bool:
    told = answer.get("json")
    return isinstance(told, dict) and "state" in told and not told["state"]["job"]
