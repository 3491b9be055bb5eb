"""Jobs, pictures and dialects of the stand-in of stable-diffusion.cpp's server."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import pytest
from PIL import Image

from load.upstreams.pictures import colour_of
from load.upstreams.sdcpp import Defaults, SdCpp, Shop
from tests.load.upstreams.talk import ManualClock
from tests.load.upstreams.talk_sdcpp import (
    SMALL,
    ask,
    b64,
    cancel,
    drawn,
    ended,
    half_white,
    only,
    order,
    pictured,
    plain,
    poll,
)
from tests.pictures import encoded

Client = aiohttp.ClientSession
INIT = (200, 100, 0)


def mixed(init: tuple[int, ...], colour: tuple[int, ...], share: float) -> tuple[int, ...]:
    """The colour that lies `share` of the way from the one to the other."""
    return only(Image.blend(Image.new("RGB", (1, 1), init), Image.new("RGB", (1, 1), colour), share))


# Jobs


async def test_job_goes_from_accepted_to_completed(client: Client) -> None:
    """The 202 names the job; its pictures come with the poll after its end."""
    async with SdCpp(step_seconds=0.1) as standin:
        accepted = (await order(client, standin.url)).json
        assert accepted["poll_url"] == f"/sdcpp/v1/jobs/{accepted['id']}"
        running = (await poll(client, standin.url, accepted["id"])).json
        assert (running["status"], running["result"], running["completed"]) == ("generating", None, None)
        job = await ended(client, standin.url, accepted["id"])
        assert only(pictured(job["result"]["images"][0]["b64_json"])) == colour_of(7, "a cat")
        assert (standin.calls, standin.tally.billed, standin.tally.completed) == (1, 1, 1)
        assert standin.log[0].fields == SMALL


async def test_worker_may_be_faster_than_the_202(client: Client) -> None:
    """With `races` 1 the answer itself says generating, as the server was seen to do."""
    async with SdCpp(races=1.0) as standin:
        assert (await order(client, standin.url)).json["status"] == "generating"


async def test_only_one_job_runs_and_positions_count_the_others(client: Client) -> None:
    """Jobs run in order; the place in the queue counts from 1."""
    async with SdCpp(step_seconds=0.1) as standin:
        ids = [(await order(client, standin.url)).json["id"] for _ in range(3)]
        told = [(await poll(client, standin.url, job_id)).json for job_id in ids]
        assert [(job["status"], job["queue_position"]) for job in told] == [
            ("generating", 0),
            ("queued", 1),
            ("queued", 2),
        ]
        assert [(await ended(client, standin.url, job_id))["status"] for job_id in ids] == ["completed"] * 3


async def test_cancelling_answers_by_state(client: Client) -> None:
    """Queued 200 and again 200, running 409, completed 200 with the result, unknown 404."""
    async with SdCpp(step_seconds=0.1) as standin:
        running, queued = [(await order(client, standin.url)).json["id"] for _ in range(2)]
        for _ in range(2):
            gone = await cancel(client, standin.url, queued)
            assert (gone.status, gone.json["status"], gone.json["error"]["code"]) == (200, "cancelled", "cancelled")
        assert (await cancel(client, standin.url, running)).status == 409
        done = await ended(client, standin.url, running)
        assert (await cancel(client, standin.url, running)).json == done
        assert (await cancel(client, standin.url, "job_nope")).status == 404
        assert (standin.tally.cancelled, standin.tally.billed) == (1, 1)
        assert (await ask(client, "DELETE", f"{standin.url}/sdcpp/v1/jobs/{queued}")).status == 404


async def test_pending_jobs_are_bounded(client: Client) -> None:
    """One more than `max_pending`, the running one included, is 429; a cancelled one makes room."""
    async with SdCpp(shop=Shop(max_pending=2), step_seconds=0.2) as standin:
        ids = [(await order(client, standin.url)).json["id"] for _ in range(2)]
        full = await order(client, standin.url)
        assert (full.status, full.json) == (429, {"error": "job queue is full"})
        assert [call.limited for call in standin.log] == [False, False, True]
        await cancel(client, standin.url, ids[1])
        assert (await order(client, standin.url)).status == 202


async def test_results_are_kept_for_their_time_and_then_expired(client: Client) -> None:
    """200 until `keep_seconds` have passed, then 410, and 404 when even the id is forgotten."""
    clock = ManualClock()
    async with SdCpp(keep_seconds=100, wall=clock) as standin:
        job_id = (await order(client, standin.url)).json["id"]
        job = await ended(client, standin.url, job_id)
        assert (job["created"], job["completed"]) == (1000, 1000)
        clock.now += 99.9
        assert (await poll(client, standin.url, job_id)).status == 200
        clock.now += 0.1
        expired = await poll(client, standin.url, job_id)
        assert (expired.status, expired.json) == (410, {"error": "job expired"})
        assert (await cancel(client, standin.url, job_id)).status == 410
        clock.now += 100
        assert (await poll(client, standin.url, job_id)).status == 404


async def test_times_are_whole_seconds(client: Client) -> None:
    """Fractions are cut off, and the id holds the second."""
    clock = ManualClock()
    clock.now = 1000.9
    async with SdCpp(wall=clock) as standin:
        accepted = (await order(client, standin.url)).json
        assert (accepted["created"], accepted["id"][:8]) == (1000, "job_3e8_")


async def test_time_depends_on_steps_and_batch(client: Client) -> None:
    """A job takes its steps, for each of its pictures."""
    async with SdCpp(step_seconds=0.01) as standin:
        started = asyncio.get_running_loop().time()
        await drawn(client, standin.url, batch_count=3, sample_params={"sample_steps": 10})
        assert asyncio.get_running_loop().time() - started >= 0.3


# Weak validation


@pytest.mark.parametrize(
    "fields,size",
    [
        ({"width": 0}, (512, 64)),
        ({"width": -8}, (512, 64)),
        ({"width": "wide"}, (128, 64)),
        ({"width": 64.0}, (128, 64)),
        ({"width": None}, (128, 64)),
        ({"width": 2**32 + 64}, (64, 64)),
        ({"width": 65, "height": 700}, (128, 704)),
        ({"sample_params": {"sample_steps": -1, "sample_method": "nope", "scheduler": 5}}, (64, 64)),
        ({"hires": {"enabled": True, "scale": 2.0}}, (128, 128)),
    ],
)
async def test_odd_values_are_taken_and_sizes_rounded_up(
    client: Client, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    """What has the wrong type is passed over; sides that are not positive are 512; all are multiples of 64."""
    async with SdCpp(shop=Shop(defaults=Defaults(width=128, height=128)), step_seconds=0) as standin:
        assert [image.size for image in await drawn(client, standin.url, **fields)] == [size]


async def test_other_models_round_sizes_otherwise(client: Client) -> None:
    """A multiple of 1 gives sizes exactly as asked."""
    async with SdCpp(shop=Shop(multiple=1)) as standin:
        assert (await drawn(client, standin.url, width=65, height=33))[0].size == (65, 33)


async def test_batch_and_steps_are_clamped(client: Client) -> None:
    """At most 8 pictures and 100 steps, whatever was asked; seeds count on."""
    async with SdCpp(step_seconds=0) as standin:
        images = await drawn(client, standin.url, batch_count=1000, sample_params={"sample_steps": 4000})
        assert [only(image) for image in images] == [colour_of(7 + number, "a cat") for number in range(8)]
        assert "Steps: 100," in images[0].info["parameters"]
        assert standin.tally.counters()["billed_images"] == 8


async def test_absurd_size_is_taken_and_fails(client: Client) -> None:
    """A size that no memory holds is 202, and the job fails."""
    async with SdCpp() as standin:
        job = await ended(client, standin.url, (await order(client, standin.url, width=100000, height=4096)).json["id"])
        assert job["status"] == "failed"
        assert job["error"] == {"code": "generation_failed", "message": "generate_image returned no results"}
        assert standin.tally.failed == 1


@pytest.mark.parametrize(
    "fields,status,error",
    [
        ({"output_format": "webp"}, 400, "invalid output_format, must be one of [png, jpeg]"),
        ({"output_format": 5}, 500, "server_error"),
        ({"init_image": "not base64"}, 400, "invalid generation parameters"),
        ({"init_image": 5}, 400, "invalid generation parameters"),
        ({"init_image": plain((90,), mode="L")}, 400, "invalid generation parameters"),
        ({"ref_images": "x"}, 400, "invalid generation parameters"),
        ({"mask_image": "AAAA"}, 400, "invalid generation parameters"),
        ({"lora": [{"path": "unknown.safetensors"}]}, 400, "invalid generation parameters"),
        ({"lora": {}}, 400, "invalid generation parameters"),
        ({"strength": 1.5}, 400, "invalid generation parameters"),
        ({"sample_params": {"guidance": {"txt_cfg": -1}}}, 400, "invalid generation parameters"),
        ({"hires": {"enabled": True, "upscaler": "unknown"}}, 400, "invalid generation parameters"),
    ],
)
async def test_the_few_checks_there_are_refuse(client: Client, fields: dict[str, Any], status: int, error: str) -> None:
    """Pictures, LoRAs, formats and a few ranges are looked at; nothing is begun."""
    async with SdCpp() as standin:
        refused = await order(client, standin.url, **fields)
        assert (refused.status, refused.json["error"]) == (status, error)
        assert (standin.tally.accepted, standin.tally.billed) == (0, 0)


@pytest.mark.parametrize(
    "body,status,error",
    [
        (b'{"width": NaN}', 400, "invalid json"),
        (b"\xff", 400, "invalid json"),
        (b"[" * 100_000, 400, "invalid json"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", 202, None),
        (b'{"width": 1e999}', 500, "server_error"),
        (b"null", 500, "server_error"),
        (b'"text"', 500, "server_error"),
    ],
)
async def test_odd_bodies_get_the_servers_answers(client: Client, body: bytes, status: int, error: str | None) -> None:
    """None of them upsets the stand-in itself."""
    async with SdCpp() as standin:
        told = await ask(client, "POST", f"{standin.url}/sdcpp/v1/img_gen", data=body)
        assert (told.status, told.json.get("error")) == (status, error)


async def test_random_seed_is_drawn_and_told_in_the_picture(client: Client) -> None:
    """A negative seed is drawn from the stand-in's own chance: the same again with the same seed."""
    texts = []
    for _ in range(2):
        async with SdCpp(seed=3) as standin:
            texts.append((await drawn(client, standin.url, seed=-1))[0].info["parameters"])
    assert texts[0] == texts[1]
    assert "Seed: -1" not in texts[0]


async def test_unknown_fields_are_logged(client: Client) -> None:
    """They are ignored, and a test can find them."""
    async with SdCpp() as standin:
        await order(client, standin.url, stepps=5)
        assert standin.log[0].unknown_fields == ("stepps",)


# Pixels


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
async def test_strength_goes_from_the_init_picture_to_the_prompt(client: Client, strength: float) -> None:
    """0 keeps the init picture, 1 ignores it, between them it is linear."""
    async with SdCpp() as standin:
        image = (await drawn(client, standin.url, init_image=plain(INIT), strength=strength))[0]
        assert only(image) == mixed(INIT, colour_of(7, "a cat"), strength)


async def test_white_of_the_mask_is_edited_and_black_kept(client: Client) -> None:
    """Outside the mask every pixel is the init picture's."""
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    async with SdCpp() as standin:
        fields = {"init_image": b64(encoded(noise)), "mask_image": b64(encoded(half_white())), "strength": 1.0}
        image = (await drawn(client, standin.url, **fields))[0]
        assert only(image.crop((0, 0, 32, 64))) == colour_of(7, "a cat")
        assert image.crop((32, 0, 64, 64)).tobytes() == noise.crop((32, 0, 64, 64)).tobytes()


async def test_mask_is_rounded_to_black_and_white(client: Client) -> None:
    """127 keeps, 128 edits."""
    async with SdCpp() as standin:
        for level, colour in ((127, INIT), (128, colour_of(7, "a cat"))):
            mask = plain((level,), mode="L")
            image = (await drawn(client, standin.url, init_image=plain(INIT), mask_image=mask, strength=1.0))[0]
            assert only(image) == colour


async def test_init_picture_is_cropped_to_shape(client: Client) -> None:
    """A wider picture loses its sides, not its proportions; a data URL is taken too."""
    wide = Image.new("RGB", (128, 64), (0, 0, 255))
    wide.paste(INIT, (32, 0, 96, 64))
    async with SdCpp() as standin:
        url = f"data:image/png;base64,{b64(encoded(wide))}"
        assert only((await drawn(client, standin.url, init_image=url, strength=0.0))[0]) == INIT


async def test_control_picture_and_loras_show(client: Client) -> None:
    """The control picture is mixed in by half its strength; a LoRA changes the colour as words do."""
    async with SdCpp() as standin:
        for strength in (0.0, 1.0):
            image = (await drawn(client, standin.url, control_image=plain(INIT), control_strength=strength))[0]
            assert only(image) == mixed(colour_of(7, "a cat"), INIT, strength / 2)
        lora = [{"path": "tiny-sd1.safetensors", "multiplier": 0.5}, {"path": "tiny-sd1.safetensors"}]
        assert only((await drawn(client, standin.url, lora=lora))[0]) == colour_of(
            7, "a cat<lora:tiny-sd1.safetensors:1.5>"
        )
        # In the prompt it is only words.
        words = "a cat <lora:tiny-sd1:1>"
        assert only((await drawn(client, standin.url, prompt=words))[0]) == colour_of(7, words)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_other_formats_come_as_asked(client: Client, kind: str) -> None:
    """JPEG always, WebP from a server built with it; near enough in colour."""
    async with SdCpp(shop=Shop(webp=True)) as standin:
        image = (await drawn(client, standin.url, output_format=kind.upper()))[0].convert("RGB")
        pixel = image.getpixel((5, 5))
        assert isinstance(pixel, tuple)
        assert all(abs(ours - true) < 8 for ours, true in zip(pixel, colour_of(7, "a cat"), strict=True))


async def test_png_tells_the_prompt_unless_told_not_to(client: Client) -> None:
    """A gateway that must not pass prompts on has something to strip."""
    async with SdCpp(picture_bytes=5000) as standin:
        assert (await drawn(client, standin.url))[0].info["parameters"].startswith("a cat\nSteps: 2, ")
        assert "parameters" not in (await drawn(client, standin.url, embed_image_metadata=False))[0].info


# The blocking dialects


async def webui(client: Client, url: str, path: str = "txt2img", **fields: Any) -> dict[str, Any]:
    """The answer of a WebUI request, which must succeed."""
    reply = await ask(
        client,
        "POST",
        f"{url}/sdapi/v1/{path}",
        json={"prompt": "a cat", "width": 64, "height": 64, "seed": 7} | fields,
    )
    assert reply.status == 200, reply.body
    return dict(reply.json)


async def test_webui_dialect_draws_what_it_is_told(client: Client) -> None:
    """Pictures, the request again, and `info` as a string."""
    async with SdCpp() as standin:
        told = await webui(client, standin.url, batch_size=2, steps=3)
        assert [only(pictured(image)) for image in told["images"]] == [colour_of(7, "a cat"), colour_of(8, "a cat")]
        assert told["parameters"]["batch_size"] == 2
        assert isinstance(told["info"], str)


async def test_webui_img2img_obeys_strength_mask_and_its_inversion(client: Client) -> None:
    """White is edited, or kept with `inpainting_mask_invert`."""
    async with SdCpp() as standin:
        fields = {"init_images": [plain(INIT)], "mask": b64(encoded(half_white())), "denoising_strength": 2}
        for invert, left in ((0, colour_of(7, "a cat")), (1, INIT)):
            told = await webui(client, standin.url, "img2img", inpainting_mask_invert=invert, **fields)
            assert only(pictured(told["images"][0]).crop((0, 0, 32, 64))) == left
        # Unreadable, it is as if it were not there.
        told = await webui(client, standin.url, "img2img", init_images=["???"], denoising_strength=0)
        assert only(pictured(told["images"][0])) == colour_of(7, "a cat")


async def test_openai_dialect_generates_and_edits(client: Client) -> None:
    """Native settings hidden in the prompt are obeyed; an edit starts from its first picture."""
    async with SdCpp() as standin:
        hidden = 'a cat<sd_cpp_extra_args>{"seed":9}</sd_cpp_extra_args>'
        reply = await ask(
            client, "POST", f"{standin.url}/v1/images/generations", json={"prompt": hidden, "size": "64x128", "n": 2}
        )
        images = [pictured(item["b64_json"]) for item in reply.json["data"]]
        assert [(image.size, only(image)) for image in images] == [
            ((64, 128), colour_of(9, "a cat")),
            ((64, 128), colour_of(10, "a cat")),
        ]
        form = aiohttp.FormData({"prompt": "a cat"})
        form.add_field("image[]", io.BytesIO(encoded(Image.new("RGB", (128, 64), INIT))), filename="a.png")
        form.add_field("mask", io.BytesIO(encoded(half_white((128, 64)))), filename="b.png")
        edited = await ask(client, "POST", f"{standin.url}/v1/images/edits", data=form)
        image = pictured(edited.json["data"][0]["b64_json"])
        assert only(image.crop((64, 0, 128, 64))) == INIT
        assert only(image.crop((0, 0, 64, 64))) == mixed(INIT, colour_of(42, "a cat"), 0.75)
        fields = standin.log[1].fields
        assert fields is not None
        assert fields["prompt"] == "a cat"


async def test_edit_without_form_prompt_or_picture_is_refused(client: Client) -> None:
    """Each with the server's own words."""
    async with SdCpp() as standin:
        url = f"{standin.url}/v1/images/edits"
        assert (await ask(client, "POST", url, json={})).json == {"error": "Content-Type must be multipart/form-data"}
        with_prompt, without = aiohttp.FormData(), aiohttp.FormData()
        without.add_field("n", "1", content_type="text/plain")
        with_prompt.add_field("prompt", "x", content_type="text/plain")
        assert (await ask(client, "POST", url, data=without)).json == {"error": "prompt required"}
        assert (await ask(client, "POST", url, data=with_prompt)).json == {"error": "at least one image[] required"}


async def test_dialects_share_one_model(client: Client) -> None:
    """A job says generating while a blocking request holds the model, and ends after it."""
    async with SdCpp(step_seconds=0.02) as standin:
        blocking = asyncio.create_task(webui(client, standin.url, steps=10))
        while not standin.calls:
            await asyncio.sleep(0.001)
        job_id = (await order(client, standin.url)).json["id"]
        assert (await poll(client, standin.url, job_id)).json["status"] == "generating"
        assert not blocking.done()
        assert standin.tally.billed == 1
        await blocking
        assert (await ended(client, standin.url, job_id))["status"] == "completed"


async def test_blocking_request_goes_on_without_its_client(client: Client) -> None:
    """The picture is drawn, and billed, for nobody."""
    async with SdCpp(step_seconds=0.01) as standin:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await webui(client, standin.url, steps=10)
        # A job behind it shows when the model is free.
        await drawn(client, standin.url)
        assert (standin.log[0].outcome, standin.log[0].billed) == ("dropped", True)
        assert (standin.tally.billed, standin.tally.completed) == (2, 2)


# Reading


async def test_capabilities_name_limits_that_are_not_enforced(client: Client) -> None:
    """A gateway has to hold its clients to them itself."""
    async with SdCpp(shop=Shop(max_pending=5, loras=("a/b.safetensors",))) as standin:
        told = (await ask(client, "GET", f"{standin.url}/sdcpp/v1/capabilities")).json
        assert (told["limits"]["max_width"], told["limits"]["max_queue_size"]) == (4096, 5)
        assert told["loras"] == [{"name": "b", "path": "a/b.safetensors"}]
        assert told["features"]["cancel_generating"] is False
        assert (await drawn(client, standin.url, lora=[{"path": "a/b.safetensors"}]))[0].size == (64, 64)


async def test_preflight_repeats_the_origin(client: Client) -> None:
    """So does any other answer to a page's request."""
    async with SdCpp() as standin:
        for method in ("OPTIONS", "GET"):
            told = await ask(client, method, f"{standin.url}/v1/models", headers={"Origin": "http://a.example"})
            assert told.headers["Access-Control-Allow-Origin"] == "http://a.example"
