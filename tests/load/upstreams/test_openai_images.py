"""The stand-in of OpenAI Images, spoken to by the vendor's own client."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import time
from typing import Any, Literal

import aiohttp
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from load.upstreams.openai_images import OpenAIImages
from load.upstreams.openai_images.artist import partial_colour, subject_box
from load.upstreams.openai_images.limits import Allowance
from load.upstreams.openai_images.models import ALL, CURRENT, LEGACY
from load.upstreams.openai_images.refusals import duration
from load.upstreams.pictures import colour_of
from tests.load.upstreams.openai_talk import (
    MODEL,
    SIDE,
    Colour,
    decode,
    decoded,
    gradient,
    left_half_transparent,
    near,
    pictures_of,
    png,
    post,
    sdk,
    watched,
)
from tests.load.upstreams.talk import ManualClock

BODY: dict[str, Any] = {"model": MODEL, "prompt": "a cat"}
MIDDLE = (SIDE // 2, SIDE // 2)


def named(image: bytes, name: str = "image.png") -> tuple[str, bytes]:
    """A file as the client takes it."""
    return name, image


# Plain answers


async def test_generation_has_the_fields_the_client_knows() -> None:
    """Each picture is of the asked size and of its own colour, and the answer describes itself."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.generate(prompt="a cat", model="gpt-image-2", n=3, size="1536x864", quality="low")
        images = pictures_of(reply)
        assert [image.size for image in images] == [(1536, 864)] * 3
        colours = [image.getpixel((5, 5)) for image in images]
        assert colours == [colour_of(seed, "a cat") for seed in standin.log[0].seeds]
        assert len(set(colours)) == 3
    assert (reply.size, reply.quality, reply.background, reply.output_format) == ("1536x864", "low", "opaque", "png")
    assert abs(reply.created - time.time()) < 5
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.text_tokens == reply.usage.input_tokens == 2
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.data is not None
    assert all(item.url is None for item in reply.data)


async def test_request_is_logged_as_it_came() -> None:
    """The log shows the fields, the model and the client, and the counters what was begun."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        await client.images.generate(prompt="a cat", model=MODEL, n=2, user="someone", moderation="low")
        call = standin.log[0]
        assert call.fields == {"prompt": "a cat", "model": MODEL, "n": 2, "user": "someone", "moderation": "low"}
        assert (call.operation, call.engine, call.key, call.billed, call.images) == (
            "generations",
            MODEL,
            "sk-test",
            True,
            2,
        )
        assert (call.client or "").startswith("AsyncOpenAI/Python")
        assert (standin.calls, standin.tally.billed) == (1, 1)


async def test_long_values_are_logged_by_their_digest() -> None:
    """A value of many characters does not fill the log."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        await client.images.generate(prompt="x" * 30_000, model=MODEL)
        noted = standin.log[0].fields["prompt"]
    assert noted == {"characters": 30_000, "sha256": hashlib.sha256(b"x" * 30_000).hexdigest()}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_output_formats(kind: Literal["png", "jpeg", "webp"]) -> None:
    """The picture comes in the format that was asked for, and a lossless one has the exact colour."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.generate(prompt="a cat", model=MODEL, output_format=kind)
        (image,) = pictures_of(reply, kind.upper())
        colour = colour_of(standin.log[0].seeds[0], "a cat")
    assert reply.output_format == kind
    assert near(image.getpixel(MIDDLE), colour, by=3 if kind == "jpeg" else 0)


async def test_compression_makes_the_file_smaller() -> None:
    """A lower `output_compression` gives fewer bytes."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        sizes = []
        for compression in (5, 100):
            reply = await client.images.edit(
                image=named(png(gradient())), prompt="x", output_format="jpeg", output_compression=compression
            )
            sizes.append(len((reply.data or [])[0].b64_json or ""))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("kind", ["png", "webp"])
async def test_transparent_background_gives_alpha(kind: Literal["png", "webp"]) -> None:
    """The subject is opaque and what is around it transparent."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.generate(prompt="a cat", model=MODEL, background="transparent", output_format=kind)
        (image,) = pictures_of(reply, kind.upper())
        colour = colour_of(standin.log[0].seeds[0], "a cat")
    left, top, right, bottom = subject_box(image.size)
    alpha = image.getchannel("A")
    assert alpha.getbbox() == (left, top, right, bottom)
    assert image.getpixel(MIDDLE) == (*colour, 255)
    assert reply.background == "transparent"


async def test_picture_can_be_made_heavy() -> None:
    """A least size of the file holds, and the picture stays what it was."""
    async with OpenAIImages(picture_bytes=300_000) as standin, sdk(standin) as client:
        reply = await client.images.generate(prompt="a cat", model=MODEL)
    data = base64.b64decode((reply.data or [])[0].b64_json or "")
    assert len(data) == 300_000
    assert decode(data).size == (SIDE, SIDE)


# Edits


async def test_masked_edit_keeps_what_the_mask_covers() -> None:
    """Transparent parts of the mask take the new colour, all other pixels are the upload's own."""
    picture = gradient()
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.edit(
            image=named(png(picture)),
            mask=named(left_half_transparent()),
            prompt="a hat",
            model=MODEL,
            size="1024x1024",
        )
        (image,) = pictures_of(reply)
        colour = colour_of(standin.log[0].seeds[0], "a hat")
    kept = (SIDE // 2, 0, SIDE, SIDE)
    assert image.crop(kept).tobytes() == picture.crop(kept).tobytes()
    assert image.crop((0, 0, SIDE // 2, SIDE)).getcolors() == [(SIDE * SIDE // 2, colour)]


async def test_further_uploads_have_their_part_in_the_picture() -> None:
    """Several uploads arrive in their order; another second one gives another picture of the same seed."""
    first = png(gradient())
    seconds = [png(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue")]
    made = []
    for second in seconds:
        async with OpenAIImages(seed=3) as standin, sdk(standin) as client:
            reply = await client.images.edit(
                image=[named(first, "a.png"), named(second, "b.png")],
                mask=named(left_half_transparent()),
                prompt="both",
                model=MODEL,
            )
            made.append(pictures_of(reply)[0].getpixel((0, 0)))
            wish = f"both\n{hashlib.sha256(second).hexdigest()}"
            assert made[-1] == colour_of(standin.log[0].seeds[0], wish)
            logged: Any = standin.log[0].fields["image[]"]
            assert [note["filename"] for note in logged] == ["a.png", "b.png"]
            assert logged[1]["sha256"] == hashlib.sha256(second).hexdigest()
    assert made[0] != made[1]


@pytest.mark.parametrize("fidelity,keep", [("low", 0.25), ("high", 0.75)])
async def test_fidelity_says_how_much_of_the_upload_stays(fidelity: Literal["low", "high"], keep: float) -> None:
    """Without a mask the picture lies between the upload and the new colour."""
    upload = (200, 100, 0)
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.edit(
            image=named(png(Image.new("RGB", (SIDE, SIDE), upload))), prompt="x", model=MODEL, input_fidelity=fidelity
        )
        colour = colour_of(standin.log[0].seeds[0], "x")
    mixed = tuple(round(keep * old + (1 - keep) * new) for old, new in zip(upload, colour, strict=True))
    assert near(pictures_of(reply)[0].getpixel(MIDDLE), mixed, by=1)


@pytest.mark.parametrize(
    "model,upload,size,made",
    [
        ("gpt-image-2", (1280, 720), "auto", (1280, 720)),
        ("gpt-image-2", (500, 300), "auto", (1536, 1024)),
        ("gpt-image-1.5", (300, 500), "auto", (1024, 1536)),
        ("gpt-image-1.5", (300, 500), "1024x1024", (1024, 1024)),
    ],
)
async def test_size_of_an_edit(model: str, upload: Any, size: Any, made: tuple[int, int]) -> None:
    """A size that is left to the model follows the upload's shape."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.edit(
            image=named(png(Image.new("RGB", upload, "red"))), prompt="x", model=model, size=size
        )
    assert pictures_of(reply)[0].size == made
    assert reply.size == f"{made[0]}x{made[1]}"


async def test_edit_takes_images_in_json(client: aiohttp.ClientSession) -> None:
    """An edit may come as JSON with the pictures as data URLs, the mask too."""
    inline = [base64.b64encode(data).decode() for data in (png(gradient()), left_half_transparent())]
    image, mask = [{"image_url": f"data:image/png;base64,{text}"} for text in inline]
    async with OpenAIImages() as standin:
        body = BODY | {"images": [image], "mask": mask}
        status, _, answer = await post(client, standin.url, body, "/v1/images/edits")
        assert status == 200
        made = decoded(json.loads(answer)["data"][0]["b64_json"])
        assert made.getpixel((1, 1)) == colour_of(standin.log[0].seeds[0], "a cat")
        assert made.getpixel((SIDE - 1, 5)) == gradient().getpixel((SIDE - 1, 5))
        files = BODY | {"images": [{"file_id": "file-1"}]}
        assert (await post(client, standin.url, files, "/v1/images/edits"))[0] == 400


async def test_dall_e_2_takes_the_uploads_own_alpha_for_a_mask() -> None:
    """Without a mask its transparent pixels are the ones to edit."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.edit(
            image=named(left_half_transparent(256, 256)),
            prompt="x",
            model="dall-e-2",
            size="256x256",
            response_format="b64_json",
        )
        colour = colour_of(standin.log[0].seeds[0], "x")
    (image,) = pictures_of(reply)
    assert (image.getpixel((0, 0)), image.getpixel((255, 0))) == (colour, (0, 0, 0))


async def test_variations_are_pictures_near_the_upload() -> None:
    """The legacy model makes several, each its own."""
    upload = (200, 100, 0)
    async with OpenAIImages() as standin, sdk(standin) as client:
        image = named(png(Image.new("RGB", (256, 256), upload)))
        with pytest.warns(DeprecationWarning, match="deprecated"):
            reply = await client.images.create_variation(image=image, n=2, size="256x256", response_format="b64_json")
        colours = [colour_of(seed, "") for seed in standin.log[0].seeds]
    halves: list[Colour] = [tuple((a + b) // 2 for a, b in zip(upload, colour, strict=True)) for colour in colours]
    made = [image.getpixel((9, 9)) for image in pictures_of(reply)]
    assert all(near(one, half, by=1) for one, half in zip(made, halves, strict=True))
    assert made[0] != made[1]


# Streams


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_stream_shows_partial_pictures_spread_over_the_work(count: int) -> None:
    """Partials come at even distances, each nearer to the final picture, and all of the full size."""
    seconds = 0.16
    async with OpenAIImages(service_time=seconds) as standin, sdk(standin) as client:
        started = time.monotonic()
        stream = await client.images.generate(
            prompt="a cat", model=MODEL, stream=True, partial_images=count, size="1536x1024", user="u1"
        )
        events, moments = [], []
        async for event in stream:
            events.append(event)
            moments.append(time.monotonic() - started)
        colour = colour_of(standin.log[0].seeds[0], "a cat")
    *partials, last = events
    assert [event.partial_image_index for event in partials if isinstance(event, ImageGenPartialImageEvent)] == list(
        range(count)
    )
    assert isinstance(last, ImageGenCompletedEvent)
    expected = [*(partial_colour(colour, index, count) for index in range(count)), colour]
    images = [decoded(event.b64_json) for event in events]
    assert [image.getpixel(MIDDLE) for image in images] == expected
    assert {image.size for image in images} == {(1536, 1024)}
    due = [seconds * (index + 1) / (count + 1) for index in range(count + 1)]
    assert all(moment >= planned - 0.01 for moment, planned in zip(moments, due, strict=True))
    assert last.usage.output_tokens == 1584 + 100 * count
    assert (last.size, last.quality, last.background, last.output_format) == ("1536x1024", "medium", "opaque", "png")
    assert last.safety_identifier == "u1"


async def test_first_partial_comes_long_before_the_end() -> None:
    """A stream is no plain answer in disguise: its first event is there while the work goes on."""
    async with OpenAIImages(service_time=0.6) as standin, sdk(standin) as client:
        stream = await client.images.generate(prompt="a cat", model=MODEL, stream=True, partial_images=3)
        async for event in stream:
            assert event.type == "image_generation.partial_image"
            assert standin.log[0].outcome == "waiting"
            break
        await stream.close()


async def test_edit_streams_events_of_its_own_name() -> None:
    """Partial pictures of an edit keep what the mask covers, as the finished one does."""
    picture = gradient()
    async with OpenAIImages() as standin, sdk(standin) as client:
        stream = await client.images.edit(
            image=named(png(picture)),
            mask=named(left_half_transparent()),
            prompt="x",
            model=MODEL,
            size="1024x1024",
            stream=True,
            partial_images=2,
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    images = [decoded(event.b64_json) for event in events]
    assert {image.getpixel((SIDE - 1, 7)) for image in images} == {picture.getpixel((SIDE - 1, 7))}
    assert len({image.getpixel((0, 0)) for image in images}) == 3


async def test_stream_on_the_wire(client: aiohttp.ClientSession) -> None:
    """Frames are `event` and `data` lines, and the type is said twice."""
    async with OpenAIImages() as standin:
        _, headers, body = await post(client, standin.url, BODY | {"stream": True, "partial_images": 1})
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Transfer-Encoding"] == "chunked"
    frames = body.decode().removesuffix("\n\n").split("\n\n")
    assert len(frames) == 2
    for frame in frames:
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        assert {"b64_json", "created_at", "size", "quality", "background", "output_format"} < set(value)


async def test_client_that_leaves_a_stream_is_seen() -> None:
    """A stream closed in the middle was begun, and is recorded as dropped."""
    async with OpenAIImages(service_time=30, script=[{"service_seconds": 20}]) as standin:
        async with sdk(standin) as client:
            stream = await client.images.generate(prompt="a cat", model=MODEL, stream=True)
            assert standin.tally.in_flight == 1
            await stream.close()
            while standin.tally.in_flight:
                await asyncio.sleep(0.001)
        call = standin.log[0]
    assert (call.outcome, call.billed, call.status) == ("dropped", True, 200)


# Models, keys and errors


async def test_models_are_listed_and_read_one_by_one() -> None:
    """The list holds all, a retired one with its day; an unknown one is not found."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        models = [model async for model in client.models.list()]
        assert [model.id for model in models] == [model.id for model in ALL]
        assert (await client.models.retrieve("dall-e-3")).shutdown_date == "2026-05-12"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("gpt-9")
        assert caught.value.code == "model_not_found"
        assert standin.calls == 0


async def test_retired_models_can_be_shut_down() -> None:
    """With the current models alone, the old ones are gone as if they had never been."""
    async with OpenAIImages(models=CURRENT) as standin, sdk(standin) as client:
        for model in LEGACY:
            with pytest.raises(openai.NotFoundError) as caught:
                await client.images.generate(prompt="x", model=model.id)
            assert caught.value.code == "model_not_found"
        assert standin.tally.billed == 0


async def test_key_is_checked(client: aiohttp.ClientSession) -> None:
    """A wrong key, a missing one and a wrong organization are refused, and no unknown key is written down."""
    async with OpenAIImages(key=["sk-a", "sk-b"], organizations={"org-1"}) as standin:
        async with sdk(standin, api_key="sk-wrong") as wrong:
            with pytest.raises(openai.AuthenticationError) as caught:
                await wrong.images.generate(prompt="x", model=MODEL)
            assert (caught.value.code, caught.value.status_code) == ("invalid_api_key", 401)
            assert caught.value.request_id is not None
            assert caught.value.request_id.startswith("req_")
        async with sdk(standin, api_key="sk-b", organization="org-2") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.images.generate(prompt="x", model=MODEL)
        async with sdk(standin, api_key="sk-b", organization="org-1") as member:
            raw = await member.images.with_raw_response.generate(prompt="x", model=MODEL)
            assert raw.headers["openai-organization"] == "org-1"
        async with client.get(f"{standin.url}/v1/models") as response:
            assert response.status == 401
        assert [call.key for call in standin.log] == [None, "sk-b", "sk-b", None]
        assert standin.tally.billed == 1


@pytest.mark.parametrize(
    "changes,code,param",
    [
        ({"prompt": ""}, "missing_required_parameter", "prompt"),
        ({"prompt": "x" * 32_001}, "string_above_max_length", "prompt"),
        ({"prompt": 7}, "invalid_type", "prompt"),
        ({"model": "gpt-9"}, "invalid_value", "model"),
        ({"n": 0}, "integer_below_min_value", "n"),
        ({"n": 11}, "integer_above_max_value", "n"),
        ({"n": 1.5}, "invalid_type", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"model": "dall-e-3", "n": 2}, "integer_above_max_value", "n"),
        ({"size": "1792x1024"}, "invalid_value", "size"),
        ({"size": "large"}, "invalid_value", "size"),
        ({"size": "0x0"}, "invalid_value", "size"),
        ({"model": "gpt-image-2", "size": "1000x1000"}, "invalid_value", "size"),
        ({"model": "gpt-image-2", "size": "3840x1024"}, "invalid_value", "size"),
        ({"model": "gpt-image-2", "size": "512x512"}, "invalid_value", "size"),
        ({"model": "gpt-image-2", "size": "3856x2160"}, "invalid_value", "size"),
        ({"model": "dall-e-2", "size": "1536x1024"}, "invalid_value", "size"),
        ({"quality": "hd"}, "invalid_value", "quality"),
        ({"quality": "max"}, "invalid_value", "quality"),
        ({"background": "blue"}, "invalid_value", "background"),
        ({"model": "gpt-image-2", "background": "transparent"}, "invalid_value", "background"),
        ({"background": "transparent", "output_format": "jpeg"}, "invalid_value", "output_format"),
        ({"output_format": "gif"}, "invalid_value", "output_format"),
        ({"output_compression": 101}, "integer_above_max_value", "output_compression"),
        ({"moderation": "off"}, "invalid_value", "moderation"),
        ({"partial_images": 4}, "integer_above_max_value", "partial_images"),
        ({"stream": "yes"}, "invalid_type", "stream"),
        ({"stream": True, "n": 2}, "invalid_value", "stream"),
        ({"stream": True, "model": "dall-e-2"}, "invalid_value", "stream"),
        ({"response_format": "url"}, "unknown_parameter", "response_format"),
        ({"seed": 5}, "unknown_parameter", "seed"),
    ],
)
async def test_wrong_value_names_itself(changes: dict[str, Any], code: str, param: str) -> None:
    """A bad request is a BadRequestError of the client with code and parameter, and begins nothing."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post("/images/generations", body=BODY | changes, cast_to=object)
        assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
        assert (standin.calls, standin.tally.billed) == (1, 0)


@pytest.mark.parametrize("size", ["1024x1024", "3840x2160", "1536x864", "2048x688", "auto"])
async def test_free_sizes_are_made_exactly(size: str) -> None:
    """The newer models make any size within their rules."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        reply = await client.images.generate(prompt="x", model="gpt-image-2.5-flare", size=size, quality="max")
    width, height = pictures_of(reply)[0].size
    assert f"{width}x{height}" == ("1024x1024" if size == "auto" else size) == reply.size


@pytest.mark.parametrize(
    "files,code,param",
    [
        ({}, "missing_required_parameter", "image"),
        ({"image": b"nothing"}, "unsupported_file_mimetype", "image"),
        ({"mask": png(Image.new("RGB", (64, 64)))}, "invalid_image_format", "mask"),
        ({"mask": left_half_transparent(64, 32)}, "invalid_image_format", "mask"),
        ({"mask": png(Image.new("RGB", (64, 64)), "JPEG")}, "invalid_image_format", "mask"),
    ],
)
async def test_wrong_upload_names_itself(files: dict[str, bytes], code: str, param: str) -> None:
    """Missing, unreadable and unfitting files are refused."""
    sent = {"image": png(Image.new("RGB", (64, 64)))} | files if files else {}
    async with OpenAIImages() as standin, sdk(standin) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(
                "/images/edits",
                body={"prompt": "x", "model": MODEL},
                files=[(name, (f"{name}.png", data)) for name, data in (sent or {"other": b"x"}).items()],
                options={"headers": {"Content-Type": "multipart/form-data"}},
                cast_to=object,
            )
        assert (caught.value.code, caught.value.param) == (code, param)


async def test_damaged_upload_is_a_bad_request() -> None:
    """A picture whose head is good and whose rest is missing is refused when it is opened."""
    whole = png(gradient(512, 512))
    async with OpenAIImages() as standin, sdk(standin) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.edit(image=named(whole[: len(whole) // 2]), prompt="x", model=MODEL)
        assert caught.value.code == "invalid_image_file"


async def test_seventeen_uploads_are_too_many() -> None:
    """Sixteen are taken."""
    image = png(Image.new("RGB", (16, 16)))
    async with OpenAIImages() as standin, sdk(standin) as client:
        await client.images.edit(image=[named(image)] * 16, prompt="x", model=MODEL)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.edit(image=[named(image)] * 17, prompt="x", model=MODEL)
        assert caught.value.code == "array_above_max_length"


async def test_moderation_refuses_before_or_after_the_work() -> None:
    """A banned word costs nothing, a filtered one is found in the finished picture."""
    async with OpenAIImages() as standin, sdk(standin) as client:
        for word in ("standin-banned", "standin-filtered"):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.images.generate(prompt=f"a {word} cat", model=MODEL)
            assert (caught.value.code, caught.value.type) == ("moderation_blocked", "image_generation_user_error")
        assert [call.billed for call in standin.log] == [False, True]
        stream = await client.images.generate(
            prompt="a standin-filtered cat", model=MODEL, stream=True, partial_images=1
        )
        events, error = await watched(stream)
        assert [event.type for event in events] == ["image_generation.partial_image"]
        assert error is not None
        assert error.code == "moderation_blocked"


@pytest.mark.parametrize("path", ["/v1/images/nothing", "/images/generations", "/v1/completions"])
async def test_unknown_path_is_not_found(client: aiohttp.ClientSession, path: str) -> None:
    """What the dialect has not is 404 and no generation."""
    async with OpenAIImages() as standin:
        status, _, body = await post(client, standin.url, BODY, path)
        assert (status, standin.calls) == (404, 0)
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_broken_body_is_a_bad_request(client: aiohttp.ClientSession, body: bytes) -> None:
    """What is no JSON object is refused, in a form too where none belongs."""
    async with OpenAIImages(key=()) as standin:
        for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
            url = f"{standin.url}/v1/images/generations"
            async with client.post(url, data=body, headers={"Content-Type": kind}) as response:
                assert response.status == 400
                assert (await response.json())["error"]["type"] == "invalid_request_error"


# Limits


async def test_limit_headers_count_down_and_fill_up() -> None:
    """The headers tell what is left, and an allowance refills evenly."""
    clock = ManualClock()
    async with OpenAIImages(limit=3, image_limit=5, clock=clock) as standin, sdk(standin) as client:
        raw = await client.images.with_raw_response.generate(prompt="x", model=MODEL, n=4)
        wanted = {"limit-requests": "3", "remaining-requests": "2", "reset-requests": "20s"}
        wanted |= {"limit-images": "5", "remaining-images": "1", "reset-images": "48s"}
        assert {name: raw.headers[f"x-ratelimit-{name}"] for name in wanted} == wanted
        with pytest.raises(openai.RateLimitError) as caught:
            await client.images.generate(prompt="x", model=MODEL, n=2)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        assert caught.value.response.headers["Retry-After"] == "12"
        assert "Please try again in 12s" in caught.value.message
        clock.now += 12
        await client.images.generate(prompt="x", model=MODEL, n=2)
        assert [call.limited for call in standin.log] == [False, True, False]
        assert standin.tally.counters()["billed_images"] == 6


async def test_limits_are_for_each_key_and_headers_may_lack() -> None:
    """One key's calls don't count for another, and without a limit no header is sent."""
    async with OpenAIImages(key=("sk-a", "sk-b"), limit=1) as standin:
        for key in ("sk-a", "sk-b"):
            async with sdk(standin, api_key=key) as client:
                await client.images.generate(prompt="x", model=MODEL)
    async with OpenAIImages() as standin, sdk(standin) as client:
        raw = await client.images.with_raw_response.generate(prompt="x", model=MODEL)
        assert not [name for name in raw.headers if name.startswith("x-ratelimit")]
        assert raw.headers["x-request-id"].startswith("req_")
        assert int(raw.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("seconds,text", [(0.1199, "120ms"), (1, "1s"), (12.2, "13s"), (360, "6m0s"), (61, "1m1s")])
def test_duration_as_the_limit_headers_write_it(seconds: float, text: str) -> None:
    """Milliseconds, seconds, or minutes with seconds."""
    assert duration(seconds) == text


def test_allowance_never_holds_more_than_its_limit() -> None:
    """Long rest does not let more through at once."""
    allowance = Allowance.full(2, 10, 0)
    assert allowance.wait(2, 1000) == 0
    allowance.spend(2)
    assert allowance.wait(1, 1000) == 5
    assert allowance.wait(1, 1005) == 0


# URLs


async def test_legacy_models_answer_with_urls(client: aiohttp.ClientSession) -> None:
    """The picture lies behind its URL for an hour, and dall-e-3 tells its revised prompt."""
    clock = ManualClock()
    async with OpenAIImages(clock=clock) as standin, sdk(standin) as speaker:
        reply = await speaker.images.generate(prompt="a cat", model="dall-e-3", size="1792x1024", quality="hd")
        (item,) = reply.data or []
        assert item.url is not None
        assert item.url.startswith(standin.url)
        assert (item.b64_json, item.revised_prompt) == (None, "a cat")
        async with client.get(item.url) as response:
            assert (response.status, response.content_type) == (200, "image/png")
            image = Image.open(io.BytesIO(await response.read()))
        assert image.size == (1792, 1024)
        clock.now += 3601
        async with client.get(item.url) as response:
            assert response.status == 403
        async with client.get(item.url.replace("img-", "img-0")) as response:
            assert response.status == 404
        assert standin.calls == 1
