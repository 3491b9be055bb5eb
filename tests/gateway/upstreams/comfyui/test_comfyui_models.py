"""What is found on a server, how it is offered, and what a look at it tells people."""

from typing import Any

import pytest

from gateway.core.reports import Outcome, UpstreamFault
from gateway.upstreams.comfyui.models import control_files, findings_of, sampler_names, short_names, version_of
from gateway.upstreams.comfyui.rest import choices_of
from load.upstreams.comfyui import Checkpoint, Library
from load.upstreams.faults import Garbage, Refuse, Rule
from tests.gateway.upstreams.comfyui.vendor import StandIn, adapter, order, picture, reports

RICH = Library(
    checkpoints=(Checkpoint("sdxl/base.safetensors"), Checkpoint("old\\v1-5.ckpt"), Checkpoint("v2.0.safetensors")),
    loras=("styles/ink.safetensors", "people/ink.safetensors"),
    controlnets=("control_v11p_sd15_openpose.pth", "sdxl/depth-xl.safetensors", "xinsir-union.safetensors", "odd.bin"),
    upscalers=("4x-UltraSharp.pth",),
)


async def test_everything_is_found_and_named_shortly() -> None:
    """Checkpoints, LoRAs, ControlNets and upscalers, in the older form of choices and in the newer."""
    async with StandIn(step_time=0, library=RICH) as standin, adapter(standin.url) as upstream:
        models = {model.id: model for model in upstream.models}
        assert list(models) == ["base", "v1-5", "v2.0", "4x-UltraSharp", "lanczos"]
        base = models["base"]
        assert (base.vendor_model, base.default_size) == ("sdxl/base.safetensors", (1024, 1024))
        assert (models["v1-5"].default_size, base.loras) == ((512, 512), ("styles-ink", "people-ink"))
        assert set(base.controls) == {"pose", "depth", "control"}
        assert base.preprocessors == ("none", "canny")
        assert models["4x-UltraSharp"].tasks == {"upscale": frozenset({"width", "height", "scale"})}
        await picture(upstream, order(upstream, model="base"))
        assert standin.jobs[0].graph["checkpoint"]["inputs"]["ckpt_name"] == "sdxl/base.safetensors"


async def test_settings_choose_checkpoints_and_controls() -> None:
    """By file name or by our name; before the server was asked, they are all there is."""
    options: dict[str, Any] = {"checkpoints": ["v2.0", "old\\v1-5.ckpt"], "controls": {"tile": "odd.bin"}}
    async with StandIn(library=RICH) as standin, adapter(standin.url, refresh=False, **options) as upstream:
        assert [model.id for model in upstream.models] == ["v2.0", "v1-5", "lanczos"]
        assert upstream.models[0].controls == ("tile",)
        await upstream.refresh()
        assert [model.id for model in upstream.models] == ["v1-5", "v2.0", "4x-UltraSharp", "lanczos"]
        assert set(upstream.models[0].controls) == {"pose", "depth", "control", "tile"}


async def test_nothing_is_offered_before_the_first_look() -> None:
    """And what was found stays when a later look fails."""
    async with StandIn() as standin, adapter(standin.url, refresh=False) as upstream:
        assert upstream.models == ()
        await upstream.refresh()
        found = upstream.models
        for fault in (Refuse(500), Garbage("not_json")):
            standin.script(Rule(fault, operation="object_info"))
            with pytest.raises(UpstreamFault):
                await upstream.refresh()
            assert upstream.models == found


def test_names_of_files() -> None:
    """Without folder and suffix, unless that would make two the same."""
    assert short_names(["a/x.safetensors", "y.PT", "z.v2"]) == {"x": "a/x.safetensors", "y": "y.PT", "z.v2": "z.v2"}
    assert short_names(["a/x.ckpt", "b\\x.ckpt"]) == {"a-x": "a/x.ckpt", "b-x": "b\\x.ckpt"}
    assert control_files(["finished.pth", "b-canny.pth", "a_canny.pth"], {}) == {"canny": "a_canny.pth"}
    assert sampler_names(["euler", "dpm_2", "new_one"]) == {"euler": "euler", "dpm2": "dpm_2", "new_one": "new_one"}


@pytest.mark.parametrize("told", [["COMBO", {"options": ["a"]}], [["a"], {}], [["a"]]])
def test_choices_in_both_forms(told: Any) -> None:
    """A list, or an object that has it."""
    assert choices_of({"N": {"input": {"required": {"x": told}}}}, "N", "x") == ("a",)


@pytest.mark.parametrize("told", [[], ["COMBO"], ["INT", {}], ["COMBO", {"options": 5}], 5])
def test_choices_of_odd_shapes_are_none(told: Any) -> None:
    """A node that tells no choices has none."""
    assert choices_of({"N": {"input": {"required": {"x": told}}}}, "N", "x") == ()


async def test_probe_tells_version_device_and_models() -> None:
    """And after a run that had previews, nothing is wrong."""
    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        await reports(upstream, order(upstream))
        found = await upstream.probe()
    assert found.server == "ComfyUI 0.3.64"
    assert found.facts == ("runs on cpu, 23.5 GiB", "models: standin, 4x-standin, 2x-standin, lanczos")
    assert found.problems == ()


async def test_probe_tells_what_to_do() -> None:
    """An old server without checkpoints, previews, or the model that the settings name."""
    library = Library(checkpoints=(), loras=(), controlnets=(), upscalers=())
    async with (
        StandIn(old=True, library=library) as standin,
        adapter(standin.url, refresh=False, checkpoints=["mine"]) as upstream,
    ):
        found = await upstream.probe()
    assert found.server == "ComfyUI, too old to tell its version"
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "the server has no checkpoint mine",
        "there is no checkpoint",
        "previews are off",
        "this version's interrupt stops whatever runs, so a cancel at the wrong moment can hit other people's work",
        "this version does not say whose a preview is",
    ]


async def test_probe_of_no_server_is_a_fault() -> None:
    """The caller tells what that means."""
    async with adapter("http://127.0.0.1:9", refresh=False) as upstream:
        with pytest.raises(UpstreamFault) as caught:
            await upstream.probe()
    assert (caught.value.outcome, caught.value.code) == (Outcome.NOT_SENT, "model_unavailable")


@pytest.mark.parametrize(
    "stats,version",
    [
        ({"system": {"comfyui_version": "0.3.64"}}, (0, 3, 64)),
        ({"system": {"comfyui_version": "v1.2"}}, (1, 2)),
        ({"system": {}}, ()),
        ({"system": 5}, ()),
        ({}, ()),
    ],
)
def test_version_as_numbers(stats: dict[str, Any], version: tuple[int, ...]) -> None:
    """Nothing where it is not told."""
    assert version_of(stats) == version
    assert findings_of({**stats, "devices": [5]}, (), []).facts == ("models: none",)
