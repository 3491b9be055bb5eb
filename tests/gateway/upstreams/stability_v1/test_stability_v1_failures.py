"""Each failure of a vendor or of the way there, told as what it means for a billed call."""

import asyncio
import json
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from gateway.core.reports import Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.upstreams import vendor as adapter_module
from gateway.upstreams.stability_v1.wire import refusal
from load.upstreams.faults import Cut, Finish, Garbage, Refuse, Stall
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.gateway.upstreams.failures import check_failure
from tests.gateway.upstreams.stability_v1.vendor import (
    KEY,
    adapter,
    answering,
    fault,
    images,
    order,
    raw_server,
    reports,
)
from tests.pictures import encoded

REFUSED, FAILED, UNKNOWN = Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN
ANSWERS = [
    # the fault, then the outcome, the code and the marks that are set
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable", {"locked_out": True, "retry_after_seconds": 7}),
    (Refuse(429), REFUSED, "model_unavailable", {"locked_out": True}),
    (Refuse(503), REFUSED, "model_unavailable", {}),
    (Refuse(503, retry_after=3), REFUSED, "model_unavailable", {"retry_after_seconds": 3}),
    (Refuse(401), FAILED, "upstream_error", {"credential": True}),
    (Refuse(403), FAILED, "upstream_error", {"credential": True}),
    (Refuse(400), FAILED, "upstream_error", {}),
    (Refuse(400, "invalid_prompts"), FAILED, "content_filtered", {}),
    (Refuse(404), FAILED, "upstream_error", {}),
    (Refuse(413), FAILED, "upstream_error", {}),
    (Refuse(404, "invalid_prompts"), FAILED, "upstream_error", {}),
    (Refuse(500), FAILED, "upstream_error", {}),
    (Refuse(501), FAILED, "upstream_error", {}),
    (Refuse(502), UNKNOWN, "outcome_unknown", {}),
    (Refuse(504), UNKNOWN, "outcome_unknown", {}),
    (Cut(0), UNKNOWN, "outcome_unknown", {}),
    (Cut(0, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Cut(20), UNKNOWN, "outcome_unknown", {}),
    (Cut(300), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1), UNKNOWN, "outcome_unknown", {}),
    (Cut(-1, "rst"), UNKNOWN, "outcome_unknown", {}),
    (Stall(0), UNKNOWN, "outcome_unknown", {}),
    (Stall(300), UNKNOWN, "outcome_unknown", {}),
    (Stall(-1), UNKNOWN, "outcome_unknown", {}),
    (Garbage("not_json"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("truncated_json"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("wrong_base64"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("not_png"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("empty"), FAILED, "invalid_output", {"charged": True}),
    (Garbage("huge", size_bytes=3_000_000), FAILED, "invalid_output", {"charged": True}),
    (Finish("ERROR"), FAILED, "invalid_output", {"charged": True}),
]


@pytest.mark.parametrize("what,outcome,code,marks", ANSWERS, ids=lambda value: str(value) if value else "-")
async def test_failure_is_told_by_the_table(
    standin: StandIn, what: Any, outcome: Outcome, code: str, marks: dict[str, Any]
) -> None:
    """Each way to fail has its outcome, and none is tried again by the adapter."""

    async def call(patience: float, sent: Callable[[], None]) -> UpstreamFault:
        async with adapter(standin.url, timeout_seconds=patience, max_answer_bytes=2_000_000) as upstream:
            return await fault(upstream, order(sent=sent))

    await check_failure(standin, what, (outcome, code, marks), call, short=0.5)


async def test_no_byte_out_is_not_sent() -> None:
    """Where nobody listens, nothing was sent, nothing is known to have begun."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sent: list[None] = []
        async with adapter(f"http://127.0.0.1:{taken.getsockname()[1]}") as upstream:
            found = await fault(upstream, order(sent=lambda: sent.append(None)))
    assert (found.outcome, found.code, sent) == (Outcome.NOT_SENT, "model_unavailable", [])
    assert found.details == {"upstream": "stability", "cause": "ClientConnectorError"}


async def test_connection_not_made_in_time_is_not_sent() -> None:
    """A TLS handshake that hangs is no request: not a byte of it was sent."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    options = {"connect_timeout_seconds": 0.1}
    async with raw_server(hang) as url, adapter(url.replace("http:", "https:"), **options) as upstream:
        found = await fault(upstream)
    assert (found.outcome, found.code) == (Outcome.NOT_SENT, "model_unavailable")


async def test_connection_cut_within_the_request_is_unknown() -> None:
    """Part of it went out: the vendor may yet work with what it has, so it is not repeated."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.transport.abort()

    noise = encoded(Image.frombytes("RGB", (320, 320), random.Random(1).randbytes(320 * 320 * 3)))
    sent: list[None] = []
    async with raw_server(cut) as url, adapter(url) as upstream:
        init = noise + bytes(20_000_000)
        found = await fault(upstream, order("img2img", inputs={"init": init}, sent=lambda: sent.append(None)))
    assert (found.outcome, found.code, sent) == (Outcome.UNKNOWN, "outcome_unknown", [])


async def test_redirect_is_not_followed() -> None:
    """A credential goes where it was configured to go and nowhere else."""
    serve = answering("307 Moved", "Location: http://127.0.0.1:1/\r\nContent-Length: 0\r\n", b"")
    async with raw_server(serve) as url, adapter(url) as upstream:
        found = await fault(upstream)
    assert (found.outcome, found.code, found.details["status"]) == (FAILED, "upstream_error", 307)


async def test_date_of_retry_after_counts_from_the_answer() -> None:
    """Both forms of Retry-After reach the gate."""
    headers = (
        "Date: Sun, 22 Nov 2026 07:00:00 GMT\r\nRetry-After: Sun, 22 Nov 2026 07:02:00 GMT\r\nContent-Length: 0\r\n"
    )
    async with raw_server(answering("429 Slow", headers, b"")) as url, adapter(url) as upstream:
        found = await fault(upstream)
    assert (found.retry_after_seconds, found.locked_out) == (120, True)


@pytest.mark.parametrize(
    "status,headers,body",
    [
        ("403 No", "Content-Length: 100\r\n", b'{"name":'),  # breaks off
        ("403 No", "Content-Length: 99999999\r\n", b""),  # says that it is too large
        ("403 No", "", b"x" * 1_000_000),  # is too large
        ("403 No", "", b"\xff<html>"),  # is no JSON
        ("403 No", "", b"[1]"),  # is other JSON
    ],
)
async def test_status_counts_whatever_its_body(status: str, headers: str, body: bytes) -> None:
    """An error's body only adds words."""
    async with raw_server(answering(status, headers, body)) as url, adapter(url) as upstream:
        found = await fault(upstream)
    assert (found.outcome, found.credential) == (FAILED, True)
    assert len(found.details["vendor_message"]) <= 500


async def test_error_body_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor that stalls within an error does not hold the call."""
    monkeypatch.setattr(adapter_module, "_ERROR_BODY_SECONDS", 0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering("500 Sorry", "Content-Length: 100\r\n", b"{")(reader, writer)
        await reader.read()

    async with raw_server(serve) as url, adapter(url) as upstream:
        found = await fault(upstream)
    assert (found.outcome, found.code) == (FAILED, "upstream_error")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 \xff\r\n\r\n", b"220 smtp ready\r\n", b"HTTP/1.1 999 x\r\n\r\n"])
async def test_answer_that_is_not_http_leaks_nothing(answer: bytes) -> None:
    """The HTTP library's exception for it holds our headers; ours must not hold it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with raw_server(serve) as url, adapter(url) as upstream:
        found = await fault(upstream)
    assert found.outcome in (UNKNOWN, FAILED)


def test_words_of_the_vendor_are_cut_and_redacted() -> None:
    """A vendor that repeats our key, whole or shortened, does not make us repeat it."""
    message = f"Incorrect API key: {KEY}, or sk-se***789, " + "x" * 480 + KEY
    body = json.dumps({"id": "1", "name": "odd" * 100, "message": message}).encode()
    found = refusal(400, {}, body, Secret(KEY), "main")
    assert found.details["vendor_message"].startswith("Incorrect API key: ***, or ***, xxx")
    assert "sk-se" not in str(found.details)
    assert (len(found.details["vendor_message"]), len(found.details["vendor_code"])) == (500, 100)
    assert (found.details["retryable"], found.details["status"], found.details["upstream"]) == (False, 400, "main")


async def test_refused_prompt_is_told_as_filtered(standin: StandIn) -> None:
    """The client learns that it was the prompt, also a negative one."""
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order(negative_prompt="no standin-banned"))
    assert (found.code, found.details["stage"]) == ("content_filtered", "prompt")
    assert found.details["vendor_code"] == "invalid_prompts"


async def test_filtered_picture_is_marked(standin: StandIn) -> None:
    """It comes with status 200, and is no failure of the call."""
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(prompt="a standin-filtered lamp"))
    assert made.filtered
    assert made.picture.width == 320


async def test_environment_names_no_proxy(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment would see the key."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with adapter(standin.url) as upstream:
        await reports(upstream, order())
    assert standin.calls == 1
