"""Every route of the v1 door: what it takes, what that means, and what it answers."""

import asyncio
import base64
import io
from typing import Any

import aiohttp
import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.records import Plan
from gateway.core.reports import Picture
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door
from tests.pictures import encoded, flat

ENGINE = "/v1/generation/stable-diffusion-v1-6"
TEXT = f"{ENGINE}/text-to-image"
ASKED: dict[str, Any] = {
    "text_prompts": [{"text": "a lighthouse"}],
    "width": 128,
    "height": 192,
    "steps": 10,
    "seed": 7,
}
INIT, MASK = flat((9, 8, 7), (128, 192)), flat(255, (128, 192), "L")


def b64(content: bytes) -> str:
    """Return a picture as JSON has it."""
    return base64.b64encode(content).decode()


def form(**fields: Any) -> aiohttp.FormData:
    """Return a multipart form; bytes are files."""
    made = aiohttp.FormData()
    prompts = {"text_prompts[0][text]": "a boat", "text_prompts[0][weight]": "1"}
    for name, value in (prompts | fields).items():
        if isinstance(value, bytes):
            made.add_field(name, value, filename=f"{name}.png", content_type="image/png")
        else:
            made.add_field(name, str(value))
    return made


def pictures(answer: Answer) -> list[bytes]:
    """Return the pictures of an answer that has them."""
    assert answer.status == 200, answer.body
    return [base64.b64decode(one["base64"]) for one in answer.json["artifacts"]]


async def test_text_to_image_answers_with_its_artifacts(door: Door) -> None:
    """What the guide reads is there: base64 of a PNG, the seed, how it ended in both spellings, and the id."""
    answer = await door.ask("POST", TEXT, ASKED | {"samples": 2, "cfg_scale": 7})
    facts = [measure(one) for one in pictures(answer)]
    assert [(one.format, one.width, one.height) for one in facts] == [("png", 128, 192)] * 2
    job = answer.headers["X-Job-Id"]
    assert answer.json["id"] == job
    assert [one["seed"] for one in answer.json["artifacts"]] == [7, 8]
    for one in answer.json["artifacts"]:
        assert set(one) == {"base64", "seed", "finishReason", "finish_reason", "id"}
        assert one["finishReason"] == one["finish_reason"] == "SUCCESS"
        assert one["id"] == job


async def test_text_to_image_asks_for_what_it_says(door: Door) -> None:
    """Each field reaches the upstream in our words."""
    prompts = [{"text": "a lighthouse"}, {"text": "fog", "weight": -1}]
    more = {"cfg_scale": 11.5, "sampler": "K_DPMPP_2M", "style_preset": "photographic", "clip_guidance_preset": "SLOW"}
    await door.ask("POST", TEXT, ASKED | more | {"text_prompts": prompts, "extras": {"x": 1}, "unknown": 1})
    request = door.easel.orders[-1].request
    assert (request.task, request.model, request.prompt, request.negative_prompt) == (
        "txt2img", "easel", "a lighthouse", "fog",
    )  # fmt: skip
    assert (request.width, request.height, request.steps, request.seed, request.n) == (128, 192, 10, 7, 1)
    assert (request.guidance, request.sampler, request.style) == (11.5, "dpmpp_2m", "photographic")
    weighted = [{"text": "a", "weight": 2}, {"text": "b"}, {"text": "c", "weight": -0.5}]
    await door.ask("POST", TEXT, ASKED | {"text_prompts": weighted, "seed": 0})
    request = door.easel.orders[-1].request
    assert [(one.text, one.weight) for one in request.prompts] == [("a", 2), ("b", 1), ("c", -0.5)]
    assert request.seed != 0


async def test_bare_picture_has_its_seed_and_reason_in_headers(door: Door) -> None:
    """`Accept: image/png` gives the PNG itself, one alone."""
    answer = await door.ask("POST", TEXT, ASKED, accept="image/png")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert (answer.headers["Seed"], answer.headers["Finish-Reason"]) == ("7", "SUCCESS")
    assert (measure(answer.body).format, "X-Job-Id" in answer.headers) == ("png", True)


async def test_picture_of_another_format_is_told_as_png(door: Door) -> None:
    """The vendor has no other, so clients write `.png` without a look."""
    door.easel.picture = Picture(flat((1, 2, 3), (128, 192), format="WEBP"), "webp", 128, 192)
    [told] = pictures(await door.ask("POST", TEXT, ASKED))
    assert (measure(told).format, measure(told).width) == ("png", 128)


async def test_filtered_picture_is_grey_and_said_so(door: Door) -> None:
    """200, CONTENT_FILTERED, and something that can be decoded, in both forms."""
    door.easel.filtered = frozenset({1})
    answer = await door.ask("POST", TEXT, ASKED | {"samples": 2})
    assert [one["finishReason"] for one in answer.json["artifacts"]] == ["SUCCESS", "CONTENT_FILTERED"]
    grey = Image.open(io.BytesIO(pictures(answer)[1]))
    assert (grey.size, grey.getextrema()) == ((128, 192), (128, 128))
    door.easel.filtered = frozenset({0})
    answer = await door.ask("POST", TEXT, ASKED | {"seed": 8}, accept="image/png")
    assert (answer.status, answer.headers["Finish-Reason"]) == (200, "CONTENT_FILTERED")


@pytest.mark.parametrize("as_form", [False, True])
async def test_controlnet_takes_its_picture_as_what_it_is_made_of(door: Door, as_form: bool) -> None:
    """The guide sends a photograph: its edges are for the model's preprocessor to find."""
    more = {"controlnet_type": "canny", "controlnet_weight": 0.7, "steps": 10}
    data = form(init_image=INIT, **more) if as_form else ASKED | more | {"init_image": b64(INIT)}
    assert len(pictures(await door.ask("POST", f"{TEXT}-controlnet", data))) == 1
    [control] = door.easel.orders[-1].request.controls
    assert (control.role, control.weight, control.preprocessor) == ("canny", 0.7, "canny")
    data = ASKED | {"init_image": f"data:image/png;base64,{b64(INIT)}", "controlnet_type": "openpose"}
    assert len(pictures(await door.ask("POST", f"{TEXT}-controlnet", data))) == 1
    [control] = door.easel.orders[-1].request.controls
    assert (control.role, control.weight, control.preprocessor) == ("pose", 1.0, "none")


@pytest.mark.parametrize("as_form", [False, True])
async def test_inpainting_changes_what_is_white(door: Door, as_form: bool) -> None:
    """The mask goes on as it is, and what it shows is replaced wholly unless the client says less."""
    more: dict[str, Any] = {"init_image": INIT, "mask_image": MASK}
    data = form(**more) if as_form else ASKED | {name: b64(one) for name, one in more.items()}
    assert len(pictures(await door.ask("POST", f"{ENGINE}/image-to-image-inpainting", data))) == 1
    order = door.easel.orders[-1]
    assert (order.request.task, order.request.strength, order.inputs["mask"]) == ("inpaint", 1.0, MASK)
    data = ASKED | {name: b64(one) for name, one in more.items()} | {"image_strength": 0.25}
    assert len(pictures(await door.ask("POST", f"{ENGINE}/image-to-image-inpainting", data))) == 1
    assert door.easel.orders[-1].request.strength == 0.75


@pytest.mark.parametrize("fields,strength", [
    ({}, 0.65),
    ({"image_strength": "0.2"}, 0.8),
    ({"init_image_mode": "STEP_SCHEDULE", "step_schedule_start": "0.3", "step_schedule_end": "1"}, 0.3),
])  # fmt: skip
async def test_image_to_image_keeps_as_much_as_it_says(door: Door, fields: dict[str, str], strength: float) -> None:
    """The vendor's strength is what is kept, ours what is changed."""
    data = form(init_image=INIT, samples=2, cfg_scale="7.5", seed="5", **fields)
    assert len(pictures(await door.ask("POST", f"{ENGINE}/image-to-image", data))) == 2
    request = door.easel.orders[-1].request
    assert (request.task, request.strength, request.prompt) == ("img2img", strength, "a boat")
    assert (request.width, request.height, request.guidance, request.seed) == (128, 192, 7.5, 5)


@pytest.mark.parametrize("source,init,mask,expected", [
    ("MASK_IMAGE_WHITE", INIT, flat(200, (128, 192), "L"), 200),
    ("MASK_IMAGE_BLACK", INIT, flat(200, (128, 192), "L"), 55),
    ("INIT_IMAGE_ALPHA", flat((1, 2, 3, 64), (128, 192), "RGBA"), None, 191),
    ("INIT_IMAGE_ALPHA", INIT, None, 0),
])  # fmt: skip
async def test_masking_has_white_where_the_picture_changes(
    door: Door, source: str, init: bytes, mask: bytes | None, expected: int
) -> None:
    """Three ways to say where; grey stays linear in all."""
    files = {"init_image": init} | ({} if mask is None else {"mask_image": mask})
    answer = await door.ask("POST", f"{ENGINE}/image-to-image/masking", form(mask_source=source, **files))
    assert len(pictures(answer)) == 1
    order = door.easel.orders[-1]
    made = Image.open(io.BytesIO(order.inputs["mask"]))
    assert (made.convert("L").getextrema(), made.size) == ((expected, expected), (128, 192))
    assert order.request.strength == 1.0


@pytest.mark.parametrize("fields,size", [({}, (256, 384)), ({"width": 512}, (512, 768)), ({"height": 576}, (384, 576))])
async def test_upscale_keeps_the_shape(door: Door, fields: dict[str, int], size: tuple[int, int]) -> None:
    """Twice as large, or to one edge; it needs no prompt."""
    data = aiohttp.FormData({name: str(value) for name, value in fields.items()})
    data.add_field("image", INIT, filename="image.png")
    answer = await door.ask("POST", "/v1/generation/esrgan-v1-x2plus/image-to-image/upscale", data)
    assert (measure(pictures(answer)[0]).width, measure(pictures(answer)[0]).height) == size


async def test_prompts_of_a_form_come_in_three_spellings(door: Door) -> None:
    """Numbered with gaps, as JSON, or as the text itself."""
    for fields, expected in (
        ({"text_prompts[7][text]": "a cat", "text_prompts[7][weight]": "-1"}, ("a boat", "a cat")),
        ({"text_prompts[0][text]": "a cat"}, ("a cat", "")),
    ):
        await door.ask("POST", f"{ENGINE}/image-to-image", form(init_image=INIT, **fields))
        request = door.easel.orders[-1].request
        assert (request.prompt, request.negative_prompt) == expected
    for text in ('[{"text": "a cat"}]', "a cat"):
        data = aiohttp.FormData({"text_prompts": text, "init_image": b64(INIT)})
        data.add_field("steps", b"11", filename="")  # makes it multipart
        await door.ask("POST", f"{ENGINE}/image-to-image", data)
        assert (door.easel.orders[-1].request.prompt, door.easel.orders[-1].request.steps) == ("a cat", 11)


async def test_status_tells_how_far_a_job_is(door: Door) -> None:
    """A client that does not wait gets the id at once, and asks until the artifacts are there."""
    door.easel.hold = asyncio.Event()
    answer = await door.ask("POST", TEXT, ASKED, prefer="respond-async, wait=5")
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "respond-async")
    assert answer.json == {
        "id": answer.headers["X-Job-Id"],
        "state": "queued",
        "status_url": answer.headers["Location"],
    }
    path = answer.headers["Location"]
    while (told := (await door.ask("GET", path)).json)["state"] != "running":
        assert told["state"] == "queued"
    assert told == {
        "id": answer.json["id"], "state": "running", "step": 0, "steps": 10, "ratio": 0.0, "eta_ms": None,
        "artifacts": [],
    }  # fmt: skip
    door.easel.hold.set()
    while (told := (await door.ask("GET", path)).json)["state"] != "completed":
        await asyncio.sleep(0.01)
    assert (told["step"], told["ratio"], told["eta_ms"], len(told["artifacts"])) == (10, 1.0, 0, 1)
    stranger = await door.key_of("other", Plan())
    assert (await door.ask("GET", path, key=stranger)).status == 404


async def test_clients_can_ask_who_they_are_and_what_there_is(door: Door) -> None:
    """The three routes that the vendor's clients ask before they begin."""
    engines = (await door.ask("GET", "/v1/engines/list")).json
    assert all(set(one) == {"id", "name", "description", "type"} and one["type"] == "PICTURE" for one in engines)
    ids = [one["id"] for one in engines]
    assert len(set(ids)) == len(ids)
    assert {"easel", "stable-diffusion-v1-5", "stable-diffusion-v1-6", "stable-diffusion-xl-1024-v1-0"} <= set(ids)
    account = (await door.ask("GET", "/v1/user/account")).json
    assert set(account) == {"id", "email", "profile_picture", "organizations"}
    assert [set(one) for one in account["organizations"]] == [{"id", "name", "role", "is_default"}]
    assert (await door.ask("GET", "/v1/user/balance")).json["credits"] > 0


async def test_large_pictures_come_through_whole(door: Door) -> None:
    """Over what the loop parses itself, in and out."""
    noise = encoded(Image.effect_noise((512, 512), 90).convert("RGB"))
    assert len(noise) > 300_000
    door.easel.picture = Picture(noise * 4, "png", 512, 512)
    data = ASKED | {"init_image": b64(noise), "mask_image": b64(flat(255, (512, 512), "L"))}
    [told] = pictures(await door.ask("POST", f"{ENGINE}/image-to-image-inpainting", data))
    assert (told, door.easel.orders[-1].inputs["init"]) == (noise * 4, noise)
