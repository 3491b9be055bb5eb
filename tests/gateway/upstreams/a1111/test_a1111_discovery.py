"""What a server offers, and what a probe tells people."""

import json
from typing import Any

import pytest

from gateway.core.models import Sizes
from gateway.core.reports import UpstreamFault
from gateway.upstreams.a1111 import A1111, Checkpoint
from gateway.upstreams.a1111.discovery import offer_of
from gateway.upstreams.a1111.models import Offer, control_model, models_of, stem_of, upscaler_of
from load.upstreams.faults import Garbage, Refuse, Rule
from tests.gateway.upstreams.a1111.server import PASSWORD, USER, StandIn, adapter, images, order


async def test_models_are_what_the_server_has(standin: StandIn) -> None:
    """One model for each checkpoint, under its file's name, with all that goes with it."""
    async with adapter(standin.url) as upstream:
        tiny, other = upstream.models
    assert (tiny.id, tiny.upstream, other.id) == ("tiny", "webui", "other")
    assert tiny.vendor_model.startswith("tiny.safetensors [")
    assert set(tiny.tasks) == {"txt2img", "img2img", "inpaint", "outpaint", "controlnet", "upscale"}
    assert (tiny.billed, tiny.progress, tiny.previews, tiny.cancel) == (False, "steps", True, "yes")
    assert (tiny.images_per_call, tiny.max_n, tiny.default_size) == (4, 4, (512, 512))
    assert tiny.controls == ("canny", "depth")
    assert (tiny.max_controls, tiny.preprocessors[:3]) == (3, ("none", "canny", "depth_midas"))
    assert (tiny.loras, tiny.styles) == (("sketch",), ())
    assert {"karras", "sgm_uniform", "beta"} <= set(tiny.schedulers)
    assert len(tiny.samplers) == 25
    # Headings in the list of styles are none, and what is not there has no effect.
    assert "style" not in tiny.tasks["txt2img"]
    assert tiny.tasks["upscale"] == {"scale", "width", "height"}
    assert tiny.sizes_of("upscale").largest == 8192


def test_before_the_first_refresh_there_is_what_the_settings_say() -> None:
    """No server is needed to know the configured models."""
    nothing = A1111(name="webui", base_url="http://x/")
    settings = Checkpoint("dreams.safetensors [abc]", "dreams", Sizes(multiple_of=64), (768, 512), max_n=2)
    (model,) = A1111(name="webui", base_url="http://x/", checkpoints=[settings]).models
    assert nothing.models == ()
    assert (model.id, model.vendor_model, model.sizes.multiple_of) == ("dreams", "dreams.safetensors [abc]", 64)
    assert (model.default_size, model.max_n, model.images_per_call) == ((768, 512), 2, 2)
    assert set(model.tasks) == {"txt2img", "img2img", "inpaint", "outpaint"}
    assert repr(nothing) == "<A1111 webui at http://x>"


async def test_configured_checkpoint_works_before_the_first_refresh(standin: StandIn) -> None:
    """The server takes its names as the settings write them."""
    async with adapter(standin.url, refreshes=False, checkpoints=[Checkpoint("other")]) as upstream:
        (made,) = await images(upstream, order(upstream))
    assert made.picture.width == 64
    assert standin.options["sd_model_checkpoint"].startswith("other.safetensors [")


@pytest.mark.parametrize("name", ["other", "other.safetensors", "other.safetensors [0000000000]"])
async def test_configured_checkpoints_alone_are_offered(standin: StandIn, name: str) -> None:
    """By whatever name; one that the server does not have is left out, and the probe says so."""
    checkpoints = (Checkpoint(name, "mine"), Checkpoint("lost"))
    async with adapter(standin.url, checkpoints=checkpoints) as upstream:
        assert [model.id for model in upstream.models] == ["mine"]
        found = await upstream.probe()
        await images(upstream, order(upstream))
    assert standin.options["sd_model_checkpoint"].startswith("other.safetensors [")
    assert "the server has no checkpoint lost: mend `checkpoints`" in found.problems


async def test_refresh_takes_up_what_is_new(standin: StandIn) -> None:
    """What is installed while the gateway runs is offered after the next refresh."""
    async with adapter(standin.url) as upstream:
        standin.setup.models = ("sub/dreamXL.safetensors",)
        standin.setup.loras = ("a", "odd:name")
        await upstream.refresh()
        (model,) = upstream.models
    assert (model.id, model.default_size, model.loras) == ("dreamXL", (1024, 1024), ("a",))


@pytest.mark.parametrize("trouble", [Refuse(500), Refuse(404), Refuse(401)])
async def test_refresh_that_fails_leaves_the_models(standin: StandIn, trouble: Refuse) -> None:
    """A server that does not answer offers what it did."""
    async with adapter(standin.url) as upstream:
        before = upstream.models
        standin.script(Rule(do=trouble, operation="sd-models"))
        with pytest.raises(UpstreamFault):
            await upstream.refresh()
    assert upstream.models == before


@pytest.mark.parametrize("trouble", [Refuse(404), Garbage("not_json"), Garbage("empty")])
async def test_lists_that_are_not_there_are_empty(standin: StandIn, trouble: Any) -> None:
    """Extensions may be missing, and versions differ."""
    lists = ("samplers", "schedulers", "loras", "upscalers", "options", "controlnet/model_list", "prompt-styles")
    async with adapter(standin.url, refreshes=False) as upstream:
        for operation in lists:
            standin.script(Rule(do=trouble, operation=operation))
            await upstream.refresh()
            assert [model.id for model in upstream.models] == ["tiny", "other"]
        standin.script(*(Rule(do=trouble, operation=operation) for operation in lists))
        await upstream.refresh()
        assert set(upstream.models[0].tasks) == {"txt2img", "img2img", "inpaint", "outpaint"}
        await images(upstream, order(upstream))


async def test_probe_of_a_healthy_server_has_no_problems(standin: StandIn) -> None:
    """What is there is told in a few lines."""
    async with adapter(standin.url, refreshes=False) as upstream:
        found = await upstream.probe()
        assert upstream.models == ()
    assert (found.server, found.problems) == ("AUTOMATIC1111, Forge or like them", ())
    assert "25 samplers, 16 schedulers, 0 styles, 1 LoRAs, 2 ControlNet models" in found.facts
    assert "work is followed by tasks" in found.facts


async def test_probe_tells_what_is_wrong_and_what_to_do() -> None:
    """Each problem in plain words."""
    async with StandIn(previews=False, models=(), upscalers=("None",)) as standin:
        standin.script(*(Rule(do=Refuse(404), operation=f"controlnet/{name}_list") for name in ("model", "module")))
        async with adapter(standin.url) as upstream:
            problems = (await upstream.probe()).problems
            assert upstream.models == ()
    for start in (
        "the server lists no checkpoints",
        "live previews are off: switch them on at the server under Settings > Live previews",
        "progress is told for the whole server and not by task: let nobody else use it",
        "ControlNet is not installed",
        "the server has no upscaler: pictures cannot be enlarged",
    ):
        assert any(problem.startswith(start) for problem in problems), start
    assert len(problems) == 5


async def test_probe_names_the_api_that_is_off(standin: StandIn) -> None:
    """Without --api the web page is there, and none of the API's paths."""
    standin.script(Rule(do=Refuse(404), operation="sd-models"))
    async with adapter(standin.url, refreshes=False) as upstream:
        found = await upstream.probe()
    assert found.problems == ("the API is off: start the server with --api",)


@pytest.mark.parametrize("flavour", ["forge", "a1111", "sdnext"])
async def test_probe_names_the_password_that_is_missing(flavour: Any) -> None:
    """With or without one of our own."""
    async with StandIn(flavour=flavour, auth=f"{USER}:{PASSWORD}") as standin:
        async with adapter(standin.url, refreshes=False) as upstream:
            (none,) = (await upstream.probe()).problems
        async with adapter(standin.url, refreshes=False, user=USER, password="x") as upstream:
            (wrong,) = (await upstream.probe()).problems
    assert none == "the API needs a user and password: give those of its --api-auth"
    assert wrong == "the API refuses the user and password: give those of its --api-auth"


async def test_probe_of_nobody_fails(standin: StandIn) -> None:
    """Where nobody listens there is nothing to find."""
    async with adapter(standin.url, refreshes=False) as upstream:
        await standin.kill()
        with pytest.raises(UpstreamFault):
            await upstream.probe()


# --- the pure parts ---


def test_names_are_cut_to_the_file() -> None:
    """Folders of both kinds, hashes and suffixes go; dots within a name stay."""
    names = {
        "a.safetensors": "a",
        "sub/a.ckpt [0123abcdef]": "a",
        "sub\\v1.5.gguf": "v1.5",
        "model v2.1": "model v2.1",
        "x [not a hash]": "x [not a hash]",
    }
    assert {name: stem_of(name) for name in names} == names


def test_two_files_of_one_name_have_two_names() -> None:
    """The second bears its folder."""
    found = models_of("webui", Offer(titles=("a/x.ckpt [01]", "b/x.ckpt [02]")), (), "", previews=True)
    assert [model.id for model in found] == ["x", "b/x.ckpt"]


def test_upscaler_is_the_one_that_does_more_than_resample() -> None:
    """Unless the settings name one."""
    offer = Offer(upscalers=("None", "Lanczos", "Nearest", "R-ESRGAN 4x+"))
    assert upscaler_of(offer, "") == "R-ESRGAN 4x+"
    assert upscaler_of(offer, "Lanczos") == "Lanczos"
    assert upscaler_of(offer, "lost") is None
    assert upscaler_of(Offer(upscalers=("None", "Lanczos")), "") == "Lanczos"


def test_control_model_fits_the_checkpoint() -> None:
    """Of several for a kind, the one for models of the checkpoint's size."""
    titles = ("diffusers_xl_canny_full [1]", "control_v11p_sd15_canny [2]", "control_v11p_sd15_softedge [3]")
    assert control_model("canny", titles, "dreams.ckpt") == titles[1]
    assert control_model("canny", titles, "dreamsXL.ckpt") == titles[0]
    assert control_model("hed", titles, "dreamsXL.ckpt") == titles[2]
    assert control_model("depth", titles, "dreams.ckpt") is None
    assert control_model("style", titles, "dreams.ckpt") is None


def test_answers_of_odd_shapes_offer_nothing() -> None:
    """Whatever stands in a list, only names count."""
    odd = json.dumps([{"name": 7}, "x", None, {"name": ""}, {"name": "fine", "prompt": "p"}, {"name": "fine"}]).encode()
    found = offer_of({"models": b"{}", "samplers": odd, "styles": odd, "options": b"[]", "control_settings": b"7"})
    assert (found.titles, found.samplers, found.styles, found.control_units) == ((), ("fine",), ("fine",), 3)
    assert offer_of({"options": b'{"show_progress_every_n_steps": -1}'}).previews is False
    assert offer_of({"options": b'{"show_progress_type": "Full"}'}).full_previews
