"""Self-hosted servers and proxies that speak the dialect, as the stand-in plays them."""

import pytest

from gateway.core.reports import ImageMade, WorkBegun
from gateway.upstreams.openai_images import ImageModel
from load.upstreams.openai_images import OpenAIImages as StandIn
from load.upstreams.openai_images.orders import wish_of
from load.upstreams.pictures import colour_of
from tests.gateway.upstreams.openai_images.vendor import (
    GPT,
    adapter,
    encoded,
    fault,
    flat,
    half_white,
    images,
    near,
    order,
    pixel,
    reports,
)

ORANGE = (200, 100, 0)
VLLM = {"q": ImageModel(vendor_model="Qwen/Qwen-Image", tasks=("txt2img", "img2img", "inpaint"), guidance=4.0)}


async def test_vllm_has_seed_steps_guidance_and_a_negative_prompt() -> None:
    """5.5: extensions of vLLM-Omni, which has no streams."""
    async with (
        StandIn(profile="vllm") as standin,
        adapter(standin.url, models=VLLM, dialect="vllm", api_key="") as upstream,
    ):
        asked = order(upstream, negative_prompt="fog", seed=11, steps=12, guidance=3.5, width=640, height=480)
        (made,) = await images(upstream, asked)
    assert pixel(made.picture) == colour_of(11, wish_of("a lamp", "fog"))
    assert (made.seed, made.picture.width, made.picture.height) == (11, 640, 480)
    assert standin.log[0].fields == {
        "model": "Qwen/Qwen-Image",
        "prompt": "a lamp",
        "n": 1,
        "size": "640x480",
        "response_format": "b64_json",
        "negative_prompt": "fog",
        "seed": 11,
        "num_inference_steps": 12,
        "guidance_scale": 3.5,
    }
    assert standin.log[0].unknown_fields == ()


@pytest.mark.parametrize("mask_size", [(640, 400), (64, 64)])
async def test_vllm_masks_are_white_where_to_edit(mask_size: tuple[int, int]) -> None:
    """5.5: `mask_image` stands in place of `mask`, with the other polarity."""
    inputs = {"init": flat(ORANGE, (640, 400)), "mask": encoded(half_white(mask_size))}
    async with (
        StandIn(profile="vllm") as standin,
        adapter(standin.url, models=VLLM, dialect="vllm") as upstream,
    ):
        (made,) = await images(upstream, order(upstream, task="inpaint", inputs=inputs, seed=5))
    assert near(pixel(made.picture, 0.1), colour_of(5, "a lamp"))
    assert near(pixel(made.picture, 0.9), ORANGE)
    assert "mask_image" in standin.log[0].fields


async def test_localai_has_the_negative_prompt_behind_a_bar() -> None:
    """5.5: a bar in the client's own words must not turn them into their opposite; pictures are asked for inline."""
    async with (
        StandIn(profile="localai") as standin,
        adapter(standin.url, models={"stablediffusion": ImageModel()}, dialect="localai") as upstream,
    ):
        (made,) = await images(upstream, order(upstream, prompt="a|lamp", negative_prompt="fog|rain", seed=3))
        await images(upstream, order(upstream, prompt="a|lamp"))
    assert pixel(made.picture) == colour_of(3, wish_of("a lamp", "fog rain"))
    assert (made.picture.width, made.picture.height) == (512, 512)
    first, second = (call.fields for call in standin.log)
    assert (first["prompt"], second["prompt"]) == ("a lamp|fog rain", "a lamp")
    assert (first["step"], first["response_format"], standin.log[0].unknown_fields) == (15, "b64_json", ())


@pytest.mark.parametrize("profile,root", [("sglang", "/v1"), ("aquiles", ""), ("proxy", "")])
async def test_other_servers_answer_inline(profile: str, root: str) -> None:
    """5.5: whatever their own default; a proxy may stream without partial pictures."""
    dialect = "openai" if profile == "proxy" else profile
    models = {GPT if profile == "proxy" else "local": ImageModel()}
    async with (
        StandIn(profile=profile, key=()) as standin,
        adapter(standin.url, root, models=models, dialect=dialect) as upstream,
    ):
        told = await reports(upstream, order(upstream))
    assert [type(one) for one in told] == [WorkBegun, ImageMade]
    assert standin.log[0].unknown_fields == ()


async def test_mask_that_would_be_ignored_is_refused() -> None:
    """SGLang takes one and does nothing with it."""
    inputs = {"reference": flat(ORANGE), "mask": flat(0, mode="L")}
    async with (
        StandIn(profile="sglang") as standin,
        adapter(standin.url, models={"m": ImageModel(tasks=("reference",))}, dialect="sglang") as upstream,
    ):
        found = await fault(upstream, order(upstream, task="reference", inputs=inputs))
    assert (found.code, found.details, standin.calls) == ("invalid_param", {"path": "inputs", "role": "mask"}, 0)
