"""Answers that wait: white space, limits, clients that go away. In virtual time, on a real ledger."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp, Message

from gateway.core.aliases import ANY, Aliases
from gateway.core.reports import Outcome
from gateway.edges.compat.doors import Doors, OnDisconnect, Terms
from gateway.edges.events import Streams
from gateway.edges.routes import build_app
from gateway.imaging import PillowTranscoder
from protocol.messages import Canceled, Completed
from tests.gateway.edges.conftest import FailureLog, no_socket
from tests.gateway.flow.studio import (
    ScriptedUpstream,
    Studio,
    fails,
    fault,
    open_studio,
    paints,
    patiently,
    until,
)
from tests.gateway.parts import PROMISES, PUBLIC_URL

PATH = "/v1/generation/stable-diffusion-v1-6/text-to-image"
ASKED = {"text_prompts": [{"text": "a lighthouse"}], "steps": 10, "seed": 7}


@dataclass
class Call:
    """One request at a door, and what came back when."""

    came: list[tuple[float, Message]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> int:
        return int(self.came[0][1]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.came[0][1]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for _, message in self.came)

    @property
    def spaces(self) -> list[float]:
        """When white space came."""
        return [at for at, message in self.came if message.get("body") == b" "]


@dataclass
class Hall:
    """The doors of a studio."""

    studio: Studio
    doors: Doors
    app: ASGIApp
    key: str

    async def ask(self, call: Call, path: str = PATH, asked: Any = ASKED, **headers: str) -> None:
        """Ask for a picture, and keep what comes."""
        told = {"host": "127.0.0.1", "authorization": f"Bearer {self.key}"} | headers
        body = iter([msgspec.json.encode(asked)])

        async def receive() -> Message:
            content = next(body, None)
            if content is None:
                await call.left.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            call.came.append((asyncio.get_running_loop().time() - began, message))

        began = asyncio.get_running_loop().time()
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()],
            "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.app(scope, receive, send)

    def start(self, call: Call, **headers: str) -> "asyncio.Task[None]":
        """Ask beside the test."""
        return asyncio.ensure_future(self.ask(call, **headers))

    async def job(self, ref: str) -> str:
        """Return the job that a ref has, once it is there."""
        async with asyncio.timeout(60):
            while True:
                found = await self.studio.ledger.jobs.listed("acme", "", ref=ref, state=None, after=None, limit=1)
                if found:
                    return found[0].id
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def open_hall(
    folder: Path, *upstreams: ScriptedUpstream, on_disconnect: OnDisconnect = "continue"
) -> AsyncIterator[Hall]:
    """Open the doors of a studio whose dispatch works by itself."""
    async with open_studio(folder, *upstreams, serving=True) as studio:
        transcoder = PillowTranscoder()
        terms = Terms(Aliases({"stable-diffusion-v1-6": ANY}), on_disconnect)
        doors = Doors(studio.node, terms, transcoder, random.Random(1))
        app = build_app(
            studio.node, no_socket, public_url=PUBLIC_URL, promises=PROMISES, streams=Streams(), doors=doors,
            gates=dict, metrics=bytes, chance=random.Random(2), log=FailureLog(), bound_host="127.0.0.1",
        )  # fmt: skip
        yield Hall(studio, doors, app, await studio.add_key())
        transcoder.close()
        assert len(doors.waiting) == 0


@patiently
async def test_silent_answer_keeps_proxies_open_with_white_space(tmp_path: Path) -> None:
    """After 25 s comes 200 and a space, and again after each 25 s; the whole is JSON all the same."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=7))) as hall:
        call = Call()
        await hall.ask(call)
        assert (call.status, [round(at) for at in call.spaces]) == (200, [25, 50])
        assert call.headers["content-type"] == "application/json"
        assert len(call.headers["x-job-id"]) == 26
        assert json.loads(call.body)["artifacts"][0]["finishReason"] == "SUCCESS"
        assert call.came[-1][0] == pytest.approx(70, abs=1)


@patiently
async def test_failure_after_white_space_is_an_error_in_the_body(tmp_path: Path) -> None:
    """The status is gone; the body is the dialect's error."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=3, last_words=fault(Outcome.FAILED)))) as hall:
        call = Call()
        await hall.ask(call)
        assert (call.status, len(call.spaces)) == (200, 1)
        assert json.loads(call.body)["name"] == "server_error"


@patiently
async def test_answer_in_time_has_its_true_status(tmp_path: Path) -> None:
    """Before the first space nothing is promised."""
    async with open_hall(tmp_path, ScriptedUpstream(fails(fault(Outcome.FAILED), seconds=20))) as hall:
        call = Call()
        await hall.ask(call)
        assert (call.status, call.spaces) == (500, [])


@patiently
async def test_bare_picture_never_begins_with_white_space(tmp_path: Path) -> None:
    """It answers 408 at its limit, and the job goes on."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=7))) as hall:
        call = Call()
        await hall.ask(call, accept="image/png")
        assert (call.status, call.spaces, round(call.came[0][0])) == (408, [], 55)
        assert call.headers["retry-after"] == "1"
        [end] = await hall.studio.ended(call.headers["x-job-id"])
        assert isinstance(end, Completed)


@pytest.mark.parametrize("settings,header,end", [
    ("continue", {}, Completed),
    ("cancel", {}, Canceled),
    ("continue", {"x_on_disconnect": "cancel"}, Canceled),
    ("cancel", {"x_on_disconnect": "continue"}, Completed),
])  # fmt: skip
def test_client_that_goes_away_has_its_policy(
    tmp_path: Path, settings: OnDisconnect, header: dict[str, str], end: type
) -> None:
    """Its job goes on and its result stays, or it is canceled."""

    @patiently
    async def conversation() -> None:
        async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=5)), on_disconnect=settings) as hall:
            call = Call()
            asked = hall.start(call, idempotency_key="k", **header)
            job = await hall.job("k")
            await asyncio.sleep(10)
            call.left.set()
            await asked
            assert call.came == []
            [told] = await hall.studio.ended(job)
            assert isinstance(told, end)

    conversation()


@patiently
async def test_job_that_others_wait_for_is_not_canceled(tmp_path: Path) -> None:
    """A repeated key joins the running job; only the last to leave cancels it."""
    upstream = ScriptedUpstream(paints(seconds=5))
    async with open_hall(tmp_path, upstream, on_disconnect="cancel") as hall:
        calls = [Call(), Call()]
        asked = [hall.start(call, idempotency_key="k") for call in calls]
        job = await hall.job("k")
        await until(lambda: hall.doors.waiting.count(job) == 2)
        calls[0].left.set()
        await asyncio.gather(*asked)
        assert (calls[0].came, calls[1].status, len(upstream.orders)) == ([], 200, 1)


@patiently
async def test_one_key_is_one_job_however_its_client_leaves(tmp_path: Path) -> None:
    """The policy of a request is no part of what it asks for; a job that went with its client stays the key's."""
    upstream = ScriptedUpstream(paints(seconds=5))
    async with open_hall(tmp_path, upstream) as hall:
        calls = [Call(), Call(), Call()]
        asked = hall.start(calls[0], idempotency_key="k")
        job = await hall.job("k")
        joined = hall.start(calls[1], idempotency_key="k", x_on_disconnect="cancel")
        await until(lambda: hall.doors.waiting.count(job) == 2)
        calls[0].left.set()
        await asked
        calls[1].left.set()
        await joined
        await hall.studio.ended(job)
        await hall.ask(calls[2], idempotency_key="k")
        assert (calls[2].status, json.loads(calls[2].body)["name"]) == (409, "canceled")
        assert len(upstream.orders) == 1


@patiently
async def test_stopping_node_lets_nobody_wait(tmp_path: Path) -> None:
    """503 with the job's id; the same key finds it again."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=5))) as hall:
        call: Any = Call()
        asked = hall.start(call, idempotency_key="k")
        job = await hall.job("k")
        await until(lambda: hall.doors.waiting.count(job) == 1)
        hall.doors.drain()
        await asked
        assert (call.status, call.headers["x-job-id"], call.headers["retry-after"]) == (503, job, "2")
        hall.doors.waiting.is_over = False
        await hall.ask(call := Call(), idempotency_key="k")
        assert (call.status, call.headers["x-job-id"]) == (200, job)


@patiently
async def test_failure_while_answering_ends_the_answer(tmp_path: Path) -> None:
    """A view that fails is our fault: it is reported, and the client hears of it in the dialect's words."""
    async with open_hall(tmp_path, ScriptedUpstream(paints(seconds=3))) as hall:
        hall.doors.pictures = None  # type: ignore[assignment]
        hall.studio.expected_failures = 1
        call = Call()
        await hall.ask(call)
        assert (call.status, json.loads(call.body)["name"]) == (200, "server_error")
        assert [name.split()[0] for name, _ in hall.studio.failures] == ["answer"]
