"""Tiny pipelines of the real architectures in the real process: every parameter is of effect, and nothing else is."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from PIL import Image

from gateway.core.normal import InputImage, Request
from gateway.core.params import Lora
from gateway.core.reports import ImageMade, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.ports import CallOrder
from gateway.upstreams.diffusers import Diffusers, Setup
from tests.gateway.upstreams.diffusers.folder import one_thread_each, tiny_models
from tests.pictures import encoded

# Loading takes some ten seconds, so all share one process as far as they leave it alive.
pytestmark = [
    pytest.mark.deep,
    pytest.mark.diffusers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]
Pixels = NDArray[np.uint8]


async def loaded(model: str, **setup: Any) -> Diffusers:
    """Return an open upstream whose model is loaded."""
    one_thread_each()
    upstream = Diffusers(name="attic", setup=Setup(model=str(tiny_models() / model), device="cpu", **setup))
    await upstream.open()
    upstream._patience_seconds = 300
    try:
        await upstream.refresh()
    except BaseException:
        await upstream.close()
        raise
    return upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sd() -> AsyncIterator[Diffusers]:
    """A model of the first family, with a ControlNet and two LoRAs."""
    folder = tiny_models()
    upstream = await loaded(
        "sd",
        controlnets={"canny": str(folder / "canny")},
        loras={name: str(folder / f"{name}.safetensors") for name in ("ink", "wool.v2")},
    )
    yield upstream
    await upstream.close()


def order(upstream: Diffusers, count: int = 1, images: dict[str, bytes] | None = None, **changes: Any) -> CallOrder:
    """Return a small call; the keys of `images` are roles."""
    asked: dict[str, Any] = {
        "task": "txt2img",
        "model": "sd",
        "prompt": "a lighthouse at dusk",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 7.0,
        "seed": 5,
        "n": count,
    }
    request = Request(**asked | changes)
    return CallOrder("call-1", upstream.models[0], request, request.seed, count, images or {})


async def told(upstream: Diffusers, call: CallOrder) -> list[Report]:
    """Run the call to its end."""
    async with contextlib.aclosing(upstream.run(call)) as reports:
        return [report async for report in reports]


async def painted(upstream: Diffusers, images: dict[str, bytes] | None = None, **changes: Any) -> Pixels:
    """Return the picture of a small call."""
    made = (await told(upstream, order(upstream, 1, images, **changes)))[-1]
    assert isinstance(made, ImageMade)
    return pixels_of(made.picture.content)


def pixels_of(content: bytes) -> Pixels:
    """Return a file's pixels."""
    return np.asarray(Image.open(io.BytesIO(content)))


def noise(seed: int = 1, size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a picture of coloured noise."""
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)))


def process_id(upstream: Diffusers) -> int:
    """Return the id of the only process."""
    (process,) = upstream._processes
    return process._process.pid


async def test_each_step_is_told_with_a_preview(sd: Diffusers) -> None:
    """Then the picture, of the asked size."""
    reports = await told(sd, order(sd, width=128, height=64))
    assert [type(report) for report in reports] == [WorkBegun, *[StepDone, PreviewMade] * 4, ImageMade]
    previews = [report.picture for report in reports if isinstance(report, PreviewMade)]
    assert {pixels_of(preview.content).shape for preview in previews} == {(64, 128, 3)}
    assert len({preview.content for preview in previews}) == 4
    assert isinstance(reports[-1], ImageMade)
    assert pixels_of(reports[-1].picture.content).shape == (64, 128, 3)


async def test_seed_decides_and_each_next_picture_has_the_next(sd: Diffusers) -> None:
    """The same seed gives the same bytes."""
    first, again, other = [await painted(sd, seed=seed) for seed in (5, 5, 6)]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    both = [report for report in await told(sd, order(sd, 2)) if isinstance(report, ImageMade)]
    assert [(made.index, made.seed) for made in both] == [(0, 5), (1, 6)]
    assert np.array_equal(pixels_of(both[1].picture.content), other)


@pytest.mark.parametrize(
    "changed",
    [{"prompt": "a fox"}, {"negative_prompt": "rain"}, {"guidance": 2.0}, {"steps": 5}, {"sampler": "euler_a"}],
    ids=lambda changed: next(iter(changed)),
)
async def test_parameter_is_of_effect(sd: Diffusers, changed: dict[str, Any]) -> None:
    """One changed, another picture; as before, the same again."""
    plain = await painted(sd)
    assert not np.array_equal(await painted(sd, **changed), plain)
    assert np.array_equal(await painted(sd), plain)


async def test_every_sampler_that_is_offered_can_be_had(sd: Diffusers) -> None:
    """And tells as many steps as it does."""
    assert len(sd.models[0].samplers) > 10
    for sampler in sd.models[0].samplers:
        reports = await told(sd, order(sd, sampler=sampler))
        begun, steps = reports[0], [report.step for report in reports if isinstance(report, StepDone)]
        assert isinstance(begun, WorkBegun)
        assert steps == list(range(1, begun.steps + 1)), sampler


@pytest.mark.parametrize("strength,steps", [(1.0, 10), (0.5, 5), (0.25, 2), (0.01, 1), (0.0, 0)])
async def test_img2img_tells_the_steps_that_it_does(sd: Diffusers, strength: float, steps: int) -> None:
    """A part of those that were asked for, one at least; at 0 the init is the picture."""
    images = {"init": noise()}
    reports = await told(sd, order(sd, 1, images, task="img2img", strength=strength, steps=10))
    assert reports[0] == WorkBegun(steps)
    assert len([report for report in reports if isinstance(report, StepDone)]) == steps
    assert isinstance(reports[-1], ImageMade)
    is_kept = np.array_equal(pixels_of(reports[-1].picture.content), pixels_of(images["init"]))
    assert is_kept == (strength == 0)


async def test_inpaint_keeps_what_is_not_masked_byte_for_byte(sd: Diffusers) -> None:
    """Also of an init that had to be resized; and paints the rest."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    for init in (noise(), noise(size=(90, 100))):
        images = {"init": init, "mask": encoded(mask)}
        made = await painted(sd, images, task="inpaint", strength=1.0)
        kept = np.asarray(Image.open(io.BytesIO(init)).resize((64, 64), Image.Resampling.LANCZOS))
        assert np.array_equal(made[:, :32], kept[:, :32])
        assert not np.array_equal(made[:, 32:], kept[:, 32:])


async def test_control_image_is_of_effect_by_its_weight_and_time(sd: Diffusers) -> None:
    """Weight 0 is none; half the run is another thing than all of it; with an init it is one more."""

    async def controlled(weight: float = 1.0, end: float = 1.0, **images: bytes) -> Pixels:
        image = InputImage("canny", "asset", 64, 64, weight, 0.0, end, None, "canny")
        more: dict[str, Any] = {"strength": 0.8} if images else {}
        return await painted(sd, {"canny": noise(2), **images}, task="controlnet", inputs=(image,), **more)

    plain, full, half = await painted(sd), await controlled(), await controlled(end=0.5)
    assert np.array_equal(await controlled(weight=0.0), plain)
    assert not np.array_equal(full, plain)
    assert not np.array_equal(half, full)
    assert not np.array_equal(half, plain)
    assert not np.array_equal(await controlled(init=noise()), full)


async def test_loras_are_of_effect_by_their_weights_and_leave_no_trace(sd: Diffusers) -> None:
    """One, both, and none again."""
    plain = await painted(sd)
    ways = [(Lora("ink", 1.0),), (Lora("ink", 0.5),), (Lora("wool.v2", 1.0),), (Lora("ink"), Lora("wool.v2"))]
    made = [plain, *[await painted(sd, loras=way) for way in ways]]
    assert len({pixels.tobytes() for pixels in made}) == len(made)
    assert np.array_equal(await painted(sd), plain)


async def test_cancel_ends_the_work_between_two_steps(sd: Diffusers) -> None:
    """The process lives, and the next picture is there long before the cancelled one would have been."""
    before, reports = process_id(sd), sd.run(order(sd, 4, steps=150))
    async for report in reports:
        if isinstance(report, StepDone) and report.step == 2:
            break
    began = time.monotonic()
    await reports.aclose()
    assert time.monotonic() - began < 1
    plain = await painted(sd)
    assert np.array_equal(await painted(sd), plain)
    assert process_id(sd) == before


async def test_what_is_not_there_is_refused_by_name(sd: Diffusers) -> None:
    """A LoRA that nobody configured; a picture that is none."""
    with pytest.raises(UpstreamFault, match="adapter_not_found"):
        await painted(sd, loras=(Lora("silk"),))
    with pytest.raises(UpstreamFault, match="image_decode_failed"):
        await painted(sd, {"init": b"no picture"}, task="img2img", strength=0.5)
    assert isinstance((await told(sd, order(sd)))[-1], ImageMade)


async def test_killed_process_is_replaced_and_loads_again(sd: Diffusers) -> None:
    """Its call is lost, the next one waits for the model."""
    reports = sd.run(order(sd, steps=150))
    await anext(reports)
    before = process_id(sd)
    os.kill(before, signal.SIGKILL)
    with pytest.raises(UpstreamFault, match="worker_lost"):
        async for _ in reports:
            pass
    assert (await painted(sd)).shape == (64, 64, 3)
    assert process_id(sd) != before


async def test_lack_of_memory_costs_the_picture_and_not_the_process(sd: Diffusers) -> None:
    """A real one: the process may have little more than the loaded model takes, and the init alone wants far more."""
    size = next(line for line in Path(f"/proc/{process_id(sd)}/status").read_text().splitlines() if "VmPeak" in line)
    narrow = await loaded("sd", memory_bytes=int(size.split()[1]) * 1024 + 2**28)
    try:
        before = process_id(narrow)
        with pytest.raises(UpstreamFault) as caught:
            await painted(narrow, {"init": noise()}, task="img2img", strength=0.5, width=4096, height=4096)
        assert (caught.value.code, caught.value.details) == (
            "out_of_memory",
            {"suggest": {"width": 2048, "height": 2048}},
        )
        assert (await painted(narrow)).shape == (64, 64, 3)
        assert process_id(narrow) == before
    finally:
        await narrow.close()


@pytest.mark.parametrize("family", ["xl", "flux"])
async def test_other_families_offer_what_they_take(family: str) -> None:
    """Flux takes neither a negative prompt nor another sampler; both paint from words and from pictures."""
    upstream = await loaded(family)
    try:
        (model,) = upstream.models
        assert ("negative_prompt" in model.params, "sampler" in model.params) == (family == "xl",) * 2
        assert set(model.tasks) == {"txt2img", "img2img", "inpaint"}
        assert not np.array_equal(await painted(upstream), await painted(upstream, seed=6))
        reports = await told(upstream, order(upstream, 1, {"init": noise()}, task="img2img", strength=0.5))
        assert [type(report) for report in reports] == [WorkBegun, *[StepDone, PreviewMade] * 2, ImageMade]
    finally:
        await upstream.close()


async def test_tiny_decoder_makes_other_previews(sd: Diffusers) -> None:
    """And the same pictures."""
    tiny = await loaded("sd", previews="tiny", tiny_decoder=str(tiny_models() / "taesd"))
    try:
        linear, decoded = [await told(upstream, order(upstream)) for upstream in (sd, tiny)]
    finally:
        await tiny.close()
    assert linear[-1] == decoded[-1]
    assert linear[2] != decoded[2]


async def test_what_cannot_be_loaded_is_named() -> None:
    """No model: nothing is offered. No LoRA or ControlNet: the rest is, and a probe tells."""
    for model, words in (("nothing-here", "not on this machine"), ("words", "no model_index.json")):
        with pytest.raises(UpstreamFault) as caught:
            await loaded(model)
        assert caught.value.code == "model_unavailable"
        assert words in caught.value.details["cause"]
        assert str(tiny_models()) not in str(caught.value.details)
    upstream = await loaded("sd", loras={"silk": "/nowhere/silk.safetensors"}, controlnets={"pose": "/nowhere"})
    findings = await upstream.probe()
    await upstream.close()
    assert [problem.partition(" cannot")[0] for problem in findings.problems] == [
        "the ControlNet pose",
        "the LoRA silk",
    ]
    assert upstream.models[0].loras == upstream.models[0].controls == ()


async def test_previews_guess_where_the_run_is_going() -> None:
    """With a model that is never wrong, the guess after every step is the picture itself."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.gateway.upstreams.diffusers.guessing"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300, check=False)
    assert done.returncode == 0
