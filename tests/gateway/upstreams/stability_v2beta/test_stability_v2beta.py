"""The v2beta adapter against the stand-in, over real sockets: what is offered, what is asked, what the pixels say.

The vendor has no numbered points among the observed behaviour; what a test is about is named by the section of the fact
sheet (2.1 transport ... 2.6 quirks, 11 conversions).
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from gateway.core.reports import WorkBegun
from gateway.upstreams.stability_v2beta import StabilityV2Beta
from gateway.upstreams.stability_v2beta.models import MODELS, RATIOS, SERVICES, model_of, prices_of, ratio_of
from gateway.upstreams.stability_v2beta.wire import prompts_of, to_vendor
from load.upstreams.pictures import colour_of
from load.upstreams.stability_v2beta import StabilityV2Beta as StandIn
from load.upstreams.stability_v2beta.endpoints import ENDPOINTS, SD3_CREDITS
from load.upstreams.stability_v2beta.paint import found
from protocol.errors import ClientFault
from tests.gateway.upstreams.stability_v2beta.vendor import (
    INIT,
    KEY,
    adapter,
    encoded,
    fault,
    flat,
    image,
    mixed,
    near,
    opened,
    order,
    pixel,
    reports,
)

LAMP = colour_of(7, "a lamp")
DRAWERS = ("stable-image-core", "stable-image-ultra", "sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium")


@pytest.fixture
async def upstream(standin: StandIn) -> AsyncIterator[StabilityV2Beta]:
    """An adapter for it."""
    async with adapter(standin.url) as running:
        yield running


def sent(standin: StandIn) -> dict[str, object]:
    """The fields of the latest order; none was unknown to the vendor."""
    call = [call for call in standin.log if call.generation][-1]
    assert call.unknown_fields == ()
    return call.fields


# ------------------------------------------------------------------------------------------------------ what is offered


def test_models_tell_what_the_vendor_can_do() -> None:
    """Billed, silent, one picture a call, and each its own tasks (2.1, 2.3)."""
    upstream = StabilityV2Beta(name="main", base_url="http://x/", api_key=KEY)
    models = {model.id: model for model in upstream.models}
    assert tuple(models) == MODELS == (*DRAWERS, "stable-image")
    for model in models.values():
        assert (model.upstream, model.billed, model.progress, model.previews, model.cancel) == (
            "main", True, "estimated", False, "no",
        )  # fmt: skip
        assert (model.images_per_call, model.max_n, model.max_prompt, len(model.styles)) == (1, 4, 10_000, 17)
    assert set(models["stable-image-core"].tasks) == {"txt2img"}
    assert all(set(models[name].tasks) == {"txt2img", "img2img"} for name in DRAWERS[1:])
    assert set(models["stable-image"].tasks) == {
        "inpaint", "outpaint", "controlnet", "reference", "upscale", "remove_background", "search_replace",
    }  # fmt: skip
    assert models["stable-image"].controls == ("sketch", "structure", "style")
    assert [("guidance" in model.params) for model in models.values()] == [False, False, True, True, True, False]
    assert (models["sd3.5-large"].default_guidance, models["sd3.5-large-turbo"].default_guidance) == (4.0, 1.0)
    assert repr(upstream) == "<StabilityV2Beta main at http://x>"
    assert (upstream.can_find(None), upstream.can_find("x")) == (False, True)


def test_price_list_is_the_vendors() -> None:
    """Every service costs what the credit table says (2.3), a credit being 10,000 millionths."""
    for name, service in SERVICES.items():
        theirs = SD3_CREDITS[name] if service.engine else ENDPOINTS[service.path].credits
        assert (service.credits, prices_of({})[name]) == (theirs, theirs * 10_000)
        assert service.is_async == ENDPOINTS[service.path].is_async
        assert bool(service.engine) == (service.path == "generate/sd3")


def test_prices_and_models_are_the_operators_choice() -> None:
    """Settings stand in for the table, and a name that does not exist is refused at the start."""
    options: dict[str, Any] = {"name": "main", "base_url": "http://x", "api_key": KEY}
    upstream = StabilityV2Beta(**options, models=("stable-image",), prices={"inpaint": 1, "sketch": 80_000}, max_n=1)
    (model,) = upstream.models
    tasks = ("inpaint", "controlnet", "outpaint", "upscale", "search_replace", "remove_background", "reference")
    assert [model.price(task) for task in tasks] == [1, 80_000, 40_000, 600_000, 50_000, 50_000, 50_000]
    assert (model.max_n, model.price_micros) == (1, 600_000)
    with pytest.raises(ValueError, match="there is no service erase; there are core, ultra"):
        StabilityV2Beta(**options, prices={"erase": 1})
    with pytest.raises(ValueError, match="there is no model sd3; there are stable-image-core"):
        StabilityV2Beta(**options, models=("sd3",))


@pytest.mark.parametrize(
    "params,path,price",
    [
        ({}, "upscale/fast", 20_000),
        ({"scale": 8.0}, "upscale/fast", 20_000),
        ({"prompt": "a lamp"}, "upscale/conservative", 400_000),
        ({"prompt": "a lamp", "scale": 4.0}, "upscale/conservative", 400_000),
        ({"prompt": "a lamp", "scale": 4.5}, "upscale/creative", 600_000),
        ({"prompts": [{"text": "a lamp", "weight": 2}], "width": 512}, "upscale/creative", 600_000),
    ],
)
def test_upscaler_is_chosen_by_prompt_and_scale(params: Any, path: str, price: int) -> None:
    """Without a prompt fast; with one conservative, beyond 4 times creative; each at its own price."""
    asked = order("upscale", "stable-image", {"init": flat()}, **params)
    assert to_vendor(asked)[0] == f"/v2beta/stable-image/{path}"
    assert asked.model.price_of(asked.request) == price


# -------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("model", DRAWERS)
async def test_picture_is_drawn_of_seed_and_prompt(standin: StandIn, upstream: StabilityV2Beta, model: str) -> None:
    """The stand-in paints the colour of seed and words: they arrived, at the price that the model tells."""
    asked = order(model=model, negative_prompt="fog", style="anime")
    begun, made = await reports(upstream, asked)
    assert begun == WorkBegun(1)
    picture = opened(made)  # type: ignore[arg-type]
    assert picture.size == asked.model.default_size
    assert pixel(picture) == colour_of(7, "a lamp\nfog\nanime")
    assert standin.credits == 1000 - asked.model.price("txt2img") / 10_000
    assert [(call.client, call.engine) for call in standin.log] == [
        ("safelight", model if model.startswith("sd3") else None)
    ]
    assert sent(standin)["output_format"] == "png"
    assert ("cfg_scale" in sent(standin)) == model.startswith("sd3")


@pytest.mark.parametrize("model", ["stable-image-core", "stable-image-ultra", "sd3.5-medium"])
async def test_every_listed_size_is_what_comes_back(standin: StandIn, upstream: StabilityV2Beta, model: str) -> None:
    """Width and height become the ratio (11.1), and the sizes that are listed are the vendor's (2.6)."""
    sizes = model_of("x", model, prices_of({}), 1).sizes.listed
    for width, height in sizes:
        made = await image(upstream, order(model=model, width=width, height=height))
        assert (made.picture.width, made.picture.height) == (width, height)
    assert {call.fields["aspect_ratio"] for call in standin.log} == set(RATIOS)
    assert len(sizes) == 9


def test_ratio_is_the_nearest() -> None:
    """By shape, equally for wide and tall."""
    sizes = [(21, 9), (100, 10), (17, 9), (31, 20), (1000, 999), (9, 10), (20, 31), (9, 17), (1, 99)]
    assert [ratio_of(*size) for size in sizes] == [
        "21:9", "21:9", "16:9", "3:2", "1:1", "1:1", "2:3", "9:16", "9:21",
    ]  # fmt: skip


async def test_real_size_is_read_from_the_bytes() -> None:
    """A vendor that draws another size than was asked for is believed (2.6)."""
    async with StandIn(key={KEY}, four_megapixels=("edit/inpaint",)) as standin, adapter(standin.url) as upstream:
        inputs = {"init": flat(), "mask": flat(255, mode="L")}
        made = await image(upstream, order("inpaint", "stable-image", inputs))
    assert opened(made).size == (2048, 2048)


@pytest.mark.parametrize(
    "seed,theirs", [(1, 1), (4294967294, 4294967294), (4294967295, 1), (0, 4294967294), (2**53 - 1, 4194303)]
)
async def test_seed_is_never_random_nor_too_large(
    standin: StandIn, upstream: StabilityV2Beta, seed: int, theirs: int
) -> None:
    """0 would be drawn anew there; what is above the range is folded (11.1); the reported seed is theirs."""
    made = await image(upstream, order(call={"seed": seed}))
    assert (made.seed, sent(standin)["seed"]) == (theirs, str(theirs))


@pytest.mark.parametrize(
    "parts,prompt,negative",
    [
        ([("cat", 1), ("hat", 0.5)], "cat, (hat:0.5)", ""),
        ([("cat", 2), ("hat", 1)], "cat, (hat:0.5)", ""),
        ([("cat", 0.4), ("hat", 0.2)], "(cat:0.4), (hat:0.2)", ""),
        ([("cat", 3), ("hat", 1), ("fog", -1), ("rain", -4)], "cat, (hat:0.3333)", "(fog:0.25), rain"),
    ],
)
def test_weighted_prompts_have_no_weight_above_one(parts: Any, prompt: str, negative: str) -> None:
    """Divided by the largest of their side, negative ones moved (11.1); the client's own negative prompt stays."""
    prompts = [{"text": text, "weight": weight} for text, weight in parts]
    assert prompts_of(order(prompts=prompts).request) == (prompt, negative)
    own = prompts_of(order(prompts=prompts, negative_prompt="snow").request)
    assert (own[0], own[1].startswith(negative), "snow" in own[1]) == (prompt, True, True)
    assert prompts_of(order(negative_prompt="snow").request) == ("a lamp", "snow")


async def test_every_style_is_known_to_the_vendor(standin: StandIn, upstream: StabilityV2Beta) -> None:
    """All 17."""
    for style in upstream.models[1].styles:
        await image(upstream, order(model="stable-image-ultra", style=style))
    assert len({call.fields["style_preset"] for call in standin.log}) == 17


# ----------------------------------------------------------------------------------------------------------- the pixels


@pytest.mark.parametrize("model", DRAWERS[1:])
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
async def test_strength_points_the_right_way(
    standin: StandIn, upstream: StabilityV2Beta, model: str, strength: float
) -> None:
    """0 keeps the init image's pixels, 1 ignores them (11.1: it passes through)."""
    asked = order("img2img", model, {"init": flat(format="WEBP")}, strength=strength)
    picture = opened(await image(upstream, asked))
    assert picture.size == (64, 64)
    assert near(pixel(picture), mixed(INIT, LAMP, strength))
    assert ("mode" in sent(standin)) == model.startswith("sd3")


async def test_init_image_is_brought_to_the_asked_size(upstream: StabilityV2Beta) -> None:
    """Width and height of an img2img are the init image's, or what is asked for."""
    asked = order("img2img", "sd3.5-large", {"init": flat()}, strength=0.0, width=96, height=80)
    assert opened(await image(upstream, asked)).size == (96, 80)


def half_white(size: tuple[int, int]) -> Image.Image:
    """A mask whose left half is to be edited."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("mask_size", [(64, 64), (32, 32)])
@pytest.mark.parametrize("mask_format", ["PNG", "WEBP", "JPEG"])
async def test_white_is_repainted_and_black_is_kept(
    upstream: StabilityV2Beta, mask_size: tuple[int, int], mask_format: str
) -> None:
    """White means edit, whatever the mask's size and format (11.1), and the mask wins over alpha (2.3)."""
    mask = encoded(half_white(mask_size), mask_format, quality=100)
    init = flat((*INIT, 0), mode="RGBA")
    picture = opened(await image(upstream, order("inpaint", "stable-image", {"init": init, "mask": mask})))
    assert picture.size == (64, 64)
    assert near(pixel(picture, (8, 32)), LAMP)
    assert near(pixel(picture, (56, 32)), INIT)


async def test_outpaint_grows_each_side_by_its_own(standin: StandIn, upstream: StabilityV2Beta) -> None:
    """The picture stays where it was, and the strips are painted."""
    grown = {"left": 10, "right": 20, "up": 30, "down": 0}
    asked = order("outpaint", "stable-image", {"init": flat()}, expand=grown)
    picture = opened(await image(upstream, asked))
    assert picture.size == (94, 94) == (asked.request.width, asked.request.height)
    assert [near(pixel(picture, at), INIT) for at in ((10, 30), (73, 93), (9, 50), (74, 50), (40, 29))] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert near(pixel(picture, (0, 0)), LAMP)
    assert sent(standin)["up"] == "30"


async def test_search_replace_paints_what_was_searched(upstream: StabilityV2Beta) -> None:
    """The search text names the place, the prompt what is painted there."""
    picture = opened(await image(upstream, order("search_replace", "stable-image", {"init": flat()}, search="dog")))
    left, top, right, bottom = found("dog", 64, 64)
    assert near(pixel(picture, ((left + right) // 2, (top + bottom) // 2)), LAMP)
    assert near(pixel(picture, ((left + 40) % 64, (top + 40) % 64)), INIT)


async def test_removed_background_is_transparent(upstream: StabilityV2Beta) -> None:
    """The alpha of the result comes through."""
    init = Image.new("RGB", (64, 64), (10, 20, 30))
    init.paste(INIT, (16, 16, 48, 48))
    made = await image(upstream, order("remove_background", "stable-image", {"init": encoded(init)}))
    picture = opened(made, "RGBA")
    assert pixel(picture, (2, 2))[3] == 0
    assert pixel(picture, (32, 32)) == (*INIT, 255)


async def test_fast_upscale_has_four_times_each_edge(standin: StandIn, upstream: StabilityV2Beta) -> None:
    """It takes a picture and nothing else."""
    picture = opened(await image(upstream, order("upscale", "stable-image", {"init": flat(size=(64, 48))})))
    assert picture.size == (256, 192)
    assert set(sent(standin)) == {"image", "output_format"}
    assert standin.credits == 998


async def test_conservative_upscale_takes_the_prompt(standin: StandIn, upstream: StabilityV2Beta) -> None:
    """Some 4 megapixels, washed with what the prompt says."""
    asked = order("upscale", "stable-image", {"init": flat(size=(128, 64))}, prompt="a lamp")
    picture = opened(await image(upstream, asked))
    assert picture.size == (2896, 1448)
    assert near(pixel(picture), mixed(INIT, LAMP, 0.35))
    assert standin.credits == 960


@pytest.mark.parametrize("role", ["sketch", "structure"])
@pytest.mark.parametrize("weight", [None, 0.25, 0.0])
async def test_weight_of_a_control_is_its_strength(upstream: StabilityV2Beta, role: str, weight: float | None) -> None:
    """The lines of a sketch or the edges of a structure; a weight that is not given is 1 (table 11)."""
    lines = Image.new("RGB", (96, 64), "white")
    lines.paste("black", (48, 0, 96, 64))
    used = {} if weight is None else {"weight": weight}
    picture = opened(await image(upstream, order("controlnet", "stable-image", {role: encoded(lines)}, used)))
    assert picture.size == (96, 64)
    complement = tuple(255.0 - value for value in LAMP)
    assert near(pixel(picture, (8, 8)), LAMP)
    assert near(pixel(picture, (48, 8)), mixed(LAMP, complement, 1.0 if weight is None else weight))


async def test_lines_may_be_asked_for_in_the_size_most_like_theirs(upstream: StabilityV2Beta) -> None:
    """The vendor answers in the control image's own, whichever of these two was named."""
    lines = flat(size=(96, 64))
    for width, height in ((None, None), (1254, 836)):
        asked = order("controlnet", "stable-image", {"sketch": lines}, width=width, height=height)
        assert opened(await image(upstream, asked)).size == (96, 64)


@pytest.mark.parametrize("task,role,default", [("controlnet", "style", 1.0), ("reference", "reference", 0.5)])
@pytest.mark.parametrize("weight", [None, 0.25, 0.0])
async def test_weight_of_a_style_is_its_fidelity(
    standin: StandIn, upstream: StabilityV2Beta, task: str, role: str, default: float, weight: float | None
) -> None:
    """A new picture in another's style: as a control, or as a reference, where the vendor's own default counts."""
    used = {} if weight is None else {"weight": weight}
    asked = order(task, "stable-image", {role: flat()}, used, width=1254, height=836)
    picture = opened(await image(upstream, asked))
    assert picture.size == (1254, 836)
    assert near(pixel(picture), mixed(LAMP, INIT, default if weight is None else weight))
    assert sent(standin)["aspect_ratio"] == "3:2"
    assert standin.credits == 995


async def test_every_size_of_a_styled_picture_is_what_comes_back(upstream: StabilityV2Beta) -> None:
    """The style's own list."""
    for width, height in model_of("x", "stable-image", prices_of({}), 1).sizes.listed:
        asked = order("reference", "stable-image", {"reference": flat()}, width=width, height=height)
        assert opened(await image(upstream, asked)).size == (width, height)


# ------------------------------------------------------------------------------------- refused before the vendor hears

WHITE = flat(255, mode="L")
DOT = flat()
SMALL = {"init": DOT}
REFUSED_BY_US: dict[str, tuple[str, str, dict[str, Any]]] = {
    # the task, part of the message, and what is asked
    "too wide": ("search_replace", "1:2.5", {"inputs": {"init": flat(size=(300, 64))}, "search": "x"}),
    "too small": ("outpaint", "at least 64", {"inputs": {"init": flat(size=(64, 63))}, "expand": {"up": 5}}),
    "too large to be fast": ("upscale", "1024 to 1048576 pixels", {"inputs": {"init": flat(size=(1025, 1024))}}),
    "too long to be fast": ("upscale", "at most 1536", {"inputs": {"init": flat(size=(1537, 64))}}),
    "fast with a style": ("upscale", "style", {"inputs": SMALL, "style": "anime"}),
    "fast with a negative": ("upscale", "negative", {"inputs": SMALL, "negative_prompt": "x"}),
    "conservative with a style": ("upscale", "style", {"inputs": SMALL, "prompt": "x", "style": "anime"}),
    "outpaint too far": ("outpaint", "2000", {"inputs": SMALL, "expand": {"left": 2001}}),
    "outpaint too much": (
        "outpaint",
        "16777216",
        {"inputs": {"init": flat(0, (2900, 2900), "1")}, "expand": {"left": 2000, "up": 2000}, "adjust": True},
    ),
    "control with an init": (
        "controlnet",
        "neither",
        {"inputs": {"sketch": DOT, "init": flat(0, (1024, 1024), "1")}},
    ),
    "reference with a mask": ("reference", "neither", {"inputs": {"reference": DOT, "mask": WHITE}}),
    "sketch of another size": ("controlnet", "sketch", {"inputs": {"sketch": DOT}, "width": 1254, "height": 836}),
}


@pytest.mark.parametrize("name", REFUSED_BY_US)
async def test_what_the_vendor_would_refuse_costs_no_call(
    standin: StandIn, upstream: StabilityV2Beta, name: str
) -> None:
    """What a model's description can't say is refused by name, before a byte goes out (2.3)."""
    task, words, asked = REFUSED_BY_US[name]
    refused = await fault(reports(upstream, order(task, **{"model": "stable-image", **asked})))
    assert (refused.outcome.value, refused.code, refused.charged) == ("failed", "invalid_param", False)
    assert words in refused.message
    assert refused.details["path"].partition(".")[0] in ("inputs", "params")
    assert standin.log == []


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "stable-image-core", "task": "img2img", "inputs": {"init": flat()}},
        {"model": "stable-image-core", "width": 1024, "height": 1024},
        {"model": "stable-image-ultra", "guidance": 5.0},
        {"model": "sd3.5-medium", "guidance": 10.5},
        {"model": "sd3.5-medium", "guidance": 0.5},
        {"model": "stable-image", "task": "remove_background", "inputs": {"init": flat()}, "seed": 1},
        {"model": "stable-image", "task": "inpaint", "inputs": {"init": flat(), "mask": WHITE}, "strength": 0.5},
        {"model": "stable-image", "task": "remove_background", "inputs": {"init": flat(0, (2049, 2048), "1")}},
        {"model": "stable-image", "task": "controlnet", "inputs": {"canny": flat()}},
        {"model": "stable-image", "task": "controlnet", "inputs": {"style": DOT}, "used": {"weight": 1.5}},
        {"model": "stable-image", "task": "controlnet", "inputs": {"style": DOT}, "used": {"end": 0.0}},
        {"model": "stable-image", "task": "reference", "inputs": {"reference": DOT}, "used": {"start": 0.5}},
    ],
)
def test_what_has_no_effect_is_refused_at_the_door(asked: Any) -> None:
    """The models' descriptions name what counts, so a submit is refused by name."""
    with pytest.raises(ClientFault):
        order(**asked)
