"""The adapter against the stand-in, over real sockets; the two were written apart from each other."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.core.models import Sizes
from gateway.core.normal import InputImage
from gateway.core.params import Params
from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.requests import normalise
from gateway.ports import Upstream
from gateway.upstreams.multipart import Part, encode_multipart
from gateway.upstreams.stability_v1 import Engine, StabilityV1
from gateway.upstreams.stability_v1.models import model_of
from gateway.upstreams.stability_v1.wire import to_vendor
from load.upstreams.faults import Drip, Rule
from load.upstreams.pictures import colour_of
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from protocol.errors import ClientFault
from tests.gateway.upstreams.stability_v1.vendor import (
    ENGINES,
    KEY,
    V16,
    XL,
    adapter,
    answer,
    answering,
    artifact,
    flat,
    images,
    order,
    pixel,
    raw_server,
    reports,
)


async def test_picture_is_made_from_the_seed_and_the_prompt(standin: StandIn) -> None:
    """The stand-in paints the colour of seed and prompt: both arrived as they were asked."""
    async with adapter(standin.url) as upstream:
        begun, made = await reports(upstream, order(width=384, height=320))
    assert begun == WorkBegun(20)
    assert isinstance(made, ImageMade)
    assert (made.index, made.seed, made.filtered) == (0, 7, False)
    assert (made.picture.format, made.picture.width, made.picture.height) == ("png", 384, 320)
    assert pixel(made, (1, 1)) == colour_of(7, "a lamp")
    assert [(call.client, call.unknown_fields) for call in standin.log] == [("safelight", ())]


async def test_batch_is_one_call(standin: StandIn) -> None:
    """Several images are asked for at once; each has its own index and the seed that the vendor tells."""
    async with adapter(standin.url) as upstream:
        made = await images(upstream, order(count=10, seed=50))
    assert [(image.index, image.seed) for image in made] == [(number, 50 + number) for number in range(10)]
    assert standin.calls == 1


async def test_large_answer_is_decoded_beside_the_loop() -> None:
    """Pictures as large as real ones come through whole."""
    async with StandIn(key={KEY}, picture_bytes=1_500_000) as standin, adapter(standin.url) as upstream:
        made = await images(upstream, order(count=3))
    assert [len(image.picture.content) >= 1_500_000 for image in made] == [True] * 3


async def test_every_sampler_and_style_is_known_to_the_vendor(standin: StandIn) -> None:
    """All canonical names that the models list are accepted."""
    async with adapter(standin.url) as upstream:
        model = upstream.models[0]
        for sampler in model.samplers:
            await reports(upstream, order(sampler=sampler))
        for style in model.styles:
            await reports(upstream, order(style=style))
    assert (len(model.samplers), len(model.styles)) == (10, 17)
    assert all(call.unknown_fields == () for call in standin.log)


async def test_every_listed_size_is_drawn(standin: StandIn) -> None:
    """The sizes that the models allow are the vendor's."""
    async with adapter(standin.url) as upstream:
        small, large = upstream.models
        for width, height in large.sizes.listed:
            await images(upstream, order(engine=XL, width=width, height=height))
        for width, height in ((320, 1536), (1536, 320), (576, 640)):
            small.sizes.check(width, height)
            await images(upstream, order(width=width, height=height))
    assert len(large.sizes.listed) == 9


def test_models_tell_what_the_vendor_can_do() -> None:
    """A model is billed, silent, and made of its engine's settings."""
    upstream = StabilityV1(name="main", base_url="http://x/", api_key=KEY, engines=ENGINES)
    small, large = upstream.models
    assert (small.id, small.upstream, small.vendor_model, small.price_micros) == ("sd", "main", V16, 10_000)
    assert (small.billed, small.progress, small.previews, small.cancel) == (True, "estimated", False, "no")
    assert (small.steps, small.default_steps, small.images_per_call, small.max_n) == ((10, 50), 30, 10, 10)
    assert (large.default_size, large.max_n) == ((1024, 1024), 4)
    assert repr(upstream) == "<StabilityV1 main at http://x>"
    settings = Engine(model="m", price_micros=1, sizes=Sizes(multiple_of=8), default_size=(768, 768))
    other = model_of("main", "new-engine", settings)
    assert (other.sizes.multiple_of, other.default_size) == (8, (768, 768))


@pytest.mark.parametrize(
    "task,params,name",
    [
        ("txt2img", {"guidance": 35.5}, "guidance"),
        ("inpaint", {"strength": 0.5}, "strength"),
        ("inpaint", {"guidance": 36}, "guidance"),
    ],
)
def test_what_the_vendor_would_refuse_or_has_no_field_for_is_refused_at_the_door(
    task: str, params: dict[str, Any], name: str
) -> None:
    """Its masking takes no strength."""
    model = model_of("main", V16, ENGINES[V16])
    inputs = [InputImage(role, role, 512, 512) for role in ("init", "mask")] if task == "inpaint" else []
    asked = {"prompt": "a lamp", "guidance": 35, **params}
    with pytest.raises(ClientFault) as caught:
        normalise(task, Params(**asked), inputs, model, random.Random(1))
    assert (caught.value.code, caught.value.details["path"]) == ("invalid_param", f"params.{name}")
    asked.pop(name)
    normalise(task, Params(**asked), inputs, model, random.Random(1))


def test_text_to_image_is_json() -> None:
    """Every value is explicit, and the negative prompt has a negative weight."""
    path, body = to_vendor(order(negative_prompt="fog", sampler="euler_a", style="anime", count=3))
    assert path == f"/v1/generation/{V16}/text-to-image"
    assert body == {
        "text_prompts": [{"text": "a lamp", "weight": 1}, {"text": "fog", "weight": -1}],
        "width": 320,
        "height": 320,
        "cfg_scale": 7.0,
        "samples": 3,
        "seed": 7,
        "steps": 20,
        "sampler": "K_EULER_ANCESTRAL",
        "style_preset": "anime",
    }


def test_image_to_image_is_multipart_with_inverted_strength() -> None:
    """Their strength is how much to keep."""
    path, body = to_vendor(order("img2img", strength=0.65, inputs={"init": flat("red", format="JPEG")}))
    assert path == f"/v1/generation/{V16}/image-to-image"
    assert isinstance(body, list)
    fields = {part.name: part.content for part in body if part.media_type is None}
    assert fields["image_strength"] == b"0.35"
    assert fields["text_prompts[0][text]"] == b"a lamp"
    assert "width" not in fields
    assert [(part.name, part.media_type) for part in body if part.media_type] == [("init_image", "image/jpeg")]


@pytest.mark.parametrize(
    "seed,theirs", [(1, 1), (4294967295, 4294967295), (0, 1), (2**53 - 1, (2**53 - 1) % 4294967295 + 1)]
)
def test_seed_is_never_random_nor_too_large(seed: int, theirs: int) -> None:
    """0 would be drawn anew there; what is above 32 bits is folded."""
    _, body = to_vendor(order(seed=seed))
    assert isinstance(body, dict)
    assert body["seed"] == theirs


def test_multipart_is_what_a_parser_reads() -> None:
    """Text and files, bytes as they are."""
    body, content_type = encode_multipart(
        [Part("text_prompts[0][text]", "ü\r\n--x".encode()), Part("init_image", b"\r\n--\0", "image/png")], "x" * 32
    )
    from load.upstreams.forms import parse_form

    parts = parse_form(content_type, body)
    assert [(part.name, part.text()) for part in parts[:1]] == [("text_prompts[0][text]", "ü\r\n--x")]
    assert parts[1].name == "init_image"
    assert b'filename="init_image.png"\r\nContent-Type: image/png' in body


# ----------------------------------------------------------------------------------------- sent, cancelled, connections


async def until(question: Callable[[], bool]) -> None:
    """Wait for something that a real socket brings; there is no other sign of it."""
    async with asyncio.timeout(1):
        while not question():  # a server's own state, which has no event
            await asyncio.sleep(0.005)


async def one_more(reported: AsyncIterator[Report]) -> Report:
    """The next report."""
    return await anext(reported)


async def test_sent_is_told_once_and_before_the_answer(standin: StandIn) -> None:
    """`sent` comes when the request is out, while the vendor still works; WorkBegun follows it."""
    standin.script(Rule(service_seconds=0.2))
    sent: list[float] = []
    loop = asyncio.get_running_loop()
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order(count=2, sent=lambda: sent.append(loop.time())))
        assert await anext(reported) == WorkBegun(20)
        began = loop.time()
        assert len(sent) == 1
        assert not standin.log or standin.log[0].ended is None
        assert [type(report) async for report in reported] == [ImageMade, ImageMade]
    assert len(sent) == 1
    assert loop.time() - began > 0.15


async def test_sent_waits_for_the_whole_of_a_large_body() -> None:
    """While the vendor does not read on, the request is not sent, and the work has not begun."""
    go_on = asyncio.Event()
    sent: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        content = answer(artifact())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()

    init = flat("red") + bytes(20_000_000)
    async with raw_server(serve) as url, adapter(url) as upstream:
        reported = upstream.run(order("img2img", inputs={"init": init}, sent=lambda: sent.append(go_on.is_set())))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(one_more(reported))
            await asyncio.sleep(0.1)  # time for what must not happen
            assert (first.done(), sent) == (False, [])
            go_on.set()
        assert first.result() == WorkBegun(20)
        assert sent == [True]
        assert len([report async for report in reported]) == 1


@pytest.mark.parametrize("how", ["task", "generator", "before anything"])
async def test_cancelling_drops_the_connection(standin: StandIn, how: str) -> None:
    """The vendor sees the client go, within a second, however the iteration is ended."""
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


async def test_closing_the_adapter_ends_its_calls_as_unknown(standin: StandIn) -> None:
    """A drain that closes under a call leaves it with an outcome."""
    standin.script(Rule(service_seconds=30))
    async with adapter(standin.url) as upstream:
        reported = upstream.run(order())
        await anext(reported)
        await until(lambda: standin.calls == 1)
        await upstream.close()
        with pytest.raises(UpstreamFault) as caught:
            await anext(reported)
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_many_calls_go_side_by_side(standin: StandIn) -> None:
    """How many go at once is the gate's decision: none waits for a connection here."""
    standin.script(Rule(service_seconds=0.3))
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        for _ in range(150):
            group.create_task(reports(upstream, order()))
    assert standin.tally.peak > 100  # what a session of aiohttp allows by default


@pytest.mark.parametrize("keepalive_seconds,connections", [(2.0, 1), (0.0, 3)])
async def test_connection_is_kept_for_as_long_as_set(keepalive_seconds: float, connections: int) -> None:
    """An idle connection serves the next call, unless that is switched off."""
    seen: list[None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(None)
        content = answer(artifact())
        head = f"Content-Length: {len(content)}\r\n"
        with suppress(asyncio.IncompleteReadError):
            while True:
                await answering("200 OK", head, content)(reader, writer)

    async with raw_server(serve) as url, adapter(url, keepalive_seconds=keepalive_seconds) as upstream:
        for _ in range(3):
            await reports(upstream, order())
    assert len(seen) == connections


async def test_slow_answer_comes_whole(standin: StandIn) -> None:
    """An answer in small pieces is no stall."""
    standin.script(Rule(do=Drip(piece_bytes=200, pause_seconds=0.001)))
    async with adapter(standin.url) as upstream:
        assert len(await images(upstream, order())) == 1


async def test_adapter_opens_again_and_closes_twice(standin: StandIn) -> None:
    """Open and close come in any order that `app` may need."""
    upstream = StabilityV1(name="s", base_url=standin.url, api_key=KEY, engines=ENGINES)
    await upstream.close()
    for _ in range(2):
        await upstream.open()
        assert len(await reports(upstream, order())) == 2
        await upstream.close()
        await upstream.close()
    assert KEY not in repr(upstream) + repr(vars(upstream))


def test_adapter_fills_the_port() -> None:
    """Mypy holds this assignment to the protocol."""
    upstream: Upstream = StabilityV1(name="s", base_url="http://x", api_key=KEY, engines=ENGINES)
    assert upstream.name == "s"
