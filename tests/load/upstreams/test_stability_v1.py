"""The dialect of Stability v1 as its stand-in speaks it, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from PIL import Image

from load.upstreams.pictures import BLUR, colour_of
from load.upstreams.stability_v1 import StabilityV1
from load.upstreams.stability_v1_orders import ENGINES, SAMPLERS, SDXL_SIZES, STYLE_PRESETS, Limits
from tests.load.upstreams.talk import (
    AUTH,
    OLD,
    PROMPT,
    SMALL,
    XL,
    ManualClock,
    Reply,
    connect,
    decode,
    draw,
    edit,
    flat,
    png_of,
    raw_answer,
    request_bytes,
    send,
)

Client = aiohttp.ClientSession
MASKING = "image-to-image/masking"
UPSCALE = "image-to-image/upscale"
ESRGAN = "esrgan-v1-x2plus"
CAT = colour_of(7, "a cat")


@pytest.fixture
async def standin() -> AsyncIterator[StabilityV1]:
    """A stand-in without delay, limit or faults."""
    async with StabilityV1(limit=None) as running:
        yield running


# Reading the account


async def test_engines_list_names_every_engine_with_its_type(client: Client, standin: StabilityV1) -> None:
    """The list is a bare array of id, name, description and type."""
    reply = await send(client, "GET", f"{standin.url}/v1/engines/list")
    assert [engine.id for engine in ENGINES] == [item["id"] for item in reply.json]
    assert all(set(item) == {"id", "name", "description", "type"} for item in reply.json)
    assert {item["type"] for item in reply.json} == {"PICTURE"}


async def test_account_names_its_organizations(client: Client, standin: StabilityV1) -> None:
    """The account carries the published keys and one default organization."""
    account = (await send(client, "GET", f"{standin.url}/v1/user/account")).json
    assert set(account) == {"id", "email", "profile_picture", "organizations"}
    assert [set(item) for item in account["organizations"]] == [{"id", "name", "role", "is_default"}]


async def test_balance_belongs_to_the_organization_asked_for(client: Client) -> None:
    """The Organization header picks the balance; an unknown one is forbidden."""
    async with StabilityV1(organizations={"org-a": 5.0, "org-b": 0.5}) as standin:
        url = f"{standin.url}/v1/user/balance"
        plain = await send(client, "GET", url)
        other = await send(client, "GET", url, {**AUTH, "Organization": "org-b"})
        foreign = await send(client, "GET", url, {**AUTH, "Organization": "org-c"})
    assert [plain.json, other.json] == [{"credits": 5.0}, {"credits": 0.5}]
    assert (foreign.status, foreign.name) == (403, "permission_denied")


async def test_reading_the_account_is_no_generation_call(client: Client, standin: StabilityV1) -> None:
    """Only generation requests count as calls; all requests are in the log."""
    await send(client, "GET", f"{standin.url}/v1/user/balance")
    await draw(client, standin.url)
    assert standin.calls == 1
    assert [(call.operation, call.generation) for call in standin.log] == [
        ("user/balance", False),
        ("text-to-image", True),
    ]


# Keys and paths


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "sk-test"}, {"Authorization": ""}]
)
@pytest.mark.parametrize("path", ["v1/user/balance", f"v1/generation/{OLD}/text-to-image"])
async def test_missing_or_wrong_key_is_unauthorized(
    client: Client, standin: StabilityV1, headers: dict[str, str], path: str
) -> None:
    """Every path asks for an accepted key, and no credential is written down."""
    method = "POST" if "generation" in path else "GET"
    reply = await send(client, method, f"{standin.url}/{path}", headers, json=SMALL)
    assert (reply.status, reply.name) == (401, "unauthorized")
    assert standin.log[-1].key is None
    assert standin.tally.billed == 0


async def test_each_accepted_key_works_and_is_counted(client: Client) -> None:
    """Of several keys any is good, and calls are counted by key."""
    async with StabilityV1(key={"sk-a", "sk-b"}) as standin:
        for key in ("sk-a", "sk-b", "sk-a"):
            assert (await draw(client, standin.url, headers={"Authorization": f"bearer {key}"})).status == 200
        assert standin.tally.counters()["per_key"] == {"sk-a": 2, "sk-b": 1}


@pytest.mark.parametrize(
    "method,path",
    [
        ("POST", "v1/generation/no-such-engine/text-to-image"),
        ("POST", f"v1/generation/{OLD}/image-to-image/upscale"),
        ("POST", f"v1/generation/{ESRGAN}/text-to-image"),
        ("POST", f"v1/generation/{OLD}/text-to-video"),
        ("GET", f"v1/generation/{OLD}/text-to-image"),
        ("GET", "v2/user/balance"),
        ("GET", ""),
    ],
)
async def test_unknown_engine_or_path_is_not_found(
    client: Client, standin: StabilityV1, method: str, path: str
) -> None:
    """What isn't there answers 404 in the vendor's form."""
    reply = await send(client, method, f"{standin.url}/{path}", json=SMALL)
    assert (reply.status, reply.name) == (404, "not_found")


# Text to image


async def test_json_answer_holds_a_flat_list_of_artifacts(client: Client, standin: StabilityV1) -> None:
    """An artifact has base64, seed and finishReason, and its PNG has the size asked for."""
    reply = await draw(client, standin.url, {**SMALL, "width": 640, "height": 320})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert list(reply.json) == ["artifacts"]
    assert [{"base64", "seed", "finishReason"}] == [set(item) for item in reply.json["artifacts"]]
    assert (reply.json["artifacts"][0]["seed"], reply.json["artifacts"][0]["finishReason"]) == (7, "SUCCESS")
    assert reply.images[0].size == (640, 320)
    assert "Seed" not in reply.headers
    assert "Finish-Reason" not in reply.headers


async def test_png_answer_carries_seed_and_finish_reason_in_headers(client: Client, standin: StabilityV1) -> None:
    """With Accept image/png the body is the picture itself."""
    reply = await draw(client, standin.url, headers={**AUTH, "Accept": "image/png"})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/png")
    assert (reply.headers["Finish-Reason"], reply.headers["Seed"]) == ("SUCCESS", "7")
    assert decode(reply.body).getpixel((0, 0)) == CAT


async def test_png_answer_carries_one_sample_only(client: Client, standin: StabilityV1) -> None:
    """Several samples have no place in one PNG."""
    reply = await draw(client, standin.url, {**SMALL, "samples": 2}, headers={**AUTH, "Accept": "image/png"})
    assert (reply.status, reply.name) == (400, "bad_request")


async def test_unknown_accept_is_refused(client: Client, standin: StabilityV1) -> None:
    """Only JSON and PNG can be had."""
    reply = await draw(client, standin.url, headers={**AUTH, "Accept": "image/webp"})
    assert (reply.status, reply.name) == (400, "bad_request")


async def test_same_seed_and_prompt_give_the_same_bytes(client: Client, standin: StabilityV1) -> None:
    """A seed makes the picture repeatable; another prompt makes another picture."""
    bodies = [SMALL, SMALL, {**SMALL, "text_prompts": [{"text": "a dog"}]}]
    first, again, other = [(await draw(client, standin.url, body)).body for body in bodies]
    assert first == again
    assert first != other
    assert standin.tally.billed == 3


async def test_random_seeds_come_from_the_seeded_generator(client: Client) -> None:
    """Seed 0 draws one that is reported and logged; a stand-in of the same seed draws the same ones."""
    drawn: list[list[int]] = []
    for seed in (1, 1, 2):
        async with StabilityV1(seed=seed) as standin:
            replies = [await draw(client, standin.url, {**PROMPT, "seed": 0}) for _ in range(3)]
            drawn.append([reply.json["artifacts"][0]["seed"] for reply in replies])
            assert [(number,) for number in drawn[-1]] == [call.seeds for call in standin.log]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3
    assert all(1 <= number <= 4294967295 for number in drawn[0])


async def test_samples_count_on_from_the_seed_without_zero(client: Client, standin: StabilityV1) -> None:
    """Each sample has a seed of its own; after the greatest comes 1, because 0 means random."""
    reply = await draw(client, standin.url, {**SMALL, "samples": 3, "seed": 4294967294})
    assert [item["seed"] for item in reply.json["artifacts"]] == [4294967294, 4294967295, 1]
    assert len({image.getpixel((0, 0)) for image in reply.images}) == 3
    assert standin.log[-1].images == 3
    assert standin.tally.counters()["billed_images"] == 3


async def test_filtered_picture_arrives_with_status_200(client: Client, standin: StabilityV1) -> None:
    """A filtered word gives a blurred picture, the finish reason and a bill, in both answer forms."""
    body = {**SMALL, "text_prompts": [{"text": "Standin-Filtered cat"}]}
    reply = await draw(client, standin.url, body)
    raw = await draw(client, standin.url, body, headers={**AUTH, "Accept": "image/png"})
    assert (reply.status, reply.json["artifacts"][0]["finishReason"]) == (200, "CONTENT_FILTERED")
    assert reply.images[0].getpixel((0, 0)) == BLUR
    assert (raw.status, raw.headers["Finish-Reason"]) == (200, "CONTENT_FILTERED")
    assert standin.tally.billed == 2


@pytest.mark.parametrize("weight", [1, -1])
async def test_banned_word_is_refused_in_any_prompt(client: Client, standin: StabilityV1, weight: float) -> None:
    """A banned word trips the filter in a negative prompt as well, without a hint which word it was."""
    prompts = [{"text": "a cat", "weight": 1}, {"text": "STANDIN-BANNED", "weight": weight}]
    reply = await draw(client, standin.url, {**SMALL, "text_prompts": prompts})
    assert (reply.status, reply.name) == (400, "invalid_prompts")
    assert "banned" not in reply.json["message"].lower()
    assert standin.tally.billed == 0


@pytest.mark.parametrize(
    "change,name",
    [
        ({"text_prompts": []}, "bad_request"),
        ({"text_prompts": None}, "bad_request"),
        ({"text_prompts": "a cat"}, "bad_request"),
        ({"text_prompts": ["a cat"]}, "bad_request"),
        ({"text_prompts": [{"weight": 1}]}, "bad_request"),
        ({"text_prompts": [{"text": ""}]}, "bad_request"),
        ({"text_prompts": [{"text": "x" * 2001}]}, "bad_request"),
        ({"text_prompts": [{"text": "x", "weight": "1"}]}, "bad_request"),
        ({"text_prompts": [{"text": "x", "weight": 10**400}]}, "bad_request"),
        ({"width": 513}, "invalid_height_or_width"),
        ({"height": 64}, "invalid_height_or_width"),
        ({"height": 1600}, "invalid_height_or_width"),
        ({"width": 10**400}, "invalid_height_or_width"),
        ({"width": 512.5}, "invalid_height_or_width"),
        ({"cfg_scale": -0.1}, "bad_request"),
        ({"cfg_scale": 35.1}, "bad_request"),
        ({"cfg_scale": True}, "bad_request"),
        ({"steps": 9}, "bad_request"),
        ({"steps": 151}, "bad_request"),
        ({"steps": "30"}, "bad_request"),
        ({"samples": 0}, "invalid_samples"),
        ({"samples": 11}, "invalid_samples"),
        ({"seed": -1}, "bad_request"),
        ({"seed": 4294967296}, "bad_request"),
        ({"sampler": "k_euler"}, "bad_request"),
        ({"style_preset": "oil"}, "bad_request"),
        ({"clip_guidance_preset": "FAST"}, "bad_request"),
    ],
)
async def test_value_out_of_range_is_refused_by_its_error_name(
    client: Client, standin: StabilityV1, change: dict[str, Any], name: str
) -> None:
    """Each limit has its error name, and nothing refused is billed."""
    reply = await draw(client, standin.url, {**SMALL, **change})
    assert (reply.status, reply.name) == (400, name)
    assert (standin.calls, standin.tally.billed) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"text_prompts": [{"text": "x" * 2000, "weight": -0.5}]},
        {"cfg_scale": 0},
        {"cfg_scale": 35},
        {"steps": 10},
        {"steps": 150},
        {"samples": 10},
        {"seed": 4294967295},
        {"width": 320, "height": 1536},
        {"clip_guidance_preset": "FAST_BLUE"},
        {"extras": {"anything": 1}},
        *({"sampler": sampler} for sampler in sorted(SAMPLERS)),
        *({"style_preset": preset} for preset in sorted(STYLE_PRESETS)),
    ],
)
async def test_value_at_its_limit_is_taken(client: Client, standin: StabilityV1, change: dict[str, Any]) -> None:
    """The published ranges include their ends."""
    assert (await draw(client, standin.url, {**SMALL, **change})).status == 200


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"text_prompts":[{"text":"a"}],"cfg_scale":NaN}', b"[" * 100_000, b"\xff\xfe"],
)
async def test_body_that_is_no_json_object_is_refused(client: Client, standin: StabilityV1, data: bytes) -> None:
    """Damaged JSON is a bad request, not a crash."""
    headers = {**AUTH, "Content-Type": "application/json"}
    reply = await send(client, "POST", f"{standin.url}/v1/generation/{OLD}/text-to-image", headers, data=data)
    assert (reply.status, reply.name) == (400, "bad_request")


async def test_text_to_image_takes_json_only(client: Client, standin: StabilityV1) -> None:
    """A form is refused where JSON is due."""
    url = f"{standin.url}/v1/generation/{OLD}/text-to-image"
    reply = await send(client, "POST", url, data={"text_prompts[0][text]": "a cat"})
    assert (reply.status, reply.name) == (400, "bad_request")


@pytest.mark.parametrize(
    "engine,width,height,name",
    [
        (XL, 512, 512, "invalid_height_or_width"),
        (XL, 1024, 896, "invalid_height_or_width"),
        ("stable-diffusion-xl-1024-v0-9", 1024, 1088, "invalid_height_or_width"),
        (OLD, 256, 512, "invalid_height_or_width"),
        ("stable-diffusion-xl-beta-v2-2-2", 576, 576, "invalid_height_or_width"),
        ("stable-diffusion-xl-beta-v2-2-2", 960, 512, "invalid_height_or_width"),
        ("stable-diffusion-768-v2-1", 704, 768, "invalid_pixel_count"),
        ("stable-diffusion-768-v2-1", 1088, 1024, "invalid_pixel_count"),
        ("stable-diffusion-512-v2-1", 448, 512, "invalid_pixel_count"),
        ("stable-diffusion-v1-5", 1088, 1024, "invalid_pixel_count"),
    ],
)
async def test_engine_refuses_sizes_outside_its_rule(
    client: Client, standin: StabilityV1, engine: str, width: int, height: int, name: str
) -> None:
    """Each family of engines has its own rule for sizes."""
    reply = await draw(client, standin.url, {**SMALL, "width": width, "height": height}, engine)
    assert (reply.status, reply.name) == (400, name)


@pytest.mark.parametrize(
    "engine,width,height",
    [
        *((XL, *size) for size in sorted(SDXL_SIZES)),
        ("stable-diffusion-xl-beta-v2-2-2", 896, 512),
        ("stable-diffusion-xl-beta-v2-2-2", 128, 128),
        ("stable-diffusion-768-v2-1", 768, 768),
        ("stable-diffusion-v1-5", 512, 512),
        ("stable-diffusion-v1-5", 1024, 1024),
    ],
)
async def test_engine_takes_sizes_within_its_rule(
    client: Client, standin: StabilityV1, engine: str, width: int, height: int
) -> None:
    """Sizes at the edge of the rule are made as asked."""
    reply = await draw(client, standin.url, {**SMALL, "width": width, "height": height}, engine)
    assert [image.size for image in reply.images] == [(width, height)]


async def test_fields_the_vendor_does_not_know_are_logged(client: Client, standin: StabilityV1) -> None:
    """An unknown field changes nothing, but the log shows the mistake."""
    reply = await draw(client, standin.url, {**SMALL, "negative_prompt": "dog", "n": 2})
    assert reply.status == 200
    assert standin.log[-1].unknown_fields == ("n", "negative_prompt")


async def test_picture_files_weigh_what_is_asked(client: Client) -> None:
    """A least size makes flat pictures as heavy as real ones."""
    async with StabilityV1(picture_bytes=300_000) as standin:
        reply = await draw(client, standin.url, headers={**AUTH, "Accept": "image/png"})
    assert len(reply.body) == 300_000
    assert decode(reply.body).getpixel((9, 9)) == CAT


# Image to image


@pytest.mark.parametrize(
    "fields,keep",
    [
        ({"image_strength": 1}, 1.0),
        ({"image_strength": 0}, 0.0),
        ({"image_strength": 0.5}, 0.5),
        ({}, 0.35),
        ({"init_image_mode": "STEP_SCHEDULE", "step_schedule_start": 0.25, "step_schedule_end": 1}, 0.75),
        ({"init_image_mode": "STEP_SCHEDULE", "image_strength": 1}, 0.35),
    ],
)
async def test_image_strength_says_how_much_of_the_init_picture_stays(
    client: Client, standin: StabilityV1, fields: dict[str, Any], keep: float
) -> None:
    """1 keeps the init picture and 0 ignores it; a step schedule counts the other way round."""
    reply = await edit(client, standin.url, {"init_image": flat(640, 512)}, **fields)
    image = reply.images[0]
    mixed = [keep * own + (1 - keep) * new for own, new in zip((200, 100, 0), CAT, strict=True)]
    assert image.size == (640, 512)
    assert image.getpixel((3, 3)) == pytest.approx(mixed, abs=1)


async def test_full_image_strength_gives_back_every_pixel(client: Client, standin: StabilityV1) -> None:
    """At strength 1 a picture full of detail comes back exactly."""
    init = Image.effect_noise((512, 512), 80).convert("RGB")
    reply = await edit(client, standin.url, {"init_image": png_of(init)}, image_strength=1)
    assert reply.images[0].tobytes() == init.tobytes()


@pytest.mark.parametrize("kind,mime", [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("PNG", "image/png")])
async def test_init_picture_may_be_png_jpeg_or_webp(client: Client, standin: StabilityV1, kind: str, mime: str) -> None:
    """Three kinds of file are read."""
    init = png_of(Image.new("RGB", (512, 512)), kind)
    assert (await edit(client, standin.url, {"init_image": init}, mime=mime)).status == 200


async def test_png_answer_exists_for_forms_too(client: Client, standin: StabilityV1) -> None:
    """Accept image/png works for image-to-image as for text."""
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("init_image", flat(), filename="i.png", content_type="image/png")
    form.add_field("text_prompts[0][text]", "a cat")
    url = f"{standin.url}/v1/generation/{OLD}/image-to-image"
    reply = await send(client, "POST", url, {**AUTH, "Accept": "image/png"}, data=form)
    assert (reply.headers["Content-Type"], reply.headers["Finish-Reason"]) == ("image/png", "SUCCESS")
    assert decode(reply.body).size == (512, 512)


@pytest.mark.parametrize(
    "files,fields,name",
    [
        ({}, {}, "bad_request"),
        ({"init_image": b""}, {}, "invalid_file_size"),
        ({"init_image": b"GIF89a"}, {}, "invalid_mime_type"),
        ({"init_image": png_of(Image.new("RGB", (512, 512)), "GIF")}, {}, "invalid_mime_type"),
        ({"init_image": flat(500, 512)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat(64, 64)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat(256, 512)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat()[:200]}, {}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": 1.1}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": "nan"}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": "much"}, "bad_request"),
        ({"init_image": flat()}, {"step_schedule_start": -1}, "bad_request"),
        ({"init_image": flat()}, {"init_image_mode": "MAGIC"}, "bad_request"),
        ({"init_image": flat()}, {"samples": 11}, "invalid_samples"),
        ({"init_image": flat()}, {"seed": "1.5"}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[0][text]": None}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[1][weight]": 1}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[0][weight]": "inf"}, "bad_request"),
    ],
)
async def test_image_to_image_refuses_by_error_name(
    client: Client, standin: StabilityV1, files: dict[str, bytes], fields: dict[str, Any], name: str
) -> None:
    """Files and values are checked, each fault under its name."""
    reply = await edit(client, standin.url, files, **fields)
    assert (reply.status, reply.name) == (400, name)


async def test_declared_type_of_a_file_is_checked(client: Client, standin: StabilityV1) -> None:
    """A picture declared as something else is refused."""
    reply = await edit(client, standin.url, {"init_image": flat()}, mime="text/plain")
    assert (reply.status, reply.name) == (400, "invalid_mime_type")


async def test_file_over_the_limit_is_refused(client: Client) -> None:
    """The greatest file size can be set."""
    async with StabilityV1(limits=Limits(max_file_bytes=100)) as standin:
        reply = await edit(client, standin.url, {"init_image": flat()})
    assert (reply.status, reply.name) == (400, "invalid_file_size")


async def test_prompt_indices_may_have_gaps_and_repeat(client: Client, standin: StabilityV1) -> None:
    """Prompts are ordered by their index, and a repeated index overrides the earlier one."""
    form = aiohttp.FormData(quote_fields=False)
    for name, value in [
        ("[5][text]", "late"),
        ("[2][text]", "lost"),
        ("[2][text]", "early"),
        ("[5][weight]", "-1"),
    ]:
        form.add_field(f"text_prompts{name}", value)
    form.add_field("seed", "9")
    form.add_field("image_strength", "0")
    form.add_field("init_image", flat(), filename="i.png", content_type="image/png")
    reply = await send(client, "POST", f"{standin.url}/v1/generation/{OLD}/image-to-image", data=form)
    assert reply.images[0].getpixel((0, 0)) == colour_of(9, "early\nlate")


async def test_percent_encoded_field_names_are_other_fields(client: Client, standin: StabilityV1) -> None:
    """A client that encodes the brackets of a prompt's name has sent no prompt."""
    encoded: dict[str, Any] = {"text_prompts[0][text]": None, "text_prompts%5B0%5D%5Btext%5D": "a cat"}
    reply = await edit(client, standin.url, {"init_image": flat()}, **encoded)
    assert (reply.status, reply.name) == (400, "bad_request")


# Masking


def half(white_left: tuple[int, ...], right: tuple[int, ...], mode: str) -> Image.Image:
    """A 512 x 512 picture of two halves."""
    image = Image.new(mode, (512, 512), right)
    image.paste(white_left, (0, 0, 256, 512))
    return image


def noise() -> Image.Image:
    """An init picture in which no two places look alike."""
    bands = [Image.effect_noise((512, 512), 80) for _ in range(3)]
    return Image.merge("RGB", bands)


async def masked(client: Client, url: str, source: str, init: Image.Image, mask: Image.Image | None) -> Reply:
    """POST masking."""
    files = {"init_image": png_of(init)} | ({"mask_image": png_of(mask)} if mask is not None else {})
    return await edit(client, url, files, MASKING, mask_source=source)


@pytest.mark.parametrize("source,replaced", [("MASK_IMAGE_WHITE", 0), ("MASK_IMAGE_BLACK", 256)])
async def test_mask_picture_keeps_init_pixels_exactly(
    client: Client, standin: StabilityV1, source: str, replaced: int
) -> None:
    """White or black says what is replaced; every pixel of the other half is the init picture's."""
    init, mask = noise(), half((255,), (0,), "L")
    image = (await masked(client, standin.url, source, init, mask)).images[0]
    kept = 256 - replaced
    box, other = (kept, 0, kept + 256, 512), (replaced, 0, replaced + 256, 512)
    assert image.crop(box).tobytes() == init.crop(box).tobytes()
    assert image.crop(other).getcolors() == [(256 * 512, CAT)]


async def test_transparent_pixels_of_the_init_picture_are_replaced(client: Client, standin: StabilityV1) -> None:
    """With INIT_IMAGE_ALPHA opaque pixels stay exactly and a mask picture counts for nothing."""
    init = noise()
    init.putalpha(half((0,), (255,), "L"))
    reply = await masked(client, standin.url, "INIT_IMAGE_ALPHA", init, Image.new("L", (64, 64), 255))
    image = reply.images[0]
    box = (256, 0, 512, 512)
    assert image.crop(box).tobytes() == init.convert("RGB").crop(box).tobytes()
    assert image.crop((0, 0, 256, 512)).getcolors() == [(256 * 512, CAT)]
    assert standin.log[-1].unknown_fields == ()


async def test_grey_mask_mixes_linearly(client: Client, standin: StabilityV1) -> None:
    """A mid-grey pixel is half replaced."""
    init, mask = Image.new("RGB", (512, 512), (200, 100, 0)), Image.new("RGB", (512, 512), (128, 128, 128))
    image = (await masked(client, standin.url, "MASK_IMAGE_WHITE", init, mask)).images[0]
    expected = [(own + new) / 2 for own, new in zip((200, 100, 0), CAT, strict=True)]
    assert image.getpixel((1, 1)) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(
    "source,mask,name",
    [
        (None, flat(), "bad_request"),
        ("MASK_IMAGE_GREY", flat(), "bad_request"),
        ("MASK_IMAGE_WHITE", None, "invalid_mask_image"),
        ("MASK_IMAGE_BLACK", flat(512, 576), "invalid_mask_image"),
        ("MASK_IMAGE_BLACK", b"no picture", "invalid_mime_type"),
    ],
)
async def test_masking_refuses_by_error_name(
    client: Client, standin: StabilityV1, source: str | None, mask: bytes | None, name: str
) -> None:
    """The mask must be named, present, a picture and of the init picture's size."""
    files = {"init_image": flat()} | ({"mask_image": mask} if mask is not None else {})
    reply = await edit(client, standin.url, files, MASKING, mask_source=source)
    assert (reply.status, reply.name) == (400, name)


# Upscale


@pytest.mark.parametrize(
    "fields,size", [({}, (600, 400)), ({"width": 1200}, (1200, 800)), ({"height": 512}, (768, 512))]
)
async def test_upscale_keeps_the_shape(
    client: Client, standin: StabilityV1, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    """One side may be given and the other follows; without any the picture doubles."""
    reply = await edit(client, standin.url, {"image": flat(300, 200)}, UPSCALE, ESRGAN, **fields)
    image = reply.images[0]
    assert image.size == size
    assert image.getcolors() == [(size[0] * size[1], (200, 100, 0))]


@pytest.mark.parametrize(
    "size,fields,name",
    [
        ((300, 200), {"width": 1024, "height": 1024}, "invalid_height_or_width"),
        ((300, 200), {"width": 511}, "invalid_height_or_width"),
        ((300, 200), {"height": 4096}, "invalid_pixel_count"),
        ((2048, 1024), {}, "invalid_pixel_count"),
    ],
)
async def test_upscale_refuses_by_error_name(
    client: Client, standin: StabilityV1, size: tuple[int, int], fields: dict[str, Any], name: str
) -> None:
    """Both sides at once, too small a side and too many pixels are refused."""
    reply = await edit(client, standin.url, {"image": flat(*size)}, UPSCALE, ESRGAN, **fields)
    assert (reply.status, reply.name) == (400, name)


async def test_upscale_needs_its_picture(client: Client, standin: StabilityV1) -> None:
    """The field is `image` here, not `init_image`."""
    reply = await edit(client, standin.url, {"init_image": flat()}, UPSCALE, ESRGAN)
    assert (reply.status, reply.name) == (400, "bad_request")


# The rate limit


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
async def test_key_over_its_limit_is_locked_out_and_let_in_again(client: Client, kind: Any) -> None:
    """Over the limit comes 429 for the whole lock-out; then the key works again."""
    clock = ManualClock()
    async with StabilityV1(limit=3, period=10, lockout=60, window_kind=kind, clock=clock) as standin:
        statuses = [(await draw(client, standin.url)).status for _ in range(4)]
        clock.now += 59.9
        locked = await draw(client, standin.url)
        clock.now += 0.2
        free = await draw(client, standin.url)
        counters = standin.tally.counters()
    assert statuses == [200, 200, 200, 429]
    assert (locked.status, locked.name, free.status) == (429, "rate_limit_exceeded", 200)
    assert "Retry-After" not in locked.headers
    assert (counters["called"], counters["billed"], counters["limited"]) == (6, 4, 2)


async def test_each_key_has_a_limit_of_its_own(client: Client) -> None:
    """One key's lock-out leaves the other alone, and a wrong key uses up nobody's limit."""
    keys = [{"Authorization": f"Bearer sk-{name}"} for name in "aab?b"]
    async with StabilityV1(key={"sk-a", "sk-b"}, limit=1) as standin:
        statuses = [(await draw(client, standin.url, headers=key)).status for key in keys]
    assert statuses == [200, 429, 200, 401, 429]


async def test_every_request_of_a_key_counts_against_its_limit(client: Client) -> None:
    """Reading the account and refused bodies use up the limit as well."""
    async with StabilityV1(limit=2) as standin:
        await send(client, "GET", f"{standin.url}/v1/engines/list")
        await draw(client, standin.url, {})
        assert (await draw(client, standin.url)).status == 429
        assert (await send(client, "GET", f"{standin.url}/v1/user/balance")).status == 429


async def test_limit_can_name_the_rest_of_the_lockout(client: Client) -> None:
    """With that option a 429 carries Retry-After in whole seconds, rounded up."""
    clock = ManualClock()
    async with StabilityV1(limit=1, lockout=60, retry_after=True, clock=clock) as standin:
        await draw(client, standin.url)
        first = await draw(client, standin.url)
        clock.now += 10.5
        later = await draw(client, standin.url)
    assert (first.headers["Retry-After"], later.headers["Retry-After"]) == ("60", "50")


async def test_default_limit_is_the_published_one(client: Client) -> None:
    """150 requests pass and the next one does not."""
    async with StabilityV1(clock=ManualClock()) as standin:
        for _ in range(150):
            await send(client, "GET", f"{standin.url}/v1/user/balance")
        assert (await send(client, "GET", f"{standin.url}/v1/user/balance")).status == 429


# The wire


async def test_answer_is_http_as_the_vendor_writes_it(standin: StabilityV1) -> None:
    """Status line, plain headers with a length, no chunks, and no trace of a Python server."""
    head, _, body = (await raw_answer(standin.url)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    names = [line.partition(":")[0] for line in lines[1:]]
    assert names == ["Date", "Content-Type", "Content-Length", "Connection"]
    assert f"Content-Length: {len(body)}" in lines


async def test_connection_is_kept_for_the_next_request(standin: StabilityV1) -> None:
    """Two requests on one connection get two answers."""
    reader, writer = await connect(standin.url)
    for _ in range(2):
        writer.write(request_bytes(standin.url))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    assert standin.calls == 2


async def test_request_whose_body_never_ends_is_not_called(standin: StabilityV1) -> None:
    """A client that leaves in the middle of its body has ordered nothing."""
    _, writer = await connect(standin.url)
    writer.write(request_bytes(standin.url)[:-5])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await raw_answer(standin.url)
    assert standin.calls == 1
