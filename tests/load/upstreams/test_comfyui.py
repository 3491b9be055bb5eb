"""The stand-in of ComfyUI: pictures, nodes, cache, files, versions."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from load.upstreams.comfyui import TINY_CLASSES, ComfyUI, colour
from load.upstreams.comfyui.nodes import HINT_SHARE
from tests.load.upstreams.comfyui_talk import Client, Talker, file_of, node, noise, picture_graph, text_graph, until

ROOT = Path(__file__).parents[3]
CAT = colour(7, "a cat", "a dog")


@pytest.fixture
async def talker(client: Client) -> AsyncIterator[Talker]:
    """A client of a fresh stand-in."""
    async with ComfyUI(step_time=0, preview_size=64, extra_classes=TINY_CLASSES) as standin:
        yield Talker(standin, client)


# Pictures


async def test_prompt_and_seed_decide_the_picture(talker: Talker) -> None:
    """One flat colour of the asked size, known beforehand; seed, prompt and negative prompt change it."""
    (picture,) = await talker.pictures(text_graph())
    assert picture.shape == (64, 64, 3)
    assert (picture == CAT).all()
    assert len({colour(7, "a cat"), CAT, colour(8, "a cat", "a dog"), colour(7, "a cow", "a dog")}) == 4


async def test_batch_has_different_pictures_and_one_preview_a_step(talker: Talker) -> None:
    """Each picture of a batch has its own colour and file; previews show the first."""
    graph = text_graph()
    graph["5"]["inputs"]["batch_size"] = 2
    async with talker.listening():
        pictures = await talker.pictures(graph)
        await until(talker.ended)
    assert [(one == colour(7, "a cat", "a dog", i)).all() for i, one in enumerate(pictures)] == [True, True]
    assert talker.kinds.count("event 1") == 3


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
async def test_strength_mixes_init_and_prompt(talker: Talker, strength: float) -> None:
    """0 keeps the uploaded picture exactly, 1 ignores it, between is linear."""
    init = noise()
    await talker.upload("init.png", file_of(init))
    graph = picture_graph()
    graph["3"]["inputs"]["denoise"] = strength
    (picture,) = await talker.pictures(graph)
    wanted = init * (1 - strength) + np.array(CAT) * strength
    assert np.abs(picture - wanted).max() <= (0.5 if strength in (0, 1) else 1)
    if strength == 0:
        assert (picture == init).all()


@pytest.mark.parametrize("kind", ["red", "alpha", "load_image"])
async def test_mask_edits_only_where_it_says(talker: Talker, kind: str) -> None:
    """White of a colour channel is edited, and so is what an alpha channel makes transparent."""
    init = noise()
    white = np.zeros((64, 64), np.uint8)
    white[16:32, 8:40] = 255
    as_alpha = np.dstack([init, 255 - white])
    await talker.upload("init.png", file_of(init))
    await talker.upload("mask.png", file_of(np.dstack([white] * 3) if kind == "red" else as_alpha))
    loader = node("LoadImage", image="mask.png")
    if kind != "load_image":
        loader = node("LoadImageMask", image="mask.png", channel=kind)
    slot = 1 if kind == "load_image" else 0
    graph = picture_graph(n12=loader, n13=node("SetLatentNoiseMask", samples=("11", 0), mask=("12", slot)))
    graph["3"]["inputs"]["latent_image"] = ["13", 0]
    (picture,) = await talker.pictures(graph)
    assert (picture[white == 255] == CAT).all()
    assert (picture[white == 0] == init[white == 0]).all()


async def test_inpaint_encoding_blanks_and_grows_the_mask(talker: Talker) -> None:
    """The masked part is painted with a margin; farther away nothing changes."""
    init = noise()
    white = np.zeros((64, 64, 3), np.uint8)
    white[24:40, 24:40] = 255
    await talker.upload("init.png", file_of(init))
    await talker.upload("mask.png", file_of(white))
    encode = node("VAEEncodeForInpaint", pixels=("10", 0), vae=("4", 2), mask=("12", 0), grow_mask_by=6)
    graph = picture_graph(n11=encode, n12=node("LoadImageMask", image="mask.png", channel="red"))
    (picture,) = await talker.pictures(graph)
    painted = (picture == CAT).all(axis=-1)
    assert painted[22:42, 22:42].all()
    assert (picture[~painted] == init[~painted]).all()
    assert 20 * 20 < painted.sum() < 24 * 24


async def test_control_picture_shows_in_the_result(talker: Talker) -> None:
    """A ControlNet's picture counts with its strength; 0 switches it off."""
    hint = noise()
    await talker.upload("hint.png", file_of(hint))
    for strength in (0.0, 1.0):
        graph = text_graph(positive=("13", 0), negative=("13", 1))
        graph["10"] = node("LoadImage", image="hint.png")
        graph["12"] = node("ControlNetLoader", control_net_name="standin-canny.safetensors")
        links: dict[str, Any] = {
            "positive": ("6", 0),
            "negative": ("7", 0),
            "control_net": ("12", 0),
            "image": ("10", 0),
        }
        graph["13"] = node("ControlNetApplyAdvanced", **links, strength=strength, start_percent=0.0, end_percent=1.0)
        (picture,) = await talker.pictures(graph)
        share = HINT_SHARE * strength
        assert np.abs(picture - (np.array(CAT) * (1 - share) + hint * share)).max() <= 1


@pytest.mark.parametrize(
    "added,size",
    [
        (
            {"n20": node("ImageScale", image=("8", 0), upscale_method="lanczos", width=40, height=0, crop="disabled")},
            40,
        ),
        (
            {
                "n20": node("ImageUpscaleWithModel", upscale_model=("21", 0), image=("8", 0)),
                "n21": node("UpscaleModelLoader", model_name="4x-standin.pth"),
            },
            256,
        ),
        (
            {"n20": node("ImagePadForOutpaint", image=("8", 0), left=8, top=8, right=8, bottom=8, feathering=0)},
            80,
        ),
        ({"n20": node("Canny", image=("8", 0), low_threshold=0.1, high_threshold=0.8)}, 64),
    ],
)
async def test_picture_nodes_give_the_right_size(talker: Talker, added: dict[str, Any], size: int) -> None:
    """Scaling, enlarging by a model, padding and finding edges."""
    graph = text_graph() | {name[1:]: value for name, value in added.items()}
    graph["9"]["inputs"]["images"] = ["20", 0]
    (picture,) = await talker.pictures(graph)
    assert picture.shape == (size, size, 3)


async def test_latent_upscale_and_lora_run(talker: Talker) -> None:
    """A second pass at twice the size, with a LoRA in between."""
    graph = text_graph(model=("20", 0))
    graph["20"] = node("LoraLoader", model=("4", 0), clip=("4", 1), lora_name="standin-lora.safetensors",
                       strength_model=1.0, strength_clip=1.0)  # fmt: skip
    graph["21"] = node(
        "LatentUpscale", samples=("3", 0), upscale_method="bislerp", width=128, height=0, crop="disabled"
    )
    graph["8"]["inputs"]["samples"] = ["21", 0]
    (picture,) = await talker.pictures(graph)
    assert picture.shape == (128, 128, 3)
    assert (picture == CAT).all()


async def test_composite_lays_the_source_over_the_destination(talker: Talker) -> None:
    """At its place, cut at the edge, and only where the mask is white."""
    init = noise()
    white = np.zeros((64, 64, 3), np.uint8)
    white[:, :32] = 255
    await talker.upload("init.png", file_of(init))
    await talker.upload("mask.png", file_of(white))
    graph = text_graph()
    graph["10"], graph["12"] = (
        node("LoadImage", image="init.png"),
        node("LoadImageMask", image="mask.png", channel="red"),
    )
    graph["20"] = node("ImageCompositeMasked", destination=("10", 0), source=("8", 0), x=16, y=48,
                       resize_source=False, mask=("12", 0))  # fmt: skip
    graph["9"]["inputs"]["images"] = ["20", 0]
    (picture,) = await talker.pictures(graph)
    covered = np.zeros((64, 64), bool)
    covered[48:, 16:48] = True
    assert (picture[covered] == CAT).all()
    assert (picture[~covered] == init[~covered]).all()


async def test_saved_picture_carries_its_prompt(talker: Talker) -> None:
    """The graph stands in the PNG, as well as what the client sent beside it."""
    entry = await talker.run(text_graph(), extra_data={"extra_pnginfo": {"workflow": {"mine": 1}}})
    (place,) = entry["outputs"]["9"]["images"]
    _, data = await talker.get(f"/view?filename={place['filename']}")
    texts = Image.open(io.BytesIO(data)).info
    assert json.loads(texts["prompt"])["6"]["inputs"]["text"] == "a cat"
    assert json.loads(texts["workflow"]) == {"mine": 1}


# What is refused


@pytest.mark.parametrize(
    "at,name,value,kind",
    [
        ("3", "steps", 10_001, "value_bigger_than_max"),
        ("3", "denoise", -0.1, "value_smaller_than_min"),
        ("3", "seed", "x", "invalid_input_type"),
        ("3", "scheduler", "nonsense", "value_not_in_list"),
        ("3", "model", ["4", 1], "return_type_mismatch"),
        ("3", "model", ["4", 0, 0], "bad_linked_input"),
        ("9", "images", ["99", 0], "exception_during_validation"),
    ],
)
async def test_bad_value_is_refused_at_its_node(talker: Talker, at: str, name: str, value: object, kind: str) -> None:
    """400 with the error's kind under the node, and the number is used up all the same."""
    graph = text_graph()
    graph[at]["inputs"][name] = value
    status, told = await talker.post("/prompt", {"prompt": graph})
    assert (status, told["error"]["type"]) == (400, "prompt_outputs_failed_validation")
    assert [error["type"] for error in told["node_errors"][at]["errors"]] == [kind]
    assert talker.standin.jobs == []
    assert (await talker.post("/prompt", {"prompt": text_graph()}))[1]["number"] == 1


async def test_numbers_given_as_text_are_converted(talker: Talker) -> None:
    """As the server does, before the graph is queued and shown."""
    assert (await talker.run(text_graph(steps="2")))["prompt"][2]["3"]["inputs"]["steps"] == 2
    assert talker.standin.jobs[0].steps == 2


async def test_body_above_the_limit_is_413(client: Client) -> None:
    """The limit is the one that /features tells."""
    async with ComfyUI(max_upload_bytes=1000) as standin:
        talker = Talker(standin, client)
        assert (await talker.post("/prompt", {"x": "y" * 1000}))[0] == 413
        assert (await talker.get("/features"))["max_upload_size"] == 1000


# Cache and twins


async def test_twin_nodes_run_once_and_are_told_as_executed(talker: Talker) -> None:
    """Of two equal nodes the second is taken from the cache, which the server tells by `executed` without output."""
    graph = text_graph()
    graph["7"] = graph["6"]
    async with talker.listening():
        await talker.run(graph)
        await until(talker.ended)
    told = [one[1] for one in talker.heard if isinstance(one, list) and one[0] == "executed"]
    assert [one["node"] for one in told if one["output"] is None] == ["6"]


async def test_what_an_output_waits_for_runs_first(talker: Talker) -> None:
    """A node two links before an output goes before one that is farther away."""
    graph = text_graph()
    graph["12"] = node("VAELoader", vae_name="standin-vae.safetensors")
    graph["8"] = node("VAEDecode", vae=("12", 0), samples=("3", 0))
    await talker.run(graph)
    assert talker.standin.jobs[0].ran == ["12", "5", "4", "7", "6", "3", "8", "9"]


async def test_overwritten_upload_is_not_cached(talker: Talker) -> None:
    """The same graph gives another picture when the file behind its name changed; else the same file name."""
    graph = picture_graph()
    graph["3"]["inputs"]["denoise"] = 0.0
    seen = []
    for colours in (10, 10, 200):
        await talker.upload("init.png", file_of(np.full((64, 64, 3), colours)), overwrite="true")
        entry = await talker.run(graph)
        (place,) = entry["outputs"]["9"]["images"]
        seen.append((place["filename"], int((await talker.picture(place))[0, 0, 0])))
    assert seen == [("test_00001_.png", 10), ("test_00001_.png", 10), ("test_00002_.png", 200)]


async def test_free_empties_the_cache(talker: Talker) -> None:
    """After `/free` everything runs again."""
    await talker.run(text_graph())
    await talker.post("/free", {"free_memory": True})
    await talker.run(text_graph())
    assert [len(job.ran) for job in talker.standin.jobs] == [7, 7]


# Files


async def test_uploaded_mask_becomes_the_originals_alpha(talker: Talker) -> None:
    """`/upload/mask` puts the posted picture's alpha on the picture it names."""
    init = noise()
    await talker.upload("init.png", file_of(init))
    alpha = noise(channels=4)
    reference = json.dumps({"filename": "init.png", "type": "input"})
    told = await talker.upload("masked.png", file_of(alpha), "/upload/mask", original_ref=reference)
    assert told == {"name": "masked.png", "subfolder": "", "type": "input"}
    picture = await talker.picture({"filename": "masked.png", "type": "input"})
    assert (picture == np.dstack([init, alpha[..., 3]])).all()


async def test_view_shows_channels_and_parts(talker: Talker) -> None:
    """Alpha alone, colours alone, and the last bytes; a file of another folder by its annotation."""
    init = noise(channels=4)
    await talker.upload("init.png", file_of(init))
    alone = await talker.picture({"filename": "init.png [input]", "channel": "a"})
    assert (alone[..., 3] == init[..., 3]).all()
    assert (await talker.picture({"filename": "init.png [input]", "channel": "rgb"})).shape == (64, 64, 3)
    url = f"{talker.standin.url}/view?filename=init.png&type=input"
    async with talker.client.get(url, headers={"Range": "bytes=-4"}) as response:
        assert (response.status, await response.read()) == (206, b"\xaeB`\x82")
    async with talker.client.get(url, headers={"Range": "bytes=999999-"}) as response:
        assert response.status == 416


async def test_models_and_object_info_name_the_same_files(talker: Talker) -> None:
    """The two ways to ask for models agree, newer nodes' form of choices included."""
    info = await talker.get("/object_info")
    assert info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == await talker.get(
        "/models/checkpoints"
    )
    kind, options = info["UpscaleModelLoader"]["input"]["required"]["model_name"]
    assert (kind, options["options"]) == ("COMBO", await talker.get("/api/models/upscale_models"))
    assert await talker.get("/object_info/NoSuchNode") == {}
    assert await talker.get("/models/nonsense") == (404, b"")


# Sockets


async def test_one_reader_that_stops_silences_everybody(client: Client) -> None:
    """All messages go through one task; when the slow socket goes, the other hears all of it at once."""
    async with ComfyUI(step_time=0, preview_size=64, preview_bytes=500_000) as standin:
        slow = await client.ws_connect(f"{standin.url}/ws?clientId=slow", max_msg_size=0)
        quick = Talker(standin, client, "quick")
        async with quick.listening():
            first = await quick.submit(text_graph(steps=40), client_id="slow")
            second = await quick.submit(text_graph(seed=8))
            await until(lambda: all(job.state == "success" for job in standin.jobs))
            await asyncio.sleep(0.05)  # silence can only be shown by waiting
            assert quick.kinds == []
            connection = slow._conn
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
            await until(quick.ended)
        assert quick.kinds[0] == "execution_start"
        assert [job.prompt_id for job in standin.jobs] == [first, second]


async def test_previews_off_still_send_final_pictures_over_the_socket(client: Client) -> None:
    """Without previews SaveImageWebsocket's PNGs are the only binary messages."""
    async with ComfyUI(step_time=0, previews=False) as standin:
        talker = Talker(standin, client)
        graph = text_graph()
        graph["9"] = node("SaveImageWebsocket", images=("8", 0))
        async with talker.listening(metadata=True):
            await talker.run(graph)
            await until(talker.ended)
        frames = [one for one in talker.heard if isinstance(one, bytes)]
        length = int.from_bytes(frames[0][4:8], "big")
        assert len(frames) == 1
        assert json.loads(frames[0][8 : 8 + length])["image_type"] == "image/png"
        assert (np.asarray(Image.open(io.BytesIO(frames[0][8 + length :]))) == CAT).all()


# Old servers


async def test_old_server_lacks_what_came_later(client: Client) -> None:
    """No event 4, progress_state, execution_success, display_node, /features or version; ids are its own."""
    async with ComfyUI(old=True, step_time=0, preview_size=64) as standin:
        talker = Talker(standin, client)
        url = f"{standin.url}/ws?clientId=me"
        async with client.ws_connect(url) as socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        async with talker.listening():
            prompt_id = await talker.submit(text_graph(), prompt_id="mine")
            await until(talker.ended)
        assert prompt_id != "mine"
        assert set(talker.kinds) == {
            *("execution_start", "execution_cached", "executing", "executed", "progress", "event 1"),
        }
        assert not any("display_node" in one[1] for one in talker.heard if isinstance(one, list))
        assert await talker.post("/prompt", {}) == (400, {"error": "no prompt", "node_errors": []})
        assert (await talker.get("/features"))[0] == 404
        assert "comfyui_version" not in (await talker.get("/system_stats"))["system"]


async def test_old_server_stops_whatever_runs(client: Client) -> None:
    """An interrupt that names another prompt stops this one."""
    async with ComfyUI(old=True, step_time=0.005) as standin:
        talker = Talker(standin, client)
        await talker.submit(text_graph(steps=1000))
        await until(lambda: standin.jobs[0].steps > 1)
        await talker.post("/interrupt", {"prompt_id": "another"})
        await until(lambda: standin.jobs[0].state == "interrupted")


# Records


async def test_what_was_asked_can_be_looked_up(talker: Talker) -> None:
    """Requests with bodies and headers, prompts with graphs, steps and states, and the counters."""
    await talker.run(text_graph(), extra_data={"secret": 1})
    (job,) = talker.standin.jobs
    first = talker.standin.requests[0]
    assert (first.method, first.path, first.body["extra_data"]) == ("POST", "/prompt", {"secret": 1})
    assert "Origin" not in first.headers
    assert (job.state, job.steps, job.ran[-1], job.call) == ("success", 3, "9", first.call)
    counters = talker.standin.counters()
    assert (counters["called"], counters["billed"], counters["steps"]) == (1, 1, 3)


async def test_runs_as_a_process_of_its_own(client: Client) -> None:
    """It prints its address, answers, and ends on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.upstreams.comfyui", "--checkpoint", "mine.safetensors", "--version", "9.9"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    async with client.get(f"{url}/models/checkpoints") as response:
        assert await response.json() == ["mine.safetensors"]
    async with client.get(f"{url}/system_stats") as response:
        assert (await response.json())["system"]["comfyui_version"] == "9.9"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0
