"""Workflows of the operator's own as models."""

import random
from typing import Any

import pytest

from gateway.core.models import AS_IT_IS
from gateway.core.params import Params
from gateway.core.reports import ImageMade, Outcome
from gateway.core.requests import normalise
from gateway.ports import CallOrder
from gateway.upstreams.comfyui.graph import Library
from gateway.upstreams.comfyui.template import Template, TemplateError
from load.upstreams.comfyui import colour
from tests.gateway.upstreams.comfyui.vendor import (
    StandIn,
    adapter,
    fault,
    flat,
    model_for,
    near,
    opened,
    order,
    reports,
)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow."""
    return {"class_type": kind, "inputs": inputs}


def workflow(**changes: Any) -> dict[str, Any]:
    """A workflow with slots, and these nodes in place of its own; `None` takes one out."""
    nodes = {
        "1": node("CheckpointLoaderSimple", ckpt_name="standin.safetensors"),
        "2": node("CLIPTextEncode", text="oil painting, {{prompt}}", clip=["1", 1]),
        "3": node("CLIPTextEncode", text="fog", clip=["1", 1]),
        "4": node("EmptyLatentImage", width="{{width}}", height="{{ height }}", batch_size=1),
        "5": node(
            "KSampler", model=["1", 0], positive=["2", 0], negative=["3", 0], latent_image=["4", 0], seed="{{seed}}",
            steps="{{steps}}", cfg="{{guidance}}", sampler_name="{{sampler}}", scheduler="normal", denoise=1.0,
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="mine"),
    }  # fmt: skip
    given = {**nodes, **{name.removeprefix("n"): change for name, change in changes.items()}}
    return {name: one for name, one in given.items() if one is not None}


OF_PICTURE = workflow(
    n4=node("VAEEncode", pixels=["8", 0], vae=["1", 2]),
    n8=node("LoadImage", image="{{init}}"),
    n5=node(
        "KSampler", model=["1", 0], positive=["2", 0], negative=["3", 0], latent_image=["4", 0], seed="{{seed}}",
        steps=2, cfg=1, sampler_name="euler", scheduler="normal", denoise="{{strength}}",
    ),
)  # fmt: skip


async def test_template_is_a_model_with_the_params_of_its_slots() -> None:
    """Each value in its own type; a prompt that looks like a slot stays what it is."""
    async with StandIn(step_time=0) as standin, adapter(standin.url, templates={"oils": workflow()}) as upstream:
        model = model_for(upstream, "txt2img", "oils")
        assert model.tasks == {
            "txt2img": frozenset({"prompt", "width", "height", "steps", "guidance", "sampler", "seed", "n"})
        }
        assert ("euler_a" in model.samplers, model.schedulers) == (True, ())
        told = await reports(upstream, order(upstream, model="oils", prompt="a {{seed}}", sampler="euler_a", width=72))
        graph = standin.jobs[0].body["prompt"]
        assert graph["5"]["inputs"]["seed"] == 7
        assert graph["5"]["inputs"]["sampler_name"] == "euler_ancestral"
        assert graph["2"]["inputs"]["text"] == "oil painting, a {{seed}}"
        assert graph["7"]["inputs"]["filename_prefix"].startswith("safelight/")
    assert opened(told).size == (72, 64)
    assert opened(told).getpixel((0, 0)) == colour(7, "oil painting, a {{seed}}", "fog")


def test_template_passes_tiling_on() -> None:
    """What a workflow makes of it is its own affair; the slot holds true or false."""
    graph = workflow(n9=node("SeamlessTile", model=["1", 0], tiling="{{tiling}}"))
    template = Template.parse("wall", graph)
    model = template.model("easel", Library())
    assert "tiling" in model.params
    for tiling in (True, False):
        request = normalise("txt2img", Params(prompt="x", tiling=tiling), (), model, random.Random(1))
        filled = template.fill(CallOrder("c", model, request, 1, 1), Library(), {}, "p")
        assert filled["9"]["inputs"]["tiling"] is tiling


async def test_template_takes_pictures() -> None:
    """Uploaded, and named as the server names them; one too many or too few is refused by name."""
    async with StandIn(step_time=0) as standin, adapter(standin.url, templates={"again": OF_PICTURE}) as upstream:
        asked = order(upstream, "img2img", model="again", strength=0.0, inputs={"init": flat((200, 100, 0))})
        made = (await reports(upstream, asked))[-1]
        assert isinstance(made, ImageMade)
        assert near(opened([made]).getpixel((1, 1)), (200, 100, 0))
        inputs = {"init": flat("red"), "mask": flat("red")}
        found = await fault(upstream, order(upstream, "img2img", model="again", inputs=inputs))
        assert (found.outcome, found.code) == (Outcome.FAILED, "invalid_param")
        assert standin.calls == 1


async def test_template_stands_before_what_the_server_has() -> None:
    """Its name counts where a checkpoint has the same; it is there before the server was asked."""
    async with (
        StandIn(step_time=0) as standin,
        adapter(standin.url, refresh=False, templates={"standin": workflow()}) as upstream,
    ):
        assert [model.id for model in upstream.models] == ["standin"]
        await upstream.refresh()
        assert [model.vendor_model for model in upstream.models][:2] == ["standin", "4x-standin.pth"]


@pytest.mark.parametrize(
    "slots,task",
    [
        ({"init"}, "upscale"),
        ({"init", "prompt", "seed"}, "img2img"),
        ({"init", "mask", "prompt", "seed"}, "inpaint"),
        ({"init", "left", "prompt", "seed"}, "outpaint"),
        ({"control", "control_2", "prompt", "seed"}, "controlnet"),
        ({"reference", "reference_3", "prompt", "seed"}, "reference"),
        ({"prompt", "seed"}, "txt2img"),
    ],
)
def test_task_follows_from_the_slots(slots: set[str], task: str) -> None:
    """What goes in says what it is for."""
    graph = {"1": node("Any", **{slot: f"{{{{{slot}}}}}" for slot in slots})}
    template = Template.parse("x", graph)
    assert template.task == task
    assert Template.parse("x", {"task": task, "graph": graph}) == template


def test_task_can_be_named() -> None:
    """For what the slots cannot tell."""
    graph = {"1": node("LoadImage", image="{{init}}")}
    assert Template.parse("x", {"task": "remove_background", "graph": graph}).task == "remove_background"


async def test_several_pictures_of_a_kind() -> None:
    """Each in its own slot; where there are fewer, the last one again; numbers belong to the first control."""
    graph = {
        "1": node("Any", a="{{reference}}", b="{{reference_2}}", c="{{reference_3}}", p="{{prompt}}", s="{{seed}}"),
        "2": node("Any", a="{{control}}", b=["{{control_weight}}", {"x": "{{control_end}} {{control_start}}"}]),
    }
    async with adapter("http://127.0.0.1:9", refresh=False, templates={"x": graph}) as upstream:
        assert (upstream.models[0].max_references, upstream.models[0].controls) == (3, ("control",))
        inputs = {"reference": b"", "reference-2": b""}
        asked = order(upstream, "reference", inputs=inputs)
        filled = Template.parse("x", {"task": "reference", "graph": {"1": graph["1"]}}).fill(
            asked, upstream._library, {slot: slot for slot in inputs}, "p"
        )
        assert [filled["1"]["inputs"][name] for name in "abc"] == ["reference", "reference-2", "reference-2"]
        with_control = Template.parse("y", {"1": {**graph["2"], "inputs": {**graph["2"]["inputs"], **PAINTED}}})
        asked = order(upstream, "reference", inputs={"control": b""}, details={"control": {"weight": 0.5}})
        filled = with_control.fill(asked, upstream._library, {"control": "c"}, "p")
        assert filled["1"]["inputs"]["b"] == [0.5, {"x": "1.0 0.0"}]


def test_option_of_an_input_image_without_a_slot_is_bound_to_what_is_usual() -> None:
    """Nothing is dropped in silence."""
    graph = {"1": node("Any", a="{{control}} {{prompt}} {{seed}}", b="{{control_weight}}")}
    model = Template.parse("x", graph).model("up", Library())
    assert model.bounds == {
        "control": {name: AS_IT_IS[name] for name in ("start", "end")},
        "reference": AS_IT_IS,
    }


PAINTED = {"p": "{{prompt}}", "s": "{{seed}}"}


@pytest.mark.parametrize(
    "given,why",
    [
        ({}, "no workflow"),
        ({"nodes": [], "links": []}, "export it for the API"),
        ({"1": {"class_type": "X"}}, "export it for the API"),
        ({"1": node("X", a="{{prompt}} {{seed}} {{cfg}}")}, "no slot {{cfg}}"),
        ({"1": node("X", a="{{prompt}} {{seed}} {{control_9}}")}, "no slot {{control_9}}"),
        ({"1": node("X", a="{{prompt}}")}, "needs the slot {{seed}}"),
        ({"1": node("X", a="{{seed}}")}, "needs the slot {{prompt}}"),
        ({"task": "inpaint", "graph": {"1": node("X", a="{{prompt}} {{seed}} {{init}}")}}, "needs the slot {{mask}}"),
        ({"task": "nonsense", "graph": {"1": node("X")}}, "no task nonsense"),
        ({"task": "upscale", "graph": []}, "no workflow"),
    ],
)
def test_workflow_that_cannot_be_offered_says_why(given: Any, why: str) -> None:
    """At the start, and not when somebody asks for it."""
    with pytest.raises(TemplateError, match=why.replace("{", r"\{")):
        Template.parse("x", given)
