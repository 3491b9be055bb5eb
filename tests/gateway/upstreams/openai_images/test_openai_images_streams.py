"""Streams of events: whole and marred ones from the stand-in, and odd ones from other servers."""

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.reports import ImageMade, Outcome, Picture, PreviewMade, Report, UpstreamFault, WorkBegun
from gateway.core.secret import Secret
from gateway.upstreams.failures import Told
from gateway.upstreams.openai_images import ImageModel
from gateway.upstreams.openai_images.events import Frame, Frames, FrameTooLarge, Mail
from gateway.upstreams.openai_images.wire import Ended, Finished, Partial, Trouble, read_event, trouble
from load.upstreams.faults import Cut, Drip, Finish, Garbage, Rule
from load.upstreams.openai_images import OpenAIImages as StandIn
from load.upstreams.openai_images.faults import (
    EmptyData,
    NoFinal,
    NoPartials,
    PlainAnswer,
    StreamCut,
    StreamError,
    StreamStall,
)
from load.upstreams.pictures import colour_of
from tests.gateway.upstreams.openai_images.vendor import (
    GPT,
    KEY,
    MODELS,
    adapter,
    answering,
    fault,
    flat,
    images,
    order,
    pixel,
    raw_server,
    reports,
    until,
)

PNG = flat("red", (64, 64))
TEXT = base64.b64encode(PNG).decode()
NOT_WHOLE = (Outcome.UNKNOWN, "outcome_unknown", False)
UNUSABLE = (Outcome.FAILED, "invalid_output", True)
FAILED = (Outcome.FAILED, "upstream_error", False)


async def told(upstream: Any, asked: Any) -> tuple[list[Report], UpstreamFault]:
    """What a call reports before its fault, and the fault."""
    before: list[Report] = []
    try:
        async for report in upstream.run(asked):
            before.append(report)  # noqa: PERF401 - what came before the fault counts
    except UpstreamFault as found:
        return before, found
    raise AssertionError("the call did not fail")


# ----------------------------------------------------------------------------------------------------- the stand-in's


MARRED = [
    # the fault, how many previews come, then the outcome, the code and whether it is charged
    (StreamCut(0), 0, NOT_WHOLE),
    (StreamCut(1), 1, NOT_WHOLE),
    (StreamCut(2, "rst"), None, NOT_WHOLE),
    (Cut(0), 0, NOT_WHOLE),
    (Cut(100, "rst"), 0, NOT_WHOLE),
    (StreamStall(0), 0, NOT_WHOLE),
    (StreamStall(2), 2, NOT_WHOLE),
    (NoFinal(), 2, NOT_WHOLE),
    (StreamError(0), 0, FAILED),
    (StreamError(1), 1, FAILED),
    (StreamError(1, "rate_limit_exceeded"), 1, FAILED),
    (StreamError(0, "moderation_blocked"), 0, (Outcome.FAILED, "content_filtered", False)),
    (StreamError(1, "moderation_blocked"), 1, (Outcome.FAILED, "content_filtered", False)),
    (Finish("CONTENT_FILTERED"), 2, (Outcome.FAILED, "content_filtered", False)),
    (Finish("ERROR"), 2, FAILED),
    (Garbage("not_json"), 2, UNUSABLE),
    (Garbage("truncated_json"), 2, UNUSABLE),
    (Garbage("wrong_base64"), 2, UNUSABLE),
    (Garbage("not_png"), 2, UNUSABLE),
    (Garbage("empty"), 2, UNUSABLE),
    (Garbage("huge", size_bytes=3_000_000), 2, UNUSABLE),
]


@pytest.mark.parametrize("what,previews,ending", MARRED, ids=str)
async def test_marred_stream_ends_by_the_money_rule(
    standin: StandIn, what: Any, previews: int | None, ending: tuple[Outcome, str, bool]
) -> None:
    """5.3: a stream may break anywhere; what came before was told, and nothing is asked for twice."""
    standin.script(Rule(do=what))
    patience = 0.5 if isinstance(what, StreamStall) else 10.0
    async with adapter(standin.url, timeout_seconds=patience, max_answer_bytes=2_000_000) as upstream:
        before, found = await told(upstream, order(upstream))
    assert (found.outcome, found.code, found.charged) == ending
    assert (found.locked_out, found.credential, standin.calls) == (False, False, 1)
    assert before[0] == WorkBegun(3)
    # A reset takes what was not read yet with it.
    assert previews is None or len(before) == 1 + previews
    if found.code == "content_filtered":
        assert found.details["stage"] == ("output" if previews else "prompt")


async def test_rate_limit_at_a_streams_beginning_is_a_refusal(standin: StandIn) -> None:
    """Status 200 was sent already, but nothing had begun; so it is with a quota."""
    async with adapter(standin.url) as upstream:
        standin.script(Rule(do=StreamError(0, "rate_limit_exceeded")))
        limited = await fault(upstream, order(upstream))
        standin.script(Rule(do=StreamError(0, "insufficient_quota")))
        poor = await fault(upstream, order(upstream))
    assert (limited.outcome, limited.code, limited.locked_out) == (Outcome.REFUSED, "model_unavailable", True)
    assert (poor.outcome, poor.code, poor.credential) == (Outcome.FAILED, "upstream_error", True)


@pytest.mark.parametrize(
    "what,previews", [(NoPartials(), 0), (NoPartials(1), 1), (PlainAnswer(), 0), (Drip(5000, 0.0001), 2)]
)
async def test_partial_pictures_may_be_missing(standin: StandIn, what: Any, previews: int) -> None:
    """5.3, 5.5: fewer may arrive, none, or a plain answer although a stream was asked for."""
    standin.script(Rule(do=what))
    async with adapter(standin.url) as upstream:
        got = await reports(upstream, order(upstream))
    assert [type(one) for one in got] == [WorkBegun, *[PreviewMade] * previews, ImageMade]
    made = got[-1]
    assert isinstance(made, ImageMade)
    assert pixel(made.picture) == colour_of(standin.log[0].seeds[0], "a lamp")


async def test_answer_without_a_picture_is_no_success(standin: StandIn) -> None:
    """5.4: proxies give 200 after a refusal. Plain, that is a failure; a stream may as well have lost its source."""
    standin.script(Rule(do=EmptyData()))
    async with adapter(standin.url) as upstream:
        streamed = await fault(upstream, order(upstream, model="gpt-image-2"))
        plain = await fault(upstream, order(upstream, count=2))
    assert (streamed.outcome, streamed.code) == (Outcome.UNKNOWN, "outcome_unknown")
    assert (plain.outcome, plain.code, plain.charged) == (Outcome.FAILED, "invalid_output", True)


async def test_previews_come_while_the_vendor_works(standin: StandIn) -> None:
    """They are told as they come, not with the end."""
    standin.script(Rule(service_seconds=0.6))
    loop = asyncio.get_running_loop()
    async with adapter(standin.url) as upstream:
        began = loop.time()
        moments = [(type(one), loop.time() - began) async for one in upstream.run(order(upstream))]
    previews = [moment for kind, moment in moments if kind is PreviewMade]
    assert len(previews) == 2
    assert moments[-1][1] - previews[0] > 0.2


async def test_slow_consumer_never_holds_up_the_vendor() -> None:
    """All is read while nobody takes a report; of many previews the newest are kept."""
    async with (
        StandIn(key=KEY, picture_bytes=3_000_000) as standin,
        adapter(standin.url, models={GPT: ImageModel(partial_images=3)}) as upstream,
    ):
        reported = upstream.run(order(upstream))
        assert isinstance(await anext(reported), WorkBegun)
        await until(lambda: bool(standin.log) and standin.log[0].outcome == "answered")
        assert [type(one) async for one in reported] == [PreviewMade] * 3 + [ImageMade]


async def test_mail_drops_the_oldest_previews_first() -> None:
    """What began is never dropped."""
    mail = Mail()
    picture = Picture(PNG, "png", 64, 64)
    mail.put(WorkBegun(9))
    for step in range(1, 8):
        mail.put(PreviewMade(picture, step, 9))
    mail.close()
    got = [await mail.next() for _ in range(5)]
    assert got == [WorkBegun(9), *(PreviewMade(picture, step, 9) for step in (5, 6, 7)), None]


# -------------------------------------------------------------------------------------------------- of other servers


def event(name: str = "", **data: Any) -> bytes:
    """An event as it stands in a stream."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


FINAL = event("image_generation.completed", type="image_generation.completed", b64_json=TEXT)
NAMELESS = event(type="image_generation.completed", b64_json=TEXT)
GOOD: dict[str, tuple[bytes, list[int]]] = {
    "one event": (FINAL, []),
    "CR LF": (FINAL.replace(b"\n", b"\r\n"), []),
    "no name but the type": (NAMELESS, []),
    "no empty line at the end": (FINAL.rstrip(b"\n"), []),
    "comments": (b": ping\n\n: ping\n" + FINAL, []),
    "events of other kinds": (event("image_generation.started", type="x") + b"data: {\n\nid: 4\n\n" + FINAL, []),
    "a partial picture without a number": (event("x.partial_image", b64_json=TEXT) + FINAL, [1]),
    "more partial pictures than asked": (
        b"".join(event("x.partial_image", b64_json=TEXT, partial_image_index=index) for index in (-1, 5)) + FINAL,
        [1, 3],
    ),
    "a partial picture that is none": (event("x.partial_image", b64_json="AAAA") + FINAL, []),
    "a partial picture that is no JSON": (b"event: x.partial_image\ndata: {\n\n" + FINAL, []),
    "more after the end": (FINAL + event("error", error={"message": "late"}), []),
    "a data address": (event("image_edit.completed", url=f"data:image/png;base64,{TEXT}"), []),
    "lines of one event": (FINAL.replace(b', "b64', b',\ndata: "b64'), []),
}


@pytest.mark.parametrize("what", GOOD)
async def test_odd_but_whole_streams_are_read(what: str) -> None:
    """Whatever stands around the picture, it is taken."""
    body, steps = GOOD[what]
    async with (
        raw_server(answering(body, headers={"Content-Type": "text/event-stream"})) as url,
        adapter(url) as upstream,
    ):
        _, *previews, made = await reports(upstream, order(upstream))
    assert isinstance(made, ImageMade)
    assert made.picture.content == PNG
    assert [one.step for one in previews if isinstance(one, PreviewMade)] == steps


BROKEN: dict[str, tuple[bytes, tuple[Outcome, str, bool]]] = {
    "nothing": (b"", NOT_WHOLE),
    "half an event": (FINAL[: len(FINAL) // 2], NOT_WHOLE),
    "an end that says so": (b"data: [DONE]\n\n", UNUSABLE),
    "an error without a name": (event(error={"message": "no", "code": "server_error"}), FAILED),
    "an error in words": (event("error", error="it broke"), FAILED),
    "an error without an empty line after it": (event("error", error={"code": "server_error"}).strip(), FAILED),
    "an end that says so without a line's end": (b"data: [DONE]", UNUSABLE),
    "an error that is no JSON": (b"event: error\ndata: it broke\n\n", FAILED),
    "a failed event": (event("image_generation.failed", type="x"), FAILED),
    "no picture": (event("image_generation.completed"), UNUSABLE),
    "an endless line": (b"data: " + b"x" * 300_000, UNUSABLE),
    "endless events": (event("x.partial_image", b64_json="A" * 90_000) * 9, UNUSABLE),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_broken_streams_end_by_the_money_rule(what: str) -> None:
    """No more is read than the bound allows, and half a stream is no answer."""
    body, ending = BROKEN[what]
    async with (
        raw_server(answering(body, headers={"Content-Type": "text/event-stream"})) as url,
        adapter(url, max_answer_bytes=200_000) as upstream,
    ):
        found = await fault(upstream, order(upstream))
    assert (found.outcome, found.code, found.charged) == ending


async def test_stream_that_nobody_asked_for_is_read() -> None:
    """Some proxies force one; then each picture is an event."""
    async with (
        raw_server(answering(FINAL * 3, headers={"Content-Type": "text/event-stream"})) as url,
        adapter(url) as upstream,
    ):
        made = await images(upstream, order(upstream, count=2))
    assert [(one.index, one.picture.content) for one in made] == [(0, PNG), (1, PNG)]


# ---------------------------------------------------------------------------------------------------- the pure parts


@given(some.data())
def test_frames_do_not_depend_on_how_bytes_come(data: some.DataObject) -> None:
    """Any cut of a stream gives the same events."""
    body = (
        b": hello\r\n\r\nevent: a\ndata: 1\ndata:2\n\ndata: \n\nevent: b\n\nevent: c\r\ndata: 3\r\nid: 5\r\n\r\ndata: 4"
    )
    cuts = sorted(data.draw(some.lists(some.integers(0, len(body)))))
    frames = Frames(1000)
    got: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        got += frames.feed(body[start:end])
    assert [*got, *frames.finish()] == [("a", b"1\n2"), ("", b""), ("c", b"3"), ("", b"4")]


def test_frames_are_bounded_each_by_itself() -> None:
    """Many small events are no large one, nor are comments."""
    frames = Frames(100)
    for _ in range(10):
        assert frames.feed(b": ping\ndata: " + b"x" * 80 + b"\n\n") == [("", b"x" * 80)]
        assert frames.feed(b": ping\n" * 20) == []
    with pytest.raises(FrameTooLarge):
        frames.feed(b"data: " + b"x" * 80 + b"\ndata: " + b"x" * 80)


def test_events_are_told_apart_by_name_or_type() -> None:
    """Both families of names are the same to us."""
    finished = json.dumps({"type": "image_edit.completed", "b64_json": TEXT}).encode()
    partial = json.dumps({"b64_json": TEXT, "partial_image_index": 1}).encode()
    picture = Picture(PNG, "png", 64, 64)
    assert read_event("", finished) == Finished(picture)
    assert read_event("image_edit.partial_image", partial) == Partial(picture, 1)
    assert read_event("error", b'{"error":{"code":"x"}}') == Trouble(Told("x"))
    assert read_event("", b"[DONE]") == Ended()
    assert read_event("ping", b"{}") is None
    assert read_event("image_generation.completed", json.dumps({"url": "http://x/y"}).encode()) == Finished(
        "http://x/y"
    )


def test_trouble_after_work_is_never_a_refusal() -> None:
    """What has cost something may not be begun again as if it had not."""
    for name in ("rate_limit_exceeded", "slow_down"):
        assert trouble(Told(name), Secret(KEY), "main", worked=False).outcome is Outcome.REFUSED
        late = trouble(Told(name), Secret(KEY), "main", worked=True)
        assert (late.outcome, late.code) == (Outcome.FAILED, "upstream_error")


async def test_every_family_that_streams_is_asked_to(standin: StandIn) -> None:
    """The retired models refuse a stream, so they are not asked for one."""
    async with adapter(standin.url) as upstream:
        for model in MODELS:
            await images(upstream, order(upstream, model))
    assert [call.fields.get("stream") for call in standin.log] == [True, True, None, None]
