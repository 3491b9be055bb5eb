"""The servers people run themselves, as the stand-in of OpenAI Images plays them."""

from __future__ import annotations

import base64
import json
from typing import Any

import aiohttp
import openai
import pytest
from PIL import Image

from load.upstreams.openai_images import OpenAIImages
from load.upstreams.openai_images.orders import wish_of
from load.upstreams.openai_images.profiles import PROFILES
from load.upstreams.pictures import colour_of
from tests.load.upstreams.openai_talk import decode, decoded, pictures_of, png, post, sdk

LOCAL = ["localai", "vllm", "sglang", "aquiles"]
SMALL: dict[str, Any] = {"prompt": "a cat", "size": "64x64"}


def path_of(profile: str) -> str:
    """Where a profile takes generations."""
    return f"{PROFILES[profile].roots[0]}/images/generations"


def data_of(body: bytes) -> list[dict[str, Any]]:
    """The `data` of an answer."""
    data: list[dict[str, Any]] = json.loads(body)["data"]
    return data


@pytest.mark.parametrize("profile", LOCAL)
async def test_local_servers_take_any_size_and_no_key(client: aiohttp.ClientSession, profile: str) -> None:
    """Nobody asks for a key, any model's name will do, and unknown fields are passed over but logged."""
    async with OpenAIImages(profile=profile) as standin:
        body = SMALL | {"model": "whatever", "style_preset": "anime"}
        async with client.post(standin.url + path_of(profile), json=body) as response:
            assert response.status == 200
            assert "x-request-id" not in response.headers
        assert standin.log[0].unknown_fields == ("style_preset",)
        assert standin.tally.billed == 1


@pytest.mark.parametrize("profile", LOCAL)
async def test_local_servers_do_not_stream(client: aiohttp.ClientSession, profile: str) -> None:
    """A request for a stream is answered plainly."""
    async with OpenAIImages(profile=profile) as standin:
        body = SMALL | {"stream": True, "partial_images": 2}
        status, headers, _ = await post(client, standin.url, body, path_of(profile))
    assert (status, headers["Content-Type"]) == (200, "application/json")


async def test_proxy_takes_partial_images_and_sends_none() -> None:
    """Only the finished picture streams."""
    async with OpenAIImages(profile="proxy") as standin, sdk(standin) as client:
        stream = await client.images.generate(prompt="a cat", stream=True, partial_images=3)
        assert [event.type async for event in stream] == ["image_generation.completed"]


@pytest.mark.parametrize("profile", LOCAL)
async def test_seed_decides_the_picture(client: aiohttp.ClientSession, profile: str) -> None:
    """The seed that was asked for gives its colour, and further pictures count on."""
    async with OpenAIImages(profile=profile) as standin:
        body = SMALL | {"seed": 41, "n": 2}
        _, _, answer = await post(client, standin.url, body, path_of(profile))
        images = []
        for item in data_of(answer):
            if item.get("b64_json"):
                images.append(base64.b64decode(item["b64_json"]))
            else:
                async with client.get(item["url"]) as response:
                    images.append(await response.read())
        assert standin.log[0].seeds == (41, 42)
    if profile != "sglang":
        assert [decode(image).getpixel((0, 0)) for image in images] == [colour_of(seed, "a cat") for seed in (41, 42)]
    else:
        assert [decode(image, "JPEG").size for image in images] == [(64, 64)] * 2


async def test_local_ai_answers_urls_of_the_host_that_was_asked(client: aiohttp.ClientSession) -> None:
    """The picture lies under the name by which the client came."""
    async with OpenAIImages(profile="localai") as standin:
        came = standin.url.replace("127.0.0.1", "localhost")
        _, _, body = await post(client, came, SMALL | {"step": 4})
        assert set(json.loads(body)) == {"id", "created", "data"}
        (item,) = data_of(body)
        assert set(item) == {"url"}
        assert item["url"].startswith(f"{came}/generated-images/b64")
        async with client.get(item["url"]) as response:
            assert decode(await response.read()).size == (64, 64)


async def test_local_ai_reads_the_negative_prompt_after_a_bar(client: aiohttp.ClientSession) -> None:
    """What follows the bar is a wish against, and an unreadable size becomes the default."""
    async with OpenAIImages(profile="localai") as standin:
        body = {"prompt": "a cat|a dog", "size": "big", "response_format": "b64_json", "seed": 3}
        _, _, answer = await post(client, standin.url, body)
    image = decoded(data_of(answer)[0]["b64_json"])
    assert (image.size, image.getpixel((0, 0))) == ((512, 512), colour_of(3, wish_of("a cat", "a dog")))


async def test_work_takes_time_for_each_step(client: aiohttp.ClientSession) -> None:
    """Steps that were asked for count, the default ones otherwise."""
    async with OpenAIImages(profile="localai", step_seconds=0.02) as standin:
        await post(client, standin.url, SMALL | {"step": 2})
        await post(client, standin.url, SMALL)
        spent = [(call.ended or 0) - call.arrived for call in standin.log]
    assert 0.04 <= spent[0] < 0.3 <= spent[1]


@pytest.mark.parametrize(
    "profile,body,status,error",
    [
        ("localai", {"size": "64x64"}, 500, {"code", "message", "type"}),
        ("vllm", {"size": "64x64"}, 422, {"loc", "msg", "type"}),
        ("vllm", {"prompt": "x", "size": "9999x9999"}, 400, None),
        ("sglang", {"prompt": "x", "response_format": "file"}, 400, None),
    ],
)
async def test_errors_have_the_servers_own_form(
    client: aiohttp.ClientSession, profile: str, body: dict[str, Any], status: int, error: set[str] | None
) -> None:
    """One speaks of an error with a number, the others of a detail: a text, or a list of them."""
    async with OpenAIImages(profile=profile) as standin:
        found, _, answer = await post(client, standin.url, body)
    assert found == status
    value = json.loads(answer)
    if profile == "localai":
        assert (set(value["error"]), value["error"]["code"]) == (error, 500)
    elif error is None:
        assert isinstance(value["detail"], str)
    else:
        assert set(value["detail"][0]) == error


async def test_vllm_answers_all_keys_and_raw_files(client: aiohttp.ClientSession) -> None:
    """Keys without a value are null, and `file` gives the picture itself."""
    async with OpenAIImages(profile="vllm") as standin:
        _, _, body = await post(client, standin.url, SMALL)
        (item,) = data_of(body)
        assert (item["url"], item["revised_prompt"], set(item)) == (None, None, {"b64_json", "url", "revised_prompt"})
        _, headers, picture = await post(client, standin.url, SMALL | {"response_format": "file"})
        assert (headers["Content-Type"], decode(picture).size) == ("image/png", (64, 64))
        assert "filename=" in headers["Content-Disposition"]


async def test_vllm_edits_where_the_mask_is_white() -> None:
    """Its mask has another name and the other polarity, and it refuses to stream edits."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    image = ("image.png", png(Image.new("RGB", (64, 64), "red")))
    async with OpenAIImages(profile="vllm") as standin, sdk(standin) as client:
        reply = await client.post(
            "/images/edits",
            body={"prompt": "x", "size": "auto", "seed": "5"},
            files=[("image", image), ("mask_image", ("mask.png", png(mask)))],
            options={"headers": {"Content-Type": "multipart/form-data"}},
            cast_to=openai.types.ImagesResponse,
        )
        (made,) = pictures_of(reply)
        assert made.size == (64, 64)
        assert (made.getpixel((0, 0)), made.getpixel((63, 0))) == (colour_of(5, "x"), (255, 0, 0))
        with pytest.raises(openai.BadRequestError):
            await client.images.edit(image=image, prompt="x", stream=True)


async def test_sglang_answers_relative_urls_and_passes_over_the_mask(client: aiohttp.ClientSession) -> None:
    """The URL lacks scheme and host, the format is JPEG unless asked for, and models lie under two paths."""
    image = ("image.png", png(Image.new("RGB", (64, 64), "red")))
    async with OpenAIImages(profile="sglang") as standin, sdk(standin) as speaker:
        reply = await speaker.images.edit(image=image, mask=image, prompt="x", response_format="url", size="auto")
        (item,) = reply.data or []
        assert item.url is not None
        assert item.url.startswith("/v1/images/")
        assert item.revised_prompt == "x"
        async with client.get(standin.url + item.url) as response:
            assert decode(await response.read(), "JPEG").size == (64, 64)
        for path in ("/models", "/v1/models"):
            async with client.get(standin.url + path) as response:
                assert len((await response.json())["data"]) == 1


async def test_aquiles_has_no_version_in_its_path(client: aiohttp.ClientSession) -> None:
    """The vendor's path is not found."""
    async with OpenAIImages(profile="aquiles") as standin:
        assert (await post(client, standin.url, SMALL, "/images/generations"))[0] == 200
        assert (await post(client, standin.url, SMALL, "/v1/images/generations"))[0] == 404
