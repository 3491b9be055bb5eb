"""The embedded engine as an upstream: what it offers, and what it tells while it paints."""

import asyncio
import io
from typing import Any

import pytest
from PIL import Image

from gateway.core.reports import ImageMade, PreviewMade, StepDone, WorkBegun
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.engine import Engine
from tests.gateway.upstreams.engine.talk import ON_SHARED_LOOP, made, order, pixels_of, shared_engine, told

engine = shared_engine()


def test_engine_fills_the_upstream_port() -> None:
    """The type checker agrees, and its models are offered for nothing, the trained one first."""
    upstream: Upstream = Engine(name="house")
    icons, baseline = upstream.models
    assert (icons.id, icons.upstream, icons.billed, icons.price_micros) == ("icons", "house", False, 0)
    assert (baseline.id, baseline.tasks) == ("icons-network", icons.tasks)
    assert sorted(icons.tasks) == ["controlnet", "img2img", "inpaint", "reference", "txt2img", "upscale"]
    assert icons.params == {
        "prompt", "negative_prompt", "width", "height", "steps", "guidance", "seed", "n", "strength", "scale", "tiling",
        "background", "style",
    }  # fmt: skip
    assert (icons.default_size, icons.default_steps, icons.default_guidance) == ((512, 512), 20, 7.0)


@ON_SHARED_LOOP
async def test_engine_tells_each_step_with_its_preview_and_then_the_picture(engine: Engine) -> None:
    """The reports of one picture, in order."""
    sent: list[bool] = []
    call = order()
    reports = await told(engine, CallOrder("c", call.model, call.request, 9, 1, sent=lambda: sent.append(True)))
    assert [type(report) for report in reports] == [WorkBegun, *[StepDone, PreviewMade] * 3, ImageMade]
    assert [report.step for report in reports if isinstance(report, StepDone)] == [1, 2, 3]
    last = reports[-1]
    assert isinstance(last, ImageMade)
    assert (last.seed, last.index) == (9, 0)
    assert (last.picture.format, last.picture.width, last.picture.height) == ("png", 128, 64)
    assert pixels_of(last.picture.content).shape == (64, 128, 3)
    assert sent == [True]


@ON_SHARED_LOOP
async def test_engine_paints_each_next_picture_of_a_call_from_the_next_seed(engine: Engine) -> None:
    """Picture i of a call is the first picture of a call with seed + i."""
    both, second = await made(engine, order(count=2)), await made(engine, order(seed=6))
    assert [(one.index, one.seed) for one in both] == [(0, 5), (1, 6)]
    assert both[1].picture == second[0].picture


@pytest.mark.parametrize("model", ["icons", "icons-network"])
async def test_engine_paints_the_same_bytes_in_each_of_its_processes(model: str) -> None:
    """Two processes painting at once agree, and so does one that comes after them."""
    engine = Engine(processes=2)
    async with asyncio.TaskGroup() as tasks:
        two = [tasks.create_task(told(engine, order(model=model))) for _ in range(2)]
    assert len(engine._processes) == 2
    await engine.close()
    later = Engine()
    assert two[0].result() == two[1].result() == await told(later, order(model=model))
    await later.close()


@ON_SHARED_LOOP
async def test_models_paint_differently(engine: Engine) -> None:
    """Each order says which of the denoisers it wants; a process has them all."""
    pictures = [(await made(engine, order(model=model)))[0].picture for model in ("icons", "icons-network", "icons")]
    assert pictures[0] == pictures[2] != pictures[1]
    assert len(engine._processes) == 1


@ON_SHARED_LOOP
@pytest.mark.parametrize("width,height,edges", [(512, 512, (512, 512)), (1024, 256, (512, 128)), (64, 64, (64, 64))])
async def test_engine_bounds_the_long_edge_of_previews(
    engine: Engine, width: int, height: int, edges: tuple[int, int]
) -> None:
    """At most 512, never more than the picture, always as wide for its height."""
    reports = await told(engine, order(width=width, height=height, steps=1))
    (preview,) = [report.picture for report in reports if isinstance(report, PreviewMade)]
    with Image.open(io.BytesIO(preview.content)) as image:
        assert image.size == edges == (preview.width, preview.height)
        assert str(image.format).lower() == preview.format


@ON_SHARED_LOOP
@pytest.mark.parametrize("steps", [1, 150])
async def test_engine_takes_as_many_steps_as_asked(engine: Engine, steps: int) -> None:
    """One step or the most, each with a preview."""
    reports = await told(engine, order(width=64, height=64, steps=steps))
    for kind in (StepDone, PreviewMade):
        assert [report.step for report in reports if isinstance(report, kind)] == list(range(1, steps + 1))


@ON_SHARED_LOOP
@pytest.mark.parametrize("size", [(64, 64), (2048, 64), (72, 520), (1000, 904)])
@pytest.mark.parametrize("options", [{}, {"tiling": True}, {"background": "transparent"}])
async def test_engine_paints_every_size(engine: Engine, size: tuple[int, int], options: dict[str, Any]) -> None:
    """Any multiple of 8, however long."""
    (one,) = await made(engine, order(width=size[0], height=size[1], steps=1, **options))
    with Image.open(io.BytesIO(one.picture.content)) as image:
        assert image.size == size == (one.picture.width, one.picture.height)
        assert image.mode == ("RGBA" if "background" in options else "RGB")


@ON_SHARED_LOOP
async def test_engine_serves_waiting_calls_in_the_order_they_came(engine: Engine) -> None:
    """With one process, pictures are finished first come, first served."""
    finished: list[int] = []

    async def paint(seed: int) -> None:
        await told(engine, order(seed=seed))
        finished.append(seed)

    async with asyncio.TaskGroup() as tasks:
        for seed in range(5):
            tasks.create_task(paint(seed))
    assert finished == [0, 1, 2, 3, 4]
    assert len(engine._processes) == 1
