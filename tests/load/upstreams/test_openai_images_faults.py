"""What the stand-in of OpenAI Images does wrong when it is told to, as the vendor's own client meets it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from load.upstreams.faults import Cut, Drip, Fault, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.openai_images import OpenAIImages
from load.upstreams.openai_images.faults import (
    EmptyData,
    ForeignUrl,
    NoFinal,
    NoPartials,
    PlainAnswer,
    RateLimited,
    Redirect,
    StreamCut,
    StreamError,
    StreamStall,
)
from tests.load.upstreams.openai_talk import MODEL, decode, post, sdk, watched

ROOT = Path(__file__).parents[3]
BODY: dict[str, Any] = {"model": MODEL, "prompt": "a cat"}
STREAM: dict[str, Any] = BODY | {"stream": True, "partial_images": 3}
PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


async def stream_under(fault: Fault) -> tuple[list[str], openai.APIError | None, OpenAIImages]:
    """The types of a stream's events under a fault, the error that ended it, and the stand-in."""
    async with OpenAIImages(script=[Rule(fault)]) as standin, sdk(standin) as client:
        stream = await client.images.generate(prompt="a cat", model=MODEL, stream=True, partial_images=3)
        events, error = await watched(stream)
        while standin.tally.in_flight:
            await asyncio.sleep(0.001)
        return [event.type for event in events], error, standin


# Refusals


@pytest.mark.parametrize(
    "status,name,kind,code,billed",
    [
        (400, None, openai.BadRequestError, None, False),
        (400, "billing_hard_limit_reached", openai.BadRequestError, "billing_hard_limit_reached", False),
        (401, None, openai.AuthenticationError, "invalid_api_key", False),
        (402, None, openai.APIStatusError, None, False),
        (403, None, openai.PermissionDeniedError, "organization_must_be_verified", False),
        (404, None, openai.NotFoundError, "model_not_found", False),
        (409, None, openai.ConflictError, None, False),
        (422, None, openai.UnprocessableEntityError, None, False),
        (429, None, openai.RateLimitError, "rate_limit_exceeded", False),
        (429, "insufficient_quota", openai.RateLimitError, "insufficient_quota", False),
        (500, None, openai.InternalServerError, "server_error", True),
        (503, None, openai.InternalServerError, "server_error", False),
        (503, "slow_down", openai.InternalServerError, "slow_down", False),
    ],
)
async def test_refusal_is_the_clients_own_exception(
    status: int, name: str | None, kind: type[openai.APIStatusError], code: str | None, billed: bool
) -> None:
    """Each status becomes the class the client has for it, with the vendor's code."""
    async with OpenAIImages(script=[Rule(Refuse(status, name, retry_after=3))]) as standin, sdk(standin) as client:
        with pytest.raises(kind) as caught:
            await client.images.generate(prompt="a cat", model=MODEL)
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert caught.value.response.headers["Retry-After"] == "3"
        assert (standin.log[0].billed, standin.log[0].fault) == (billed, "refuse")


async def test_stream_that_is_refused_answers_plainly() -> None:
    """A refusal comes instead of the stream, with its own status."""
    async with OpenAIImages(script=[Rule(Refuse(500))]) as standin, sdk(standin) as client:
        with pytest.raises(openai.InternalServerError):
            await client.images.generate(prompt="a cat", model=MODEL, stream=True)


@pytest.mark.parametrize("how", ["nothing", "seconds", "milliseconds", "date"])
async def test_rate_limit_says_when_to_come_back(how: Any) -> None:
    """The header comes in each of its forms, or not at all."""
    async with OpenAIImages(script=[Rule(RateLimited(2.5, how))]) as standin, sdk(standin) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.images.generate(prompt="a cat", model=MODEL)
    headers = caught.value.response.headers
    said = {name: headers[name] for name in ("retry-after", "retry-after-ms") if name in headers}
    if how == "date":
        moment = email.utils.parsedate_to_datetime(said.pop("retry-after")).timestamp()
        assert 0 < moment - time.time() <= 4
    expected = {"seconds": {"retry-after": "3"}, "milliseconds": {"retry-after-ms": "2500"}}
    assert said == expected.get(how, {})
    assert caught.value.code == "rate_limit_exceeded"


async def test_client_that_tries_again_gets_through() -> None:
    """The vendor's own client follows the hint and is served the second time."""
    rule = Rule(RateLimited(0.01, "milliseconds"), times=1)
    async with OpenAIImages(script=[rule]) as standin, sdk(standin, max_retries=1) as client:
        await client.images.generate(prompt="a cat", model=MODEL)
        assert [call.status for call in standin.log] == [429, 200]
        assert (standin.calls, standin.tally.billed) == (2, 1)


@pytest.mark.parametrize(
    "reason,kind", [("CONTENT_FILTERED", openai.BadRequestError), ("ERROR", openai.InternalServerError)]
)
async def test_work_may_end_badly(reason: Any, kind: type[openai.APIStatusError]) -> None:
    """A finish that is no success is an error after work that was begun."""
    async with OpenAIImages(script=[Rule(Finish(reason))]) as standin, sdk(standin) as client:
        with pytest.raises(kind):
            await client.images.generate(prompt="a cat", model=MODEL)
        assert standin.log[0].billed


async def test_rule_may_name_a_model_or_an_operation() -> None:
    """A rule meets one model's calls, another the list of models."""
    rules = [Rule(Refuse(503), engine="gpt-image-2"), Rule(Refuse(500), operation="models")]
    async with OpenAIImages(script=rules) as standin, sdk(standin) as client:
        await client.images.generate(prompt="a cat", model=MODEL)
        with pytest.raises(openai.InternalServerError):
            await client.images.generate(prompt="a cat", model="gpt-image-2")
        with pytest.raises(openai.InternalServerError):
            await client.models.list()


# Streams


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("after", [0, 1, 3, 4])
async def test_stream_is_cut_between_events(after: int, how: Any) -> None:
    """Whole events arrive up to the cut, and then the connection is gone."""
    seen, error, standin = await stream_under(StreamCut(after, how))
    assert seen == ([PARTIAL] * 3 + [COMPLETED])[:after]
    assert isinstance(error, openai.APIConnectionError)
    assert (standin.log[0].outcome, standin.log[0].billed) == ("cut", True)


async def test_stream_is_cut_inside_an_event() -> None:
    """A cut at a byte counts in a stream too; the event it hits never arrives."""
    seen, error, _ = await stream_under(Cut(at_byte=-100))
    assert seen == [PARTIAL] * 3
    assert isinstance(error, openai.APIConnectionError)


async def test_stalled_stream_is_silent_and_open() -> None:
    """After the events that came the client waits until it gives up."""
    async with OpenAIImages(script=[Rule(StreamStall(2))]) as standin, sdk(standin, timeout=0.3) as client:
        stream = await client.images.generate(prompt="a cat", model=MODEL, stream=True, partial_images=3)
        events, error = await watched(stream)
        assert [event.type for event in events] == [PARTIAL] * 2
        assert isinstance(error, openai.APITimeoutError)
        while standin.tally.in_flight:
            await asyncio.sleep(0.001)
        assert standin.log[0].outcome == "stalled"


async def test_stream_may_wake_up_again() -> None:
    """A stall of some seconds only delays what follows."""
    started = time.monotonic()
    seen, error, standin = await stream_under(StreamStall(1, 0.1))
    assert (seen, error) == ([PARTIAL] * 3 + [COMPLETED], None)
    assert time.monotonic() - started >= 0.1
    assert standin.log[0].outcome == "answered"


@pytest.mark.parametrize("after,code", [(0, "server_error"), (2, "rate_limit_exceeded"), (9, "moderation_blocked")])
async def test_error_event_ends_the_stream(after: int, code: str) -> None:
    """An error may come after 200, and no picture after it."""
    seen, error, _ = await stream_under(StreamError(after, code, "went wrong"))
    assert seen == [PARTIAL] * min(after, 3)
    assert error is not None
    assert not isinstance(error, openai.APIConnectionError)
    assert (error.message, error.code) == ("went wrong", code)


@pytest.mark.parametrize("keep", [0, 1])
async def test_partials_may_never_come(keep: int) -> None:
    """The finished picture comes alone, or after fewer partial ones."""
    seen, error, _ = await stream_under(NoPartials(keep))
    assert (seen, error) == ([PARTIAL] * keep + [COMPLETED], None)


@pytest.mark.parametrize("fault", [NoFinal(), EmptyData()])
async def test_stream_may_end_without_its_picture(fault: Fault) -> None:
    """The stream ends in good order, and the client hears of no error."""
    assert (await stream_under(fault))[:2] == ([PARTIAL] * 3, None)


async def test_plain_answer_to_a_request_for_a_stream(client: aiohttp.ClientSession) -> None:
    """The whole JSON comes at the end, as from a server that does not know streams."""
    async with OpenAIImages(script=[Rule(PlainAnswer())]) as standin:
        status, headers, body = await post(client, standin.url, STREAM)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert len(json.loads(body)["data"]) == 1


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "wrong_base64", "not_png", "empty", "huge"])
async def test_garbage_in_both_forms(client: aiohttp.ClientSession, what: Any) -> None:
    """The body, or the data of the last event, is spoilt in the way that was asked for."""
    async with OpenAIImages(script=[Rule(Garbage(what, 200_000))]) as standin:
        _, _, plain = await post(client, standin.url, BODY)
        _, _, stream = await post(client, standin.url, STREAM)
    last = stream.removesuffix(b"\n\n").rpartition(b"data: ")[2]
    texts: list[str | None] = []
    for text in (plain, last):
        try:
            value = json.loads(text)
        except ValueError:
            texts.append(None)
        else:
            texts.append(value["data"][0]["b64_json"] if "data" in value else value["b64_json"])
    if what in ("not_json", "truncated_json", "empty"):
        assert texts == [None, None]
    elif what == "huge":
        assert [len(plain), len(last)] == [200_000] * 2
    else:
        assert texts[0] == texts[1]
        assert (what == "wrong_base64") == ("@" in (texts[0] or ""))


async def test_dripping_stream_arrives_whole() -> None:
    """Small pieces make the same events."""
    seen, error, _ = await stream_under(Drip(4096, 0.0))
    assert (seen, error) == ([PARTIAL] * 3 + [COMPLETED], None)


async def test_answer_may_have_no_picture() -> None:
    """A refusal in disguise is 200 with an empty list."""
    async with OpenAIImages(script=[Rule(EmptyData())]) as standin, sdk(standin) as client:
        assert (await client.images.generate(prompt="a cat", model=MODEL)).data == []


async def test_plain_answer_is_cut_and_stalled() -> None:
    """The faults of a stream leave a plain answer alone, those of bytes hit it."""
    rules = [Rule(StreamCut(1), last=1), Rule(Cut(at_byte=-1), last=2), Rule(Stall(), last=3)]
    async with OpenAIImages(script=rules) as standin, sdk(standin, timeout=0.3) as client:
        await client.images.generate(prompt="a cat", model=MODEL)
        with pytest.raises(openai.APIConnectionError):
            await client.images.generate(prompt="a cat", model=MODEL)
        with pytest.raises(openai.APITimeoutError):
            await client.images.generate(prompt="a cat", model=MODEL)


# URLs of pictures


async def picture_url(standin: OpenAIImages) -> str:
    """The URL that a legacy model answers with."""
    async with sdk(standin) as client:
        reply = await client.images.generate(prompt="a cat", model="dall-e-2", size="256x256")
    url = (reply.data or [])[0].url
    assert url is not None
    return url


@pytest.mark.parametrize(
    "fault,status,length",
    [
        (Refuse(404), 404, None),
        (Refuse(500), 500, None),
        (Redirect("http://elsewhere.example/secret", 307), 307, 0),
        (Garbage("huge", 3_000_000), 200, 3_000_000),
        (Garbage("not_png"), 200, 26),
        (Garbage("empty"), 200, 0),
    ],
)
async def test_fetching_a_picture_fails(
    client: aiohttp.ClientSession, fault: Fault, status: int, length: int | None
) -> None:
    """A picture is gone, elsewhere, huge or none at all, though its URL was answered."""
    async with OpenAIImages(script=[Rule(fault, operation="result")]) as standin:
        url = await picture_url(standin)
        async with client.get(url, allow_redirects=False) as response:
            body = await response.read()
            assert response.status == status
            assert length in (None, len(body))
            if isinstance(fault, Redirect):
                assert response.headers["Location"] == fault.to


async def test_url_may_name_another_host(client: aiohttp.ClientSession) -> None:
    """A host of one's own choice stands in the URL, for all pictures or by script for one."""
    async with OpenAIImages(result_host="localhost", script=[Rule(ForeignUrl("cdn.example"), last=1)]) as standin:
        port = standin.url.rpartition(":")[2]
        assert (await picture_url(standin)).startswith(f"http://cdn.example:{port}/")
        url = await picture_url(standin)
        assert url.startswith(f"http://localhost:{port}/")
        async with client.get(url) as response:
            assert decode(await response.read()).size == (256, 256)


# Control and command line


async def test_vendors_faults_have_a_json_form(client: aiohttp.ClientSession) -> None:
    """A script over the control path may name them."""
    async with OpenAIImages() as standin:
        rules = [{"do": {"kind": "no_partials", "keep": 1}}]
        async with client.post(f"{standin.url}/__standin/script", json=rules) as response:
            assert response.status == 200
        _, _, body = await post(client, standin.url, STREAM)
        assert body.count(b"event: ") == 2
        async with client.get(f"{standin.url}/__standin/") as response:
            (call,) = (await response.json())["log"]
        assert (call["fault"], call["fields"]) == ("nopartials", STREAM)
        async with client.post(f"{standin.url}/__standin/script", json=[{"do": {"kind": "stream_cut", "x": 1}}]) as bad:
            assert bad.status == 400


async def test_reset_starts_everything_anew() -> None:
    """Seeds, limits and pictures are as at the start."""
    async with OpenAIImages(limit=1) as standin, sdk(standin) as client:
        first = await client.images.generate(prompt="a cat", model=MODEL)
        standin.reset()
        again = await client.images.generate(prompt="a cat", model=MODEL)
        assert standin.calls == 1
    assert [item.b64_json for item in first.data or ()] == [item.b64_json for item in again.data or ()]


async def test_command_line_serves_until_told(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    """As a process of its own it says where it is, obeys its options and ends at SIGTERM."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"requests": [2], "do": {"kind": "refuse", "status": 503}}]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "load.upstreams.openai_images",
        *("--profile", "localai", "--script", str(script)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    try:
        assert process.stdout is not None
        said = json.loads(await process.stdout.readline())
        statuses = [(await post(client, said["url"], {"prompt": "x"}))[0] for _ in range(2)]
        assert statuses == [200, 503]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
