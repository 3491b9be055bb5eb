"""A client of the web UI from the package registry, unmodified, at our door."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import webuiapi  # type: ignore[import-untyped]
from PIL import Image

from tests.end_to_end.harness import Running, gateway_here
from tests.end_to_end.papers import PaperUpstream
from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door

MODEL = replace(
    EASEL,
    tasks={task: params | {"scheduler", "loras"} for task, params in EASEL.tasks.items() if task != "upscale"}
    | {"upscale": EASEL.tasks["upscale"]},
    samplers=("euler_a", "dpmpp_2m"),
    schedulers=("karras",),
    loras=("fog",),
)
SIZE: dict[str, Any] = {"width": 128, "height": 192, "steps": 6, "seed": 7, "prompt": "a lighthouse"}


def client_of(running: Running, user: str = "painter") -> Any:
    """The client as its manual says, with the key as password."""
    port = int(running.url.rpartition(":")[2])
    return webuiapi.WebUIApi(host="127.0.0.1", port=port, username=user, password=running.key)


async def at(door: Door, work: Callable[[Any], Any]) -> Any:
    """Let the client, which blocks, do its work in a thread."""
    return await asyncio.to_thread(lambda: work(client_of(door.running)))


async def test_txt2img_img2img_and_inpainting(tmp_path: Path) -> None:
    """Pictures come as pictures, with what the client reads beside them."""
    async with open_door(tmp_path, Easel(MODEL)) as door:
        made = await at(door, lambda api: api.txt2img(**SIZE, negative_prompt="rain", batch_size=2, cfg_scale=5))
        assert [image.size for image in made.images] == [(128, 192)] * 2
        assert made.info["all_seeds"] == [7, 8]
        assert made.info["sampler_name"] == "Euler a"
        assert made.parameters["steps"] == 6
        init = Image.new("RGB", (256, 128), "navy")
        changed = await at(door, lambda api: api.img2img(images=[init], denoising_strength=0.4, **SIZE))
        assert changed.image.size == (128, 192)
        mask = Image.new("L", (256, 128), 0)
        mask.paste(255, (10, 10, 60, 60))
        filled = await at(door, lambda api: api.img2img(images=[init], mask_image=mask, **SIZE))
        assert filled.image.size == (256, 128)
        first, second, third = (order.request for order in door.easel.orders)
    assert (first.task, first.negative_prompt, first.guidance, first.n) == ("txt2img", "rain", 5.0, 2)
    assert (second.task, second.strength, third.task, third.strength) == ("img2img", 0.4, "inpaint", 0.75)


async def test_control_units_and_upscaling(tmp_path: Path) -> None:
    """A unit is a control image by its model's name; it is not sent again with the next request."""
    async with open_door(tmp_path, Easel(MODEL)) as door:
        edges = Image.new("RGB", (128, 192), "white")

        def work(api: Any) -> Any:
            assert api.has_controlnet
            assert api.controlnet_model_list() == ["control_canny", "control_pose"]
            assert api.controlnet_module_list() == ["none", "canny"]
            assert api.controlnet_version() == 3
            unit = webuiapi.ControlNetUnit(
                image=edges, module="canny", model="control_canny", weight=0.5, guidance_end=0.8
            )
            api.txt2img(**SIZE, controlnet_units=[unit])
            api.txt2img(**SIZE)
            assert [one["name"] for one in api.get_upscalers()] == ["easel"]
            return api.extra_single_image(edges, upscaler_1="easel", upscaling_resize=1.5)

        assert (await at(door, work)).image.size == (192, 288)
        controlled, plain, larger = (order.request for order in door.easel.orders)
    [control] = controlled.controls
    assert (controlled.task, plain.task, larger.task) == ("controlnet", "txt2img", "upscale")
    assert (control.role, control.preprocessor, control.weight, control.end) == ("canny", "canny", 0.5, 0.8)


async def test_lists_options_and_the_model(tmp_path: Path) -> None:
    """What a client shows in its menus can be sent back, and the model that is set is the one that is used."""
    async with open_door(tmp_path, Easel(MODEL)) as door:

        def work(api: Any) -> None:
            assert api.util_get_sampler_names() == ["DPM++ 2M", "Euler a"]
            assert api.util_get_scheduler_names() == ["automatic", "karras"]
            assert api.util_get_model_names() == ["easel"]
            assert [one["name"] for one in api.get_prompt_styles()] == ["photographic"]
            assert [one["name"] for one in api.get_loras()] == ["fog"]
            assert api.get_options()["sd_model_checkpoint"] == "easel"
            api.util_set_model("easle")
            assert api.util_get_current_model() == "easel"
            assert api.refresh_checkpoints() is None
            for empty in (api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models, api.get_sd_vae):
                assert empty() == []
            assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
            assert api.get_cmd_flags()["api"] is True
            assert set(api.get_memory()) == {"ram", "cuda"}
            assert api.get_latent_upscale_modes() == []
            api.util_wait_for_ready(check_interval=0.01)
            api.txt2img(**SIZE | {"prompt": "a boat <lora:fog:0.5>"}, scheduler="karras", styles=["photographic"])

        await at(door, work)
        [order] = door.easel.orders
    assert order.request.scheduler == "karras"
    assert order.request.prompt == "a boat"
    assert [(lora.name, lora.weight) for lora in order.request.loras] == [("fog", 0.5)]


async def test_progress_and_interrupt(tmp_path: Path) -> None:
    """The client sees its steps and previews, and an interrupt is answered with what there was."""
    paper = PaperUpstream(pace=lambda _: 0.05)
    async with gateway_here(tmp_path, upstreams=[paper]) as running:
        # The client asks the server while it is made: on the loop it would wait for itself.
        api, other = [await asyncio.to_thread(client_of, running, user) for user in ("painter", "somebody.else")]

        def paint() -> Any:
            return client_of(running).txt2img(**SIZE | {"steps": 150})

        painting = asyncio.create_task(asyncio.to_thread(paint))
        told = await asyncio.to_thread(api.get_progress)
        while told["current_image"] is None or told["state"]["sampling_step"] == 0:
            assert not painting.done(), painting
            await asyncio.sleep(0.02)
            told = await asyncio.to_thread(api.get_progress)
        assert 0 < told["progress"] < 1
        assert (told["state"]["job_count"], told["state"]["sampling_steps"]) == (1, 150)
        assert told["state"]["job"] == "scripts_txt2img"
        seen = await asyncio.to_thread(other.get_progress)
        assert (seen["progress"], seen["state"]["job_count"], seen["current_image"]) == (0.0, 0, None)
        assert await asyncio.to_thread(other.interrupt) == {}
        assert not painting.done()
        assert await asyncio.to_thread(api.interrupt) == {}
        made = await painting
        assert made.image.format == "PNG"
        assert (await asyncio.to_thread(api.get_progress))["state"]["job_count"] == 0
        assert await asyncio.to_thread(api.skip) is None
