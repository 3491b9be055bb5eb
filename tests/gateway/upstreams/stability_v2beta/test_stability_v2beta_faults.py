"""The v2beta adapter when something goes wrong with an order that is answered at once: faults, cancels, connections.

Sections of the fact sheet are named where a test is about one: 2.5 errors, 2.6 quirks, 12 error classes.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.stability_v2beta.wire import from_vendor, refusal
from load.upstreams.faults import Cut, Drip, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.pictures import BLUR
from load.upstreams.stability_v2beta import RefuseWithoutId
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from tests.gateway.upstreams.failures import check_failure
from tests.gateway.upstreams.stability_v2beta.vendor import (
    KEY,
    adapter,
    fault,
    flat,
    image,
    opened,
    order,
    pixel,
    reports,
    until,
)

REFUSED, FAILED, UNKNOWN = Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN


# --------------------------------------------------------------------------------------------------- the failure table

ANSWERS = [
    # the fault, then the outcome, the code and the marks that are set
    (Refuse(429, retry_after=7), REFUSED, "model_unavailable", {"locked_out": True, "retry_after_seconds": 7}),
    (Refuse(429), REFUSED, "model_unavailable", {"locked_out": True}),
    (Refuse(503, retry_after=3), REFUSED, "model_unavailable", {"retry_after_seconds": 3}),
    (Refuse(401), FAILED, "upstream_error", {"credential": True}),
    (Refuse(402), FAILED, "upstream_error", {"credential": True}),
    (Refuse(403), FAILED, "content_filtered", {}),
    (RefuseWithoutId(403), FAILED, "content_filtered", {}),
    (Refuse(403, "forbidden"), FAILED, "upstream_error", {"credential": True}),
    (Refuse(400), FAILED, "upstream_error", {}),
    (Refuse(404), FAILED, "upstream_error", {}),
    (Refuse(413), FAILED, "payload_too_large", {}),
    (Refuse(422), FAILED, "invalid_param", {}),
    (Refuse(422, "public_figure"), FAILED, "content_filtered", {}),
    (Refuse(422, "odd"), FAILED, "upstream_error", {}),
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
    """Each way to fail (2.5, 12) has its outcome, and none is tried again by the adapter."""

    async def call(patience: float, sent: Callable[[], None]) -> UpstreamFault:
        async with adapter(standin.url, timeout_seconds=patience, max_answer_bytes=2_000_000) as upstream:
            return await fault(reports(upstream, order(call={"sent": sent})))

    await check_failure(standin, what, (outcome, code, marks), call)


async def test_own_limit_locks_the_account_out() -> None:
    """A 429 that names no time leaves it to the gate, whose own lock-out is 60 s."""
    async with StandIn(key={KEY}, limit=1) as standin, adapter(standin.url) as upstream:
        await reports(upstream, order())
        found = await fault(reports(upstream, order()))
    assert (found.outcome, found.locked_out, found.retry_after_seconds) == (REFUSED, True, None)
    assert found.details["vendor_code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    "options,name", [({"key": {"sk-other"}}, "unauthorized"), ({"credits": 2.9}, "payment_required")]
)
async def test_key_and_credits_are_the_credentials_fault(options: Any, name: str) -> None:
    """Another account may be allowed what this one is not; nothing was charged."""
    async with StandIn(**{"key": {KEY}, **options}) as standin, adapter(standin.url) as upstream:
        found = await fault(reports(upstream, order()))
        assert standin.tally.billed == 0
    assert (found.outcome, found.credential, found.details["vendor_code"]) == (FAILED, True, name)


@pytest.mark.parametrize("has_id", [True, False])
async def test_refused_words_are_told_as_filtered(has_id: bool) -> None:
    """The client learns that it was its words, also where the body lacks its id (2.5)."""
    async with StandIn(key={KEY}, moderation_id=has_id) as standin, adapter(standin.url) as upstream:
        found = await fault(reports(upstream, order(negative_prompt="no standin-moderated")))
    assert (found.code, found.details["stage"], found.credential) == ("content_filtered", "prompt", False)
    assert found.details["vendor_code"] == "content_moderation"
    assert found.details["vendor_message"].startswith("the request was flagged")


async def test_other_languages_are_told_by_name(standin: StandIn) -> None:
    """422 invalid_language is the request's fault, and says so."""
    async with adapter(standin.url) as upstream:
        found = await fault(reports(upstream, order(prompt="standin-foreign")))
    assert (found.code, found.message) == ("invalid_param", "the vendor takes English prompts only")


async def test_filtered_picture_is_marked(standin: StandIn) -> None:
    """It comes with status 200, blurred and charged, and is no failure of the call (2.1)."""
    async with adapter(standin.url) as upstream:
        made = await image(upstream, order(prompt="a standin-filtered lamp"))
    assert made.filtered
    assert pixel(opened(made)) == BLUR
    assert standin.credits == 997


def test_filtered_picture_may_be_missing() -> None:
    """One that was held back need not have bytes; another must."""
    made = from_vendor(order(), {"finish-reason": "CONTENT_FILTERED", "seed": "9"}, b"")
    assert (made.filtered, made.picture.content, made.seed) == (True, b"", 9)
    for headers, body in [({}, b""), ({"finish-reason": "ODD"}, flat()), ({}, flat(0, (5000, 4000), "1"))]:
        with pytest.raises(UpstreamFault) as caught:
            from_vendor(order(), headers, body)
        assert (caught.value.code, caught.value.charged) == ("invalid_output", True)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_picture_that_ends_too_early_is_none(format: str) -> None:
    """No JSON holds its bytes together, so its end is looked for; what comes behind that does not matter."""
    whole = flat(format=format)
    assert from_vendor(order(), {}, whole + bytes(100)).picture.format == format.lower()
    with pytest.raises(UpstreamFault) as caught:
        from_vendor(order(), {}, whole[:-12])
    assert (caught.value.code, caught.value.charged) == ("invalid_output", True)


@pytest.mark.parametrize("told", [None, "", "x", "-1", "0", "²", "9" * 5000])
def test_seed_that_is_not_told_is_the_one_that_was_asked(told: str | None) -> None:
    """A header that says nothing is left."""
    headers = {} if told is None else {"seed": told}
    assert from_vendor(order(), headers, flat()).seed == 7


BAD_INPUTS = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_unusable_input_image_costs_no_call(standin: StandIn, name: str) -> None:
    """It is the end before the vendor hears of it, and before its pixels are decoded."""
    content, code = BAD_INPUTS[name]
    good = order("search_replace", "stable-image", {"init": flat()}, search="x")
    bad = type(good)(good.id, good.model, good.request, 7, 1, {"init": content})
    async with adapter(standin.url) as upstream:
        found = await fault(reports(upstream, bad))
    assert (found.outcome, found.code, found.charged, standin.calls) == (FAILED, code, False, 0)


async def test_request_too_large_is_not_sent(standin: StandIn) -> None:
    """Over 10 MiB the vendor would answer 413 to all of it (2.1): it is refused here; up to that it goes out."""

    def asked(size: int) -> CallOrder:
        return order("search_replace", "stable-image", {"init": flat() + bytes(size - len(flat()))}, search="x")

    async with adapter(standin.url) as upstream:
        await reports(upstream, asked(10 * 1024 * 1024 - 2000))
        found = await fault(reports(upstream, asked(10 * 1024 * 1024)))
    assert (found.outcome, found.code, found.details["max_bytes"]) == (FAILED, "payload_too_large", 10 * 1024 * 1024)
    assert standin.calls == 1


# --------------------------------------------------------------------------------------------------- what errors say


def said(value: object, status: int = 400) -> UpstreamFault:
    """The fault of an error with that body."""
    return refusal(status, {}, json.dumps(value).encode(), Secret(KEY), "main")


def test_errors_are_an_array() -> None:
    """All of it is told, joined (2.5); the account's paths have v1's one message; an odd body breaks nothing."""
    two = said({"id": "1", "name": "bad_request", "errors": ["prompt: required", "seed: odd"]})
    assert two.details["vendor_message"] == "prompt: required; seed: odd"
    assert (two.details["vendor_code"], two.details["status"], two.details["retryable"]) == ("bad_request", 400, False)
    assert said({"name": "x", "message": "one"}).details["vendor_message"] == "one"
    assert said({"name": None, "errors": "one"}).details["vendor_message"] == "one"
    assert said({"errors": [{"a": 1}, None]}).details["vendor_message"] == "{'a': 1}; None"
    for body in (b"", b"[1]", b"\xff", b"[" * 60_000, b'{"errors":'):
        assert refusal(500, {}, body, Secret(KEY), "main").code == "upstream_error"


def test_refusal_without_a_name_does_not_put_the_account_out() -> None:
    """A 403 is documented for moderation alone, so one that says nothing speaks of the request."""
    found = refusal(403, {}, b"<html>", Secret(KEY), "main")
    assert (found.outcome, found.code, found.credential) == (FAILED, "upstream_error", False)


def test_words_of_the_vendor_are_cut_and_redacted() -> None:
    """A vendor that repeats our key, whole or shortened, does not make us repeat it."""
    found = said({"name": "odd" * 100, "errors": [f"bad key: {KEY}", "or sk-se***789", "x" * 600, KEY]}, 401)
    assert found.details["vendor_message"].startswith("bad key: ***; or ***; xxx")
    assert (len(found.details["vendor_message"]), len(found.details["vendor_code"])) == (500, 100)
    assert "sk-se" not in str(found.details)


# --------------------------------------------------------------------------------- sent, cancelled, connections, probe


async def test_no_byte_out_is_not_sent() -> None:
    """Where nobody listens, nothing was sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sent: list[None] = []
        async with adapter(f"http://127.0.0.1:{taken.getsockname()[1]}") as upstream:
            found = await fault(reports(upstream, order(call={"sent": lambda: sent.append(None)})))
            assert (await fault(upstream.probe())).outcome is Outcome.NOT_SENT
    assert (found.outcome, found.code, sent) == (Outcome.NOT_SENT, "model_unavailable", [])


async def test_sent_is_told_once_and_before_the_answer(standin: StandIn) -> None:
    """`sent` comes when the request is out, while the vendor still works; WorkBegun follows it."""
    standin.script(Rule(service_seconds=0.2))
    sent: list[None] = []
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order(call={"sent": lambda: sent.append(None)}))
        assert await anext(reported) == WorkBegun(1)
        assert len(sent) == 1
        assert not standin.log or standin.log[0].ended is None
        assert [type(report) async for report in reported] == [ImageMade]
    assert len(sent) == 1


@pytest.mark.parametrize("how", ["task", "generator", "before anything"])
async def test_cancelling_drops_the_connection(standin: StandIn, how: str) -> None:
    """The vendor sees the client go, within a second, however the iteration is ended (nothing else can be done)."""
    standin.script(Rule(service_seconds=30))
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order())
        if how == "before anything":
            await reported.aclose()
            assert standin.calls == 0
            return
        assert isinstance(await anext(reported), WorkBegun)
        await until(lambda: standin.calls == 1)
        if how == "generator":
            await reported.aclose()
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(reported)
        await until(lambda: standin.log[0].outcome == "dropped")


async def test_answer_faster_than_a_cancel_is_thrown_away(standin: StandIn) -> None:
    """A picture that is there already when the call is cancelled leaks nothing, and is asked for once."""
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order())
        await anext(reported)
        await until(lambda: standin.calls == 1 and standin.log[0].outcome is not None)
        await reported.aclose()
    assert standin.calls == 1


async def test_slow_reader_of_reports_never_holds_the_vendor() -> None:
    """The answer is taken whole off the socket while nobody asks for the next report."""
    async with StandIn(key={KEY}, picture_bytes=8_000_000) as standin, adapter(standin.url) as upstream:
        reported = upstream.run(order())
        await anext(reported)
        await until(lambda: bool(standin.log) and standin.log[0].ended is not None)
        (made,) = [report async for report in reported if isinstance(report, ImageMade)]
    assert len(made.picture.content) >= 8_000_000


async def test_slow_answer_comes_whole(standin: StandIn) -> None:
    """Pieces with pauses are an answer."""
    standin.script(Rule(do=Drip(piece_bytes=2000, pause_seconds=0.001)))
    async with adapter(standin.url) as upstream:
        assert opened(await image(upstream, order())).size == (1536, 1536)


@pytest.mark.parametrize("task", ["txt2img", "upscale"])
async def test_lost_order_without_an_id_is_never_repeated(standin: StandIn, task: str) -> None:
    """Nobody can know what became of it: unknown, and nothing is asked of the vendor."""
    asked = order() if task == "txt2img" else order(task, "stable-image", {"init": flat()}, prompt="x", scale=5.0)
    async with adapter(standin.url) as upstream:
        found = await fault(anext(upstream.resume(asked, None)))
    assert (found.outcome, found.code, found.details) == (UNKNOWN, "outcome_unknown", {"upstream": "stability"})
    assert standin.log == []


@asynccontextmanager
async def answering(status: bytes, body: bytes = b"", headers: bytes = b"") -> AsyncIterator[str]:
    """A server that answers every request like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_redirect_is_not_followed() -> None:
    """A credential goes where it was configured to go and nowhere else."""
    moved = answering(b"307 Moved", headers=b"Location: http://127.0.0.1:1/\r\n")
    async with moved as url, adapter(url) as upstream:
        found = await fault(reports(upstream, order()))
    assert (found.outcome, found.code, found.details["status"]) == (FAILED, "upstream_error", 307)


async def test_probe_tells_the_credits(standin: StandIn) -> None:
    """A look at the balance; too few of them for the dearest picture is a problem with what to do."""
    async with adapter(standin.url) as upstream:
        well = await upstream.probe()
        standin.credits = 59.5
        poor = await upstream.probe()
        await upstream.refresh()
    assert (well.server, well.problems) == ("Stability AI v2beta stable-image", ())
    assert well.facts[0] == "1000 credits left"
    assert well.facts[1].startswith("models: stable-image-core, ")
    assert poor.problems == ("59.5 credits do not pay the dearest picture offered here, 60: buy credits",)
    assert standin.calls == 0


async def test_probe_tells_a_wrong_key() -> None:
    """The account's paths have errors of v1's form."""
    async with StandIn(key={"sk-other"}) as standin, adapter(standin.url) as upstream:
        found = await fault(upstream.probe())
    assert (found.credential, found.details["vendor_code"]) == (True, "unauthorized")
    assert found.details["vendor_message"] == "authorization: invalid or missing header value"


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"credits":"many"}', b""])
async def test_probe_of_something_else_says_so(body: bytes) -> None:
    """A server that answers, but not like the vendor."""
    async with answering(b"200 OK", body) as url, adapter(url) as upstream:
        found = await fault(upstream.probe())
    assert (found.outcome, found.code, found.charged) == (FAILED, "invalid_output", False)


async def test_probe_without_models_still_tells_the_credits(standin: StandIn) -> None:
    """What is offered is the operator's choice."""
    async with adapter(standin.url, models=()) as upstream:
        assert (await upstream.probe()).facts == ("1000 credits left", "models: none")
