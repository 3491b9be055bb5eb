"""What the server offers, as it tells itself, and what is kept away from it because it would take anything."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.normal import InputImage, Request
from gateway.core.params import Lora, decode_params
from gateway.core.reports import ImageMade, Outcome, UpstreamFault
from gateway.core.requests import normalise
from gateway.upstreams import sdcpp
from gateway.upstreams.sdcpp import Terms
from gateway.upstreams.sdcpp import adapter as adapter_module
from gateway.upstreams.sdcpp.models import Capabilities, Offer, capabilities_of, offer_of, problems_of
from gateway.upstreams.sdcpp.wire import accepted, state_of
from load.upstreams.faults import Garbage, Refuse, Rule
from load.upstreams.sdcpp import Defaults, Shop
from load.upstreams.sdcpp import SdCpp as StandIn
from load.upstreams.sdcpp.catalogue import capabilities
from protocol.errors import ClientFault
from tests.gateway.upstreams.sdcpp.vendor import (
    CONTROLLED,
    KEY,
    adapter,
    answering,
    count,
    fault,
    flat,
    images,
    input_image,
    order,
    raw_server,
    reports,
)

RECORDINGS = Path(__file__).parents[3] / "data" / "sdcpp"
SHARED = {"prompt", "negative_prompt", "width", "height", "steps", "guidance", "sampler", "scheduler", "seed", "n"}


def told(shop: Shop | None = None, **changes: Any) -> Capabilities:
    """What a server says of itself, with some of it changed."""
    return capabilities_of(json.dumps({**capabilities(shop or Shop()), **changes}).encode())


def recorded(name: str, path: str) -> list[Any]:
    """The bodies that the real server answered to a path of one recording."""
    lines = [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()]
    asked = {line["id"] for line in lines if line["kind"] == "http_request" and line["path"].startswith(path)}
    return [line["json"] for line in lines if line["kind"] == "http_response" and line["id"] in asked]


# ------------------------------------------------------------------------------------------------------------ discovery


async def test_nothing_is_offered_before_the_server_was_asked(standin: StandIn) -> None:
    """And what it has then is taken up."""
    async with adapter(standin.url, asked=False) as upstream:
        assert not upstream.models
        await upstream.refresh()
        model = upstream.models[0]
    assert (model.id, model.upstream, model.vendor_model) == ("tiny-sd1", "home", "tiny-sd1.safetensors")
    assert (model.billed, model.progress, model.previews, model.cancel) == (False, "estimated", False, "queued")
    assert (model.steps, model.default_steps, model.default_guidance) == ((1, 100), 20, 7.0)
    assert (model.images_per_call, model.max_n, model.default_size) == (8, 8, (512, 512))
    assert (model.sizes.smallest, model.sizes.largest, model.sizes.multiple_of) == (64, 4096, 64)
    assert model.sizes.max_pixels == 1024 * 1024
    assert set(model.tasks) == {"txt2img", "img2img", "inpaint"}
    assert model.tasks["txt2img"] == SHARED | {"loras"}
    assert model.tasks["img2img"] == model.tasks["inpaint"] == SHARED | {"loras", "strength"}
    assert (model.loras, model.controls, model.schedulers[:2]) == (("tiny-sd1",), (), ("discrete", "normal"))


def test_real_server_s_capabilities_are_read() -> None:
    """The recorded answer of a real one gives the same model as the stand-in's."""
    (body,) = recorded("discovery", "/sdcpp/v1/capabilities")
    real = capabilities_of(json.dumps(body).encode())
    double = told(Shop(defaults=Defaults(width=64, height=64, steps=2, txt_cfg=1.0)))
    assert offer_of("home", real, Terms()) == offer_of("home", double, Terms())
    (model,) = offer_of("home", real, Terms()).models
    assert (model.id, model.default_size, model.default_steps, model.default_guidance) == ("tiny-sd1", (64, 64), 2, 1)
    assert problems_of(real, Terms()) == ()


def test_real_server_s_jobs_are_read() -> None:
    """Every state of a job that was recorded is one that we know, and every order was taken with an id."""
    states = []
    for name in ("job_completed", "job_queue_and_cancel"):
        for body in recorded(name, "/sdcpp/v1/img_gen"):
            assert accepted(json.dumps(body).encode()) == body["id"]
        for body in recorded(name, "/sdcpp/v1/jobs/"):
            state = state_of(json.dumps(body).encode())
            assert state is not None or set(body) == {"error"}
            states += [] if state is None else [state.status]
    assert set(states) == {"queued", "generating", "completed", "cancelled"}


async def test_refresh_replaces_what_is_offered(standin: StandIn) -> None:
    """Another model after a restart is another model here."""
    async with adapter(standin.url) as upstream:
        standin.settings.shop = Shop(model="dream.gguf", loras=())
        await upstream.refresh()
        assert [(model.id, model.loras) for model in upstream.models] == [("dream", ())]
        assert "loras" not in upstream.models[0].tasks["txt2img"]


@pytest.mark.parametrize("what", [Refuse(500), Refuse(404), Garbage("not_json"), Garbage("truncated_json")], ids=str)
async def test_refresh_that_fails_leaves_what_was_offered(standin: StandIn, what: Any) -> None:
    """The models stay as they were, and the fault is told."""
    async with adapter(standin.url) as upstream:
        before = [*upstream.models]
        standin.script(Rule(do=what, operation="capabilities"))
        with pytest.raises(UpstreamFault) as caught:
            await upstream.refresh()
        assert (caught.value.outcome, caught.value.code) == (Outcome.FAILED, "upstream_error")
        assert [*upstream.models] == before != []


async def test_known_model_is_asked_for_again_only_when_old(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in some seconds at most, and then before the order goes out."""
    async with adapter(standin.url) as upstream:
        for _ in range(3):
            await reports(upstream, order(upstream))
        assert count(standin, "capabilities") == 1
        monkeypatch.setattr(adapter_module, "_OLD_SECONDS", 0.0)
        await reports(upstream, order(upstream))
        assert count(standin, "capabilities") == 2


def test_settings_say_what_the_server_does_not() -> None:
    """Its name, its control model, its rounding, its memory, and how much goes into one call."""
    terms = Terms("house", ("canny", "depth"), 16, 512 * 512, images_per_call=2, max_n=4, description="ours")
    (model,) = offer_of("home", told(), terms).models
    assert (model.id, model.vendor_model, model.description) == ("house", "tiny-sd1.safetensors", "ours")
    assert (model.controls, model.max_controls, model.preprocessors) == (("canny", "depth"), 1, ("none",))
    assert model.tasks["controlnet"] == SHARED | {"loras", "strength"}
    assert model.bounds == {"control": {"start": (0.0, 0.0), "end": (1.0, 1.0)}}
    assert (model.sizes.multiple_of, model.sizes.max_pixels) == (16, 512 * 512)
    assert (model.images_per_call, model.max_n) == (2, 4)


@pytest.mark.parametrize(
    "changes,tasks,cancel",
    [
        ({"features": {"cancel_generating": True}}, {"txt2img", "img2img", "inpaint"}, "yes"),
        ({"features": {"cancel_queued": False, "mask_image": False}}, {"txt2img", "img2img"}, "no"),
        ({"features": {"init_image": False}}, {"txt2img"}, "queued"),
        ({"features": {"control_image": True}}, {"txt2img", "img2img", "inpaint", "controlnet"}, "queued"),
    ],
)
def test_features_decide_what_is_offered(changes: dict[str, Any], tasks: set[str], cancel: str) -> None:
    """What a later server learns, and what another build lacks, is taken from its own words."""
    (model,) = offer_of("home", told(**changes), CONTROLLED).models
    assert (set(model.tasks), model.cancel, model.loras) == (tasks, cancel, ("tiny-sd1",))


def test_odd_limits_stay_sound() -> None:
    """Whatever it tells, sizes can be chosen and a call has a picture."""
    limits = {"min_width": 0, "max_width": 0, "min_height": -5, "max_height": 9, "max_batch_count": 0}
    (model,) = offer_of("home", told(limits=limits, model={}, defaults={"width": -1, "height": 9999}), Terms()).models
    assert (model.id, model.images_per_call, model.default_size) == ("home", 1, (64, 64))


def test_lora_files_of_one_name_are_told_apart() -> None:
    """Those by folder and name, all others by their name alone."""
    shop = Shop(loras=("a/ink.safetensors", "b/ink.safetensors", "b/oil.gguf", f"{'x' * 300}.gguf"))
    offer = offer_of("home", told(shop), Terms())
    assert offer.loras == {"a/ink": "a/ink.safetensors", "b/ink": "b/ink.safetensors", "oil": "b/oil.gguf"}


def test_server_for_videos_offers_nothing() -> None:
    """And the probe says what to do."""
    video = told(supported_modes=["vid_gen"], current_mode="vid_gen")
    assert offer_of("home", video, Terms()) == Offer()
    (problem,) = problems_of(video, Terms())
    assert problem == "the server has loaded a model for videos only: start it with one for pictures"


# -------------------------------------------------------------------------------- the server validates nothing: point 4

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"width": 0}, "resolution_not_supported", "params.width"),
    ({"width": 32}, "resolution_not_supported", "params.width"),
    ({"width": 100}, "resolution_not_supported", "params.width"),
    ({"height": 100_000}, "resolution_not_supported", "params.height"),
    ({"width": 4096, "height": 4096}, "resolution_not_supported", "params.width"),
    ({"steps": 0}, "invalid_param", "params.steps"),
    ({"steps": -5}, "invalid_param", "params.steps"),
    ({"steps": 101}, "invalid_param", "params.steps"),
    ({"count": 0}, "invalid_param", "params.n"),
    ({"count": 9}, "invalid_param", "params.n"),
    ({"guidance": -1.0}, "invalid_param", "params.guidance"),
    ({"strength": 1.5}, "invalid_param", "params.strength"),
    ({"sampler": "no_such"}, "sampler_not_supported", "params.sampler"),
    ({"scheduler": "no_such"}, "invalid_param", "params.scheduler"),
    ({"loras": (Lora("no_such"),)}, "adapter_not_found", "params.loras"),
    ({"task": "upscale"}, "task_not_supported", "task"),
    ({"task": "controlnet"}, "task_not_supported", "task"),
]


@pytest.mark.parametrize("options,code,path", WRONG, ids=str)
async def test_point_4_order_that_the_server_would_take_is_not_sent(
    standin: StandIn, options: dict[str, Any], code: str, path: str
) -> None:
    """Absurd values hold its only worker, or its memory: they are refused here, by name, and cost no call."""
    async with adapter(standin.url) as upstream:
        found = await fault(upstream.run(order(upstream, **options)))
    assert (found.outcome, found.code, found.details["path"]) == (Outcome.FAILED, code, path)
    assert standin.calls == 0


@pytest.mark.parametrize(
    "task,inputs,control",
    [
        ("controlnet", {"mask": flat(0, mode="L"), "canny": flat("red")}, {}),
        ("controlnet", {"canny": flat("red")}, {"start": 0.2}),
        ("controlnet", {"canny": flat("red")}, {"end": 0.8}),
        ("controlnet", {"canny": flat("red"), "depth": flat("red")}, {}),
    ],
)
async def test_point_4_control_that_the_server_cannot_do_is_not_sent(
    standin: StandIn, task: str, inputs: dict[str, bytes], control: dict[str, float]
) -> None:
    """It has no range of steps for a control image, only one of them, and no mask without an init image."""
    asked = tuple(input_image(slot, **(control if slot == "canny" else {})) for slot in inputs)
    async with adapter(standin.url, terms=CONTROLLED) as upstream:
        found = await fault(upstream.run(order(upstream, task, inputs=inputs, request_inputs=asked)))
    assert (found.code, found.details, standin.calls) == ("invalid_param", {"path": "inputs"}, 0)


def normal(upstream: sdcpp.SdCpp, params: dict[str, Any], *inputs: InputImage) -> Request:
    """What the gateway makes of a client's params, before any upstream is called."""
    task = "img2img" if inputs else "txt2img"
    named = decode_params(json.dumps({"prompt": "a lamp", **params}).encode())
    return normalise(task, named, inputs, upstream.models[0], random.Random(1))


@pytest.mark.parametrize(
    "params",
    [{"width": 100}, {"height": 8192}, {"width": 4096, "height": 4096}, {"steps": 200}, {"n": 9}, {"sampler": "x"}],
)
async def test_point_4_gateway_refuses_or_adjusts(standin: StandIn, params: dict[str, Any]) -> None:
    """The model's description says enough: refused by name, or brought to what the server really draws."""
    async with adapter(standin.url) as upstream:
        with pytest.raises(ClientFault):
            normal(upstream, params)
        request = normal(upstream, {**params, "adjust": True, "steps": min(2, params.get("steps", 2))})
        made = await images(upstream, replace(order(upstream), request=request, count=request.n))
    assert len(made) == request.n
    assert {(one.picture.width, one.picture.height) for one in made} == {(request.width, request.height)}


async def test_point_4_size_is_what_the_server_draws(standin: StandIn) -> None:
    """It rounds up to 64 in silence: every size that is let through comes back as it was asked."""
    async with adapter(standin.url) as upstream:
        for size in ((64, 64), (192, 320), (1024, 1024), (64, 4096)):
            (made,) = await images(upstream, order(upstream, width=size[0], height=size[1]))
            assert (made.picture.width, made.picture.height) == size


# ---------------------------------------------------------------------------------------------------------------- probe


async def test_probe_tells_what_is_there(standin: StandIn) -> None:
    """Model, limits and names; nothing is wrong, and no picture is made."""
    async with adapter(standin.url, asked=False) as upstream:
        findings = await upstream.probe()
    assert findings.server == "stable-diffusion.cpp sd-server (it tells no version)"
    assert findings.facts == (
        "model: tiny-sd1.safetensors, offered as tiny-sd1",
        "sizes: 64x64 to 4096x4096 in steps of 64, at most 1048576 pixels",
        "at most 8 images of one job, 64 jobs pending",
        "21 samplers, 17 schedulers",
        "LoRAs: tiny-sd1",
        "control images: none; the server does not tell whether it has a control model",
    )
    assert findings.problems == ()
    assert standin.calls == 0
    assert KEY not in str(findings)
    assert "/models" not in str(findings)


async def test_probe_says_what_is_wrong_and_what_to_do() -> None:
    """The server's own habits that do not fit are named."""
    shop = Shop(defaults=Defaults(width=2000, height=2000, steps=150))
    async with StandIn(shop=shop) as standin, adapter(standin.url, terms=CONTROLLED) as upstream:
        findings = await upstream.probe()
    size, steps = findings.problems
    assert size.startswith("the server's own size 2000x2000 is not allowed here, 1024x1024 is taken instead: start it")
    assert steps == "the server was started with 150 steps and makes 1 to 100: start it with other --steps"
    assert "control images: canny" in findings.facts
    (problem,) = problems_of(told(features={}), CONTROLLED)
    assert problem == "the server takes no control images: empty `controls`, or update the server"


@pytest.mark.parametrize("answer", [("404 Not Found", b""), ("200 OK", b"<html>hello</html>"), ("200 OK", b"{}")])
async def test_probe_knows_another_server_when_it_meets_one(answer: tuple[str, bytes]) -> None:
    """Plain words in place of a fault: the address is wrong, or the server too old."""
    async with raw_server(answering(answer)) as url, adapter(url, asked=False) as upstream:
        findings = await upstream.probe()
    assert findings.server == "not a stable-diffusion.cpp server that can be used"
    assert findings.problems[0].endswith("check the address, or start an sd-server with a job API (/sdcpp/v1) there")


async def test_probe_raises_where_the_key_is_refused(standin: StandIn) -> None:
    """That is no matter of the address."""
    standin.script(Rule(do=Refuse(401), operation="capabilities"))
    async with adapter(standin.url, asked=False) as upstream:
        with pytest.raises(UpstreamFault) as caught:
            await upstream.probe()
    assert caught.value.credential


async def test_probe_after_an_order_changes_nothing(standin: StandIn) -> None:
    """It looks and does not touch."""
    async with adapter(standin.url) as upstream:
        before = upstream.models
        await upstream.probe()
        assert upstream.models is before
        assert isinstance((await reports(upstream, order(upstream)))[-1], ImageMade)
