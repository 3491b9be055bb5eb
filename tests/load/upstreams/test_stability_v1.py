"""The dialect of Stability v1 as its stand-in speaks it, over real sockets: accounts, keys and text to image."""

from __future__ import annotations

from typing import Any

import pytest

from load.upstreams.pictures import BLUR
from load.upstreams.stability_v1 import StabilityV1
from load.upstreams.stability_v1.orders import ENGINES, SAMPLERS, SDXL_SIZES, STYLE_PRESETS
from tests.load.upstreams.talk import AUTH, CAT, ESRGAN, OLD, PROMPT, SMALL, XL, Client, decode, draw, send

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
