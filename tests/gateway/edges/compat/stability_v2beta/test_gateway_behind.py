"""A gateway in front of a gateway: our own adapter of the vendor's v2beta at our own door."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.models import Sizes
from gateway.core.reports import ImageMade, Outcome, UpstreamFault
from gateway.upstreams.stability_v2beta import StabilityV2Beta
from gateway.upstreams.stability_v2beta.models import MODELS, model_of, prices_of
from tests.gateway.edges.compat.conftest import Door, Easel, open_door
from tests.gateway.edges.compat.stability_v2beta.conftest import IMAGE, MODEL, form
from tests.gateway.upstreams.stability_v2beta.vendor import order
from tests.pictures import flat

WHITE = flat("white", (192, 128))
LARGE = replace(MODEL, sizes=Sizes(smallest=64, largest=4096, multiple_of=8, max_pixels=4096 * 4096))


@asynccontextmanager
async def adapter(door: Door) -> AsyncIterator[StabilityV2Beta]:
    """The adapter, as one would configure it for the vendor."""
    front = StabilityV2Beta(
        name="front", base_url=door.running.url, api_key=door.running.key, poll_seconds=0.02, timeout_seconds=20
    )
    await front.open()
    try:
        yield front
    finally:
        await front.close()


ORDERS: list[tuple[str, str, dict[str, bytes], dict[str, Any], dict[str, Any]]] = [
    *(("txt2img", name, {}, {}, {}) for name in MODELS[:-1]),
    *(("img2img", name, {"init": WHITE}, {}, {"strength": 0.25}) for name in MODELS[1:-1]),
    ("inpaint", "stable-image", {"init": WHITE, "mask": flat(9, (192, 128), "L")}, {}, {}),
    ("outpaint", "stable-image", {"init": WHITE}, {}, {"expand": {"left": 64, "down": 8}}),
    ("search_replace", "stable-image", {"init": WHITE}, {}, {"search": "a boat"}),
    ("remove_background", "stable-image", {"init": WHITE}, {}, {}),
    ("controlnet", "stable-image", {"sketch": WHITE}, {"weight": 0.25}, {}),
    ("controlnet", "stable-image", {"structure": WHITE}, {}, {}),
    ("reference", "stable-image", {"reference": WHITE}, {"weight": 0.75}, {"width": 1365, "height": 768}),
    ("upscale", "stable-image", {"init": WHITE}, {}, {}),
    ("upscale", "stable-image", {"init": WHITE}, {}, {"prompt": "sharp"}),
    ("upscale", "stable-image", {"init": WHITE}, {}, {"prompt": "sharp", "scale": 5.0}),
]
_SAME = ("prompt", "search", "expand", "strength")


async def test_everything_that_the_adapter_asks_for(tmp_path: Path) -> None:
    """What the front asks for arrives behind it as the same task and words; an asynchronous one by its id."""
    async with open_door(tmp_path, Easel(LARGE)) as door, adapter(door) as front:
        for task, name, inputs, used, params in ORDERS:
            asked = order(task, name, inputs, used, **params)
            [made] = [one async for one in front.run(asked) if isinstance(one, ImageMade)]
            behind = door.easel.orders[-1].request
            assert (behind.task, made.filtered, made.picture.format) == (task, False, "png"), (task, name)
            assert (made.picture.width, made.picture.height) == (behind.width, behind.height)
            for field in _SAME if task != "upscale" else ():
                theirs = getattr(asked.request, field)
                assert getattr(behind, field) == (1.0 if (task, field) == ("inpaint", "strength") else theirs), field
            if task not in ("upscale", "remove_background"):
                assert (behind.seed, made.seed) == (7, 7), task
            for ours, theirs in zip(asked.request.controls, behind.controls, strict=True):
                assert (ours.role, ours.weight) == (theirs.role, theirs.weight)
        found = await front.probe()
        assert "credits left" in found.facts[0]


async def test_end_of_the_work_is_understood(tmp_path: Path) -> None:
    """What a filter holds back, a prompt that is refused, an empty purse behind the gateway: each as the vendor's."""
    async with open_door(tmp_path, Easel(MODEL)) as door, adapter(door) as front:
        door.easel.filtered = frozenset({0})
        [made] = [one async for one in front.run(order()) if isinstance(one, ImageMade)]
        assert made.filtered
        for code, understood in (
            ("content_filtered", (Outcome.FAILED, "content_filtered")),
            ("insufficient_credits", (Outcome.FAILED, "upstream_error")),
            ("model_unavailable", (Outcome.REFUSED, "model_unavailable")),
            ("upstream_error", (Outcome.FAILED, "upstream_error")),
        ):
            door.easel.fault = UpstreamFault(Outcome.FAILED, code, "as the test says")
            with pytest.raises(UpstreamFault) as caught:
                _ = [one async for one in front.run(order())]
            assert (caught.value.outcome, caught.value.code) == understood


async def test_vendor_behind_the_gateway_draws_the_shape_of_the_lines(tmp_path: Path) -> None:
    """The vendor's own has the control image's size; what the door asks of it for one that is not square is that."""
    model = model_of("stable-image", "stable-image", prices_of({}), 4)
    async with open_door(tmp_path, Easel(model)) as door:
        assert (await door.ask("POST", f"{IMAGE}control/sketch", form(prompt="x", image=WHITE))).status == 200
        request = door.easel.orders[-1].request
        assert (request.width, request.height) == (1254, 836)
