"""A gateway in front of a gateway: our own adapter of the web UI family at our own door."""

from dataclasses import replace
from pathlib import Path

from gateway.core.reports import ImageMade, PreviewMade, StepDone, WorkBegun
from tests.end_to_end.harness import gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.gateway.edges.compat.conftest import EASEL, Easel, open_door
from tests.gateway.upstreams.a1111.server import adapter, order
from tests.pictures import flat


async def test_a_picture_with_progress_and_previews(tmp_path: Path) -> None:
    """What paints behind the door paints for the adapter, which sees its steps and previews."""
    paper = PaperUpstream(pace=lambda _: 0.05)
    async with (
        gateway_here(tmp_path, upstreams=[paper]) as running,
        adapter(running.url, user="front", password=running.key, poll_seconds=0.02) as upstream,
    ):
        assert [model.id for model in upstream.models] == ["paper"]
        asked = order(upstream, steps=30, prompt="a lighthouse")
        reports = [report async for report in upstream.run(asked)]
    kinds = [type(report) for report in reports]
    assert kinds[0] is WorkBegun
    assert kinds[-1] is ImageMade
    steps = [report.step for report in reports if isinstance(report, StepDone)]
    assert steps == sorted(steps)
    assert steps
    assert PreviewMade in kinds
    [made] = [report for report in reports if isinstance(report, ImageMade)]
    assert (made.picture.format, made.picture.width, made.picture.height, made.seed) == ("png", 64, 64, 7)


async def test_everything_that_the_adapter_asks_for(tmp_path: Path) -> None:
    """What the front asks for arrives behind it in the same normal form, as far as the two are the same."""
    model = replace(EASEL, schedulers=("karras",), loras=("fog",), controls=("canny", "pose"))
    tasks = {task: params | {"scheduler", "loras"} for task, params in EASEL.tasks.items() if task != "upscale"}
    easel = Easel(replace(model, tasks=tasks | {"upscale": EASEL.tasks["upscale"]}))
    async with (
        open_door(tmp_path, easel) as door,
        adapter(door.running.url, user="front", password=door.running.key) as upstream,
    ):
        [offered] = upstream.models
        assert offered.samplers == easel.models[0].samplers
        assert set(offered.controls) == {"canny", "pose"}
        assert (offered.loras, offered.styles) == (("fog",), ("photographic",))
        white = flat("white", (64, 64))
        asked = [
            order(upstream, sampler="dpmpp_2m", scheduler="karras", count=2, loras=[{"name": "fog", "weight": 0.5}]),
            order(upstream, "inpaint", {"init": white, "mask": white}, strength=0.5),
            order(upstream, "controlnet", {"canny": (white, {"weight": 0.5, "end": 0.75})}),
            order(upstream, "upscale", {"init": white}, scale=2.0),
        ]
        for one in asked:
            made = [report async for report in upstream.run(one) if isinstance(report, ImageMade)]
            assert len(made) == one.count
    for one, behind in zip(asked, (taken.request for taken in easel.orders), strict=True):
        for name in ("task", "width", "height", "sampler", "scheduler", "loras", "strength", "guidance", "steps", "n"):
            if one.request.task != "upscale" or name in ("task", "width", "height"):
                assert getattr(behind, name) == getattr(one.request, name), (one.request.task, name)
        for ours, theirs in zip(one.request.controls, behind.controls, strict=True):
            assert (ours.role, ours.weight, ours.end) == (theirs.role, theirs.weight, theirs.end)
