"""Every service of the v2beta door: what it takes, what that means, and what it answers."""

import asyncio
import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.models import Sizes
from gateway.core.records import Plan
from gateway.core.reports import Picture
from gateway.edges.compat.stability_v2beta.services import SERVICES
from gateway.edges.compat.stability_v2beta.tables import UNKNOWN
from load.upstreams.stability_v2beta.endpoints import ENDPOINTS
from tests.answers import Answer
from tests.gateway.edges.compat.conftest import Door, Easel, open_door
from tests.gateway.edges.compat.stability_v2beta.conftest import IMAGE, MODEL, PICTURE, RESULTS, form
from tests.pictures import encoded, flat

CORE = f"{IMAGE}generate/core"
ASKED: dict[str, Any] = {"prompt": "a lighthouse", "seed": 7}


def size(answer: Answer) -> tuple[int, int]:
    """Return the edges of a bare picture."""
    assert answer.status == 200, answer.body
    facts = measure(answer.body)
    return facts.width, facts.height


async def test_bare_picture_is_the_default(door: Door) -> None:
    """Bytes, with how it ended and its seed in headers, for whoever says nothing, anything, or `image/*`."""
    for number, accept in enumerate(("image/*", "*/*", "text/html, image/*;q=0.5")):
        answer = await door.ask("POST", CORE, form(**ASKED | {"seed": 7 + number}), accept=accept)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
        assert (answer.headers["Seed"], answer.headers["Finish-Reason"]) == (str(7 + number), "SUCCESS")
        assert measure(answer.body).format == "png"
        assert answer.headers["X-Request-Id"] != answer.headers["X-Job-Id"]


async def test_json_has_picture_seed_and_reason(door: Door) -> None:
    """And says in its type what picture it has; the headers of the bare form are not there."""
    answer = await door.ask("POST", CORE, form(**ASKED), accept="application/json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json; type=image/png")
    assert {name: value for name, value in answer.json.items() if name != "image"} == {
        "finish_reason": "SUCCESS",
        "seed": 7,
    }
    assert measure(base64.b64decode(answer.json["image"])).format == "png"
    assert not {"seed", "finish-reason"} & {name.lower() for name in answer.headers}


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_picture_comes_in_the_asked_format(door: Door, kind: str) -> None:
    """Whatever the upstream made, in both forms."""
    answer = await door.ask("POST", CORE, form(**ASKED, output_format=kind))
    assert (answer.headers["Content-Type"], measure(answer.body).format) == (f"image/{kind}", kind)
    answer = await door.ask("POST", CORE, form(**ASKED, output_format=kind), accept="application/json")
    assert answer.headers["Content-Type"] == f"application/json; type=image/{kind}"
    assert measure(base64.b64decode(answer.json["image"])).format == kind


@pytest.mark.parametrize("kind", ["png", "webp"])
async def test_filtered_picture_is_grey_and_said_so(door: Door, kind: str) -> None:
    """200, CONTENT_FILTERED, and something that can be decoded."""
    door.easel.filtered = frozenset({0})
    answer = await door.ask("POST", CORE, form(**ASKED, output_format=kind))
    assert (answer.status, answer.headers["Finish-Reason"]) == (200, "CONTENT_FILTERED")
    grey = Image.open(io.BytesIO(answer.body)).convert("L")
    assert (grey.size, grey.getpixel((64, 64))) == ((128, 128), 128)
    answer = await door.ask("POST", CORE, form(**ASKED), accept="application/json")
    assert answer.json["finish_reason"] == "CONTENT_FILTERED"


async def test_core_asks_for_what_it_says(door: Door) -> None:
    """Each field reaches the upstream in our words; names that the vendor does not know are ignored, as there."""
    more = {"negative_prompt": "fog", "style_preset": "photographic", "aspect_ratio": "16:9", "steps": 3}
    client = {"stability_client_id": "x", "stability_client_user_id": "y", "stability_client_version": "z"}
    answer = await door.ask("POST", CORE, form(**ASKED, **more), **client)
    request = door.easel.orders[-1].request
    assert (request.task, request.model, request.prompt, request.negative_prompt) == (
        "txt2img", "easel", "a lighthouse", "fog",
    )  # fmt: skip
    assert (request.seed, request.n, request.style, request.steps) == (7, 1, "photographic", 10)
    assert (request.width, request.height) == size(answer)
    await door.ask("POST", CORE, form(prompt="x", seed=0, negative_prompt=""))
    request = door.easel.orders[-1].request
    assert (request.seed > 0, request.negative_prompt) == (True, "")


@pytest.mark.parametrize("ratio,expected", [
    (None, (128, 128)), ("1:1", (128, 128)), ("16:9", (168, 96)), ("9:21", (88, 200)), ("3:2", (152, 104)),
])  # fmt: skip
async def test_ratio_is_the_nearest_size_of_the_model(door: Door, ratio: str | None, expected: tuple[int, int]) -> None:
    """Of the area that it draws by itself."""
    fields = ASKED if ratio is None else ASKED | {"aspect_ratio": ratio}
    assert size(await door.ask("POST", CORE, form(**fields))) == expected


async def test_ultra_and_sd3_begin_from_a_picture(door: Door) -> None:
    """Strength is ours, and the size is the picture's, or the nearest that the model draws."""
    answer = await door.ask("POST", f"{IMAGE}generate/ultra", form(**ASKED, image=PICTURE, strength=0.3))
    assert size(answer) == (192, 128)
    request = door.easel.orders[-1].request
    assert (request.task, request.strength, request.width) == ("img2img", 0.3, 192)
    odd = flat(0, (131, 97))
    fields = {**ASKED, "image": odd, "strength": "0.8", "mode": "image-to-image", "cfg_scale": 5}
    assert size(await door.ask("POST", f"{IMAGE}generate/sd3", form(**fields))) == (128, 96)
    request = door.easel.orders[-1].request
    assert (request.task, request.strength, request.guidance) == ("img2img", 0.8, 5.0)
    answer = await door.ask("POST", f"{IMAGE}generate/ultra", form(**fields, aspect_ratio="21:9"))
    assert (size(answer), answer.headers["X-Ignored"]) == ((128, 96), "aspect_ratio")


async def test_sd3_draws_words(door: Door) -> None:
    """The mode is what it is by default, with the model's own guidance unless the client names one."""
    for more, guidance in (({}, 7.0), ({"mode": "text-to-image", "model": "sd3-medium", "cfg_scale": "1"}, 1.0)):
        await door.ask("POST", f"{IMAGE}generate/sd3", form(**ASKED, **more))
        request = door.easel.orders[-1].request
        assert (request.task, request.guidance) == ("txt2img", guidance)


@pytest.mark.parametrize("image,mask,expected", [
    (PICTURE, flat(200, (192, 128), "L"), 200),
    (PICTURE, flat(200, (50, 50), "L"), 200),
    (flat((1, 2, 3, 64), (192, 128), "RGBA"), None, 191),
    (flat((1, 2, 3, 64), (192, 128), "RGBA"), flat(9, (192, 128), "L"), 9),
    (PICTURE, None, 0),
])  # fmt: skip
async def test_inpainting_changes_what_is_white_or_else_transparent(
    door: Door, image: bytes, mask: bytes | None, expected: int
) -> None:
    """A mask that is sent counts alone, whatever its size; what it shows is replaced wholly."""
    fields = {**ASKED, "image": image, "grow_mask": 5} | ({} if mask is None else {"mask": mask})
    answer = await door.ask("POST", f"{IMAGE}edit/inpaint", form(**fields))
    assert (size(answer), answer.headers["X-Ignored"]) == ((192, 128), "grow_mask")
    order = door.easel.orders[-1]
    made = Image.open(io.BytesIO(order.inputs["mask"])).convert("L")
    assert made.getextrema() == (expected, expected)
    assert (order.request.task, order.request.strength, order.inputs["init"]) == ("inpaint", 1.0, image)


async def test_outpainting_grows_sides(door: Door) -> None:
    """It needs no prompt; how creative it may be is for the model to know."""
    fields = {"image": PICTURE, "left": 64, "down": "8", "creativity": 0.5, "style_preset": "photographic"}
    answer = await door.ask("POST", f"{IMAGE}edit/outpaint", form(**fields))
    assert (size(answer), answer.headers["X-Ignored"]) == ((256, 136), "creativity")
    request = door.easel.orders[-1].request
    assert (request.task, request.prompt, request.style) == ("outpaint", "", "photographic")
    assert request.expand is not None
    assert (request.expand.left, request.expand.right, request.expand.up, request.expand.down) == (64, 0, 0, 8)


async def test_search_and_replace_and_remove_background(door: Door) -> None:
    """The picture's own size, and nothing but what these take."""
    answer = await door.ask("POST", f"{IMAGE}edit/search-and-replace", form(**ASKED, image=PICTURE, search_prompt="x"))
    assert size(answer) == (192, 128)
    request = door.easel.orders[-1].request
    assert (request.task, request.search, request.prompt) == ("search_replace", "x", "a lighthouse")
    answer = await door.ask("POST", f"{IMAGE}edit/remove-background", form(image=PICTURE, output_format="webp"))
    assert (size(answer), answer.headers["Content-Type"]) == ((192, 128), "image/webp")
    assert door.easel.orders[-1].request.task == "remove_background"


@pytest.mark.parametrize("kind,made_by", [("sketch", "sketch"), ("structure", "none")])
async def test_control_keeps_the_lines_of_a_picture(door: Door, kind: str, made_by: str) -> None:
    """In its size; lines that the model can find by itself are for it to find."""
    for more, weight in (({}, 0.7), ({"control_strength": 0.2}, 0.2)):
        answer = await door.ask("POST", f"{IMAGE}control/{kind}", form(**ASKED, image=PICTURE, **more))
        assert size(answer) == (192, 128)
        [control] = door.easel.orders[-1].request.controls
        assert (control.role, control.weight, control.preprocessor) == (kind, weight, made_by)


async def test_control_style_draws_after_a_reference(door: Door) -> None:
    """Of the model's own size, or the ratio's; as true to it as the model is unless the client says."""
    for more, weight in (({}, None), ({"fidelity": 0.2}, 0.2)):
        data = form(**ASKED, **more, image=PICTURE, aspect_ratio="16:9")
        assert size(await door.ask("POST", f"{IMAGE}control/style", data)) == (168, 96)
        request = door.easel.orders[-1].request
        [reference] = request.references
        assert (request.task, reference.weight) == ("reference", weight)


async def test_control_style_is_a_control_image_where_nothing_takes_references(tmp_path: Path) -> None:
    """But only of a model that knows the kind by its name."""
    tasks = {name: params for name, params in MODEL.tasks.items() if name != "reference"}
    data = {**ASKED, "image": PICTURE}
    for name in "12":
        (tmp_path / name).mkdir()
    async with open_door(tmp_path / "1", Easel(replace(MODEL, tasks=tasks))) as door:
        assert (await door.ask("POST", f"{IMAGE}control/style", form(**data))).status == 200
        [control] = door.easel.orders[-1].request.controls
        assert (control.role, control.weight) == ("style", 0.5)
    async with open_door(tmp_path / "2", Easel(replace(MODEL, tasks=tasks, controls=("control",)))) as door:
        assert (await door.ask("POST", f"{IMAGE}control/style", form(**data))).status == 404
        assert (await door.ask("POST", f"{IMAGE}control/structure", form(**ASKED, image=PICTURE))).status == 200
        assert door.easel.orders[-1].request.controls[0].role == "control"


async def test_style_transfer_paints_a_picture_over(door: Door) -> None:
    """The first picture begins it, the second is its style."""
    fields = {
        "prompt": "oil", "init_image": PICTURE, "style_image": flat("red", (64, 64)), "style_strength": 0.8,
        "change_strength": 0.4, "composition_fidelity": 0.9,
    }  # fmt: skip
    answer = await door.ask("POST", f"{IMAGE}control/style-transfer", form(**fields))
    assert (size(answer), answer.headers["X-Ignored"]) == ((192, 128), "composition_fidelity")
    request = door.easel.orders[-1].request
    assert (request.task, request.strength) == ("controlnet", 0.4)
    assert [(image.role, image.weight) for image in request.inputs] == [("init", None), ("style", 0.8)]


@pytest.mark.parametrize("service,fields,edges,expected,ignored", [
    ("fast", {}, (192, 128), (768, 512), None),
    ("fast", {}, (1024, 512), (2048, 1024), None),
    ("conservative", ASKED | {"creativity": 0.3}, (192, 128), (768, 512), "creativity, prompt, seed"),
    ("conservative", {"prompt": "x"}, (1024, 512), (2048, 1024), "prompt"),
])  # fmt: skip
async def test_upscales_are_as_large_as_the_vendors_or_as_the_model_can(
    door: Door, service: str, fields: Any, edges: tuple[int, int], expected: tuple[int, int], ignored: str | None
) -> None:
    """Four times each edge, or four million pixels; words and chance are left out where they have no effect."""
    answer = await door.ask("POST", f"{IMAGE}upscale/{service}", form(**fields, image=flat(0, edges)))
    assert (size(answer), answer.headers.get("X-Ignored")) == (expected, ignored)
    assert door.easel.orders[-1].request.task == "upscale"


async def test_creative_upscale_is_answered_with_an_id(door: Door) -> None:
    """200 at once, whatever is accepted; 202 while it runs, at both paths; then the picture in the asked format."""
    door.easel.hold = asyncio.Event()
    data = form(prompt="x", image=PICTURE, output_format="webp")
    answer = await door.ask("POST", f"{IMAGE}upscale/creative", data, accept="text/html")
    assert (answer.status, set(answer.json)) == (200, {"id"})
    made = answer.json["id"]
    for path in (RESULTS, f"{IMAGE}upscale/creative/result/"):
        running = await door.ask("GET", path + made, accept="image/*")
        assert (running.status, running.json) == (202, {"id": made, "status": "in-progress"})
    door.easel.hold.set()
    while (done := await door.ask("GET", RESULTS + made)).status == 202:
        await asyncio.sleep(0.01)
    assert (done.headers["Content-Type"], done.headers["Finish-Reason"]) == ("image/webp", "SUCCESS")
    assert size(done) == (864, 576)
    assert done.headers["X-Job-Id"] == answer.headers["X-Job-Id"]
    told = await door.ask("GET", f"{IMAGE}upscale/creative/result/{made}", accept="application/json")
    assert (told.headers["Content-Type"], set(told.json)) == (
        "application/json; type=image/webp",
        {"image", "seed", "finish_reason"},
    )


async def test_whoever_does_not_wait_asks_for_the_result(door: Door) -> None:
    """`Prefer: respond-async` makes any service one that answers with an id."""
    answer = await door.ask("POST", CORE, form(**ASKED), prefer="respond-async")
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, "respond-async")
    assert answer.json == {"id": answer.headers["X-Job-Id"], "status": "in-progress"}
    assert answer.headers["Location"] == RESULTS + answer.json["id"]
    while (done := await door.ask("GET", answer.headers["Location"])).status == 202:
        await asyncio.sleep(0.01)
    assert (size(done), done.headers["Seed"]) == ((128, 128), "7")
    for stranger in (await door.key_of("other", Plan()), door.running.key):
        path = answer.headers["Location"] if stranger != door.running.key else f"{RESULTS}{'0' * 26}"
        lost = await door.ask("GET", path, key=stranger)
        assert (lost.status, lost.json["name"]) == (404, "generation_not_found")


async def test_result_of_several_pictures_is_the_first(door: Door) -> None:
    """A job that came through another door may have more."""
    asked = {"text_prompts": [{"text": "x"}], "samples": 2, "seed": 3, "width": 128, "height": 128}
    v1 = await door.ask("POST", "/v1/generation/stable-diffusion-v1-6/text-to-image", asked)
    answer = await door.ask("GET", RESULTS + v1.json["id"])
    assert (answer.status, answer.headers["Seed"]) == (200, "3")


async def test_key_of_the_clients_own_joins_its_job(door: Door) -> None:
    """The same request again is the same picture, also in another format; and no second job."""
    answers = [
        await door.ask("POST", CORE, form(**ASKED, output_format=kind), idempotency_key="order 17")
        for kind in ("png", "png", "webp")
    ]
    assert len({answer.headers["X-Job-Id"] for answer in answers}) == len(door.easel.orders) == 1
    assert [answer.headers["Content-Type"] for answer in answers] == ["image/png", "image/png", "image/webp"]


async def test_models_are_the_vendors_names_or_ones_own(tmp_path: Path) -> None:
    """A model of that name counts first, then an alias; where that means nothing, anything will do for a service."""
    aliases = {"sd3.5-large": "easel", "stable-image-core": "nowhere"}
    async with open_door(tmp_path, Easel(MODEL), compat__aliases=aliases) as door:
        for path, more in (("generate/core", {}), ("generate/sd3", {}), ("generate/sd3", {"model": "sd3-large"})):
            assert (await door.ask("POST", IMAGE + path, form(**ASKED, **more))).status == 200
        refused = await door.ask("POST", f"{IMAGE}generate/sd3", form(**ASKED, model="sd3.5-flash"))
        assert (refused.status, refused.json["name"]) == (404, "not_found")


async def test_sizes_of_a_list_are_matched_by_shape(tmp_path: Path) -> None:
    """As the vendor's own models have them."""
    listed = replace(MODEL, sizes=Sizes(listed=((128, 128), (192, 128), (128, 192))), default_size=(128, 128))
    async with open_door(tmp_path, Easel(listed)) as door:
        assert size(await door.ask("POST", CORE, form(**ASKED, aspect_ratio="16:9"))) == (192, 128)
        answer = await door.ask("POST", f"{IMAGE}control/sketch", form(**ASKED, image=flat(0, (300, 640))))
        assert size(answer) == (128, 192)


async def test_large_pictures_come_through_whole(door: Door) -> None:
    """Over what the loop encodes itself, in and out."""
    noise = encoded(Image.effect_noise((1024, 1024), 90).convert("RGB"))
    assert len(noise) > 1_100_000
    door.easel.picture = Picture(noise, "png", 1024, 1024)
    fields = {**ASKED, "image": noise, "strength": 0.5}
    answer = await door.ask("POST", f"{IMAGE}generate/ultra", form(**fields), accept="application/json")
    assert base64.b64decode(answer.json["image"]) == noise == door.easel.orders[-1].inputs["init"]


def test_every_service_of_the_vendors_has_an_answer() -> None:
    """One that the gateway has no work for says so; see the errors."""
    assert {one.path for one in SERVICES} | UNKNOWN.keys() == ENDPOINTS.keys()
    assert all(one.is_async == ENDPOINTS[one.path].is_async for one in SERVICES)
