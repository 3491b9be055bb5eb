"""The adapter against the stand-in, over real sockets; the two were written apart from each other."""

import asyncio
import base64
import io
import json
import logging
import random
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from PIL import Image

from gateway.core.models import Sizes
from gateway.core.reports import ImageMade, Outcome, Report, UpstreamFault, WorkBegun
from gateway.core.requests import Request
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Upstream
from gateway.upstreams import stability_v1 as adapter_module
from gateway.upstreams.stability_v1 import Engine, StabilityV1
from gateway.upstreams.stability_v1_models import model_of
from gateway.upstreams.stability_v1_wire import (
    Part,
    encode_multipart,
    from_vendor,
    needs_preparing,
    prepare,
    refusal,
    to_vendor,
)
from load.upstreams.faults import Cut, Drip, Finish, Garbage, Refuse, Rule, Stall
from load.upstreams.pictures import colour_of
from load.upstreams.stability_v1 import StabilityV1 as StandIn

KEY = "sk-secret-key-of-the-tests-0123456789"
V16 = "stable-diffusion-v1-6"
XL = "stable-diffusion-xl-1024-v1-0"
ENGINES = {V16: Engine(model="sd", price_micros=10_000), XL: Engine(model="sdxl", price_micros=20_000, max_n=4)}


# ------------------------------------------------------------------------------------------------------------- helpers


@pytest.fixture(autouse=True)
def key_is_never_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the key is in no log record."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.records:
        assert KEY not in record.getMessage() + repr(record.args) + str(record.exc_info)


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A vendor that answers at once."""
    async with StandIn(key={KEY}, limit=None) as running:
        yield running


@asynccontextmanager
async def adapter(base_url: str, **options: Any) -> AsyncIterator[StabilityV1]:
    """An open adapter."""
    upstream = StabilityV1(**{"name": "stability", "base_url": base_url, "api_key": KEY, "engines": ENGINES, **options})
    await upstream.open()
    try:
        yield upstream
    finally:
        await upstream.close()


def order(task: str = "txt2img", engine: str = V16, **options: Any) -> CallOrder:
    """An order of a small picture, with what is named changed."""
    fields: dict[str, Any] = {
        "task": task,
        "model": "sd",
        "prompt": "a lamp",
        "negative_prompt": "",
        "width": 320,
        "height": 320,
        "steps": 20,
        "guidance": 7.0,
        "seed": 7,
        "n": 1,
        "strength": None if task == "txt2img" else 0.65,
    }
    call = {name: options.pop(name) for name in ("count", "inputs", "sent", "seed") if name in options}
    request = Request(**{**fields, **options})
    model = model_of("stability", engine, ENGINES[engine])
    return CallOrder("call-1", model, request, **{"seed": 7, "count": 1, **call})


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return [report async for report in upstream.run(asked)]


async def images(upstream: Upstream, asked: CallOrder) -> list[ImageMade]:
    """The pictures of a call."""
    return [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]


async def fault(upstream: Upstream, asked: CallOrder | None = None) -> UpstreamFault:
    """The fault that a call must end with; it shows the key nowhere."""
    with pytest.raises(UpstreamFault) as caught:
        await reports(upstream, asked or order())
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert KEY not in shown + repr(found.details)
    return found


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The picture's file."""
    made = io.BytesIO()
    picture.save(made, format, **options)
    return made.getvalue()


def flat(colour: Any, size: tuple[int, int] = (320, 320), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return encoded(Image.new(mode, size, colour), format)


def pixel(image: ImageMade, at: tuple[int, int]) -> tuple[int, ...]:
    """A pixel of a finished picture."""
    with Image.open(io.BytesIO(image.picture.content)) as opened:
        colour = opened.convert("RGB").getpixel(at)
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


def near(colour: tuple[int, ...], other: tuple[float, ...], by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """A server that does with its connections what the stand-in never would."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# -------------------------------------------------------------------------------------------------------- what is asked


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
    assert (small.billed, small.progress, small.previews, small.cancel) == (True, "none", False, "no")
    assert (small.steps, small.default_steps, small.images_per_call, small.max_n) == ((10, 50), 30, 10, 10)
    assert (large.default_size, large.max_n) == ((1024, 1024), 4)
    assert repr(upstream) == "<StabilityV1 main at http://x>"
    settings = Engine(model="m", price_micros=1, sizes=Sizes(multiple_of=8), default_size=(768, 768))
    other = model_of("main", "new-engine", settings)
    assert (other.sizes.multiple_of, other.default_size) == (8, (768, 768))


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


# ---------------------------------------------------------------------------------------------------------- the pixels


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.65, 1.0])
async def test_strength_points_the_right_way(standin: StandIn, strength: float) -> None:
    """0 keeps the init image's pixels, 1 ignores them."""
    init, painted = (200, 100, 0), colour_of(7, "a lamp")
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("img2img", strength=strength, inputs={"init": flat(init)}))
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(init, painted, strict=True))
    assert near(pixel(made, (5, 5)), expected)


def half_white(size: tuple[int, int]) -> Image.Image:
    """A mask whose left half is to be edited."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("mask_size", [(320, 320), (64, 64)])
@pytest.mark.parametrize("mask_format", ["PNG", "WEBP", "JPEG"])
async def test_white_is_repainted_and_black_is_kept(
    standin: StandIn, mask_size: tuple[int, int], mask_format: str
) -> None:
    """White means edit, whatever the mask's size and format."""
    inputs = {"init": flat((200, 100, 0)), "mask": encoded(half_white(mask_size), mask_format, quality=100)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("inpaint", inputs=inputs))
    assert near(pixel(made, (20, 160)), colour_of(7, "a lamp"))
    assert near(pixel(made, (300, 160)), (200, 100, 0))
    assert standin.log[0].unknown_fields == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(320, 320), (100, 200)])
async def test_init_image_of_any_kind_gives_the_asked_size(
    standin: StandIn, format: str, size: tuple[int, int]
) -> None:
    """What the vendor would not take, or would draw in another size, is converted before."""
    inputs = {"init": flat((200, 100, 0), size, format=format)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("img2img", strength=0.0, inputs=inputs))
    assert (made.picture.width, made.picture.height) == (320, 320)
    assert near(pixel(made, (160, 160)), (200, 100, 0), 4)


def test_init_image_that_fits_is_sent_as_it_is() -> None:
    """No pixel is decoded, and none changed, without need."""
    asked = order("img2img", inputs={"init": flat("red")})
    assert not needs_preparing(asked)
    assert prepare(asked).inputs == asked.inputs


def test_init_image_keeps_its_alpha() -> None:
    """A converted picture is still transparent where it was."""
    asked = order("img2img", inputs={"init": flat((1, 2, 3, 50), (64, 64), "RGBA")})
    assert needs_preparing(asked)
    with Image.open(io.BytesIO(prepare(asked).inputs["init"])) as opened:
        assert (opened.mode, opened.size) == ("RGBA", (320, 320))


BAD_INPUTS = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "broken pixels": (flat("red", (64, 64))[:60] + bytes(20), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_unusable_input_image_costs_no_call(standin: StandIn, name: str) -> None:
    """An input that can't be used is the end, before the vendor hears of it, and before its pixels are decoded."""
    content, code = BAD_INPUTS[name]
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order("img2img", inputs={"init": content}))
    assert (found.outcome, found.code, found.charged, standin.calls) == (Outcome.FAILED, code, False, 0)


async def test_guidance_beyond_the_vendors_costs_no_call(standin: StandIn) -> None:
    """What the vendor would refuse anyway is refused by name."""
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order(guidance=35.5))
        await reports(upstream, order(guidance=35.0))
    assert (found.code, found.details) == ("invalid_param", {"path": "params.guidance", "max": 35})
    assert standin.calls == 1


# --------------------------------------------------------------------------------------------------- the failure table

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
    standin.script(Rule(do=what))
    sent: list[None] = []
    async with adapter(standin.url, timeout_seconds=0.5, max_answer_bytes=2_000_000) as upstream:
        found = await fault(upstream, order(sent=lambda: sent.append(None)))
    assert (found.outcome, found.code) == (outcome, code)
    plain = {"locked_out": False, "retry_after_seconds": None, "credential": False, "charged": False}
    assert {name: getattr(found, name) for name in plain} == {**plain, **marks}
    assert (standin.calls, len(sent)) == (1, 1)


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


def answering(status: str, headers: str, body: bytes) -> Serve:
    """Answer every request like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await reader.readexactly(length)
        writer.write(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body)
        await writer.drain()

    return serve


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


# ------------------------------------------------------------------------------------------------- an answer's contents

PNG = flat("red", (64, 64))


def answer(*artifacts: Any, nested: bool = False) -> bytes:
    """An answer's body."""
    return json.dumps({"artifacts": [list(artifacts)] if nested else list(artifacts)}).encode()


def artifact(content: bytes = PNG, **options: Any) -> dict[str, Any]:
    """One picture of an answer."""
    return {"base64": base64.b64encode(content).decode(), "seed": 1, "finishReason": "SUCCESS", **options}


@pytest.mark.parametrize("nested", [False, True])
def test_artifacts_are_read_flat_and_nested(nested: bool) -> None:
    """The specification shows one, the sample code the other."""
    made = from_vendor(order(count=2), answer(artifact(seed=3), artifact(seed=4), nested=nested))
    assert [(image.seed, image.picture.content) for image in made] == [(3, PNG), (4, PNG)]


@pytest.mark.parametrize(
    "body",
    [
        answer(artifact()),
        answer(artifact(), {**artifact(), "base64": 5}),
        answer(artifact(), artifact(finishReason="ODD")),
        answer(artifact(), artifact(base64="Ä")),
        answer(artifact(), artifact(base64="\ud800x")),
        answer(artifact(), artifact(base64=artifact()["base64"].rstrip("=")[:-1])),
        answer(artifact(), artifact(base64=artifact()["base64"].replace("i", " "))),
        answer(artifact(), artifact(flat("red", format="JPEG"))),
        answer(artifact(), artifact(flat(0, (5000, 4000), "1"))),
        answer(artifact(), artifact(base64=None)),
        answer(artifact(), artifact(seed="x")),
        b'{"artifacts":[{"base64":"\xff"}]}',
        b"[]",
        b"{}",
        b"",
    ],
)
def test_answer_that_is_not_whole_is_no_answer(body: bytes) -> None:
    """Too few pictures, or one that is none: invalid, and paid for."""
    with pytest.raises(UpstreamFault) as caught:
        from_vendor(order(count=2), body)
    assert (caught.value.code, caught.value.charged) == ("invalid_output", True)


def test_pictures_beyond_the_asked_are_left_out() -> None:
    """The port promises exactly as many as were asked for."""
    assert len(from_vendor(order(count=1), answer(artifact(), artifact()))) == 1


def test_base64_with_escaped_slashes_is_read() -> None:
    """JSON may escape a slash."""
    body = answer(artifact()).replace(b"/", b"\\/")
    assert b"\\/" in body
    assert from_vendor(order(), body)[0].picture.content == PNG


def test_seed_that_is_not_told_is_counted_on() -> None:
    """Without the vendor's word the seeds are those that were asked for."""
    made = from_vendor(order(count=2, seed=9), answer(artifact(seed=None), artifact(seed=None)))
    assert [image.seed for image in made] == [9, 10]


@pytest.mark.parametrize("held_back", ["", None])
def test_filtered_picture_may_be_missing(held_back: str | None) -> None:
    """A picture that was held back has no bytes, and takes nothing from the others of its batch."""
    held = artifact(base64=held_back, finishReason="CONTENT_FILTERED")
    made = from_vendor(order(count=2), answer(held, artifact()))
    assert [(image.filtered, len(image.picture.content)) for image in made] == [(True, 0), (False, len(PNG))]


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
