"""Latency, faults, counters, control paths and the command line of the stand-in of Stability v2beta."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

import aiohttp
import pytest

from load.upstreams.faults import Cut, Drip, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.stability_v2beta import Lose, RefuseWithoutId, StabilityV2Beta
from tests.load.upstreams.talk import send
from tests.load.upstreams.talk_v2beta import CORE, VALID, errors, picture, post

Client = aiohttp.ClientSession
ROOT = Path(__file__).parents[3]
What = Literal["not_json", "truncated_json", "wrong_base64", "not_png", "empty", "huge"]


@pytest.mark.parametrize(
    "status,name,begun",
    [
        (400, "bad_request", 0),
        (401, "unauthorized", 0),
        (402, "payment_required", 0),
        (403, "content_moderation", 0),
        (413, "payload_too_large", 0),
        (422, "invalid_language", 0),
        (429, "rate_limit_exceeded", 0),
        (500, "internal_error", 1),
        (502, "internal_error", 1),
        (503, "service_unavailable", 0),
    ],
)
async def test_scripted_refusal_answers_in_the_vendors_form(client: Client, status: int, name: str, begun: int) -> None:
    """Every status can be scripted; none is charged, and only those that may follow begun work count as such."""
    async with StabilityV2Beta(script=[Rule(Refuse(status, retry_after=7), times=1)]) as standin:
        refused, fine = await post(client, standin.url), await post(client, standin.url)
        assert (refused.status, refused.json["name"], fine.status) == (status, name, 200)
        assert (len(errors(refused)), refused.headers["Retry-After"]) == (1, "7")
        assert (refused.json["id"] == "rate_limit_exceeded") == (status == 429)
        assert (standin.calls, standin.tally.billed, standin.credits) == (2, begun + 1, 997.0)


async def test_public_figure_and_words_of_ones_own(client: Client) -> None:
    """A refusal's name and message can be given."""
    script = [Rule(Refuse(422, "public_figure"), times=1), Rule(Refuse(422, "odd", "so it is"))]
    async with StabilityV2Beta(script=script) as standin:
        figure, odd = await post(client, standin.url), await post(client, standin.url)
    assert (figure.status, figure.json["name"]) == (422, "public_figure")
    assert (odd.json["name"], errors(odd)) == ("odd", ["so it is"])


async def test_moderation_without_id_can_be_scripted(client: Client) -> None:
    """One answer lacks its id, the next has it."""
    script = [Rule(RefuseWithoutId(403), times=1), Rule(Refuse(403))]
    async with StabilityV2Beta(script=script) as standin:
        bare, usual = await post(client, standin.url), await post(client, standin.url)
        assert (bare.status, bare.json["name"], list(bare.json)) == (403, "content_moderation", ["errors", "name"])
        assert (errors(usual), standin.log[0].fault) == (bare.json["errors"], "refusewithoutid")


@pytest.mark.parametrize("reason", ["CONTENT_FILTERED", "ERROR"])
async def test_finish_reason_can_be_scripted(client: Client, reason: Literal["CONTENT_FILTERED", "ERROR"]) -> None:
    """It is told as it stands, known or not."""
    async with StabilityV2Beta(script=[Rule(Finish(reason))]) as standin:
        assert (await post(client, standin.url)).headers["finish-reason"] == reason


@pytest.mark.parametrize("at_byte", [0, 30, -10])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_cut_answer_was_paid_for(client: Client, at_byte: int, how: Literal["fin", "rst"]) -> None:
    """Before the head, in it and shortly before the end; the client has nothing, the account has paid."""
    async with StabilityV2Beta(script=[Rule(Cut(at_byte, how))]) as standin:
        with pytest.raises(aiohttp.ClientError):
            await post(client, standin.url)
        assert (standin.log[0].outcome, standin.tally.billed, standin.credits) == ("cut", 1, 997.0)


async def test_client_that_leaves_has_paid(client: Client) -> None:
    """Giving up on a slow or stalled answer cancels nothing that was begun."""
    script = [Rule(service_seconds=30, times=1), Rule(Stall(20))]
    async with StabilityV2Beta(script=script) as standin:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await post(client, standin.url)
        while standin.tally.in_flight:
            await asyncio.sleep(0.001)
        assert [call.outcome for call in standin.log] == ["dropped", "stalled"]
        assert (standin.tally.billed, standin.credits) == (2, 994.0)


async def test_dripping_answer_arrives_whole(client: Client) -> None:
    """Slow, but right."""
    async with StabilityV2Beta(script=[Rule(Drip(4096, 0.001))]) as standin:
        assert picture(await post(client, standin.url)).size == (1536, 1536)


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "wrong_base64", "not_png", "empty", "huge"])
@pytest.mark.parametrize("accept", ["image/*", "application/json"])
async def test_garbage_fits_the_form_that_was_asked_for(client: Client, what: What, accept: str) -> None:
    """200 and the usual headers, with a body no picture can be read from."""
    async with StabilityV2Beta(script=[Rule(Garbage(what, size_bytes=100_000))]) as standin:
        reply = await post(client, standin.url, accept=accept)
    assert (reply.status, "image/png" in reply.headers["content-type"]) == (200, True)
    assert what != "huge" or len(reply.body) == 100_000
    with pytest.raises((OSError, ValueError, SyntaxError, binascii.Error)):
        picture(reply).load()
    if accept == "application/json" and what in ("wrong_base64", "not_png"):
        assert set(reply.json) == {"image", "finish_reason", "seed"}
        assert what == "wrong_base64" or base64.b64decode(reply.json["image"], validate=True)


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "wrong_base64", "empty", "huge"])
async def test_garbage_in_place_of_an_id(client: Client, what: What) -> None:
    """An order that was taken, and the client can't know as what."""
    async with StabilityV2Beta(script=[Rule(Garbage(what, size_bytes=100_000))]) as standin:
        reply = await post(client, standin.url, "upscale/creative", VALID["upscale/creative"])
        assert (reply.status, len(standin.results)) == (200, 1)
    if what in ("wrong_base64", "huge"):
        assert len(reply.json.get("id", "")) != 64
    else:
        with pytest.raises(ValueError):  # noqa: PT011  JSON and UTF-8 both say it so
            json.loads(reply.body)


async def test_service_time_is_drawn_from_the_seed(client: Client) -> None:
    """Only work takes time; a refusal is quick unless a rule says otherwise."""
    async with StabilityV2Beta(service_time="uniform:0.05,0.06") as standin:
        began = time.monotonic()
        await post(client, standin.url)
        assert time.monotonic() - began >= 0.05
        began = time.monotonic()
        await post(client, standin.url, fields={**CORE, "seed": "x"})
        assert time.monotonic() - began < 0.05


async def test_large_pictures_can_be_asked_for(client: Client) -> None:
    """A PNG has at least the bytes the stand-in was told."""
    async with StabilityV2Beta(picture_bytes=500_000) as standin:
        reply = await post(client, standin.url)
        assert len(reply.body) == 500_000
        assert picture(reply).size == (1536, 1536)


async def test_script_in_json_knows_the_vendors_faults(client: Client) -> None:
    """Over the control path, in which all rules can be written."""
    rules = [
        {"times": 1, "do": {"kind": "refuse_without_id", "status": 403}},
        {"operation": "upscale/creative", "do": {"kind": "lose", "after_polls": 0}},
        {"do": {"kind": "refuse", "status": 422, "name": "public_figure"}},
    ]
    async with StabilityV2Beta() as standin:
        control = f"{standin.url}/__standin/"
        assert (await send(client, "POST", f"{control}script", {}, json={"rules": rules})).json == {"rules": 3}
        assert "id" not in (await post(client, standin.url)).json
        assert (await post(client, standin.url, "upscale/creative", VALID["upscale/creative"])).status == 200
        assert (await post(client, standin.url)).json["name"] == "public_figure"
        seen = (await send(client, "GET", control, {})).json
    assert seen["counters"]["per_operation"] == {"generate/core": 2, "upscale/creative": 1}
    assert [call["fault"] for call in seen["log"]] == ["refusewithoutid", "lose", "refuse"]
    assert seen["log"][1]["fields"]["prompt"] == "a cat"
    assert Lose().after_polls == 0


async def test_reset_starts_anew(client: Client) -> None:
    """Credits, results, forms and the seeded draws are as at the start."""
    async with StabilityV2Beta(limit=1) as standin:
        first = await post(client, standin.url, fields={"prompt": "a cat"})
        assert (await post(client, standin.url)).status == 429
        standin.reset()
        again = await post(client, standin.url, fields={"prompt": "a cat"})
        assert (first.body, first.headers["x-request-id"]) == (again.body, again.headers["x-request-id"])
        assert (standin.credits, standin.calls) == (997.0, 1)


async def test_closing_takes_no_time(client: Client) -> None:
    """With an answer stalled and another at work."""
    async with StabilityV2Beta(script=[Rule(Stall(), times=1), Rule(service_seconds=60)]) as standin:
        waiting = [asyncio.create_task(post(client, standin.url)) for _ in range(2)]
        while standin.tally.in_flight < 2:
            await asyncio.sleep(0.001)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_runs_as_a_process_of_its_own(client: Client, tmp_path: Path) -> None:
    """It prints its address, obeys its options and ends on SIGTERM."""
    script = tmp_path / "script.json"
    script.write_text('[{"requests": [2], "do": {"kind": "refuse_without_id", "status": 403}}]')
    options = ["--key", "sk-test", "--credits", "20", "--script", str(script), "--poll-floor", "1"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "load.upstreams.stability_v2beta", *options),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = json.loads(await process.stdout.readline())
        statuses = [(await post(client, ready["url"])).status for _ in range(2)]
        balance = await send(client, "GET", f"{ready['url']}/v1/user/balance", {"Authorization": "Bearer sk-test"})
        counters = await send(client, "GET", f"{ready['control']}counters", {})
    finally:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert (statuses, balance.json, counters.json["called"]) == ([200, 403], {"credits": 17.0}, 2)
