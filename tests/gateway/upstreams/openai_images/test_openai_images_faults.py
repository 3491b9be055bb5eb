"""How calls fail, what is fetched from where, and what may be told of it."""

import asyncio
import base64
import json
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, Picture, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.upstreams.failures import Told
from gateway.upstreams.openai_images import ImageModel, OpenAIImages
from gateway.upstreams.openai_images.wire import pictures_in, refusal, result_url, short_message, told_in
from load.upstreams.faults import Cut, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.openai_images import OpenAIImages as StandIn
from load.upstreams.openai_images.faults import EmptyData, ForeignUrl, RateLimited, Redirect
from load.upstreams.pictures import colour_of
from tests.gateway.upstreams.failures import check_failure
from tests.gateway.upstreams.openai_images.vendor import (
    GPT,
    KEY,
    adapter,
    answering,
    fault,
    flat,
    images,
    order,
    pixel,
    raw_server,
    read_request,
    reports,
)

PNG = flat("red", (64, 64))
REFUSED, FAILED, UNKNOWN = Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
QUOTA = {"credential": True}
LIMIT = {"locked_out": True}


ANSWERS = [
    # the fault, then the outcome, the code and the marks that are set
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable", {**LIMIT, "retry_after_seconds": 7}),
    (Refuse(429), REFUSED, "model_unavailable", LIMIT),
    (RateLimited(1.0, "nothing"), REFUSED, "model_unavailable", LIMIT),
    (RateLimited(2.0, "seconds"), REFUSED, "model_unavailable", {**LIMIT, "retry_after_seconds": 2}),
    (RateLimited(1.5, "milliseconds"), REFUSED, "model_unavailable", {**LIMIT, "retry_after_seconds": 1.5}),
    (Refuse(429, "insufficient_quota"), FAILED, "upstream_error", QUOTA),
    (Refuse(400, "billing_hard_limit_reached"), FAILED, "upstream_error", QUOTA),
    (Refuse(503), REFUSED, "model_unavailable", {}),
    (Refuse(503, retry_after=3), REFUSED, "model_unavailable", {"retry_after_seconds": 3}),
    (Refuse(503, "slow_down"), REFUSED, "model_unavailable", LIMIT),
    (Refuse(401), FAILED, "upstream_error", QUOTA),
    (Refuse(403), FAILED, "upstream_error", QUOTA),
    (Refuse(400), FAILED, "upstream_error", {}),
    (Refuse(400, "moderation_blocked"), FAILED, "content_filtered", {}),
    (Refuse(400, "content_policy_violation"), FAILED, "content_filtered", {}),
    (Refuse(404), FAILED, "model_not_found", {}),
    (Refuse(404, "other"), FAILED, "upstream_error", {}),
    (Refuse(413), FAILED, "upstream_error", {}),
    (Refuse(500), FAILED, "upstream_error", {}),
    (Refuse(501), FAILED, "upstream_error", {}),
    (Refuse(502), UNKNOWN, "outcome_unknown", {}),
    (Refuse(504), UNKNOWN, "outcome_unknown", {}),
    (Refuse(524), UNKNOWN, "outcome_unknown", {}),
    (Cut(0), UNKNOWN, "outcome_unknown", {}),
    (Cut(0, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Cut(300), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1), UNKNOWN, "outcome_unknown", {}),
    (Stall(0), UNKNOWN, "outcome_unknown", {}),
    (Stall(-1), UNKNOWN, "outcome_unknown", {}),
    (Garbage("not_json"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("truncated_json"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("wrong_base64"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("not_png"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("empty"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("huge", size_bytes=3_000_000), FAILED, "invalid_output", {"charged": True}),
    (EmptyData(), FAILED, "invalid_output", {"charged": True}),
    (Finish("ERROR"), FAILED, "upstream_error", {}),
    (Finish("CONTENT_FILTERED"), FAILED, "content_filtered", {}),
]


@pytest.mark.parametrize("what,outcome,code,marks", ANSWERS, ids=lambda value: str(value) if value else "-")
async def test_failure_is_told_by_the_table(
    standin: StandIn, what: Any, outcome: Outcome, code: str, marks: dict[str, Any]
) -> None:
    """5.4: each way to fail has its outcome, and none is tried again by the adapter."""

    async def call(patience: float, sent: Callable[[], None]) -> UpstreamFault:
        async with adapter(standin.url, timeout_seconds=patience, max_answer_bytes=2_000_000) as upstream:
            return await fault(upstream, order(upstream, count=2, sent=sent))

    await check_failure(standin, what, (outcome, code, marks), call)


@pytest.mark.parametrize("count", [1, 2])
async def test_refused_prompt_is_told_as_filtered(standin: StandIn, count: int) -> None:
    """5.4: the client learns that it was the prompt, streamed or not."""
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order(upstream, prompt="a standin-banned lamp", count=count))
    assert (found.code, found.details["stage"]) == ("content_filtered", "prompt")
    assert found.details["vendor_code"] == "moderation_blocked"
    assert "safety_violations=[violence]" in found.details["vendor_message"]


async def test_limits_of_the_vendor_are_told_with_their_end() -> None:
    """5.4: pictures count against a limit of their own."""
    async with StandIn(key=KEY, image_limit=2, retry_hint="date") as standin, adapter(standin.url) as upstream:
        await reports(upstream, order(upstream, count=2))
        found = await fault(upstream, order(upstream, count=2))
    assert (found.outcome, found.locked_out) == (REFUSED, True)
    assert 50 < (found.retry_after_seconds or 0) <= 62


@pytest.mark.parametrize("profile", ["vllm", "localai"])
async def test_errors_of_other_servers_are_read(profile: Any) -> None:
    """5.5: FastAPI's `detail`, a text or a list, and LocalAI's numbers for codes."""
    async with (
        StandIn(profile=profile) as standin,
        adapter(standin.url, models={"m": ImageModel()}, dialect=profile) as upstream,
    ):
        found = await fault(upstream, order(upstream, width=9000, height=64))
        missing = await fault(upstream, order(upstream, prompt=""))
    assert (found.outcome, found.code) == (FAILED, "upstream_error")
    assert "size" in found.details["vendor_message"]
    assert "prompt" in missing.details["vendor_message"]


async def test_no_byte_out_is_not_sent() -> None:
    """Where nobody listens, nothing was sent, nothing is known to have begun."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sent: list[None] = []
        async with adapter(f"http://127.0.0.1:{taken.getsockname()[1]}") as upstream:
            found = await fault(upstream, order(upstream, sent=lambda: sent.append(None)))
    assert (found.outcome, found.code, sent) == (Outcome.NOT_SENT, "model_unavailable", [])


async def test_connection_cut_within_the_request_is_unknown() -> None:
    """Part of it went out: the vendor may yet work with what it has, so it is not repeated."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.transport.abort()

    sent: list[None] = []
    async with raw_server(cut) as url, adapter(url) as upstream:
        init = PNG + random.Random(1).randbytes(20_000_000)
        asked = order(upstream, task="img2img", inputs={"init": init}, sent=lambda: sent.append(None))
        found = await fault(upstream, asked)
    assert (found.outcome, found.code, sent) == (UNKNOWN, "outcome_unknown", [])


async def test_redirect_is_not_followed() -> None:
    """A credential goes where it was configured to go and nowhere else."""
    moved = answering(b"", "307 Moved", {"Location": "http://127.0.0.1:1/", "Content-Length": "0"})
    async with raw_server(moved) as url, adapter(url) as upstream:
        found = await fault(upstream, order(upstream))
    assert (found.outcome, found.code, found.details["status"]) == (FAILED, "upstream_error", 307)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 \xff\r\n\r\n", b"220 smtp ready\r\n", b"HTTP/1.1 999 x\r\n\r\n"])
async def test_answer_that_is_not_http_leaks_nothing(answer: bytes) -> None:
    """The HTTP library's exception for it holds our headers; ours must not hold it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with raw_server(serve) as url, adapter(url) as upstream:
        found = await fault(upstream, order(upstream))
    assert found.outcome in (UNKNOWN, FAILED)


async def test_error_with_status_200_is_none_the_less_an_error() -> None:
    """Proxies do that; the error's own name counts."""
    body = json.dumps({"error": {"message": "no", "code": "moderation_blocked"}}).encode()
    async with raw_server(answering(body)) as url, adapter(url) as upstream:
        found = await fault(upstream, order(upstream))
    assert (found.code, found.details["stage"], found.charged) == ("content_filtered", "prompt", False)


# ------------------------------------------------------------------------------------- pictures that lie elsewhere

LINKED = {"stablediffusion": ImageModel(inline=False)}


def linked(standin: StandIn, **options: Any) -> Any:
    """An adapter that gets addresses."""
    return adapter(standin.url, models=LINKED, dialect="localai", **options)


def port_of(standin: StandIn) -> str:
    """Where the stand-in listens."""
    return standin.url.rpartition(":")[2]


async def test_picture_is_fetched_from_the_servers_own_origin() -> None:
    """5.5: LocalAI answers with addresses of its own."""
    async with StandIn(profile="localai", key=KEY) as standin, linked(standin) as upstream:
        begun, made = await reports(upstream, order(upstream, seed=3))
    assert (begun, isinstance(made, ImageMade)) == (WorkBegun(15), True)
    assert isinstance(made, ImageMade)
    assert pixel(made.picture) == colour_of(3, "a lamp")
    assert [(call.operation, call.key) for call in standin.log] == [("generations", KEY), ("result", None)]
    assert standin.log[1].client == "safelight"


async def test_relative_address_is_the_servers_own() -> None:
    """5.5: SGLang leaves scheme and host out."""
    async with (
        StandIn(profile="sglang") as standin,
        adapter(standin.url, models={"m": ImageModel(inline=False)}, dialect="sglang") as upstream,
    ):
        made = await images(upstream, order(upstream, count=2))
        standin.script(Rule(operation="generations"))
    assert len(made) == 2


async def test_picture_on_another_host_needs_its_name_in_the_settings() -> None:
    """Only what is configured is asked, and never with our credential."""
    async with StandIn(profile="localai", key=KEY) as standin:
        standin.script(Rule(do=ForeignUrl("localhost")))
        async with linked(standin) as upstream:
            found = await fault(upstream, order(upstream))
            assert (found.outcome, found.code, found.charged) == (FAILED, "invalid_output", True)
            assert "result_hosts" in found.message
            assert "localhost" not in str(found)
        assert [call.operation for call in standin.log] == ["generations"]
        async with linked(standin, result_hosts=["other.example", f"LOCALHOST:{port_of(standin)}"]) as upstream:
            assert len(await images(upstream, order(upstream))) == 1
        assert [(call.operation, call.key) for call in standin.log[1:]] == [("generations", KEY), ("result", None)]


FETCHES = [
    (Redirect(), 2),
    (Refuse(404), 2),
    (Refuse(500), 2),
    (Cut(0), 4),  # aiohttp repeats a GET by itself
    (Stall(0), 2),
    (Garbage("not_png"), 1),
    (Garbage("empty"), 1),
    (Garbage("huge", size_bytes=3_000_000), 1),
]


@pytest.mark.parametrize("what,tries", FETCHES, ids=str)
async def test_picture_that_cannot_be_had_is_lost_and_charged(what: Any, tries: int) -> None:
    """No redirect is followed, no more is read than the bound; the working request is never sent again."""
    async with StandIn(profile="localai", key=KEY) as standin:
        standin.script(Rule(do=what, operation="result"))
        async with linked(
            standin, max_answer_bytes=2_000_000, fetch_seconds=0.1 if isinstance(what, Stall) else 5
        ) as upstream:
            found = await fault(upstream, order(upstream))
    assert (found.outcome, found.code, found.charged) == (FAILED, "invalid_output", True)
    assert [call.operation for call in standin.log] == ["generations", *["result"] * tries]


async def test_fetch_that_failed_once_is_tried_again() -> None:
    """The picture is made and paid for."""
    async with StandIn(profile="localai", key=KEY) as standin:
        standin.script(Rule(do=Refuse(503), operation="result", times=1))
        async with linked(standin) as upstream:
            assert len(await images(upstream, order(upstream))) == 1
    assert standin.calls == 1


HOSTS = frozenset({("cdn.example", None), ("pictures.example", 8443)})


@pytest.mark.parametrize(
    "told,base,fetched",
    [
        ("/v1/images/5/content", "https://a.example/v1/", "https://a.example/v1/images/5/content"),
        ("https://a.example/5?sig=a%2Bb#x", "https://a.example/v1/", "https://a.example/5?sig=a%2Bb"),
        ("https://cdn.example/5", "https://a.example/v1/", "https://cdn.example/5"),
        ("https://CDN.example:443/5", "https://a.example/v1/", "https://cdn.example/5"),
        ("https://pictures.example:8443/5", "https://a.example/v1/", "https://pictures.example:8443/5"),
        ("http://cdn.example/5", "http://a.example/v1/", "http://cdn.example/5"),
        ("http://cdn.example/5", "https://a.example/v1/", None),
        ("http://a.example/5", "https://a.example/v1/", None),
        ("https://a.example:8080/5", "https://a.example/v1/", None),
        ("https://cdn.example:8443/5", "https://a.example/v1/", "https://cdn.example:8443/5"),
        ("https://u@cdn.example/5", "https://a.example/v1/", None),
        ("https://:p@cdn.example/5", "https://a.example/v1/", None),
        ("https://pictures.example/5", "https://a.example/v1/", None),
        ("https://cdn.example.evil.example/5", "https://a.example/v1/", None),
        ("https://u:p@cdn.example/5", "https://a.example/v1/", None),
        ("//evil.example/5", "https://a.example/v1/", None),
        ("file:///etc/passwd", "https://a.example/v1/", None),
        ("https://cdn.example:99999/5", "https://a.example/v1/", None),
        ("https://[::1/5", "https://a.example/v1/", None),
    ],
)
def test_address_is_fetched_only_from_configured_hosts(told: str, base: str, fetched: str | None) -> None:
    """Host, port and scheme all count."""
    assert result_url(told, base, HOSTS) == fetched


@pytest.mark.parametrize("host", ["a/b", "u@h", "https://x", "", "h:99999"])
def test_host_that_is_none_is_refused(host: str) -> None:
    """The settings tell it at once."""
    with pytest.raises(ValueError, match=r".+"):
        OpenAIImages(name="x", base_url="http://x/v1", models={GPT: ImageModel()}, result_hosts=[host])


# ---------------------------------------------------------------------------------------------------- what is told


def test_words_of_the_vendor_are_cut_and_redacted() -> None:
    """A vendor that repeats our key, whole or shortened, does not make us repeat it."""
    message = f"Incorrect API key: {KEY}, or sk-se***789, " + "x" * 480 + KEY
    body = json.dumps({"error": {"message": message, "code": "odd" * 100, "type": None, "param": None}}).encode()
    found = refusal(400, {}, body, Secret(KEY), "main")
    assert found.details["vendor_message"].startswith("Incorrect API key: ***, or ***, xxx")
    assert "sk-se" not in str(found.details)
    assert (len(found.details["vendor_message"]), len(found.details["vendor_code"])) == (500, 100)
    assert (found.details["retryable"], found.details["status"], found.details["upstream"]) == (False, 400, "main")


@pytest.mark.parametrize(
    "text,short",
    [
        ("No such model.", "No such model."),
        ("<html><body>502</body></html>", ""),
        ("cannot open /root/models/a.safetensors now", "cannot open *** now"),
        ("cannot open C:\\models\\a.gguf", "cannot open ***"),
        ("see file:///root/x", "see ***"),
        ("either/or at 3/4 of 1024x1024", "either/or at 3/4 of 1024x1024"),
        ("first line\n  at /a/b/c", "first line"),
        (
            'Traceback (most recent call last):\n  File "/a/b.py"\nRuntimeError: out of memory\n',
            "RuntimeError: out of memory",
        ),
        ("bad input tensor([[1., 2.]])", "bad input "),
        ("", ""),
    ],
)
def test_owners_affairs_are_left_out_of_messages(text: str, short: str) -> None:
    """Self-hosted servers answer with tracebacks, values and paths."""
    assert short_message(text) == short


@pytest.mark.parametrize(
    "body,told",
    [
        ({"error": {"message": "no", "type": "t", "code": "c"}}, Told("c", "no")),
        ({"error": {"message": "no", "type": "t", "code": None}}, Told("t", "no")),
        ({"error": {"message": None, "code": 500}}, Told("", "")),
        ({"error": "no"}, Told("", "no")),
        ({"detail": "no"}, Told("", "no")),
        ({"detail": [{"msg": "one", "loc": []}, {"msg": "two"}]}, Told("", "one; two")),
        ({"detail": {"odd": 1}}, Told("", "")),
        ({"message": "no"}, Told("", "no")),
        ({}, Told("", "")),
    ],
)
def test_every_form_of_error_is_read(body: Any, told: Told) -> None:
    """OpenAI's, FastAPI's, LocalAI's and that of proxies."""
    assert told_in(json.dumps(body).encode()) == told


@pytest.mark.parametrize("header,seconds", [("1500", 1.5), (" 20 ", 0.02), ("soon", 9), ("-5", 9), ("9" * 400, 1e12)])
def test_milliseconds_win_over_seconds(header: str, seconds: float) -> None:
    """5.4: the vendor's own client reads them first."""
    found = refusal(429, {"retry-after-ms": header, "Retry-After": "9"}, b"", Secret(KEY), "main")
    assert found.retry_after_seconds == seconds


def test_pictures_beyond_the_asked_are_left_out() -> None:
    """The port promises exactly as many as were asked for; a null is no picture."""
    item = {"b64_json": None, "url": "https://x/y", "revised_prompt": None}
    assert pictures_in(json.dumps({"data": [item, item]}).encode(), 1) == ["https://x/y"]
    inline = {"b64_json": base64.b64encode(PNG).decode()}
    assert pictures_in(json.dumps({"data": [inline, item]}).encode(), 1) == [Picture(PNG, "png", 64, 64)]
