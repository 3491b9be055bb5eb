"""Every kind of work with stock nodes, and the truth of its pixels."""

import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.core.params import Expand, Lora
from gateway.core.reports import ImageMade, Outcome, PreviewMade, StepDone, WorkBegun
from gateway.upstreams.comfyui import ComfyUI
from load.upstreams.comfyui import HINT_SHARE, colour
from load.upstreams.comfyui.nodes import SAMPLERS, SCHEDULERS
from tests.gateway.upstreams.comfyui.vendor import (
    StandIn,
    adapter,
    fault,
    flat,
    model_for,
    near,
    order,
    picture,
    reports,
    steps,
)
from tests.pictures import encoded

GIVEN = (200, 100, 0)
PAINTED = colour(7, "a lamp")


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A server with everything."""
    async with StandIn(step_time=0) as running:
        yield running


@pytest.fixture
async def upstream(standin: StandIn) -> AsyncIterator[ComfyUI]:
    """An adapter that has looked around."""
    async with adapter(standin.url) as opened:
        yield opened


async def test_picture_from_text(standin: StandIn, upstream: ComfyUI) -> None:
    """Steps one by one, each with its preview, then the picture with its seed."""
    sent: list[None] = []
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    asked = order(upstream, negative_prompt="fog", sampler="euler_a", scheduler="karras", guidance=5.5, noted=note)
    told = await reports(upstream, asked)
    kinds = [type(report) for report in told]
    assert kinds == [WorkBegun, *[StepDone, PreviewMade] * 3, ImageMade]
    assert steps(told) == [(1, 3), (2, 3), (3, 3)]
    assert all(report.approximate for report in told if isinstance(report, PreviewMade))
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert (made.index, made.seed, made.picture.width, made.picture.height) == (0, 7, 64, 64)
    with Image.open(io.BytesIO(made.picture.content)) as image:
        assert image.convert("RGB").getpixel((5, 5)) == colour(7, "a lamp", "fog")
    (job,) = standin.jobs
    assert noted == [job.prompt_id]
    sampler = job.graph["sampler"]["inputs"]
    assert {name: sampler[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")} == {
        "seed": 7,
        "steps": 3,
        "cfg": 5.5,
        "sampler_name": "euler_ancestral",
        "scheduler": "karras",
        "denoise": 1.0,
    }
    assert (standin.calls, sent) == (1, [])


async def test_sent_is_told_once(standin: StandIn, upstream: ComfyUI) -> None:
    """When the prompt has left, and not for uploads and look-ups."""
    sent: list[int] = []
    asked = order(upstream, "img2img", inputs={"init": flat(GIVEN)}, sent=lambda: sent.append(standin.calls))
    await reports(upstream, asked)
    assert len(sent) == 1


async def test_several_calls_share_one_socket(standin: StandIn, upstream: ComfyUI) -> None:
    """One connection hears all prompts, one after the other."""
    for seed in (1, 2, 3):
        image = await picture(upstream, order(upstream, seed=seed))
        assert image.getpixel((0, 0)) == colour(seed, "a lamp")
    assert standin.counters()["sockets"] == 1
    assert len({job.client_id for job in standin.jobs}) == 1


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.65, 1.0])
async def test_strength_points_the_right_way(upstream: ComfyUI, strength: float) -> None:
    """0 keeps the init image's pixels, 1 ignores them."""
    image = await picture(upstream, order(upstream, "img2img", strength=strength, inputs={"init": flat(GIVEN)}))
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(GIVEN, PAINTED, strict=True))
    assert near(image.getpixel((5, 5)), expected)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(64, 64), (40, 100)])
async def test_init_image_of_any_kind_gives_the_asked_size(
    upstream: ComfyUI, format: str, size: tuple[int, int]
) -> None:
    """What has another size is brought to the asked one before."""
    asked = order(upstream, "img2img", strength=0.0, inputs={"init": flat(GIVEN, size, format=format)})
    image = await picture(upstream, asked)
    assert image.size == (64, 64)
    assert near(image.getpixel((30, 30)), GIVEN, 4)


def half_white(size: tuple[int, int] = (64, 64), mode: str = "L") -> bytes:
    """A mask whose left half is to be painted."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return encoded(mask.convert(mode))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(64, 64), (32, 32)])
async def test_white_is_painted_and_black_is_kept(upstream: ComfyUI, mode: str, size: tuple[int, int]) -> None:
    """White means edit, and what is kept is exactly the given picture."""
    inputs = {"init": flat(GIVEN), "mask": half_white(size, mode)}
    image = await picture(upstream, order(upstream, "inpaint", strength=1.0, inputs=inputs))
    assert near(image.getpixel((5, 32)), PAINTED)
    assert image.getpixel((60, 32)) == GIVEN


async def test_inpainting_takes_strength(upstream: ComfyUI) -> None:
    """Within the mask the given picture shows through."""
    inputs = {"init": flat(GIVEN), "mask": flat(255, mode="L")}
    image = await picture(upstream, order(upstream, "inpaint", strength=0.5, inputs=inputs))
    middle = tuple((a + b) / 2 for a, b in zip(GIVEN, PAINTED, strict=True))
    assert near(image.getpixel((32, 32)), middle)


async def test_outpainting_grows_each_side(upstream: ComfyUI) -> None:
    """The new sides are painted, the given picture stays where it belongs."""
    noisy = np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    expand = Expand(left=64, up=32)
    inputs = {"init": encoded(Image.fromarray(noisy))}
    image = await picture(upstream, order(upstream, "outpaint", expand=expand, width=160, height=128, inputs=inputs))
    assert image.size == (160, 128)
    assert near(image.getpixel((5, 60)), PAINTED)
    assert near(image.getpixel((120, 5)), PAINTED)
    # Beyond the edge where the two run into each other, each pixel is the given one.
    assert np.array_equal(np.asarray(image)[32 + 40 :, 64 + 40 :], noisy[40:, 40:])


async def test_control_images_have_weight_and_range(standin: StandIn, upstream: ComfyUI) -> None:
    """Several units in a row; each with its picture, ControlNet, weight, range and preprocessor."""
    details = {
        "canny": {"weight": 0.5, "start": 0.1, "end": 0.9, "preprocessor": "none"},
        "canny-2": {"weight": 1.0, "start": 0.0, "end": 1.0, "preprocessor": "canny"},
    }
    inputs = {"canny": flat("white"), "canny-2": flat("blue")}
    asked = order(upstream, "controlnet", inputs=inputs, details=details)
    image = await picture(upstream, asked)
    once = [a * (1 - HINT_SHARE * 0.5) + 255 * HINT_SHARE * 0.5 for a in PAINTED]
    assert near(image.getpixel((32, 32)), tuple(value * (1 - HINT_SHARE) for value in once))
    graph = standin.jobs[0].graph
    assert graph["canny-net"]["inputs"]["control_net_name"] == "standin-canny.safetensors"
    assert graph["canny-2-apply"]["inputs"]["positive"] == ["canny-apply", 0]
    first = graph["canny-apply"]["inputs"]
    assert (first["strength"], first["start_percent"], first["end_percent"]) == (0.5, 0.1, 0.9)
    assert graph["sampler"]["inputs"]["negative"] == ["canny-2-apply", 1]
    assert graph["canny-2-edges"]["class_type"] == "Canny"


async def test_control_goes_along_with_init_and_mask(upstream: ComfyUI) -> None:
    """A ControlNet's picture beside a picture that is changed in part."""
    inputs = {"init": flat(GIVEN), "mask": half_white(), "canny": flat("white")}
    image = await picture(upstream, order(upstream, "controlnet", strength=1.0, inputs=inputs))
    assert near(image.getpixel((5, 32)), tuple(a * 0.5 + 127.5 for a in PAINTED))
    assert image.getpixel((60, 32)) == GIVEN


@pytest.mark.parametrize("model,size", [("2x-standin", (80, 60)), ("4x-standin", (100, 50)), ("lanczos", (90, 45))])
async def test_upscale_gives_the_asked_size(upstream: ComfyUI, model: str, size: tuple[int, int]) -> None:
    """Whatever the model's own factor is; without a model the picture is resampled."""
    asked = order(
        upstream, "upscale", model=model, width=size[0], height=size[1], inputs={"init": flat(GIVEN, (40, 30))}
    )
    told = await reports(upstream, asked)
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert (made.picture.width, made.picture.height) == size
    assert steps(told) == ([] if model == "lanczos" else [(1, 1)])


async def test_loras_form_a_chain(standin: StandIn, upstream: ComfyUI) -> None:
    """Each is put on the one before, and the sampler and both prompts use the last."""
    loras = (Lora("standin-lora", 0.5), Lora("standin-lora", -1.0))
    await reports(upstream, order(upstream, loras=loras))
    graph = standin.jobs[0].graph
    assert graph["lora-2"]["inputs"]["model"] == ["lora-1", 0]
    assert graph["lora-1"]["inputs"]["lora_name"] == "standin-lora.safetensors"
    assert [graph[f"lora-{n}"]["inputs"]["strength_clip"] for n in (1, 2)] == [0.5, -1.0]
    assert graph["sampler"]["inputs"]["model"] == ["lora-2", 0]
    assert graph["negative"]["inputs"]["clip"] == ["lora-2", 1]


async def test_every_sampler_and_scheduler_of_the_server_is_offered(upstream: ComfyUI) -> None:
    """By our names, or where we have none by its own; each leads back to the server's."""
    model = model_for(upstream, "txt2img")
    assert sorted(upstream._library.samplers[name] for name in model.samplers) == sorted(SAMPLERS)
    assert model.schedulers == SCHEDULERS
    assert {"euler_a", "dpm2", "dpmpp_2m", "lcm"} <= set(model.samplers)
    assert "dpm_2" not in model.samplers
    for sampler in ("ddim", "dpm2_a", "lms", "er_sde"):
        await reports(upstream, order(upstream, sampler=sampler, steps=1))


async def test_strength_of_nothing_has_no_steps(upstream: ComfyUI) -> None:
    """The sampler does not run; nothing is invented."""
    told = await reports(upstream, order(upstream, "img2img", strength=0.0, inputs={"init": flat(GIVEN)}))
    assert told[0] == WorkBegun(0)
    assert steps(told) == []


BAD_INPUTS: dict[str, tuple[bytes, str]] = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_unusable_input_image_costs_no_call(standin: StandIn, upstream: ComfyUI, name: str) -> None:
    """An input that can't be used is the end, before the server hears of it."""
    content, code = BAD_INPUTS[name]
    found = await fault(upstream, order(upstream, "img2img", inputs={"init": content}))
    assert (found.outcome, found.code, standin.calls) == (Outcome.FAILED, code, 0)


async def test_models_are_honest(upstream: ComfyUI) -> None:
    """Free, cancellable, with real steps and previews, one picture a call."""
    model: Any = model_for(upstream, "txt2img")
    assert (model.id, model.vendor_model, model.upstream) == ("standin", "standin.safetensors", "comfy")
    assert (model.progress, model.previews, model.cancel, model.billed) == ("steps", True, "yes", False)
    assert (model.images_per_call, upstream.can_find(None)) == (1, True)
    assert repr(upstream).startswith("<ComfyUI comfy at http://127.0.0.1:")
